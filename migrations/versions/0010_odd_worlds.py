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

# A feed's first events leave once its sink was asked what it holds. What has sent before needs no such proof.
FIRST_USE = """
alter table aggregator.feed
    add column cleared_until bigint not null default 0,
    add column cleared_at timestamptz,
    add column cleared_by text,
    add column asked text[] not null default '{}',
    add column asked_at timestamptz,
    add column stopped_at timestamptz,
    add column stopped_reason text;
comment on column aggregator.feed.cleared_until is
    'Events up to this one may leave: whoever they are for, the sink was asked what it holds of them.';
comment on column aggregator.feed.cleared_at is 'When every event of it, also a later one, was let go.';
comment on column aggregator.feed.cleared_by is 'What showed that, or who said so.';
comment on column aggregator.feed.asked is 'The customers that the sink was asked about, until the feed is cleared.';
comment on column aggregator.feed.asked_at is 'When the sink was first asked.';
comment on column aggregator.feed.stopped_at is
    'Since when nothing is sent, because the sink holds usage that this ledger did not send; null: it holds none.';
comment on column aggregator.feed.stopped_reason is 'What it holds, in words.';
update aggregator.feed
   set cleared_until = 9223372036854775807, cleared_at = now(), cleared_by = 'it had sent before'
 where id in (select feed_id from aggregator.event
               where exposed_at is not null or state in ('accepted', 'confirmed'));
"""

UNSTABLE = """
create table aggregator.unstable (
    meter_id     integer not null references aggregator.meter,
    fingerprint  text not null,
    window_start timestamptz not null,
    customer     text,
    first        numeric not null,
    second       numeric not null,
    since        timestamptz not null default clock_timestamp(),
    primary key (meter_id, fingerprint)
);
comment on table aggregator.unstable is 'Definitions that gave two numbers for one window in one snapshot of the source.';
"""

FAILOVERS = """
alter table aggregator.pin add column timeline bigint;
comment on column aggregator.pin.timeline is
    'The timeline of the server''s write-ahead log at the latest claim: another one means a promoted standby or a restore.';
create table aggregator.host (
    id       uuid primary key,
    since    timestamptz not null default clock_timestamp()
);
comment on table aggregator.host is 'Each host (state directory) that ever claimed anything from this ledger.';
"""

# What each meter feeds at its sinks, and what it was called: one by another name must not bill the same again.
NAMES = """
alter table aggregator.meter add column formerly text[] not null default '{}';
comment on column aggregator.meter.formerly is
    'What it was called before, the oldest name first: its identifiers go on under that one.';
alter table aggregator.feed add column account text, add column called text;
comment on column aggregator.feed.account is 'The account, or the place, that it feeds; null: the sink does not say.';
comment on column aggregator.feed.called is 'By what name the sink counts it; null: not recorded yet.';
"""

TURNS = """
alter table aggregator.outbox add column backfill boolean not null default false;
comment on column aggregator.outbox.backfill is 'Whether a backfill planned it: what is new goes first.';
create index outbox_by_feed on aggregator.outbox (feed_id, backfill, event_id);
"""

# What one customer lost and another one gained waits on both sides: an event that was never tried may be held for it.
MOVES = """
alter table aggregator.parked add column moved_with bigint;
comment on column aggregator.parked.moved_with is
    'The event of another customer and the same window by which it is seen that usage moved; both wait together.';
create index parked_moved on aggregator.parked (feed_id) where moved_with is not null;
create or replace trigger event_moves_forward
    before update of state on aggregator.event for each row
    when (not (
        old.state = new.state
        or (old.state = 'due' and new.state in ('sending', 'refused', 'in_doubt', 'void'))
        or (old.state = 'due' and new.state = 'held' and old.attempts = 0 and old.exposed_at is null)
        or (old.state = 'sending' and new.state in ('accepted', 'refused', 'due', 'in_doubt'))
        or (old.state in ('held', 'refused') and new.state in ('due', 'void'))
        or (old.state = 'in_doubt' and new.state in ('accepted', 'due', 'refused', 'void'))
        or (old.state = 'accepted' and new.state in ('confirmed', 'refused'))
        or (old.state = 'confirmed' and new.state = 'refused')
    ))
    execute function aggregator.refuse('an event moves forward only');
"""

# Of what is asked for already, the times of what the slot's other events did have to tell.
OTHERS = """
alter table aggregator.cancellation add column others bigint;
comment on column aggregator.cancellation.others is
    'How far the other events of the slot were when it was asked: one for each, one more for each that had come to nothing. '
    'If they have moved since, the slot is planned anew without a person.';
update aggregator.cancellation
   set others = (select count(*) filter (where other.planned_at < asked_at)
                        + count(*) filter (where other.state = 'void' and other.settled_at < asked_at)
                   from aggregator.event join aggregator.event as other on other.slot_id = event.slot_id
                  where event.id = event_id and other.id <> event.id)
 where settled_at is null;
"""

SCHEMA: tuple[str, ...] = (
    CONFIGURATIONS,
    FIRST_USE,
    FAILOVERS,
    NAMES,
    TURNS,
    MOVES,
    # The newest instant at which anything was claimed: a clock that stands before it was set back.
    "alter table aggregator.pin add column claimed_at timestamptz",
    UNSTABLE,
    OTHERS,
    # Up to when a source had surely shown everything: another that shows less by the same address is not believed.
    "alter table aggregator.meter add column seen_until timestamptz",
    # Since when a meter that always had usage has had none.
    "alter table aggregator.meter add column silent_since timestamptz",
    # It counts no longer: two adoptions of which nobody knows both would have been given the same one.
    """
    comment on column aggregator.pin.generation is
        'New with each adoption, made from its time. Part of every identifier: what a lost future sent is never sent again '
        'under the same name.'
    """,
)
"""One statement or several in each, in the order in which they are made."""


def upgrade() -> None:
    """Add what is missing."""
    for statements in SCHEMA:
        op.get_bind().exec_driver_sql(statements)
