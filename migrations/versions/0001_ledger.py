"""The ledger: what it is, its meters and sinks, what was read, what is owed and sent, and what waits for a further look.

The shape is chosen for cost as much as for meaning. Slots and events have narrow keys and are written in key order; what
has eight bytes comes before what has four, and that before texts and numbers, so that no row has gaps; a slot goes by the
number of its first event, whose key finds both; and no index names a column that changes. While an event is on its way all
of it is in the `outbox`, whose rows are changed by each claim. At rest nearly every event is written once and for good, so
the table and its keys have no gaps, and what is alike in nearly all events is left out. The view `event` shows both. Foreign
keys stand where rows are few; between slots and events the writing transaction holds the meter and no key check is paid a
million times.

The tables come by subject, each after those that it names; the triggers come last, since they speak of several.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Which ledger this is, and whether it is still the one it was: nothing of a copy, or of one that was wound back, is sent.
IDENTITY = """
create table aggregator.identity (
    single         boolean primary key default true check (single),
    ledger_id      uuid not null default gen_random_uuid(),
    created_at     timestamptz not null default now(),
    generation     integer not null default 0 check (generation >= 0),
    claims_made           bigint not null default 0,
    claimed_at     timestamptz,
    cluster        bigint,
    database_oid   bigint,
    timeline       bigint,
    stopped_at     timestamptz,
    stopped_reason text,
    stopped_by_failover boolean not null default false,
    stopped_on     text,
    claims_kept_from timestamptz,
    check ((stopped_at is null) = (stopped_reason is null)),
    check (stopped_at is not null or not stopped_by_failover),
    check (stopped_at is not null or stopped_on is null)
);
comment on table aggregator.identity is 'What this ledger is. Its id is part of every identifier.';
comment on column aggregator.identity.generation is
    'New with each adoption, made from its time. Part of every identifier: what a lost future sent is never sent again '
    'under the same name.';
comment on column aggregator.identity.claims_made is
    'Counts the claims. Kept beside the ledger too: a ledger that counts less than that was wound back.';
comment on column aggregator.identity.cluster is 'The system identifier of the server, so that a copy is known for one.';
comment on column aggregator.identity.timeline is
    'The timeline of the server''s write-ahead log at the latest claim: another one means a promoted standby or a restore.';
comment on column aggregator.identity.stopped_at is 'Since when nothing is read or sent, until somebody adopts the ledger.';
comment on column aggregator.identity.stopped_by_failover is
    'Whether it was stopped because its server may lack commits; then a person''s word that it lacks none lifts it.';
comment on column aggregator.identity.stopped_on is
    'In which database of a server started when it was stopped: another one may have been set back since.';
comment on column aggregator.identity.claims_kept_from is
    'Older claims may be gone with the months whose events they were of: that one is missing does not mean a restore.';
insert into aggregator.identity default values;

create table aggregator.host (
    id    uuid primary key,
    since timestamptz not null default clock_timestamp()
);
comment on table aggregator.host is 'Each host (state directory) that ever claimed anything from this ledger.';

create table aggregator.configuration (
    id        bigint generated always as identity primary key,
    loaded_at timestamptz not null default clock_timestamp(),
    host      text not null,
    process   integer not null,
    meters    jsonb not null,
    blocks    jsonb not null default '{}',
    applied_by text check (applied_by <> ''),
    reason    text check (reason <> '')
);
comment on table aggregator.configuration is
    'Each configuration that a process took over, if it differs; or that a person applied, and why.';
comment on column aggregator.configuration.blocks is
    'The settings of sources, sinks and mappings, without any secret.';
"""

# How far each meter is, by which definition each stretch of time is read, and who reads it just now.
METERS = """
create table aggregator.meter (
    id             integer generated always as identity primary key,
    name           text not null unique check (name <> ''),
    formerly       text[] not null default '{}',
    fingerprint    text not null,
    read           text not null default 'windows' check (read in ('windows', 'deltas', 'counters', 'gauges')),
    window_seconds integer not null check (window_seconds > 0 and mod(86400, window_seconds) = 0),
    start_at       timestamptz not null,
    mark           timestamptz not null,
    reread_from    timestamptz,
    swept          timestamptz,
    hourly_at      timestamptz,
    daily_at       timestamptz,
    seen_until     timestamptz,
    waits_for      text,
    waits_since    timestamptz,
    unfenced_at    timestamptz,
    silent_since   timestamptz,
    lease_owner    uuid,
    lease_until    timestamptz,
    epoch          bigint not null default 0,
    left_epoch     bigint not null default 0,
    left_as        bytea check (octet_length(left_as) = 16),
    doubtful_until timestamptz,
    archived_until timestamptz
);
comment on column aggregator.meter.archived_until is
    'Windows before this are closed for good: nothing of them is read, planned or sent any more. Their months are archived.';
comment on column aggregator.meter.formerly is
    'What it was called before, the oldest name first: its identifiers go on under that one.';
comment on column aggregator.meter.read is
    'How its source is read. Fixed once it has slots: its windows would be read by what has not counted them.';
comment on column aggregator.meter.mark is
    'Up to where this meter has been read and committed: a contiguous prefix of windows.';
comment on column aggregator.meter.reread_from is
    'The oldest slot whose change waits for an unsettled event; the next pass reads from here.';
comment on column aggregator.meter.hourly_at is 'When the last two days were last read again in full.';
comment on column aggregator.meter.daily_at is 'When all that is still billable was last read again in full.';
comment on column aggregator.meter.waits_for is 'What in the source keeps a window waiting that is old enough to be read.';
comment on column aggregator.meter.unfenced_at is 'When a window was last read without waiting for it any longer.';
comment on column aggregator.meter.epoch is 'Counts the leases. A pass commits only under the epoch it was given.';
comment on column aggregator.meter.left_epoch is 'The last lease that was given back.';
comment on column aggregator.meter.left_as is
    'A digest of what its round saw, and of the meter as the round left it; null if there was more to do.';

comment on column aggregator.meter.doubtful_until is
    'Of a meter of counters in an adopted ledger: up to when it was sampled before. What rose until then, and what the '
    'first sample after it shows, may be billed already.';

create table aggregator.touched (
    meter_id    integer primary key references aggregator.meter,
    fingerprint text not null,
    since       timestamptz not null,
    read_at     timestamptz not null,
    missed      bigint not null default 0 check (missed >= 0),
    missed_at   timestamptz
);
comment on table aggregator.touched is
    'Up to when what `changed` of a meter names has been read again: from there it is asked the next time.';
comment on column aggregator.touched.fingerprint is 'By which question; another one begins with a full reading.';
comment on column aggregator.touched.missed is
    'In how many windows full readings found something that no answer had named, all in all.';

create table aggregator.reading_cost (
    meter_id integer not null references aggregator.meter,
    day      date not null,
    old      boolean not null,
    readings bigint not null,
    rows     bigint not null,
    seconds  double precision not null,
    primary key (meter_id, day, old)
);
comment on table aggregator.reading_cost is
    'What readings cost the source, by day; `old`: of windows that were read again, and are not among the last two hours.';

create table aggregator.definition (
    meter_id       integer not null references aggregator.meter,
    since          timestamptz not null,
    fingerprint    text not null,
    query          text not null,
    window_seconds integer not null check (window_seconds > 0 and mod(86400, window_seconds) = 0),
    dimensions     text[] not null default '{}',
    customers      text check (customers <> ''),
    stated_at      timestamptz not null default now(),
    primary key (meter_id, since),
    check (mod(extract(epoch from since)::bigint, window_seconds) = 0)
);
comment on table aggregator.definition is
    'By which query, and in which windows, a meter is read from an instant on: a change holds for the windows after it.';
comment on column aggregator.definition.dimensions is 'Which further columns of the query keep usage apart.';

comment on column aggregator.definition.customers is
    'The mapping by which keys that the query returns become billing customers; null: it returns those.';

create table aggregator.fence (
    meter_id integer not null references aggregator.meter,
    until    timestamptz not null,
    xid      numeric(20) not null,
    primary key (meter_id, until)
);
comment on table aggregator.fence is
    'Once every transaction of the source below xid has ended, windows up to `until` are complete.';
"""

# Who is billed for the usage of each of the application's own keys, since when and until when; what was said before stays.
CUSTOMERS = """
create table aggregator.mapping (
    id         integer generated always as identity primary key,
    name       text not null unique check (name <> ''),
    looked_at  timestamptz,
    read_at    timestamptz,
    doubted_at timestamptz,
    doubted    text,
    differing  bigint,
    failed_at  timestamptz,
    failure    text,
    check ((doubted_at is null) = (doubted is null)),
    check ((failed_at is null) = (failure is null))
);
comment on table aggregator.mapping is
    'Each mapping from the application''s keys to billing customers, and how it was last read.';
