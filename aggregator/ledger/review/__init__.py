"""What waits in the ledger for a further look, by this program or by a person: held, in doubt, rejected, to be cancelled.

What each state means, and which may follow which, is in docs/ledger.md.
It imports the ledger's modules and the core; the shells and commands import it. Begin with `parked`.
"""
