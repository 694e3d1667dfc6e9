"""What is settled afterwards: events in doubt, by the sink's own totals; what a sink reports later; and cancellations.

It never sees a source.
It imports the ledger, the sinks and the core. Only the wiring, the daemon and commands import it. Begin with
`reconciler`."""
