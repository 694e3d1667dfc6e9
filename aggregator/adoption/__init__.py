"""Taking over: a ledger that begins, or begins again, in front of a sink that holds usage already.

What the sink and the source hold is surveyed, compared slot by slot, and written into the ledger as if it had been sent.
Parity compares without taking over, for a job that runs beside the one it is to replace.
It imports the ledger, the sinks, the runtime and the core; a source is handed to it. Only commands import it. Begin with
`adopter`."""
