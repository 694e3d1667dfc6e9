"""The first use of a feed in the ledger: which of its events may leave, whom its sink was asked about, and what that showed.

Rules
- A new feed sends nothing. Its events are cleared batch by batch, each once the sink was asked about the customers in it;
  and for good once enough of them were.
- A feed that has sent is never stopped: what the sink holds of it may be ours.
- A claim passes over what is not cleared, so that a feed that waits costs the others nothing.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from aggregator.core.model import EventId
from aggregator.ledger.at_rest import to_rest
from aggregator.ledger.database import Connection, Part

ALL_EVENTS = 2**63 - 1
"""Clears every event, also of those to come."""

ENOUGH = 200
"""Of so many customers of a feed the sink is asked; then the feed is cleared. If a ledger forgot more than one customer in
fifty, one of them is among them (0.98 to the power of 200 is 2 %)."""

ALL_AFTER = dt.timedelta(days=1)
"""A feed of fewer customers is cleared so long after its sink was first asked: what the source held by then was read."""

BATCH = 20_000
"""Events that are cleared at once."""

FIND_FEEDS = """
select feed.id, meter.name, feed.since, feed.until, feed.cleared_until, feed.asked, feed.asked_at
  from aggregator.feed join aggregator.meter on meter.id = feed.meter_id
 where feed.sink_id = %(sink_id)s and feed.cleared_at is null and (not feed.shadow or feed.parted)
   and (%(feeds)s::int[] is null or feed.id = any(%(feeds)s))
 order by feed.id
"""

# Which of many customers are asked about is left to chance, so that no order of theirs hides something; the same is drawn
# again by whoever asks again.
NEXT_EVENTS = """
with due as materialized (
    select event_id as id, customer from aggregator.outbox
     where sink_id = %(sink_id)s and feed_id = %(feed)s and event_id > %(cleared_until)s
     order by event_id limit %(batch)s
)
select (select max(id) from due),
       array(select customer from due where customer <> all(%(asked)s)
              group by customer order by md5(customer), customer limit %(most)s)
"""

CLEAR = """
update aggregator.feed
   set cleared_until = greatest(cleared_until, %(until)s), asked = %(asked)s,
       asked_at = case when %(asks)s then coalesce(asked_at, %(now)s) else asked_at end,
       stopped_at = null, stopped_reason = null
 where id = %(feed)s and cleared_at is null
"""

CLEAR_FOR_GOOD = """
update aggregator.feed
   set cleared_until = %(all)s, cleared_at = %(now)s, cleared_by = %(by)s, asked = '{}',
       stopped_at = null, stopped_reason = null
 where id = any(%(feeds)s) and cleared_at is null
returning id
"""

# Whoever let it go meanwhile may have sent already: then what the sink holds is no news.
SENT_TO = """
select exists (select from aggregator.event
                where feed_id = %(feed)s and customer = any(%(customers)s) and exposed_at is not null)
"""

STOP = """
update aggregator.feed
   set stopped_at = coalesce(stopped_at, %(now)s), stopped_reason = %(reason)s
 where id = %(feed)s and cleared_at is null and cleared_until = %(cleared_until)s
