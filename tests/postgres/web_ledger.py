"""A ledger that is worth looking at: a month of three meters, most of it billed, and something that waits for a person."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from aggregator.core.dimensions import Dimensions, number
from aggregator.core.usage import month_of
from aggregator.ledger.configurations import Meters

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
QUERY = "select customer, 1 as quantity from use where at >= :start and at < :end"
NOW = dt.datetime(2026, 11, 20, 14, 25, tzinfo=dt.UTC)
"""An instant at which a ledger can be looked at whatever the time is."""

METERS = {"api_requests": 400, "gb_stored": 12, "seats": 3}
APART = "llm_tokens"
COMBINATIONS: Mapping[Dimensions, tuple[int, int]] = {
    (("model", model), ("token_type", kind)): (scale, customers)
    for model, scales, customers in (
        ("large", (90, 60), 8),
        ("medium", (220, 140), 17),
        ("small", (400, 130), 24),
    )
    for kind, scale in zip(("input", "output"), scales, strict=True)
}
"""Of a meter that is kept apart: how much of each combination, and how many customers use it."""

FIRST = (
    "acme",
    "borealis",
    "cedar",
    "delta_labs",
    "everest",
    "fjord",
    "granite",
    "harbour",
    "iris",
    "juniper",
)

# A customer's use rises over the month, by day more than by night, and each customer's differs; no dice are thrown.
SLOTS = """
insert into aggregator.slot (id, feed_id, revision, window_start, customer, combination, quantity, total, tail)
select nextval('aggregator.event_id'), %(feed)s, 1, hour, customer, %(combination)s, quantity, quantity,
       currval('aggregator.event_id')
  from (select hour, 'cus_' || name || case when number > 10 then '_' || number else '' end as customer,
               round(%(scale)s * (1 + number %% 7) * (1 + 0.6 * sin((extract(hour from hour) - 8) * pi() / 12))
                     * (1 + extract(day from hour) / 40)
                     * (0.8 + ((number * 7919 + extract(doy from hour)::int * 31) %% 40) / 100.0))::numeric as quantity
          from generate_series(%(start)s::timestamptz, %(end)s::timestamptz - interval '1 hour', interval '1 hour') as hour
          cross join (select number, (%(names)s::text[])[1 + (number - 1) %% 10] as name
                        from generate_series(1, %(customers)s) as number) as customer
       ) as used
 where quantity > 0
"""

DAYS = """
insert into aggregator.usage_day (feed_id, day, changed_at)
select distinct feed_id, date_trunc('day', window_start, 'UTC'), window_start - interval '1 year'
  from aggregator.slot where feed_id = %(feed)s and window_start = date_trunc('day', window_start, 'UTC')
"""

# All is billed but for the newest hour, and for what waits.
EVENTS = """
create temporary table planned on commit drop as
select tail as id, feed_id, window_start, window_start + interval '59 minutes' as at,
       window_start + interval '66 minutes' as planned_at, state::aggregator.event_state as state, reason, customer,
       combination, 'agg_' || tail as identifier, total as delta
  from (select slot.*, waits.reason,
               coalesce(waits.state, case when slot.window_start = %(newest)s then 'due' else 'confirmed' end) as state
          from aggregator.slot
          left join jsonb_to_recordset(%(waits)s) as waits (customer text, at timestamptz, state text, reason text)
            on waits.customer = slot.customer and waits.at = slot.window_start
         where slot.feed_id = %(feed)s) as known
"""

AT_REST = """
insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, settled_at, state, attempts,
                                      reason, customer, combination, identifier, delta)
select id, 1, feed_id, window_start, at, planned_at, window_start + interval '67 minutes', state, 0, reason, customer,
       nullif(combination, 0), identifier, delta
  from planned where state <> 'due'
"""

OUTBOX = """
insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at, due_at,
                               reason, customer, combination, identifier, delta, total)
select id, id, 1, 1, feed_id, 0, window_start, at, planned_at, planned_at, reason, customer, combination, identifier, delta,
       delta
  from planned where state = 'due'
