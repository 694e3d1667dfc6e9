"""What the promise needs to be kept over years: definitions per window, the commit barrier, doubts and their ends, the pin.

Nothing that 0001 holds is rewritten: new columns have constant defaults, so that a ledger of any size is brought up at once.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = """
alter table aggregator.pin
    add column generation integer not null default 0 check (generation >= 0),
    add column beat bigint not null default 0,
    add column cluster bigint,
    add column database_oid bigint,
    add column stopped_at timestamptz,
    add column stopped_reason text,
    add check ((stopped_at is null) = (stopped_reason is null));
comment on column aggregator.pin.generation is
    'Counts the adoptions. Part of every identifier: what a lost future sent is never sent again under the same name.';
comment on column aggregator.pin.beat is
    'Counts the claims. Kept beside the ledger too: a ledger that counts less than that was wound back.';
comment on column aggregator.pin.cluster is 'The system identifier of the server, so that a copy is known for one.';
comment on column aggregator.pin.stopped_at is 'Since when nothing is read or sent, until somebody adopts the ledger.';

alter table aggregator.sink add column account text;
comment on column aggregator.sink.account is 'The account and mode it belonged to when it was first used.';

create table aggregator.definition (
    meter_id       integer not null references aggregator.meter,
    since          timestamptz not null,
    fingerprint    text not null,
    query          text,
    window_seconds integer not null check (window_seconds > 0 and mod(86400, window_seconds) = 0),
    stated_at      timestamptz not null default now(),
    primary key (meter_id, since),
    check (mod(extract(epoch from since)::bigint, window_seconds) = 0)
);
comment on table aggregator.definition is
    'By which query, and in which windows, a meter is read from an instant on: a change holds for the windows after it.';
insert into aggregator.definition (meter_id, since, fingerprint, window_seconds)
select id, 'epoch', fingerprint, window_seconds from aggregator.meter;

alter table aggregator.meter drop constraint meter_check;
alter table aggregator.meter
    add column hourly_at timestamptz,
    add column daily_at timestamptz,
    add column waits_for text,
    add column waits_since timestamptz,
    add column unfenced_at timestamptz;
comment on column aggregator.meter.hourly_at is 'When the last two days were last read again in full.';
comment on column aggregator.meter.daily_at is 'When all that is still billable was last read again in full.';
comment on column aggregator.meter.waits_for is 'What in the source keeps a window waiting that is old enough to be read.';
comment on column aggregator.meter.unfenced_at is 'When a window was last read without waiting for it any longer.';

create table aggregator.fence (
    meter_id integer not null references aggregator.meter,
    until    timestamptz not null,
    xid      numeric(20) not null,
    primary key (meter_id, until)
);
comment on table aggregator.fence is
    'Once every transaction of the source below xid has ended, windows up to `until` are complete.';

create table aggregator.lateness (
    meter_id integer not null references aggregator.meter,
    day      date not null,
    seconds  integer not null,
    slots    bigint not null,
    quantity numeric not null,
    primary key (meter_id, day, seconds)
);
comment on table aggregator.lateness is
    'How long after their window''s end changes were found, in steps; 0 for what was there when a window was first read.';

create table aggregator.unread (
    meter_id     integer not null references aggregator.meter,
    window_start timestamptz not null,
    reason       text not null,
    since        timestamptz not null,
    tries        integer not null default 1,
    next_at      timestamptz not null,
    primary key (meter_id, window_start)
);
comment on table aggregator.unread is 'Windows the source could not give, one by one: set aside, so that the others go on.';

create table aggregator.guarded (
    meter_id     integer not null references aggregator.meter,
    window_start timestamptz not null,
    before       numeric not null,
    now          numeric not null,
    since        timestamptz not null,
    primary key (meter_id, window_start)
);
comment on table aggregator.guarded is 'Windows that shrank so much that a second read must confirm it.';

alter table aggregator.slot add column replan boolean not null default false;
comment on column aggregator.slot.replan is 'Its latest event came to nothing at the sink, and is to be planned anew.';

alter table aggregator.event add column attempted_at timestamptz;
comment on column aggregator.event.attempted_at is 'When the latest attempt began.';

alter table aggregator.parked
    add column guarded boolean not null default false,
    add column was_accepted boolean not null default false,
    add column dismissed_at timestamptz,
    add column look_at timestamptz;
comment on column aggregator.parked.guarded is 'Held by the shrink guard, until a second read confirms the decrease.';
comment on column aggregator.parked.was_accepted is
    'The sink took it and rejected it later: its identifier is used up, so it is planned anew and never sent again.';
comment on column aggregator.parked.dismissed_at is 'When a person left it at that. A newer plan still replaces it.';
comment on column aggregator.parked.look_at is 'When the sink is to be read back for it again.';

create table aggregator.rejection (
    id          bigint generated always as identity primary key,
    sink_id     integer not null references aggregator.sink,
    identifier  text not null,
    reason      text not null,
    received_at timestamptz not null,
    event_id    bigint,
    unique (sink_id, identifier)
);
comment on table aggregator.rejection is 'What a sink reported as invalid after it had accepted it.';

create table aggregator.readback (
    id       bigint generated always as identity primary key,
    feed_id  integer not null references aggregator.feed,
    span     tstzrange not null,
    reason   text not null,
    asked_at timestamptz not null,
    due_at   timestamptz not null,
    done_at  timestamptz,
    found    text
);
comment on table aggregator.readback is 'Spans of a feed whose events are to be compared with the sink''s own totals.';

alter table aggregator.run drop constraint run_kind_check;
alter table aggregator.run add constraint run_kind_check check (kind in ('live', 'backfill', 'adoption'));

create index event_by_time on aggregator.event using brin (planned_at);
"""


def upgrade() -> None:
    """Add what is missing."""
    op.get_bind().exec_driver_sql(SCHEMA)
