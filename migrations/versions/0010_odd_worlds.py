"""What it takes to stay right where hosts, clocks, ledgers and configurations are not what they should be.

It adds, and rewrites nothing: the previous version goes on working on the result.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SCHEMA: tuple[str, ...] = ()
"""One statement or several in each, in the order in which they are made."""


def upgrade() -> None:
    """Add what is missing."""
    for statements in SCHEMA:
        op.get_bind().exec_driver_sql(statements)