comment on column aggregator.mapping.looked_at is 'When it was last read, whatever came of it.';
comment on column aggregator.mapping.read_at is 'When what it said was last believed.';
comment on column aggregator.mapping.doubted_at is
    'Since when it says so much else at once that another read must confirm it.';
comment on column aggregator.mapping.differing is
    'How many keys would lose or change their customers by what is not believed yet.';
comment on column aggregator.mapping.failed_at is 'Since when it cannot be read, or contradicts itself.';

create table aggregator.customer (
    mapping_id integer not null references aggregator.mapping,
    key        text collate "C" not null check (key <> ''),
    since      timestamptz not null,
    until      timestamptz not null,
    customer   text collate "C" check (customer <> ''),
    name       text,
    seen_at    timestamptz not null,
    primary key (mapping_id, key, since),
    check (since < until)
);
create index customer_by_id on aggregator.customer (customer);
comment on table aggregator.customer is
    'Who is billed for the usage of a key, in windows that begin from `since` to before `until`; both may be infinite.';
comment on column aggregator.customer.customer is 'The billing customer; null: the key is known, and has none yet.';
comment on column aggregator.customer.name is 'What people call the customer.';
comment on column aggregator.customer.seen_at is 'When the mapping was first seen to say so.';

create table aggregator.customer_change (
    id         bigint generated always as identity primary key,
    mapping_id integer not null references aggregator.mapping,
    key        text collate "C" not null,
    seen_at    timestamptz not null,
    before     text collate "C",
    after      text collate "C",
    holds_from timestamptz not null,
    moves      boolean not null default false
);
create index customer_change_by_mapping on aggregator.customer_change (mapping_id, before) where moves;
comment on table aggregator.customer_change is
    'How a mapping changed: which customer a key had before, and which it has after; null: none.';
comment on column aggregator.customer_change.holds_from is 'Windows that begin from here on go by it.';
comment on column aggregator.customer_change.moves is
    'Whether usage that was billed to the one before moves to the one after.';
"""

# Where events go, and on what terms each meter feeds each sink. A feed's first events leave once its sink was asked what it
# holds; what a meter feeds is kept, so that one by another name does not bill the same again.
FEEDS = """
create table aggregator.sink (
    id            integer generated always as identity primary key,
    name          text not null unique check (name <> ''),
    account       text,
    halted_at     timestamptz,
    halted_reason text
);
comment on table aggregator.sink is 'Where events go. A halted sink refuses us as a whole until a person acts.';
comment on column aggregator.sink.account is 'The account and mode it belonged to when it was first used.';

create table aggregator.feed (
    id             integer generated always as identity primary key,
    meter_id       integer not null references aggregator.meter,
    sink_id        integer not null references aggregator.sink,
    since          timestamptz not null,
    until          timestamptz,
    read_until     timestamptz not null,
    lost           tstzrange,
    shadow         boolean not null default false,
    shadow_until   timestamptz,
    parted         boolean not null default false,
    ordered        boolean not null default false,
    account        text,
    called         text,
    cleared_until  bigint not null default 0,
    cleared_at     timestamptz,
    cleared_by     text,
    asked          text[] not null default '{}',
    asked_at       timestamptz,
    stopped_at     timestamptz,
    stopped_reason text,
    unique (meter_id, sink_id)
);
comment on table aggregator.feed is
    'One meter''s line into one sink: its own slots, events and carries, so that no sink waits for another.';
comment on column aggregator.feed.since is 'Nothing before this reaches the sink through this feed; `bill_from`, if given.';
comment on column aggregator.feed.until is 'Nothing from this on reaches the sink through this feed; null: without end.';
comment on column aggregator.feed.read_until is
    'Up to where this feed was planned for. It lags behind the mark where a sink was taken off a meter for a while.';
comment on column aggregator.feed.lost is
    'Windows that were never planned for this feed, and that the source no longer has.';
comment on column aggregator.feed.shadow is 'Whether events are planned and recorded, and never sent.';
comment on column aggregator.feed.shadow_until is
    'Up to where the meter had been read when the shadow ended: what was planned in shadow stays unsent.';
comment on column aggregator.feed.parted is
    'Customers move to it, or away, at times of their own: of each window only one of the two feeds sends.';
comment on column aggregator.feed.ordered is
    'Each customer''s events leave in the order they were planned, since the last one is what is billed.';
comment on column aggregator.feed.account is 'The account, or the place, that it feeds; null: the sink does not say.';
comment on column aggregator.feed.called is 'By what name the sink counts it.';
comment on column aggregator.feed.cleared_until is
    'Events up to this one may leave: whoever they are for, the sink was asked what it holds of them.';
comment on column aggregator.feed.cleared_at is 'When every event of it, also a later one, was let go.';
comment on column aggregator.feed.cleared_by is 'What showed that, or who said so.';
comment on column aggregator.feed.asked is 'The customers that the sink was asked about, until the feed is cleared.';
comment on column aggregator.feed.asked_at is 'When the sink was first asked.';
comment on column aggregator.feed.stopped_at is
    'Since when nothing is sent, because the sink holds usage that this ledger did not send; null: it holds none.';
comment on column aggregator.feed.stopped_reason is 'What it holds, in words.';

create table aggregator.cutover (
    id        bigint generated always as identity primary key,
    from_feed integer not null references aggregator.feed,
    to_feed   integer not null references aggregator.feed,
    customer  text collate "C" check (customer <> ''),
    at        timestamptz not null,
    parallel  boolean not null,
    made_at   timestamptz not null,
    made_by   text not null,
    reason    text,
    check (from_feed <> to_feed)
);
create unique index cutover_from on aggregator.cutover (from_feed, coalesce(customer, ''));
create unique index cutover_to on aggregator.cutover (to_feed, coalesce(customer, ''));
comment on table aggregator.cutover is
    'Since when a customer is billed through another feed of the same meter: one instant, which both feeds go by.';
comment on column aggregator.cutover.customer is 'Whose windows these are; null: of everybody without a row of their own.';
comment on column aggregator.cutover.at is
    'Windows before it are sent through `from_feed`, later ones through `to_feed`; the other plans them in shadow.';
comment on column aggregator.cutover.parallel is
    'Whether `to_feed` sends the windows before it as well, to a sink that makes no invoice of them.';

-- What was planned by a cutover stays planned so. Neither may one be made, moved or taken back where windows were read.
create function aggregator.keep_cutover() returns trigger language plpgsql as $$
begin
    if exists (select from aggregator.feed join aggregator.meter on meter.id = feed.meter_id
                where feed.id = coalesce(old.from_feed, new.from_feed)
                  and meter.mark > least(coalesce(old.at, 'infinity'), coalesce(new.at, 'infinity'))) then
        raise exception using message = 'aggregator: windows that were read keep the cutover they were planned by',
            errcode = 'integrity_constraint_violation';
    end if;
    return coalesce(new, old);
end
$$;

create trigger cutover_is_ahead
    before insert or update or delete on aggregator.cutover for each row execute function aggregator.keep_cutover();
"""

# What each pass did, and what the source said that is billed to nobody, or not yet.
PASSES = """
create table aggregator.pass (
    id          bigint generated always as identity primary key,
    meter_id    integer not null references aggregator.meter,
    kind        text not null check (kind in ('live', 'backfill', 'adoption', 'repair')),
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
    error       text,
    since       timestamptz,
    times       integer not null default 1 check (times > 0)
);
create index pass_by_meter on aggregator.pass (meter_id, id);
create index pass_failed on aggregator.pass (meter_id, id) where error is not null;
comment on table aggregator.pass is 'What each pass did, or why it did nothing.';
comment on column aggregator.pass.times is
    'For how many passes in a row it stands that did nothing, or failed in the same way; it is the newest of them.';
comment on column aggregator.pass.since is 'When the first of those began; null: there is one only.';

create table aggregator.evidence (
    meter_id     integer not null references aggregator.meter,
    window_start timestamptz not null,
    pass_id      bigint not null,
    rows         bigint not null,
    quantity     numeric not null,
    checksum     bigint not null,
    primary key (meter_id, window_start, pass_id)
);
comment on table aggregator.evidence is
    'What a pass read of a window, if it was read for the first time or anything of it had changed.';
