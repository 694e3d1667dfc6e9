"""Ledger, sources, sinks and what works with them are put together here, for a configuration and its environment.

It may import everything but the daemon and commands, and only those import it: the rest is handed what it needs. Begin
with `app`."""