"""

# What was planned and never left is taken back as a whole, so that the feed begins anew where it is to begin now.
PLANNED_BEFORE = """
select exists (select from aggregator.slot where feed_id = %(feed)s and window_start < %(since)s)
"""
HOLD_UNUSED = "select from aggregator.feed where id = %(feed)s and cleared_until = 0 for update"
TAKE_BACK = (
    f"""
    with gone as (delete from aggregator.outbox where feed_id = %(feed)s returning *)
    {to_rest("gone", state="'void'", reason="%(reason)s", settled_at="clock_timestamp()")} from gone
    """,  # noqa: S608 - our own text
    "delete from aggregator.parked where feed_id = %(feed)s",
    """
    update aggregator.event_at_rest set state = 'void', settled_at = clock_timestamp(), reason = %(reason)s
     where feed_id = %(feed)s and state in ('held', 'refused')
    """,
    "delete from aggregator.slot where feed_id = %(feed)s",
    "delete from aggregator.carry where feed_id = %(feed)s",
    """
    update aggregator.feed set read_until = %(since)s, stopped_at = null, stopped_reason = null where id = %(feed)s
    """,
)
TAKEN_BACK = "taken back before it was sent: the feed begins later"


class Pending(NamedTuple):
    """Events of a feed that may leave once its sink was asked about `customers`."""

    feed: int
    meter: str
    since: dt.datetime
    until: dt.datetime | None
    cleared_until: int
    asked: tuple[str, ...]
    """Whom the sink was asked about before."""
    asked_at: dt.datetime | None
    upto: EventId
    customers: tuple[str, ...]


class FirstUses(Part):
    """The verbs about the first use of feeds."""

    def open(self, sink_id: int, feeds: Collection[int] | None = None) -> bool:
        """Tell whether a feed of a sink is still to be cleared, of some of its feeds or of all."""
        return self._row(FIND_FEEDS, _which(sink_id, feeds)) is not None

    def pending(
        self, sink_id: int, but: Collection[int] = (), feeds: Collection[int] | None = None
    ) -> list[Pending]:
        """Return, for each feed of a sink but those in `but`, the next of its events that may not leave yet.

        With `feeds`, of these only.
        """
        with self._database.transaction() as connection:
            rows = connection.execute(FIND_FEEDS, _which(sink_id, feeds)).fetchall()
            found = (_next_of(connection, sink_id, row) for row in rows if row[0] not in but)
            return [each for each in found if each is not None]

    def clear(self, pending: Pending, now: dt.datetime) -> bool:
        """Let events go, since the sink holds nothing of their customers; return whether their feed is cleared for good."""
        asked = pending.asked + pending.customers
        enough = len(asked) >= ENOUGH or (
            pending.asked_at is not None and now - pending.asked_at >= ALL_AFTER
        )
        if enough:
            self.clear_for_good([pending.feed], f"the sink, asked about {len(asked)} customers", now)
            return True
        values = {
            "feed": pending.feed,
            "until": pending.upto,
            "asked": list(asked),
            "asks": bool(pending.customers),
            "now": now,
        }
        self._run(CLEAR, values)
        return False

    def clear_for_good(self, feeds: Sequence[int], by: str, now: dt.datetime) -> list[int]:
        """Let everything of these feeds go, on the word of `by`; return which of them waited for it."""
        values = {"feeds": list(feeds), "by": by, "now": now, "all": ALL_EVENTS}
        return [row[0] for row in self._rows(CLEAR_FOR_GOOD, values)]

    def stop(self, pending: Pending, customers: Sequence[str], reason: str, now: dt.datetime) -> bool:
        """Note that a feed sends nothing, and why; False if somebody let it go meanwhile, or has sent to these customers."""
        values = {
            "feed": pending.feed,
            "customers": list(customers),
            "cleared_until": pending.cleared_until,
            "reason": reason,
            "now": now,
        }
        with self._database.transaction() as connection:
            row = connection.execute(SENT_TO, values).fetchone()
            if row is not None and row[0]:
                return False
            return connection.execute(STOP, values).rowcount == 1


def _which(sink_id: int, feeds: Collection[int] | None) -> dict[str, object]:
    return {"sink_id": sink_id, "feeds": None if feeds is None else list(feeds)}


def planned_before(connection: Connection, feed_id: int, since: dt.datetime) -> bool:
    """Tell whether something is planned for a feed that lies before its beginning."""
    row = connection.execute(PLANNED_BEFORE, {"feed": feed_id, "since": since}).fetchone()
    return row is not None and bool(row[0])


def take_back(connection: Connection, feed_id: int, since: dt.datetime) -> None:
    """Take back all that was planned for a feed, if none of it was ever cleared: it begins anew at `since`.

    The meter is held: no pass is writing.
    """
    values = {"feed": feed_id, "since": since, "reason": TAKEN_BACK}
    if connection.execute(HOLD_UNUSED, values).fetchone() is not None:
        for statement in TAKE_BACK:
            connection.execute(statement, values)


def _next_of(connection: Connection, sink_id: int, row: tuple[Any, ...]) -> Pending | None:
    feed, meter, since, until, cleared_until, asked, asked_at = row
    values = {
        "sink_id": sink_id,
        "feed": feed,
        "cleared_until": cleared_until,
        "asked": asked,
        "batch": BATCH,
        "most": ENOUGH - len(asked),
    }
    found = connection.execute(NEXT_EVENTS, values).fetchone()
    assert found is not None, "a query without a table gives a row"
    upto, customers = found
    if upto is None:
        return None
    return Pending(feed, meter, since, until, cleared_until, tuple(asked), asked_at, upto, tuple(customers))