comment on column aggregator.evidence.quantity is 'The sum of all that can be billed.';
comment on column aggregator.evidence.checksum is
    'Of customers and quantities, in whatever order they came. To be compared within this ledger only.';

create table aggregator.unmapped (
    id           bigint generated always as identity primary key,
    meter_id     integer not null references aggregator.meter,
    window_start timestamptz not null,
    reason       text not null,
    customer     text,
    combination  bigint default 0,
    rows         bigint not null,
    quantity     numeric,
    waits        boolean not null default false
);
create index unmapped_by_window on aggregator.unmapped (meter_id, window_start);
comment on table aggregator.unmapped is
    'What the source said that can be billed to nobody: rows without a customer, a value of each dimension, or a usable '
    'number.';
comment on column aggregator.unmapped.combination is 'Null where a dimension had no usable value.';

comment on column aggregator.unmapped.waits is
    'Whether `customer` is a key that has no billing customer yet: it is billed once the mapping gives it one.';

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

create table aggregator.doubtful_window (
    meter_id     integer not null references aggregator.meter,
    window_start timestamptz not null,
    primary key (meter_id, window_start)
);
comment on table aggregator.doubtful_window is
    'Windows of which a sink had counted more for a customer than an adopted ledger could tell by its mapping.';

create table aggregator.silent_customer (
    meter_id integer not null references aggregator.meter,
    customer text collate "C" not null,
    since    timestamptz not null,
    usual    numeric not null,
    primary key (meter_id, customer)
);
comment on table aggregator.silent_customer is
    'Customers without usage since an hour in which they had some in every week before.';
comment on column aggregator.silent_customer.usual is 'The least that they had in that hour.';

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

create table aggregator.lateness (
    meter_id integer not null references aggregator.meter,
    day      date not null,
    seconds  integer not null,
    slots    bigint not null,
    quantity numeric not null,
    primary key (day, meter_id, seconds)
);
comment on table aggregator.lateness is
    'How long after their window''s end changes were found, in steps; 0 for what was there when a window was first read.';
"""

# Of meters that are read by a cursor: how far it is, and what the rows that it has passed come to. Both move together.
CURSORS = """
create table aggregator.cursor (
    meter_id        integer primary key references aggregator.meter,
    after           text not null,
    goal            text,
    noted_at        timestamptz,
    complete_until  timestamptz,
    waits_for       text[] not null default '{}',
    looked_again    boolean not null default false,
    ended_until     timestamptz,
    taken_until     timestamptz,
    rows            bigint not null default 0 check (rows >= 0),
    recounted_at    timestamptz,
    missed          numeric not null default 0 check (missed >= 0),
    taken_back      numeric not null default 0 check (taken_back >= 0),
    differed_at     timestamptz,
    check ((goal is null) = (noted_at is null))
);
comment on table aggregator.cursor is
    'How far a meter is that is read by a cursor: every row up to `after` is in the running totals, and no other.';
comment on column aggregator.cursor.goal is
    'Up to where rows will be read, once the transactions have ended that were open when it was noted.';
comment on column aggregator.cursor.waits_for is 'Those of them that have not ended, as the source names them.';
comment on column aggregator.cursor.looked_again is 'Whether transactions that were prepared meanwhile are among them.';
comment on column aggregator.cursor.complete_until is 'Usage before this is complete once the goal is reached.';
comment on column aggregator.cursor.ended_until is
    'Every transaction that was open at this instant had ended when the rows were last looked at.';
comment on column aggregator.cursor.taken_until is 'Windows that end by then are complete, as far as the source can tell.';
comment on column aggregator.cursor.missed is 'What recounts found that the cursor had not, or less of, all in all.';
comment on column aggregator.cursor.taken_back is 'What recounts did not find any more, all in all.';

create table aggregator.running_total (
    meter_id     integer not null references aggregator.meter,
    window_start timestamptz not null,
    customer     text collate "C" not null,
    combination  bigint not null default 0,
    flaw         text collate "C" not null,
    quantity     numeric check (quantity not in ('NaN', 'Infinity', '-Infinity')),
    rows         bigint not null,
    at           timestamptz,
    noise        numeric not null default 0,
    primary key (meter_id, window_start, customer, combination, flaw)
);
comment on table aggregator.running_total is
    'What the rows that a cursor has passed come to, by window and customer. Passes read it as they read a source.';
comment on column aggregator.running_total.customer is 'Empty for rows that can be billed to nobody; `flaw` says why.';
"""

# What was sampled of meters whose source tells a state and no history. Nobody can ask for the past again, so samples are
# kept as they were taken; what a window comes to is worked out of them, each time it is read.
SAMPLES = """
create table aggregator.sampling (
    id              bigint generated always as identity primary key,
    meter_id        integer not null references aggregator.meter,
    due             timestamptz not null,
    at              timestamptz not null,
    taken_at        timestamptz not null default clock_timestamp(),
    rows            bigint not null,
    stale           bigint not null default 0,
    unusable        bigint not null default 0,
    unusable_reason text,
    dropped_at      timestamptz,
    unique (meter_id, due),
    unique (meter_id, at),
    check ((unusable > 0) = (unusable_reason is not null))
);
comment on table aggregator.sampling is 'Each time the query of a meter that is sampled was asked, and what it gave.';
comment on column aggregator.sampling.due is
    'Which of the instants at which a sample is due, by the ledger''s clock: each is taken once, whoever is there to do it.';
comment on column aggregator.sampling.at is 'When it was, by the clock of the source if it has one.';
comment on column aggregator.sampling.stale is 'Values of counters that were no newer than what was known of them.';
comment on column aggregator.sampling.unusable is 'Rows that no sample could be made of; an example of why is beside it.';
comment on column aggregator.sampling.dropped_at is 'When its samples were deleted, since they had been kept long enough.';

create table aggregator.series (
    id         bigint generated always as identity primary key,
    meter_id   integer not null references aggregator.meter,
    customer   text collate "C" not null,
    name       text collate "C" not null default '',
    at         timestamptz,
    value      numeric check (value not in ('NaN', 'Infinity', '-Infinity')),
    generation integer,
    unique (meter_id, customer, name),
    check (num_nulls(at, value, generation) in (0, 3))
);
comment on table aggregator.series is
    'What samples are about: a customer, or one of several counters of one. Of a counter, with its last value.';
comment on column aggregator.series.customer is 'Empty: no customer, so that it is billed to nobody.';
comment on column aggregator.series.generation is 'The generation of the ledger in which the last value was taken.';

create table aggregator.sample (
    meter_id    integer not null,
    at          timestamptz not null,
    series_id   bigint not null references aggregator.series,
    value       numeric check (value not in ('NaN', 'Infinity', '-Infinity')),
    reason      text,
    previous    numeric,
    previous_at timestamptz,
    adopted     boolean not null default false,
    primary key (meter_id, at, series_id),
    check (value is not null or reason is not null),
    check ((previous is null) = (previous_at is null)),
    check (previous_at < at)
);
create index sample_by_series on aggregator.sample (series_id, at);
comment on table aggregator.sample is 'What a counter or a gauge stood at. It never changes.';
comment on column aggregator.sample.previous is 'What a counter stood at in the sample before.';
comment on column aggregator.sample.adopted is 'The ledger was adopted since the sample before: what rose may be billed.';
"""

# How a row of each of the two tables of events is shown as one.
EVENT_AT_REST = """
       id, coalesce(slot_id, id) as slot_id, pass_id, feed_id, coalesce(revision, 0) as revision, window_start, at,
       planned_at, exposed_at, coalesce(attempted_at, exposed_at) as attempted_at, settled_at,
       coalesce(combination, 0) as combination, state, coalesce(attempts, 1) as attempts, customer, identifier, delta,
       coalesce(total, delta) as total, quantity, transport, request_id, reason
"""
EVENT_IN_OUTBOX = """
       event_id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, exposed_at, attempted_at,
       null::timestamptz, combination, case when claim_id is null then 'due' else 'sending' end::aggregator.event_state,
       attempts, customer, identifier, delta, total, quantity, transport, request_id, reason
"""

# Where readings accumulate, and what is owed for them. An event planned in shadow stays so for ever: no step leads to that
# state, and none from it. A zero may be said where nothing was, and where an event follows another that it does not change.
SLOTS_AND_EVENTS = f"""
create sequence aggregator.event_id;
create table aggregator.combination (
    id         bigint not null check (id <> 0),
    meter_id   integer not null references aggregator.meter,
    dimensions jsonb not null check (jsonb_typeof(dimensions) = 'object' and dimensions <> '{{}}'),
    since      timestamptz not null default clock_timestamp(),
    primary key (id, meter_id)
);
create index combination_by_meter on aggregator.combination (meter_id);
comment on table aggregator.combination is
    'The values of a meter''s dimensions that were read together. Wherever a combination is 0, there are no dimensions.';
