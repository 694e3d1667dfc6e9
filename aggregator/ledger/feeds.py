"""Feeds in the ledger: one meter's line into each of its sinks, and on what terms.

Rules
- What is configured is written when the meter is registered; what a pass goes by is what the ledger says when its lease is
  given. So of two processes with different terms both go by those that were registered last.
- Terms change under the meter's lock, and whoever is in the middle of a pass loses it: a window is never planned by the old
  terms once the new ones are known.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any, NamedTuple

from psycopg.types.range import TimestamptzRange

from aggregator.core.cutover import Moves, why_not_terms
from aggregator.core.feed_terms import FeedCoverage, changed, joined
from aggregator.core.model import Meter, Span, WriteModel
from aggregator.errors import MeterRefused
from aggregator.ledger.database import Connection
from aggregator.ledger.outbox import first_use

FIND_FEED = """
select id, since, until, shadow, shadow_until, read_until, lost, parted, cleared_until > 0 from aggregator.feed
 where meter_id = %(meter_id)s and sink_id = %(sink_id)s
"""

FIND_FEEDS = """
select id, since, until, shadow, shadow_until, read_until, lost, parted, cleared_until > 0 from aggregator.feed
 where id = any(%(feeds)s)
"""

ADD_FEED = """
insert into aggregator.feed (meter_id, sink_id, since, until, shadow, shadow_until, read_until)
values (%(meter_id)s, %(sink_id)s, %(since)s, %(until)s, %(shadow)s, %(shadow_until)s, %(read_until)s)
    on conflict do nothing
"""

CHANGE_FEED = """
update aggregator.feed
   set since = %(since)s, until = %(until)s, shadow = %(shadow)s, shadow_until = %(shadow_until)s,
       read_until = %(read_until)s, lost = %(lost)s
 where id = %(feed_id)s
"""

CUTOVERS_OF = """
select min(at) filter (where to_feed = %(feed)s), max(at) filter (where from_feed = %(feed)s),
       coalesce(bool_or(customer is null), false)
  from aggregator.cutover where %(feed)s in (from_feed, to_feed)
"""

FIND_MARK = "select mark from aggregator.meter where id = %(meter_id)s"

LOCK_MARK = "select mark from aggregator.meter where id = %(meter_id)s for update"

# What a feed lacks is read at once, and not with the next turn through old windows.
READ_DEEP = "update aggregator.meter set hourly_at = null, swept = null where id = %(meter_id)s"

TAKE_AWAY = """
update aggregator.meter set epoch = epoch + 1, lease_owner = null, lease_until = null where id = %(meter_id)s
"""

# What is billed by its last number leaves in the order of its windows. Nothing is written where nothing changes, so that
# whoever only looks needs no right to write.
DIFFERS_IN_ORDER = "select from aggregator.feed where id = %(feed)s and ordered <> %(ordered)s"
ORDER_FEED = "update aggregator.feed set ordered = %(ordered)s where id = %(feed)s and ordered <> %(ordered)s"

MOVE_FEEDS = """
update aggregator.feed set read_until = least(%(end)s, until)
 where id = any(%(feeds)s) and %(moves)s
   and %(start)s <= read_until and read_until < least(%(end)s, until)
"""


class Feed(NamedTuple):
    """One meter's line into one sink. Only windows in `[since, until)` go through it."""

    id: int
    sink: str
    sink_id: int
    since: dt.datetime
    until: dt.datetime | None = None
    shadow: bool = False
    """Whether nothing of it is sent; `shadowed`, whether some of its slots may have been planned so."""
    shadowed: bool = False
    parted: bool = False
    """Whether customers move to it, or away, at times of their own."""
    rest_shadowed: bool = False
    """Whether it is a shadow then for those who do not."""
    model: WriteModel = WriteModel.DELTA
    """What the sink books of its events, once somebody who knows the sink has said so."""
    keeps_order: bool = True
    """Whether what it was given first counts first, said in the same way."""


