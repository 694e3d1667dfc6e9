"""Application databases, which we only ever read.

engine.py     Source: one database, asked in one read-only snapshot per span
dialects.py   what differs between databases, all of it
rows.py       rows of any driver become readings, or a plain refusal
"""

from aggregator.source.engine import Shape, Source

__all__ = ["Shape", "Source"]
