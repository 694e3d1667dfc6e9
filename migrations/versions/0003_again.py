"""Sinks that keep the newest number: what is to be said again, and what leaves in order.

An event that changes nothing may follow another, so a delta of zero is allowed from the second revision on, and for the
first where a zero is said. The constraint is replaced without looking at the rows there are, which satisfy the stricter one.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = """
create table aggregator.reassertion (
    feed_id      integer not null references aggregator.feed,
    window_start timestamptz not null,
    customer     text collate "C" not null,
    due_at       timestamptz not null,
    primary key (feed_id, window_start, customer)
);
comment on table aggregator.reassertion is
    'Slots whose total is to be sent again, since a sink that keeps the newest number may have been told otherwise.';

alter table aggregator.feed add column ordered boolean not null default false;
comment on column aggregator.feed.ordered is
    'Each customer''s events leave in the order they were planned, since the last one is what is billed.';

alter table aggregator.event drop constraint event_delta_check;
alter table aggregator.event
    add constraint event_delta_check check (delta <> 0 or revision > 0 or total = 0) not valid;
"""


def upgrade() -> None:
    """Add what is missing."""
    op.get_bind().exec_driver_sql(SCHEMA)
