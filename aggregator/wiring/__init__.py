"""Where everything is put together: from a configuration and its environment, the ledger, sources, sinks and shells.

Nothing else makes more than one of them.
The daemon and commands import it, and nothing below. Begin with `app`.
"""
