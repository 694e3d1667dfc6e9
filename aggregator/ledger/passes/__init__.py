"""What one transaction of a pass needs: what changed is staged, planned and written, or nothing of it is.

It imports the ledger's modules and the core; the shells and commands import it. Begin with `passes`.
"""
