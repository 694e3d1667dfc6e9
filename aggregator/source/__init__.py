"""Application databases, which we only ever read.

engine.py         Source: one database, asked in one read-only snapshot per span
urls.py           where it is, in the forms of SQLAlchemy and of libpq
rows.py           rows of any driver become readings, or a plain refusal
dialects.py       what differs between kinds of databases: postgres.py, sqlite.py, other.py
transactions.py   Postgres: which transactions have ended, and which are open
roles.py          Postgres: what a role may do beyond reading
"""

from aggregator.source.engine import Shape, Source

__all__ = ["Shape", "Source"]
