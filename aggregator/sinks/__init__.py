"""Where usage is sent: each kind of sink is a package that speaks one service, or writes one kind of file.

What the rest knows of a sink is in `protocol`; no sink imports another. What those over HTTP do alike is in `http_sink`,
which events leave when in `dispatch`, and how they are carried in `http_calls`; each hands in how its own differ, as a
`Route`. It stands on the runtime and
the core; delivery, reconciliation, adoption, the wiring and commands import it. Begin with `protocol`."""
