"""From the ledger to a sink: events are claimed, sent or written to a file, and settled by what the sink answered.

It never sees a source.
It imports the ledger, the sinks, the runtime and the core. Only the wiring, the daemon and commands import it. Begin with
`sender`."""