"""

PARKED = """
insert into aggregator.parked (event_id, feed_id, state, reason, since, dismissed_at)
select id, feed_id, state, reason, settled_at, case when window_start = %(dismissed)s then settled_at + interval '1 hour' end
  from aggregator.event where state in ('held', 'refused', 'in_doubt') and feed_id = %(feed)s
"""

DECIDED = """
insert into aggregator.decision (decided_at, verb, who, reason, events)
select dismissed_at, 'dismiss', 'Ada on the page', 'A trial account; nothing is owed.', array[event_id]
  from aggregator.parked where dismissed_at is not null and feed_id = %(feed)s
"""

DISMISSED = 40
WAITING = [
    ("api_requests", "cus_acme", 5, "held", "The source says 1,204 less than was billed: `decreases: hold`"),
    ("api_requests", "cus_fjord", 5, "held", "The source says 310 less than was billed: `decreases: hold`"),
    ("gb_stored", "cus_iris_19", 9, "refused", "No such customer: 'cus_iris_19' (resource_missing)"),
    (
        "seats",
        "cus_cedar",
        30,
        "in_doubt",
        "No answer for 20 hours; the sink's totals are read from 06:00 on",
    ),
    ("seats", "cus_delta_labs", DISMISSED, "refused", "The customer has no subscription with this meter"),
]
"""What waits for a person, and for how many hours by the newest window. What waits for longest, somebody has dismissed."""


def fill(
    connection: psycopg.Connection[Any],
    now: dt.datetime,
    customers: int = 24,
    *,
    since: dt.datetime | None = None,
    events: bool = True,
    meters: Meters | None = None,
    apart: bool = False,
) -> None:
    """Fill an empty ledger as it may be at an instant of a month: since its beginning, or since another instant.

    With `apart`, a meter whose usage is kept apart by dimensions is there, too.
    """
    start = since or month_of(now).start
    mark = now.replace(minute=0, second=0, microsecond=0)
    one(connection, "insert into aggregator.sink (name, account) values ('stripe', 'acct_1') returning id")
    for name, scale in METERS.items():
        meter(connection, name, scale, start, mark, customers, events=events)
    if apart:
        meter(connection, APART, 1, start, mark, customers, events=events, apart=COMBINATIONS)
    if events:
        connection.execute(
            "insert into aggregator.unmapped (meter_id, window_start, reason, customer, rows, quantity)"
            " values (1, %s, 'no customer', null, 12, 431)",
            [mark - 7 * HOUR],
        )
        compared(connection, mark)
        described(connection, month_of(now).start, meters or {})


def meter(
    connection: psycopg.Connection[Any], name: str, scale: int, start: dt.datetime, mark: dt.datetime, customers: int,
    *, events: bool, apart: Mapping[Dimensions, tuple[int, int]] | None = None,
) -> None:  # fmt: skip
    """Make a meter that was read up to an instant, and is billed for all but its newest hour."""
    its = one(
        connection,
        "insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark) values (%s, 'f', 3600, %s, %s)"
        " returning id", name, start, mark,
    )  # fmt: skip
    connection.execute(
        "insert into aggregator.definition (meter_id, since, fingerprint, query, window_seconds, dimensions)"
        " values (%s, %s, 'f', %s, 3600, %s)",
        [its, start, QUERY, [name for name, _ in next(iter(apart))] if apart else []],
    )
    feed = one(
        connection,
        "insert into aggregator.feed (meter_id, sink_id, since, read_until, cleared_at, cleared_by)"
        " values (%s, 1, %s, %s, %s, 'it is new') returning id", its, start, mark, start,
    )  # fmt: skip
    waits = [
        {"customer": customer, "at": (mark - hours * HOUR).isoformat(), "state": state, "reason": reason}
        for of, customer, hours, state, reason in WAITING
        if of == name
    ]
    values = {
        "feed": feed,
        "start": start,
        "end": mark,
        "scale": scale,
        "names": list(FIRST),
        "customers": customers,
        "newest": mark - HOUR,
        "dismissed": mark - DISMISSED * HOUR,
        "waits": json.dumps(waits),
    }
    for combination, (scale, customers) in (apart or {(): (scale, customers)}).items():  # noqa: B020, PLR1704 - its own
        used = {"scale": scale, "customers": customers, "combination": number(combination)}
        connection.execute(SLOTS, values | used)
        if combination:
            connection.execute(
                "insert into aggregator.combination (meter_id, id, dimensions) values (%s, %s, %s)",
                [its, number(combination), Jsonb(dict(combination))],
            )
    connection.execute(DAYS, values)
    connection.execute(
        "insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, rows, changed, planned, epoch,"
        " fingerprint)"
        " values (%s, 'live', tstzrange(%s, %s), tstzrange(%s, %s), %s, 0.4, 1000, 24, 24, 1, 'f')",
        [its, mark - HOUR, mark, mark - HOUR, mark, mark + 6 * HOUR / 60],
    )
    if events:
        for statement in (EVENTS, AT_REST, OUTBOX, "drop table planned", PARKED, DECIDED):
            connection.execute(statement, values)


COMPARED = """
insert into aggregator.checking (sink_id, listed_claim, listed, checked, checked_at) values (1, 2, 30144, 29800, %(at)s);
"""

DRIFT = """
insert into aggregator.drift (feed_id, customer, window_start, window_end, cause, amount, reason, found_at)
values (1, 'cus_granite', %(at)s - interval '30 hours', %(at)s - interval '29 hours', 'foreign', -500,
        'The sink has 500 more than was ever sent from here.', %(at)s)
