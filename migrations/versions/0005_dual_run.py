"""Several sinks of one meter, each on terms of its own: until when a feed bills, and whether it only does so in shadow.

An event planned in shadow is in the state `shadow` for ever: `event_moves_forward` lists no step from it, and none to it.
A feed that was there before goes on as it was. The release before reads and writes everything as before; it knows nothing of
an end or a shadow, and so must not be started again over a ledger that has one.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = """
alter type aggregator.event_state add value if not exists 'shadow';

alter table aggregator.feed
    add column until timestamptz,
    add column shadow boolean not null default false,
    add column shadow_until timestamptz,
    add column lost tstzrange;
comment on column aggregator.feed.since is 'Nothing before this reaches the sink through this feed; `bill_from`, if given.';
comment on column aggregator.feed.until is 'Nothing from this on reaches the sink through this feed; null: without end.';
comment on column aggregator.feed.shadow is 'Whether events are planned and recorded, and never sent.';
comment on column aggregator.feed.shadow_until is
    'Up to where the meter had been read when the shadow ended: what was planned in shadow stays unsent.';
comment on column aggregator.feed.lost is
    'Windows that were never planned for this feed, and that the source no longer has.';
"""


def upgrade() -> None:
    """Add what is missing. No row is rewritten."""
    op.get_bind().exec_driver_sql(SCHEMA)
