"""What leaves the ledger: events claimed one batch at a time, or as the rows of a file, until a sink has answered for them.

It imports the ledger's modules and the core; the shells and commands import it. Begin with `outbox`.
"""
