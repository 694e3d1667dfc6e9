"""The process that runs for months: what is to be done when, what comes in by the web, and what is said about it all.

It decides nothing about money: it calls what `wiring` has put together.
It imports the wiring and what that puts together. Only commands import it; the demo and the selftest run it as a process.
Begin with `jobs`, the table of what is done, then `daemon`."""
