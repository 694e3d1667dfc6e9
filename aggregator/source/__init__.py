"""Application databases, which we only ever read.

engine.py         Source: one database, asked in one read-only snapshot per span
snapshot.py       an open transaction, asked with bounds
urls.py           where it is, in the forms of SQLAlchemy and of libpq
rows.py           rows of any driver become readings, or a plain refusal
listed.py         rows of a mapping from keys to billing customers
touched.py        asked which windows were touched
samples.py        rows of a query for what there is now become samples
described.py      what a table looks like, for whoever writes a meter over it
kinds.py          which kind of database a URL names
dialects.py       what differs between kinds of databases, as a record of functions
postgres.py       Postgres: sessions, settings, and what its errors mean
statement_text.py  the words of a text, and whether they are one query
mysql.py          MySQL and MariaDB: the same
mysql_session.py  MySQL and MariaDB: a driver's connection, and what it is asked: looked at, stopped, and its warnings heard
mysql_text.py     MySQL and MariaDB: what is no single statement that reads
mysql_grants.py   MySQL and MariaDB: what a user may do beyond reading
by_cursor.py      asked for rows by their cursor, each of them once
writers.py        Postgres: which transactions may still commit rows with lower ids, and which ids are dealt in no order
sqlite.py         SQLite: the same
duckdb.py         DuckDB: the same
clickhouse.py     ClickHouse: the same
clickhouse_session.py  ClickHouse: a client's connection, and the query that it asks
clickhouse_text.py     ClickHouse: what no query says
clickhouse_grants.py   ClickHouse: what a user may do beyond reading, and tables that hold rows twice
file_views.py     DuckDB: folders of Parquet and CSV files, shown as tables
spark.py          Spark SQL: sessions, settings, and what its errors mean
spark_session.py  Spark SQL: a session over HiveServer2's protocol: described, run, fetched, stopped
spark_text.py     Spark SQL: what is no single statement that reads
other.py          every other dialect: the same, as far as it can be had
transactions.py   Postgres: which transactions have ended, and which are open
roles.py          Postgres: what a role may do beyond reading
tables.py         Postgres: which tables a query reads, and what keeps their rows from being all there are
stopping.py       what is asked when a source is closed is stopped
stand_ins.py      rows that are given in place of what tables hold
contract/         what must hold of any source, and what asks for it
trying.py         a query on trial, asked for any stretch of time in one snapshot

It stands on the runtime and the core; the wiring, the trial and commands import it. Begin with `engine`.
"""

from aggregator.source.engine import Source
from aggregator.source.file_views import Files
from aggregator.source.snapshot import Shape, SideBySide

__all__ = ["Files", "Shape", "SideBySide", "Source"]