comment on column aggregator.combination.id is 'Made of the names and values: the same for every meter and in every ledger.';

create table aggregator.slot (
    id           bigint not null,
    window_start timestamptz not null,
    combination  bigint not null default 0,
    stamped_at   timestamptz,
    tail         bigint,
    feed_id      integer not null,
    revision     integer not null check (revision >= 0),
    replan       boolean not null default false,
    customer     text collate "C" not null check (customer <> ''),
    quantity     numeric not null check (quantity not in ('NaN', 'Infinity', '-Infinity')),
    total        numeric not null,
    primary key (feed_id, window_start, customer, combination),
    check ((revision = 0) = (tail is null))
);
comment on table aggregator.slot is
    'Where readings of one customer and combination of one meter in one window accumulate. Written only by the holder of '
    'the meter.';
comment on column aggregator.slot.id is 'The number of its first event; until there is one, another of the same sequence.';
comment on column aggregator.slot.revision is 'How many events the slot has had.';
comment on column aggregator.slot.quantity is 'What the source said when it was last read.';
comment on column aggregator.slot.total is 'Where the slot stands at the sink once every event of it is settled.';
comment on column aggregator.slot.stamped_at is 'The instant of its first event.';
comment on column aggregator.slot.tail is 'Its latest event.';
comment on column aggregator.slot.replan is 'Its latest event came to nothing at the sink, and is to be planned anew.';

create table aggregator.usage_day (
    feed_id    integer not null references aggregator.feed,
    day        timestamptz not null,
    changed_at timestamptz not null,
    made_at    timestamptz,
    primary key (feed_id, day)
);
comment on table aggregator.usage_day is
    'Days in UTC that have slots. Whoever changes a slot of a day says so here, in the same transaction.';
comment on column aggregator.usage_day.made_at is
    'When its slots were summed up by customer; null while they are not, or have changed since.';

create table aggregator.usage_of_day (
    feed_id  integer not null,
    day      timestamptz not null,
    combination bigint not null default 0,
    customer text collate "C" not null,
    quantity numeric not null,
    total    numeric not null,
    shadow   numeric not null,
    primary key (feed_id, day, customer, combination)
);
create table aggregator.usage_of_combination (
    feed_id     integer not null,
    day         timestamptz not null,
    combination bigint not null,
    quantity    numeric not null,
    total       numeric not null,
    shadow      numeric not null,
    primary key (feed_id, day, combination)
);
create table aggregator.usage_of_hour (
    feed_id  integer not null,
    day      timestamptz not null,
    hour     timestamptz not null,
    slots    bigint not null,
    quantity numeric not null,
    total    numeric not null,
    shadow   numeric not null,
    primary key (feed_id, day, hour)
);
comment on table aggregator.usage_of_hour is
    'What the slots of all customers come to in an hour; counts only while the day is made.';
comment on table aggregator.usage_of_day is
    'What the slots of a customer and combination come to in a day; counts only while the day is made.';
comment on table aggregator.usage_of_combination is
    'What the slots of all customers come to in a day, combination by combination; counts only while the day is made.';

create table aggregator.carry (
    feed_id     integer not null references aggregator.feed,
    customer    text collate "C" not null,
    combination bigint not null default 0,
    amount      numeric not null check (amount > 0),
    primary key (feed_id, customer, combination)
);
comment on table aggregator.carry is
    'What a customer is owed of a meter, of each combination by itself, in parts too small to bill.';

create type aggregator.event_state as enum
    ('due', 'sending', 'accepted', 'confirmed', 'refused', 'in_doubt', 'held', 'void', 'shadow');

create table aggregator.outbox (
    event_id     bigint primary key,
    slot_id      bigint not null,
    pass_id      bigint not null,
    window_start timestamptz not null,
    at           timestamptz not null check (at >= window_start),
    planned_at   timestamptz not null,
    due_at       timestamptz not null,
    claim_id     bigint,
    exposed_at   timestamptz,
    attempted_at timestamptz,
    combination  bigint not null default 0,
    sink_id      integer not null,
    feed_id      integer not null,
    revision     integer not null check (revision >= 0),
    attempts     integer not null default 0 check (attempts >= 0),
    backfill     boolean not null default false,
    customer     text collate "C" not null,
    identifier   text not null check (length(identifier) between 1 and 100),
    delta        numeric not null,
    total        numeric not null,
    quantity     numeric,
    transport    text,
    request_id   text,
    reason       text,
    check ((revision = 0) = (slot_id = event_id)),
    constraint event_delta_check check (delta <> 0 or revision > 0 or total = 0)
) with (fillfactor = 70);
create index outbox_by_feed on aggregator.outbox (feed_id, backfill, event_id);
create unique index outbox_of_slot on aggregator.outbox (slot_id, revision) where revision > 0;
comment on table aggregator.outbox is
    'Events to be sent or being sent, whole. A claimed one is due again when its claim runs out.';
comment on column aggregator.outbox.backfill is 'Whether a backfill planned it: what is new goes first.';

create table aggregator.event_at_rest (
    id           bigint primary key,
    slot_id      bigint,
    pass_id      bigint not null,
    window_start timestamptz not null,
    at           timestamptz not null check (at >= window_start),
    planned_at   timestamptz not null,
    exposed_at   timestamptz,
    attempted_at timestamptz,
    settled_at   timestamptz,
    combination  bigint check (combination <> 0),
    feed_id      integer not null,
    revision     integer check (revision > 0),
    attempts     integer check (attempts >= 0 and attempts <> 1),
    state        aggregator.event_state not null check (state not in ('due', 'sending')),
    customer     text collate "C" not null,
    identifier   text not null check (length(identifier) between 1 and 100),
    delta        numeric not null,
    total        numeric,
    quantity     numeric,
    transport    text,
    request_id   text,
    reason       text,
    check ((revision is null) = (slot_id is null)),
    constraint event_delta_check check (delta <> 0 or revision is not null or total is null or total = 0)
);
create unique index event_of_slot on aggregator.event_at_rest (slot_id, revision) where slot_id is not null;
comment on table aggregator.event_at_rest is
    'Events that are not on their way, and what became of each. A column that says what it says of nearly all is null, and '
    'takes no room: aggregator.event shows it.';
comment on column aggregator.event_at_rest.slot_id is 'Null of the first event of a slot, which has the number of the slot.';
comment on column aggregator.event_at_rest.revision is 'Null of the first event of a slot.';
comment on column aggregator.event_at_rest.attempted_at is 'Null where it is exposed_at.';
comment on column aggregator.event_at_rest.attempts is 'Null where there was one.';
comment on column aggregator.event_at_rest.total is 'Null where it is delta.';
comment on column aggregator.event_at_rest.combination is 'Null where there are no dimensions.';

create view aggregator.event as
select {EVENT_AT_REST}
  from aggregator.event_at_rest
 union all
select {EVENT_IN_OUTBOX}
  from aggregator.outbox;
comment on view aggregator.event is
    'Every message we ever owed a sink: the audit trail. Each is in the outbox while it is to be sent or being sent, and at '
    'rest before and after that.';
comment on column aggregator.event.slot_id is
    'Its slot, which goes by the number of its first event: so the key of events keeps that one unique, and others have an '
    'index.';
comment on column aggregator.event.exposed_at is
    'When the first attempt began that may have reached the sink; null while none has.';
comment on column aggregator.event.attempted_at is 'When the latest attempt began.';
comment on column aggregator.event.quantity is
    'What the source said of the slot when it was planned; null where that is its total.';
comment on column aggregator.event.transport is
    'How the first attempt went that may have reached the sink, in the sink''s own word. Later ones go the same way.';
"""  # noqa: S608 - our own text

# Nearly every slot has one event, of the slot's own number, which the key of events leads to. Only where there are others is
# it looked for these. The body takes the place of each call, so that what calls it is planned as a whole.
EVENTS_OF_SLOT = f"""
create function aggregator.events_of(slot bigint, others boolean default true) returns setof aggregator.event
language sql stable parallel safe rows 1 as $$
    select * from aggregator.event where id = slot and revision = 0
     union all
    select {EVENT_AT_REST} from aggregator.event_at_rest where others and slot_id = slot
     union all
    select {EVENT_IN_OUTBOX} from aggregator.outbox where others and slot_id = slot and revision > 0
