"""What is settled after the event: doubts by the sink's own totals, what it reports later, and what is taken back.

It never sees a source.
It stands on the edges and the core; only the wiring, the daemon and commands import it. Begin with `reconciler`.
"""
