"""The ledger: meters and their marks, slots, events, the outbox, carries, and what each pass did.

The shape is chosen for cost as much as for meaning. Slots and events have narrow keys and are written in key order; no
index names a column that changes, so that moving an event from state to state is a HOT update; what is due is found
through the narrow `outbox`, whose rows leave when they are settled. Foreign keys stand where rows are few; between slots
and events the writing transaction holds the meter and no key check is paid a million times.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = """
create table aggregator.pin (
    single      boolean primary key default true check (single),
    ledger_id   uuid not null default gen_random_uuid(),
    created_at  timestamptz not null default now()
);
comment on table aggregator.pin is 'What this ledger is. Its id is part of every identifier.';
insert into aggregator.pin default values;

create table aggregator.meter (
    id             integer generated always as identity primary key,
    name           text not null unique check (name <> ''),
    fingerprint    text not null,
    window_seconds integer not null check (window_seconds > 0 and mod(86400, window_seconds) = 0),
    start_at       timestamptz not null,
    mark           timestamptz not null,
    reread_from    timestamptz,
    swept          timestamptz,
    lease_owner    uuid,
    lease_until    timestamptz,
    epoch          bigint not null default 0,
    check (mod(extract(epoch from mark)::bigint, window_seconds) = 0)
);
comment on column aggregator.meter.mark is
    'Up to where this meter has been read and committed: a contiguous prefix of windows.';
comment on column aggregator.meter.reread_from is
    'The oldest slot whose change waits for an unsettled event; the next pass reads from here.';
comment on column aggregator.meter.epoch is
    'Counts the leases. A pass commits only under the epoch it was given.';

create table aggregator.sink (
    id            integer generated always as identity primary key,
    name          text not null unique check (name <> ''),
    halted_at     timestamptz,
    halted_reason text
);
comment on table aggregator.sink is 'Where events go. A halted sink refuses us as a whole until a person acts.';

create table aggregator.feed (
    id       integer generated always as identity primary key,
    meter_id integer not null references aggregator.meter,
    sink_id  integer not null references aggregator.sink,
    since    timestamptz not null,
    read_until timestamptz not null,
    unique (meter_id, sink_id)
);
comment on column aggregator.feed.read_until is
    'Up to where this feed was planned for. It lags behind the mark where a sink was taken off a meter for a while.';
comment on table aggregator.feed is
    'One meter''s line into one sink: its own slots, events and carries, so that no sink waits for another.';
comment on column aggregator.feed.since is 'Nothing before this reaches the sink through this feed.';

create table aggregator.run (
    id          bigint generated always as identity primary key,
    meter_id    integer not null references aggregator.meter,
    kind        text not null check (kind in ('live', 'backfill')),
    span        tstzrange not null,
    goal        tstzrange not null,
    started_at  timestamptz not null,
    seconds     double precision not null,
    rows        bigint not null default 0,
    changed     bigint not null default 0,
    planned     bigint not null default 0,
    held        bigint not null default 0,
    refused     bigint not null default 0,
    deferred    bigint not null default 0,
    epoch       bigint not null,
    fingerprint text not null,
    error       text
);
create index run_by_meter on aggregator.run (meter_id, id);
comment on table aggregator.run is 'What each pass did, or why it did nothing.';

create sequence aggregator.slot_id;
create table aggregator.slot (
    id           bigint not null,
    feed_id      integer not null,
    revision     integer not null check (revision >= 0),
    window_start timestamptz not null,
    customer     text collate "C" not null check (customer <> ''),
    quantity     numeric not null check (quantity not in ('NaN', 'Infinity', '-Infinity')),
    total        numeric not null,
    stamped_at   timestamptz,
    tail         bigint,
    primary key (feed_id, window_start, customer),
    check ((revision = 0) = (tail is null))
);
comment on table aggregator.slot is
    'Where readings of one customer of one meter in one window accumulate. Written only by the holder of the meter.';
comment on column aggregator.slot.quantity is 'What the source said when it was last read.';
comment on column aggregator.slot.total is 'Where the slot stands at the sink once every event of it is settled.';
comment on column aggregator.slot.revision is 'How many events the slot has had.';
comment on column aggregator.slot.stamped_at is 'The instant of its first event.';
comment on column aggregator.slot.tail is 'Its latest event.';

create type aggregator.event_state as enum
    ('due', 'sending', 'accepted', 'confirmed', 'refused', 'in_doubt', 'held', 'void');