$$;
grant execute on function aggregator.events_of to public;
comment on function aggregator.events_of is 'The events of a slot, by its number; `others`: whether it may have several.';
"""  # noqa: S608 - our own text

# Every attempt, recorded before its first byte leaves. A file is an attempt as a whole.
CLAIMS = """
create table aggregator.claim (
    id         bigint generated always as identity primary key,
    sink_id    integer not null references aggregator.sink,
    owner      uuid not null,
    claimed_at timestamptz not null,
    events     bigint[] not null,
    settled_at timestamptz
);
create index claim_open on aggregator.claim (sink_id, id) where settled_at is null;
comment on table aggregator.claim is
    'The record of an attempt, committed before the first byte leaves. One without settled_at may have been sent in full.';

create table aggregator.rate_share (
    sink_id    integer not null references aggregator.sink,
    route      text not null check (route <> ''),
    owner      uuid not null,
    wanted     double precision not null check (wanted > 0),
    held       double precision not null check (held >= 0),
    held_until timestamptz not null,
    primary key (sink_id, route, owner)
) with (fillfactor = 50);
comment on table aggregator.rate_share is
    'Which part of a rate limit each process that sends by a route may use, in calls or events a second.';
comment on column aggregator.rate_share.wanted is 'What the process could use.';
comment on column aggregator.rate_share.held is 'What it uses, at most, until `held_until`: no other may use that.';

create table aggregator.read_count (
    sink_id integer not null references aggregator.sink,
    day     date not null,
    reads   bigint not null check (reads >= 0),
    primary key (sink_id, day)
) with (fillfactor = 50);
comment on table aggregator.read_count is 'How often each sink was asked for its totals, by UTC day, by all processes.';

create table aggregator.file (
    claim_id        bigint primary key references aggregator.claim,
    sink_id         integer not null references aggregator.sink,
    place           text not null check (place <> ''),
    by_hand         boolean not null,
    held_until      timestamptz not null,
    tries           integer not null default 1 check (tries > 0),
    reason          text,
    name            text unique check (name <> ''),
    meters          text[],
    first_window    timestamptz,
    last_window     timestamptz,
    records         bigint check (records > 0),
    bytes           bigint check (bytes > 0),
    sha256          text,
    written_at      timestamptz,
    confirmed_at    timestamptz,
    rejected_at     timestamptz,
    rejected_reason text,
    check (num_nulls(name, meters, first_window, last_window, records, bytes, sha256, written_at) in (0, 8)),
    check (confirmed_at is null or written_at is not null),
    check ((rejected_at is null) = (rejected_reason is null)),
    check (rejected_at is null or (written_at is not null and confirmed_at is null))
);
create index file_open on aggregator.file (sink_id, claim_id) where written_at is null;
comment on table aggregator.file is
    'A claim that becomes a file: its events never change, so that whoever takes it over writes the same file.';
comment on column aggregator.file.by_hand is 'Whether a person uploads it, and confirms that.';
comment on column aggregator.file.held_until is
    'Until when the claim''s owner may go on with it; another takes it over whole then.';
comment on column aggregator.file.rejected_at is
    'When a person said that nothing of it was taken: its events are refused. One that is confirmed never is.';

create table aggregator.attempt (
    id          bigint generated always as identity primary key,
    claim_id    bigint not null,
    at          timestamptz not null,
    answer      text not null,
    reason      text,
    events      bigint[] not null check (cardinality(events) > 0),
    request_ids text[] check (cardinality(request_ids) = cardinality(events))
);
create index attempt_by_event on aggregator.attempt using gin (events) with (fastupdate = off);
create index attempt_by_claim on aggregator.attempt (claim_id);
comment on table aggregator.attempt is
    'Every try that did not end well: one row for all events of a claim that came to the same at once. The try that did end '
    'well is on the event itself.';
comment on column aggregator.attempt.request_ids is
    'The sink''s id of the request of each event, in the order of `events`; null if it named none.';
"""

# Events are many, and are looked for by days: an index of ranges of pages is enough for that, and takes next to nothing.
# Claims are few, and the one is looked for in which an event was sent at an instant.
# Without `autosummarize` such an index does not know what was added since the last vacuum, and all of that is read
# (postgresql.org/docs/current/brin.html).
BY_TIME = """
create index event_by_time on aggregator.event_at_rest using brin (planned_at) with (autosummarize = on);
create index claim_by_time on aggregator.claim (claimed_at);
"""

# What was done, counted with it in one transaction, so that a figure that only grows need not count every row there is. Who
# settles beside others counts in a row of its own: nobody waits for another's commit.
COUNTS = """
create table aggregator.pass_count (
    meter_id integer not null references aggregator.meter,
    kind     text not null,
    failed   boolean not null,
    passes   bigint not null,
    seconds  double precision not null,
    rows     bigint not null,
    planned  bigint not null,
    primary key (meter_id, kind, failed)
) with (fillfactor = 50);
comment on table aggregator.pass_count is 'How many passes there were of each kind, and what they came to.';

create table aggregator.verdict_count (
    feed_id  integer not null references aggregator.feed,
    part     smallint not null,
    accepted bigint not null,
    refused  bigint not null,
    in_doubt bigint not null,
    due      bigint not null,
    primary key (feed_id, part)
) with (fillfactor = 50);
comment on table aggregator.verdict_count is
    'How many attempts ended in each state: `due` is to be sent again. The sum of all parts is the figure.';
"""

# What waits for a person, for proof from the sink, or to be said again.
REVIEW = """
create table aggregator.decision (
    id         bigint generated always as identity primary key,
    decided_at timestamptz not null,
    verb       text not null check (
        verb in (
            'release', 'dismiss', 'cancel', 'mark-accepted', 'mark-missing', 'give-up', 'confirm', 'reject', 'move'
        )
    ),
    who        text not null check (who <> ''),
    reason     text check (reason <> ''),
    events     bigint[] not null check (cardinality(events) > 0)
);
create index decision_by_event on aggregator.decision using gin (events);
comment on table aggregator.decision is
    'What a person decided about events that waited, who it was and why. Written with what it changed; never changed.';

create table aggregator.parked (
    event_id     bigint primary key references aggregator.event_at_rest,
    feed_id      integer not null references aggregator.feed,
    state        aggregator.event_state not null check (state in ('held', 'refused', 'in_doubt')),
    reason       text not null,
    since        timestamptz not null,
    look_at      timestamptz,
    dismissed_at timestamptz,
    guard        text check (guard in
        ('shrink_guard', 'max_per_customer_window', 'max_change', 'max_total_change', 'repair')),
    was_accepted boolean not null default false,
    moved_with   bigint
);
create index parked_moved on aggregator.parked (feed_id) where moved_with is not null;
comment on table aggregator.parked is 'Events that wait for a person, or for proof from the sink.';
comment on column aggregator.parked.look_at is 'When the sink is to be read back for it again.';
comment on column aggregator.parked.dismissed_at is 'When a person left it at that. A newer plan still replaces it.';
comment on column aggregator.parked.guard is
    'Which guard holds it, by its key in the configuration: the shrink guard until a second read confirms the decrease; '
    'or `repair`, until a person decides.';
comment on column aggregator.parked.was_accepted is
    'The sink took it and rejected it later: its identifier is used up, so it is planned anew and never sent again.';
comment on column aggregator.parked.moved_with is
    'The event of another customer and the same window by which it is seen that usage moved; both wait together.';

create table aggregator.readback (
    id       bigint generated always as identity primary key,
    feed_id  integer not null references aggregator.feed,
    span     tstzrange not null,
    reason   text not null,
    report   text,
    unacknowledged boolean not null default false,
    asked_at timestamptz not null,
    due_at   timestamptz not null,
    done_at  timestamptz,
    found    text,
    nothing_found boolean not null default false
);
create index readback_by_feed on aggregator.readback (feed_id, id);
comment on table aggregator.readback is 'Spans of a feed whose events are to be compared with the sink''s own totals.';
comment on column aggregator.readback.report is 'By which report of the sink it was asked for; each asks once.';
comment on column aggregator.readback.unacknowledged is
    'Whether it was asked for by itself: the sink has no word on each event.';
comment on column aggregator.readback.nothing_found is
    'Whether it is done and changed nothing, so that it may make room for the next one.';

