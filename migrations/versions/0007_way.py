"""How an event went: a sink with several ways is not known to remember an identifier in all of them. And when.

The column has no value for what was sent before; a sink takes that for the way it had then.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA = """
alter table aggregator.event add column way text;
comment on column aggregator.event.way is
    'How the first attempt went that may have reached the sink, in the sink''s own word. Later ones go the same way.';

create index claim_by_time on aggregator.claim using brin (claimed_at);
create index readback_by_feed on aggregator.readback (feed_id, id);
"""


def upgrade() -> None:
    """Add what is missing."""
    op.get_bind().exec_driver_sql(SCHEMA)
