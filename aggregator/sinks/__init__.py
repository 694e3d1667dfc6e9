"""Where usage is sent: each kind of sink is a package that speaks one service, or writes one kind of file.

What the rest knows of a sink is in `protocol`; no sink imports another.
It stands on the runtime and the core; the shells, the wiring and commands import it. Begin with `protocol`.
"""