create table aggregator.checking (
    sink_id      integer primary key references aggregator.sink,
    listed_claim bigint not null default 0,
    listed       bigint not null default 0,
    checked      bigint not null default 0,
    checked_at   timestamptz,
    late_since   timestamptz,
    told_at      timestamptz
);
comment on table aggregator.checking is 'How much of what each sink accepted was compared with its own totals.';
comment on column aggregator.checking.listed_claim is
    'Claims up to this one were looked through for what is to be compared.';
comment on column aggregator.checking.listed is 'Accepted events in them.';
comment on column aggregator.checking.checked is 'How many of those were compared.';
comment on column aggregator.checking.late_since is
    'Since when the sink says that its totals are late; null: it does not. Nothing is called missing meanwhile.';
comment on column aggregator.checking.told_at is 'When the sink said so, or said that they are not any more.';

create table aggregator.unchecked (
    feed_id      integer not null references aggregator.feed,
    customer     text collate "C" not null,
    since        timestamptz not null,
    first_window timestamptz not null,
    last_window  timestamptz not null,
    events       bigint not null,
    suspicious   boolean not null,
    next_at      timestamptz not null,
    primary key (feed_id, customer)
);
comment on table aggregator.unchecked is
    'Customers of whom events were accepted that are still to be compared with the sink''s own totals.';
comment on column aggregator.unchecked.since is 'When the oldest of them was claimed.';
comment on column aggregator.unchecked.suspicious is
    'Whether one of them was sent more than once, or something of the customer differed before: it comes first.';

create table aggregator.drift (
    feed_id      integer not null references aggregator.feed,
    customer     text collate "C" not null,
    window_start timestamptz not null,
    window_end   timestamptz not null,
    cause        text not null,
    amount       numeric not null,
    reason       text not null,
    found_at     timestamptz not null,
    combination  bigint not null default 0,
    dimensions   jsonb not null default '{}',
    primary key (feed_id, customer, window_start, combination, cause)
);
comment on table aggregator.drift is
    'Where a sink''s own totals differ from what was accepted, until they are compared again.';
comment on column aggregator.drift.amount is 'By how much the sink has too little; below zero: too much.';
comment on column aggregator.drift.combination is 'The number of its combination; 0: all of them, or the empty one.';
comment on column aggregator.drift.dimensions is
    'What that number stands for: a sink may have combinations that the ledger has not.';

create table aggregator.reassertion (
    feed_id      integer not null references aggregator.feed,
    window_start timestamptz not null,
    customer     text collate "C" not null,
    combination  bigint not null default 0,
    due_at       timestamptz not null,
    primary key (feed_id, window_start, customer, combination)
);
comment on table aggregator.reassertion is
    'Slots whose total is to be sent again, since a sink that keeps the newest number may have been told otherwise.';