"""


def compared(connection: psycopg.Connection[Any], at: dt.datetime) -> None:
    """Note that sinks' own totals were compared, and what was found."""
    for statement in (COMPARED, DRIFT):
        connection.execute(statement, {"at": at})


def described(connection: psycopg.Connection[Any], start: dt.datetime, meters: Meters) -> None:
    """Note a configuration, a file to be uploaded and one that was, and how late usage came."""
    before = {name: {**its, "delay": "2m"} if name == "seats" else its for name, its in meters.items()}
    for place, loaded in enumerate((before, meters)):
        connection.execute(
            "insert into aggregator.configuration (loaded_at, host, process, meters) values (%s, 'billing-1', %s, %s)",
            [
                start + place * 9 * DAY,
                4211 + place,
                json.dumps({name: dict(its) for name, its in loaded.items()}),
            ],
        )
    for place in range(2):
        claim = one(
            connection,
            "insert into aggregator.claim (sink_id, owner, claimed_at, events, settled_at)"
            " values (1, gen_random_uuid(), %s, '{1}', %s) returning id", start, start,
        )  # fmt: skip
        connection.execute(
            "insert into aggregator.file (claim_id, sink_id, place, by_hand, held_until, name, meters, first_window,"
            " last_window, records, bytes, sha256, written_at, confirmed_at)"
            " values (%s, 1, '/var/lib/aggregator/files', true, %s, %s, '{gb_stored}', %s, %s, 4200, 301244, 'ab', %s, %s)",
            [
                claim,
                start,
                f"gb_stored-{place + 1:04}.csv",
                start,
                start + DAY,
                start + DAY,
                None if place else start + DAY,
            ],
        )
    connection.execute(
        "insert into aggregator.lateness (meter_id, day, seconds, slots, quantity)"
        " select id, %s::date, late, slots, slots * 10 from aggregator.meter,"
        " (values (0, 9950), (300, 40), (3600, 10)) as step (late, slots)", [start + 20 * DAY],
    )  # fmt: skip


def one(connection: psycopg.Connection[Any], statement: str, *values: object) -> Any:
    """Return the first value that a statement gives."""
    row = connection.execute(statement.encode(), values).fetchone()
    assert row is not None
    return row[0]