create sequence aggregator.event_id;
create table aggregator.event (
    id           bigint primary key,
    slot_id      bigint not null,
    run_id       bigint not null,
    feed_id      integer not null,
    revision     integer not null check (revision >= 0),
    window_start timestamptz not null,
    at           timestamptz not null check (at >= window_start),
    planned_at   timestamptz not null,
    exposed_at   timestamptz,
    settled_at   timestamptz,
    state        aggregator.event_state not null,
    attempts     integer not null default 0 check (attempts >= 0),
    customer     text collate "C" not null,
    identifier   text not null check (length(identifier) between 1 and 100),
    delta        numeric not null check (delta <> 0),
    total        numeric not null,
    request_id   text,
    reason       text,
    unique (slot_id, revision)
) with (fillfactor = 70);
comment on table aggregator.event is
    'Every message we ever owed a sink: the audit trail. Append-only but for the columns that say how it went.';
comment on column aggregator.event.exposed_at is
    'When the first attempt began that may have reached the sink; null while none has.';

create table aggregator.outbox (
    event_id bigint primary key,
    sink_id  integer not null,
    feed_id  integer not null,
    due_at   timestamptz not null,
    claim_id bigint
) with (fillfactor = 70);
comment on table aggregator.outbox is 'Events to be sent or being sent. A claimed row is due again when its claim runs out.';

create table aggregator.parked (
    event_id bigint primary key references aggregator.event,
    feed_id  integer not null references aggregator.feed,
    state    aggregator.event_state not null check (state in ('held', 'refused', 'in_doubt')),
    reason   text not null,
    since    timestamptz not null
);
comment on table aggregator.parked is 'Events that wait for a person, or for proof from the sink.';

create table aggregator.claim (
    id         bigint generated always as identity primary key,
    sink_id    integer not null references aggregator.sink,
    owner      uuid not null,
    claimed_at timestamptz not null,
    events     bigint[] not null,
    settled_at timestamptz
);
comment on table aggregator.claim is
    'The record of an attempt, committed before the first byte leaves. One without settled_at may have been sent in full.';
create index claim_open on aggregator.claim (sink_id, id) where settled_at is null;

create table aggregator.attempt (
    id         bigint generated always as identity primary key,
    event_id   bigint not null,
    claim_id   bigint not null,
    at         timestamptz not null,
    answer     text not null,
    reason     text,
    request_id text
);
create index attempt_by_event on aggregator.attempt (event_id);
comment on table aggregator.attempt is 'Every try that did not end well. The one that did is on the event itself.';

create table aggregator.carry (
    feed_id  integer not null references aggregator.feed,
    customer text collate "C" not null,
    amount   numeric not null check (amount > 0),
    primary key (feed_id, customer)
);
comment on table aggregator.carry is 'What a customer is owed of a meter in parts too small to bill.';

create table aggregator.aside (
    id           bigint generated always as identity primary key,
    meter_id     integer not null references aggregator.meter,
    window_start timestamptz not null,
    reason       text not null,
    customer     text,
    rows         bigint not null,
    quantity     numeric
);
create index aside_by_window on aggregator.aside (meter_id, window_start);
comment on table aggregator.aside is
    'What the source said that can be billed to nobody: rows without a customer, or without a usable number.';

create function aggregator.refuse() returns trigger language plpgsql as $$
begin
    raise exception using message = 'aggregator: ' || tg_argv[0], errcode = 'integrity_constraint_violation';
end
$$;

create trigger event_is_frozen
    before update of id, slot_id, run_id, feed_id, revision, window_start, at, planned_at, customer, identifier, delta, total
    on aggregator.event for each row
    execute function aggregator.refuse('what an event says never changes');

create trigger event_stays
    before delete on aggregator.event for each row
    execute function aggregator.refuse('an event is never deleted');

create trigger event_moves_forward
    before update of state on aggregator.event for each row
    when (not (
        old.state = new.state
        or (old.state = 'due' and new.state in ('sending', 'refused', 'in_doubt', 'void'))
        or (old.state = 'sending' and new.state in ('accepted', 'refused', 'due', 'in_doubt'))
        or (old.state in ('held', 'refused') and new.state in ('due', 'void'))
        or (old.state = 'in_doubt' and new.state in ('accepted', 'due', 'refused', 'void'))
        or (old.state = 'accepted' and new.state in ('confirmed', 'refused'))
        or (old.state = 'confirmed' and new.state = 'refused')
    ))
    execute function aggregator.refuse('an event moves forward only');
"""


def upgrade() -> None:
    """Create everything. There is no previous release."""
    op.get_bind().exec_driver_sql(SCHEMA)