create table aggregator.cancellation (
    id         bigint generated always as identity primary key,
    event_id   bigint not null,
    sink_id    integer not null references aggregator.sink,
    state      text not null check (state in ('asked', 'taken', 'done', 'refused', 'lapsed')),
    asked_at   timestamptz not null,
    others     bigint,
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
comment on column aggregator.cancellation.event_id is 'The event, which may be archived by now: this stays.';
comment on table aggregator.cancellation is
    'Events that a person wants back from a sink. Written before the sink is asked; the event stays what it is until the '
    'sink is known to have done it.';
comment on column aggregator.cancellation.others is
    'How far the other events of the slot were when it was asked: one for each, one more for each that had come to nothing. '
    'If they have moved since, the slot is planned anew without a person.';
comment on column aggregator.cancellation.unsure is 'A try that brought no usable answer may have been carried out.';
comment on column aggregator.cancellation.seen_at is 'When the sink''s own totals last showed the event.';
"""

# What sinks tell by themselves, each message once, and how far they were asked for it.
NOTIFICATIONS = """
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

create table aggregator.notification (
    sink_id    integer not null references aggregator.sink,
    id         text not null check (length(id) between 1 and 255),
    kind       text not null,
    created_at timestamptz not null,
    came_by    text not null check (came_by in ('poll', 'webhook')),
    taken_at   timestamptz not null,
    said       text not null,
    primary key (sink_id, id)
);
comment on table aggregator.notification is
    'What a sink told of what it found invalid, once per message: whoever brings it again changes nothing.';

create table aggregator.poll (
    sink_id        integer primary key references aggregator.sink,
    polled_until    timestamptz,
    sent_until     timestamptz,
    polled_at      timestamptz,
    refused_at     timestamptz,
    refused_reason text,
    check ((refused_at is null) = (refused_reason is null))
);
comment on table aggregator.poll is 'How far each sink was asked for what it tells.';
comment on column aggregator.poll.polled_until is
    'What the sink made before this was asked for; some of it is asked for again, since it may appear late.';
comment on column aggregator.poll.sent_until is
    'Claims before this were looked through for the accounts that their events went to.';

create table aggregator.origin (
    sink_id        integer not null references aggregator.sink,
    name           text collate "C" not null check (name <> ''),
    sent_at        timestamptz,
    polled_until    timestamptz,
    asked_at       timestamptz,
    refused_at     timestamptz,
    refused_reason text,
    primary key (sink_id, name),
    check ((refused_at is null) = (refused_reason is null))
);
comment on table aggregator.origin is
    'What of a sink is asked by itself: each account that its customers name, and how imports went.';
comment on column aggregator.origin.sent_at is 'When events last went to the account; null for what is no account.';
"""

# Months that are closed leave the ledger, each for a file. A row of a file is a slot with one of its events, or a slot
# alone. The ledger makes a digest of each day that it removes, and the archive one of what it read back: only if both are
# equal is the day removed. What waits for a person, or was named beside a slot, stays.
#
# The daemon may delete no event. These functions may, and a trigger sees that nobody goes further than they do.
ARCHIVES = """
create table aggregator.archive (
    id            bigint generated always as identity primary key,
    meter_id      integer not null references aggregator.meter,
    month         timestamptz not null check (month = date_trunc('month', month, 'UTC')),
    place         text not null check (place <> ''),
    name          text not null check (name <> ''),
    bytes         bigint not null check (bytes > 0),
    sha256        text not null,
    slots         bigint not null check (slots > 0),
    events        bigint not null,
    first_event   bigint,
    last_event    bigint,
    written_at    timestamptz not null,
    verified_at   timestamptz,
    removed_until timestamptz not null,
    removed_at    timestamptz,
    restored_at   timestamptz,
    unique (meter_id, month),
    check (removed_until = month or verified_at is not null),
    check (removed_until >= month)
);
comment on table aggregator.archive is 'Months of a meter that were written to a file, and how far they were removed here.';
comment on column aggregator.archive.first_event is 'The lowest number of an event in it.';
comment on column aggregator.archive.verified_at is 'When the file was read back whole, and was what the ledger had.';
comment on column aggregator.archive.removed_until is
    'Windows of the month before this are in the file only, but for slots that stay; those from it on are still here.';
comment on column aggregator.archive.restored_at is
    'When a person had it brought back; it stays here until a person lets it be removed again.';

create table aggregator.archive_day (
    archive_id bigint not null references aggregator.archive on delete cascade,
    day        timestamptz not null,
    slots      bigint not null,
    events     bigint not null,
    quantity   numeric not null,
    total      numeric not null,
    digest     numeric not null,
    primary key (archive_id, day)
);
comment on table aggregator.archive_day is 'What was found in each day of an archive when it was read back.';
comment on column aggregator.archive_day.digest is 'The sum of the digests of its rows, in whatever order they come.';

create table aggregator.archived_usage (
    feed_id     integer not null references aggregator.feed,
    month       timestamptz not null,
    customer    text collate "C" not null,
    combination bigint not null default 0,
    slots       bigint not null,
    quantity    numeric not null,
    total       numeric not null,
    primary key (feed_id, month, customer, combination)
);
comment on table aggregator.archived_usage is
    'What the slots that were removed come to, by month, customer and combination: balances hold without the archive.';

create table aggregator.archived_hour (
    feed_id  integer not null references aggregator.feed,
    hour     timestamptz not null,
    slots    bigint not null,
    quantity numeric not null,
    total    numeric not null,
    primary key (feed_id, hour)
);
comment on table aggregator.archived_hour is 'The same of all customers, by hour.';

-- Every row that can leave. A slot of which an event waits for a person or was dismissed, that is to be planned anew, or
-- beside which unusable rows are named, stays with all its events.
create type aggregator.archived_row as (
    feed_id integer, customer text collate "C", window_start timestamptz, combination bigint, slot_id bigint,
    slot_revision integer, quantity numeric, total numeric, stamped_at timestamptz, tail bigint,
    event_id bigint, pass_id bigint, revision integer, at timestamptz, planned_at timestamptz, exposed_at timestamptz,
    attempted_at timestamptz, settled_at timestamptz, state text, attempts integer, identifier text, delta numeric,
    event_total numeric, event_quantity numeric, transport text, request_id text, reason text, tries text
);
create function aggregator.archivable(meter integer, begins timestamptz, ends timestamptz)
returns setof aggregator.archived_row language sql stable as $$
    with stays as (
        select event.feed_id, event.window_start, event.customer, event.combination
          from aggregator.parked
          join aggregator.feed on feed.id = parked.feed_id and feed.meter_id = meter
          join aggregator.event on event.id = parked.event_id
         where event.window_start >= begins and event.window_start < ends
         union all
        select feed.id, unmapped.window_start, unmapped.customer collate "C", unmapped.combination
          from aggregator.unmapped
          join aggregator.feed on feed.meter_id = unmapped.meter_id
         where unmapped.meter_id = meter and unmapped.window_start >= begins and unmapped.window_start < ends
           and unmapped.customer is not null and unmapped.combination is not null
    ), leaving as (
        select slot.feed_id, slot.customer, slot.window_start, slot.combination, slot.id as slot_id,
               slot.revision as slot_revision, slot.quantity, slot.total, slot.stamped_at, slot.tail
          from aggregator.feed
          join aggregator.slot on slot.feed_id = feed.id and slot.window_start >= begins and slot.window_start < ends
          left join stays on stays.feed_id = slot.feed_id and stays.window_start = slot.window_start
                         and stays.customer = slot.customer and stays.combination = slot.combination
         where feed.meter_id = meter and not slot.replan and stays.feed_id is null
    ), planned as (
        select leaving.*, event as its
          from leaving left join aggregator.event on event.id = leaving.slot_id and event.revision = 0
         union all
        select leaving.*, event
          from leaving
          join aggregator.event_at_rest as later on later.slot_id = leaving.slot_id
          join aggregator.event on event.id = later.id
         where leaving.slot_revision > 1
    )
    select feed_id, customer, window_start, combination, slot_id, slot_revision, quantity, total, stamped_at, tail,
           (its).id, (its).pass_id, (its).revision, (its).at, (its).planned_at, (its).exposed_at, (its).attempted_at,
           (its).settled_at, (its).state::text, (its).attempts, (its).identifier, (its).delta, (its).total,
           (its).quantity, (its).transport, (its).request_id, (its).reason,
           case when (its).attempts > 1 or (its).state not in ('accepted', 'confirmed', 'shadow') then (
                select json_agg(json_build_object(
                           'id', attempt.id, 'claim', attempt.claim_id,
                           'at', to_char(attempt.at, 'YYYY-MM-DD"T"HH24:MI:SS.USOF'), 'answer', attempt.answer,
                           'reason', attempt.reason,
                           'request', attempt.request_ids[array_position(attempt.events, (its).id)]) order by attempt.id)
                  from aggregator.attempt where attempt.events @> array[(its).id])::text end
      from planned
$$;
comment on function aggregator.archivable is
    'What of a meter and a stretch of time can leave the ledger, as archives hold it.';

create function aggregator.micros(instant timestamptz) returns text language sql immutable as $$
    select coalesce((extract(epoch from instant) * 1000000)::bigint::text, '-')
$$;

-- Sixty bits of a hash of all that a row says: numbers without zeros at their end, instants in microseconds, a dash for
-- nothing, texts in quotes.
create function aggregator.archive_digest(its aggregator.archived_row) returns numeric language sql stable as $$
    select ('x' || left(md5(concat_ws(' ',
        coalesce(its.feed_id::text, '-'), coalesce('"' || its.customer || '"', '-'),
        aggregator.micros(its.window_start), coalesce(its.combination::text, '-'), coalesce(its.slot_id::text, '-'),
        coalesce(its.slot_revision::text, '-'), coalesce(trim_scale(its.quantity)::text, '-'),
        coalesce(trim_scale(its.total)::text, '-'), aggregator.micros(its.stamped_at), coalesce(its.tail::text, '-'),
        coalesce(its.event_id::text, '-'), coalesce(its.pass_id::text, '-'), coalesce(its.revision::text, '-'),
        aggregator.micros(its.at), aggregator.micros(its.planned_at), aggregator.micros(its.exposed_at),
        aggregator.micros(its.attempted_at), aggregator.micros(its.settled_at),
        coalesce('"' || its.state || '"', '-'), coalesce(its.attempts::text, '-'),
        coalesce('"' || its.identifier || '"', '-'), coalesce(trim_scale(its.delta)::text, '-'),
        coalesce(trim_scale(its.event_total)::text, '-'), coalesce(trim_scale(its.event_quantity)::text, '-'),
        coalesce('"' || its.transport || '"', '-'), coalesce('"' || its.request_id || '"', '-'),
        coalesce('"' || its.reason || '"', '-'), coalesce('"' || its.tries || '"', '-')
    )), 15))::bit(60)::bigint::numeric
$$;

-- Removes one day, the first that is left, if the ledger has of it what the archive has. In one snapshot: what changes
-- meanwhile makes it fail, and nothing is removed.
create function aggregator.remove_archived(which bigint, removed_day timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    its aggregator.archive;
    known record;
    found record;
begin
    if current_setting('transaction_isolation') <> 'repeatable read' then
        raise exception 'aggregator: an archived day is removed in one snapshot';
    end if;
    perform set_config('TimeZone', 'UTC', true);
    select * into its from aggregator.archive where id = which for update;
    if its.verified_at is null or its.restored_at is not null or its.removed_until <> removed_day then
        raise exception using message = 'aggregator: this day of the archive is not to be removed now',
            errcode = 'integrity_constraint_violation';
    end if;
    select coalesce(sum(day.slots), 0) as slots, coalesce(sum(day.events), 0) as events,
           coalesce(sum(day.digest), 0) as digest
      into known
      from aggregator.archive_day as day where day.archive_id = which and day.day = removed_day;
    update aggregator.archive set removed_until = removed_day + interval '24 hours' where id = which;
    with leaving as materialized (
        select one.*, aggregator.archive_digest(one) as digest
          from aggregator.archivable(its.meter_id, removed_day, removed_day + interval '24 hours') as one
    ), gone_events as (
        delete from aggregator.event_at_rest as event using leaving where event.id = leaving.event_id returning event.id
    ), gone_slots as (
        delete from aggregator.slot using leaving
         where (leaving.revision is null or leaving.revision = 0)
           and slot.feed_id = leaving.feed_id and slot.window_start = leaving.window_start
           and slot.customer = leaving.customer and slot.combination = leaving.combination
        returning slot.id
    ), once as (
        select feed_id, customer, window_start, combination, quantity, total from leaving
         where revision is null or revision = 0
    ), by_customer as (
        insert into aggregator.archived_usage as known_so_far
               (feed_id, month, customer, combination, slots, quantity, total)
        select feed_id, its.month, customer, combination, count(*), sum(quantity), sum(total)
          from once group by feed_id, customer, combination order by feed_id, customer, combination
            on conflict (feed_id, month, customer, combination) do update
               set slots = known_so_far.slots + excluded.slots, quantity = known_so_far.quantity + excluded.quantity,
                   total = known_so_far.total + excluded.total
    ), by_hour as (
        insert into aggregator.archived_hour (feed_id, hour, slots, quantity, total)
        select feed_id, date_trunc('hour', window_start, 'UTC'), count(*), sum(quantity), sum(total)
          from once group by 1, 2 order by 1, 2
            on conflict (feed_id, hour) do update set slots = archived_hour.slots + excluded.slots,
               quantity = archived_hour.quantity + excluded.quantity, total = archived_hour.total + excluded.total
    )
    select (select count(*) from gone_slots) as slots, (select count(*) from gone_events) as events,
           (select coalesce(sum(digest), 0) from leaving) as digest, (select count(*) from once) as said_slots,
           (select count(event_id) from leaving) as said_events
      into found;
    if (found.slots, found.events, found.digest) is distinct from (known.slots, known.events, known.digest)
       or (found.said_slots, found.said_events) is distinct from (known.slots, known.events) then
        raise exception using
            message = format('aggregator: %s is not as it was archived (%s slots and %s events here, %s and %s in the file)',
                             to_char(removed_day, 'YYYY-MM-DD'), found.said_slots, found.said_events, known.slots,
                             known.events),
            errcode = 'integrity_constraint_violation';
    end if;
    delete from aggregator.usage_of_day using aggregator.feed
     where usage_of_day.feed_id = feed.id and feed.meter_id = its.meter_id and day = removed_day;
    delete from aggregator.usage_of_hour using aggregator.feed
     where usage_of_hour.feed_id = feed.id and feed.meter_id = its.meter_id and day = removed_day;
    delete from aggregator.usage_of_combination using aggregator.feed
     where usage_of_combination.feed_id = feed.id and feed.meter_id = its.meter_id and day = removed_day;
    delete from aggregator.usage_day using aggregator.feed
     where usage_day.feed_id = feed.id and feed.meter_id = its.meter_id and day = removed_day;
    delete from aggregator.running_total
     where meter_id = its.meter_id and window_start >= removed_day and window_start < removed_day + interval '24 hours';
end
$$;
comment on function aggregator.remove_archived is 'Removes the first day that is left of an archive, if it is in the file.';

-- Claims and their failed tries go once no event of theirs is left. One that became a file stays, and so does the newest of
-- each sink, which says that there were any. A host whose last claim may be gone by this is told so by the identity.
-- Returns the last claim that was looked at; null: there is no more.
create function aggregator.remove_spent_claims(after bigint, before timestamptz) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    looked bigint;
begin
    update aggregator.identity set claims_kept_from = before where claims_kept_from is null or claims_kept_from < before;
    with several as materialized (
        select id, events from aggregator.claim
         where id > after and claimed_at < before and settled_at is not null
           and id < (select max(newest.id) from aggregator.claim as newest where newest.sink_id = claim.sink_id)
         order by id limit 2000
    ), spent as materialized (
        select id from several
         where not exists (select from aggregator.event where event.id = any(several.events))
           and not exists (select from aggregator.file where file.claim_id = several.id)
    ), tries as (
        delete from aggregator.attempt using spent where attempt.claim_id = spent.id
    ), gone as (
        delete from aggregator.claim using spent where claim.id = spent.id
    )
    select max(id) into looked from several;
    return looked;
end
$$;
comment on function aggregator.remove_spent_claims is
    'Removes claims all of whose events are archived, from a number on, a few at a time.';
revoke execute on function aggregator.remove_archived, aggregator.remove_spent_claims from public;
grant execute on function aggregator.archivable, aggregator.archive_digest, aggregator.micros to public;
"""

SAID = (
    "pass_id",
    "feed_id",
    "window_start",
    "at",
    "planned_at",
    "customer",
    "identifier",
    "delta",
    "quantity",
)
"""What an event says that stands alike in the outbox and at rest."""


def says(row: str) -> str:
    """Return all that an event says, of a row of the outbox."""
    return ", ".join(f"{row}.{column}" for column in (*SAID, "slot_id", "revision", "combination", "total"))


def says_at_rest(row: str) -> str:
    """Return the same of a row of events at rest."""
    rest = (
        f"{row}.slot_id, {row}.id",
        f"{row}.revision, 0",
        f"{row}.combination, 0",
        f"{row}.total, {row}.delta",
    )
    return ", ".join((*(f"{row}.{column}" for column in SAID), *(f"coalesce({each})" for each in rest)))


# Whatever the code does: what an event says and what a file holds never changes, neither is ever deleted, and an event
# moves forward only. One that was never tried may still be held, for usage that moved from one customer to another.
TRIGGERS = f"""
create function aggregator.refuse() returns trigger language plpgsql as $$
begin
    raise exception using message = 'aggregator: ' || tg_argv[0], errcode = 'integrity_constraint_violation';
end
$$;

create trigger event_is_frozen
    before update of id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, customer, combination,
                     identifier, delta, total, quantity
    on aggregator.event_at_rest for each row
    execute function aggregator.refuse('what an event says never changes');

create trigger outbox_is_frozen
    before update of event_id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, customer, combination,
                     identifier, delta, total, quantity
    on aggregator.outbox for each row
    execute function aggregator.refuse('what an event says never changes');

-- What leaves the outbox comes to rest in the same statement, as it was, and by a step of the table. Each is looked up by
-- its key: a plan that was made while the table was empty would read all of it, until somebody analyzes it.
create function aggregator.keep_outbox() returns trigger language plpgsql set enable_seqscan to off as $$
declare
    fault text;
begin
    select found.fault into fault
      from gone
      left join lateral (select * from aggregator.event_at_rest where id = gone.event_id offset 0) as its on true
     cross join lateral (
            select case when its.id is null then 'an event is never deleted'
                        when ({says_at_rest("its")}) is distinct from ({says("gone")})
                        then 'what an event says never changes'
                        when not case when gone.claim_id is not null then its.state in ('accepted', 'refused', 'in_doubt')
                                      else its.state in ('refused', 'in_doubt', 'void')
                                           or (its.state = 'held' and gone.attempts = 0 and gone.exposed_at is null) end
                        then 'an event moves forward only' end as fault
           ) as found
     where found.fault is not null limit 1;
    if fault is not null then
        raise exception using message = 'aggregator: ' || fault, errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create trigger outbox_is_kept
    after delete on aggregator.outbox referencing old table as gone for each statement
    execute function aggregator.keep_outbox();

create trigger outbox_is_not_truncated
    before truncate on aggregator.outbox for each statement
    execute function aggregator.refuse('an event is never deleted');

-- What is sent after all goes back to the outbox in the same way. Nothing else leaves, but for what is archived.
create function aggregator.keep_events() returns trigger language plpgsql set enable_seqscan to off as $$
declare
    fault text;
begin
    select found.fault into fault
      from gone
      join aggregator.feed on feed.id = gone.feed_id
      left join lateral (select * from aggregator.outbox where event_id = gone.id offset 0) as its on true
     cross join lateral (
            select case when its.event_id is null then 'an event is never deleted, unless its month is archived'
                        when ({says("its")}) is distinct from ({says_at_rest("gone")})
                        then 'what an event says never changes'
                        when its.claim_id is not null or gone.state not in ('held', 'refused', 'in_doubt')
                        then 'an event moves forward only' end as fault
           ) as found
     where found.fault is not null
       and not exists (select from aggregator.archive
                        where archive.meter_id = feed.meter_id and archive.verified_at is not null
                          and archive.month = date_trunc('month', gone.window_start, 'UTC')
                          and gone.window_start < archive.removed_until)
     limit 1;
    if fault is not null then
        raise exception using message = 'aggregator: ' || fault, errcode = 'integrity_constraint_violation';
    end if;
    return null;
end
$$;

create trigger event_stays
    after delete on aggregator.event_at_rest referencing old table as gone for each statement
    execute function aggregator.keep_events();

create trigger event_is_not_truncated
    before truncate on aggregator.event_at_rest for each statement
    execute function aggregator.refuse('an event is never deleted');

create trigger event_moves_forward
    before update of state on aggregator.event_at_rest for each row
    when (not (
        old.state = new.state
        or (old.state in ('held', 'refused') and new.state = 'void')
        or (old.state = 'in_doubt' and new.state in ('accepted', 'refused', 'void'))
        or (old.state = 'accepted' and new.state in ('confirmed', 'refused'))
        or (old.state = 'confirmed' and new.state = 'refused')
    ))
    execute function aggregator.refuse('an event moves forward only');

create trigger sample_is_frozen
    before update on aggregator.sample for each row
    execute function aggregator.refuse('a sample never changes');

create trigger file_stays
    before delete on aggregator.file for each row when (old.written_at is not null)
    execute function aggregator.refuse('a file that was written stays on record');

create trigger file_is_frozen
    before update of claim_id, sink_id, place, name, records, bytes, sha256, written_at on aggregator.file for each row
    when (old.written_at is not null)
    execute function aggregator.refuse('what a file holds never changes');
"""  # noqa: S608 - our own text

SCHEMA = (
    IDENTITY,
    METERS,
    CUSTOMERS,
    FEEDS,
    PASSES,
    CURSORS,
    SAMPLES,
    SLOTS_AND_EVENTS,
    EVENTS_OF_SLOT,
    CLAIMS,
    BY_TIME,
    COUNTS,
    REVIEW,
    NOTIFICATIONS,
    ARCHIVES,
    TRIGGERS,
)
"""In the order in which they are made."""


def upgrade() -> None:
    """Create everything. There is no previous release."""
    for statements in SCHEMA:
        op.get_bind().exec_driver_sql(statements)
