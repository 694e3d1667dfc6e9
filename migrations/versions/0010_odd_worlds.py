"""What it takes to stay right where hosts, clocks, ledgers and configurations are not what they should be.

It adds, and rewrites nothing: the previous version goes on working on the result.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

CONFIGURATIONS = """
create table aggregator.configuration (
    id        bigint generated always as identity primary key,
    loaded_at timestamptz not null default clock_timestamp(),
    host      text not null,
    process   integer not null,
    meters    jsonb not null
);
comment on table aggregator.configuration is 'Each configuration of the meters that a process took over, if it differs.';
"""

SCHEMA: tuple[str, ...] = (
    CONFIGURATIONS,
    # The newest instant at which anything was claimed: a clock that stands before it was set back.
    "alter table aggregator.pin add column claimed_at timestamptz",
)
"""One statement or several in each, in the order in which they are made."""


def upgrade() -> None:
    """Add what is missing."""
    for statements in SCHEMA:
        op.get_bind().exec_driver_sql(statements)
