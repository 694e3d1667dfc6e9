"""How Alembic reaches the ledger: the caller hands over an open connection inside a transaction.

Laws for every migration
- It holds no lock for long, and gives up rather than queue in front of everybody else.
- The previous release keeps working on the new schema: split what would break it over two releases.
"""

from alembic import context
from sqlalchemy import Connection, text

from aggregator.ledger.database import BEGIN

SCHEMA = "aggregator"

LOCK_KEY = 0x61676772_65676174
"""The advisory lock that lets one process migrate at a time: `aggregat` in ASCII."""


def migrate(connection: Connection) -> None:
    """Bring the ledger to the newest revision, alone: whoever comes second finds nothing left to do."""
    connection.exec_driver_sql(BEGIN)
    connection.execute(text("select set_config('lock_timeout', '60s', true)"))
    connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    connection.execute(text("select set_config('lock_timeout', '5s', true)"))
    connection.execute(text(f"create schema if not exists {SCHEMA}"))
    context.configure(connection=connection, version_table_schema=SCHEMA, transactional_ddl=True)
    context.run_migrations()


migrate(context.config.attributes["connection"])
