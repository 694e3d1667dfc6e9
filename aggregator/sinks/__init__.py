"""Where usage is sent: each kind of sink is a package that speaks one service, or writes one kind of file.

What the rest knows of a sink is in `protocol`; no sink imports another.
It imports the core and the configuration's values; the shells and the wiring import it. Begin with `protocol`.
"""
