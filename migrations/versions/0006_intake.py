"""What a sink tells by itself, how far it was listened to, and what a person has had cancelled there.

Three new tables; nothing that exists is touched.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = """
create table aggregator.notice (
    sink_id    integer not null references aggregator.sink,
    id         text not null check (length(id) between 1 and 255),
    kind       text not null,
    created_at timestamptz not null,
    came_by    text not null check (came_by in ('poll', 'webhook')),
    taken_at   timestamptz not null,
    said       text not null,
    primary key (sink_id, id)
);
comment on table aggregator.notice is
    'What a sink told of what it found invalid, once per message: whoever brings it again changes nothing.';

create table aggregator.intake (
    sink_id        integer primary key references aggregator.sink,
    heard_until    timestamptz,
    polled_at      timestamptz,
    refused_at     timestamptz,
    refused_reason text,
    check ((refused_at is null) = (refused_reason is null))
);
comment on table aggregator.intake is 'How far each sink was asked for what it tells.';
comment on column aggregator.intake.heard_until is
    'What the sink made before this was asked for; some of it is asked for again, since it may appear late.';

create table aggregator.cancellation (
    id         bigint generated always as identity primary key,
    event_id   bigint not null references aggregator.event,
    sink_id    integer not null references aggregator.sink,
    state      text not null check (state in ('asked', 'taken', 'done', 'refused', 'lapsed')),
    asked_at   timestamptz not null,
    next_at    timestamptz not null,
    tries      integer not null default 0 check (tries >= 0),
    tried_at   timestamptz,
    unsure     boolean not null default false,
    seen_at    timestamptz,
    settled_at timestamptz,
    answer     text,
    check ((settled_at is null) = (state in ('asked', 'taken', 'lapsed')))
);
create unique index cancellation_open on aggregator.cancellation (event_id) where settled_at is null;
comment on table aggregator.cancellation is
    'Events that a person wants back from a sink. Written before the sink is asked; the event stays what it is until the '
    'sink is known to have done it.';
comment on column aggregator.cancellation.unsure is 'A try that brought no usable answer may have been carried out.';
comment on column aggregator.cancellation.seen_at is 'When the sink''s own totals last showed the event.';
"""


def upgrade() -> None:
    """Add what is missing."""
    op.get_bind().exec_driver_sql(SCHEMA)