def register(connection: Connection, meter_id: int, meter: Meter, sink: str, sink_id: int) -> Feed:
    """Return a feed, made known to the ledger on the terms that are configured."""
    terms = meter.terms_of(sink)
    key = {"meter_id": meter_id, "sink_id": sink_id}
    row = connection.execute(FIND_FEED, key).fetchone()
    if row is None:
        mark = _mark(connection, FIND_MARK, meter_id)
        coverage = joined(terms, mark, meter.start_at)
        connection.execute(ADD_FEED, {**key, **coverage._asdict(), "lost": None})
        if coverage.read_until < mark:
            connection.execute(READ_DEEP, key)
        row = connection.execute(FIND_FEED, key).fetchone()
        assert row is not None, "what was added is there"
    feed_id, coverage, let_go = row[0], _coverage(row), row[-1]
    order = {"feed": feed_id, "ordered": meter.latest}
    if connection.execute(DIFFERS_IN_ORDER, order).fetchone() is not None:
        connection.execute(ORDER_FEED, order)
    if changed(coverage, terms, coverage.since, meter.start_at) != coverage:
        mark = _mark(connection, LOCK_MARK, meter_id)
        row = connection.execute(FIND_FEED, key).fetchone()
        assert row is not None, "a feed stays"
        coverage = changed(_coverage(row), terms, mark, meter.start_at)
        if coverage.parted:
            _keep_moved(connection, feed_id, meter, sink, coverage)
        change(connection, feed_id, coverage)
        connection.execute(READ_DEEP, key)
        connection.execute(TAKE_AWAY, key)
    if not let_go and first_use.planned_before(connection, feed_id, coverage.since):
        _mark(connection, LOCK_MARK, meter_id)
        first_use.take_back(connection, feed_id, coverage.since)
        connection.execute(READ_DEEP, key)
        connection.execute(TAKE_AWAY, key)
    return as_it_is(Feed(feed_id, sink, sink_id, coverage.since), coverage)


def _keep_moved(
    connection: Connection, feed_id: int, meter: Meter, sink: str, coverage: FeedCoverage
) -> None:
    """Raise MeterRefused if, by its terms, a feed would bill windows of customers who move twice, or not at all."""
    row = connection.execute(CUTOVERS_OF, {"feed": feed_id}).fetchone()
    assert row is not None, "an aggregate has a row"
    refused = why_not_terms(meter.name, sink, coverage, Moves._make(row))
    if refused is not None:
        raise MeterRefused(refused)


def coverages(connection: Connection, feeds: Iterable[Feed]) -> list[FeedCoverage]:
    """Return, in the order of the feeds, what the ledger says of each."""
    rows = connection.execute(FIND_FEEDS, {"feeds": [feed.id for feed in feeds]})
    found = {row[0]: _coverage(row) for row in rows}
    return [found[feed.id] for feed in feeds]


def change(connection: Connection, feed_id: int, coverage: FeedCoverage) -> None:
    """Let a feed have another reach."""
    lost = None if coverage.lost is None else TimestamptzRange(*coverage.lost)
    connection.execute(CHANGE_FEED, {"feed_id": feed_id, **coverage._asdict(), "lost": lost})


def as_it_is(feed: Feed, coverage: FeedCoverage) -> Feed:
    """Return a feed as its reach has it."""
    return feed._replace(
        since=coverage.since,
        until=coverage.until,
        shadow=coverage.shadow and not coverage.parted,
        shadowed=coverage.shadow or coverage.shadow_until is not None or coverage.parted,
        parted=coverage.parted,
        rest_shadowed=coverage.shadow,
    )


def fed_until(coverages: Iterable[FeedCoverage], mark: dt.datetime) -> dt.datetime:
    """Return up to where the one was planned for that lags most; those that are done lag behind nothing."""
    return min((each.read_until for each in coverages if not each.done), default=mark)


def _coverage(row: tuple[Any, ...]) -> FeedCoverage:
    _, since, until, shadow, shadow_until, read_until, lost, parted, _ = row
    span = None if lost is None else Span(lost.lower, lost.upper)
    return FeedCoverage(since, until, shadow, shadow_until, read_until, span, parted)


def _mark(connection: Connection, statement: str, meter_id: int) -> dt.datetime:
    row = connection.execute(statement, {"meter_id": meter_id}).fetchone()
    assert row is not None, "a registered meter stays"
    mark: dt.datetime = row[0]
    return mark
