"""From the source into the ledger: what is due is read, compared with what the ledger holds, and written as one pass.

A `mapping` of customers is read by a job of its own; a `mapped_source` is read by it.

It never sees a sink: what is planned here leaves later, by `delivery`.
It imports the ledger, the runtime and the core; a source is handed to it. Only the wiring, the daemon and commands import
it. Begin with `collector`."""
