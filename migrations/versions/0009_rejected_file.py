"""A file that came to nothing: a person's word, and why. And indexes by time that keep up by themselves.

Without `autosummarize` a BRIN index does not know what was added since the last vacuum, and all of that is read
(postgresql.org/docs/current/brin.html). Nothing is rewritten. The previous version takes such a file for one that waits
to be confirmed.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = """
alter table aggregator.file
    add column rejected_at timestamptz,
    add column rejected_reason text,
    add check ((rejected_at is null) = (rejected_reason is null)) not valid,
    add check (rejected_at is null or (written_at is not null and confirmed_at is null)) not valid;
comment on column aggregator.file.rejected_at is
    'When a person said that nothing of it was taken: its events are refused. One that is confirmed never is.';
"""

INDEXES = """
alter index aggregator.event_by_time set (autosummarize = on);
alter index aggregator.claim_by_time set (autosummarize = on);
"""


def upgrade() -> None:
    """Add what is missing."""
    op.get_bind().exec_driver_sql(SCHEMA)
    op.get_bind().exec_driver_sql(INDEXES)
