"""Cutovers in the ledger: since when a customer is billed by another sink.

Rules
- Of one customer, all meters that feed both sinks move at once: an invoice has all of them.
- It is written under the locks of those meters, and whoever is in the middle of a pass loses it: a window is never planned
  without the cutover that it falls under.
- It may be moved or taken back as long as it lies ahead of all that was read. The database holds that, too.
- Customers move between two sinks only: none of the two may be in a cutover with a third.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from aggregator.core.age_limits import FURTHEST
from aggregator.core.cutover import Crossing, obstacles
from aggregator.core.feed_terms import FeedCoverage
from aggregator.core.model import Span
from aggregator.errors import UsageError
from aggregator.ledger.database import Connection, Part
from aggregator.runtime import failpoints

CROSSINGS = """
select meter.name, make_interval(secs => meter.window_seconds), meter.mark, old.id, new.id, meter.id,
       old.since, old.until, old.shadow, old.shadow_until, old.read_until, old.lost, old.parted,
       new.since, new.until, new.shadow, new.shadow_until, new.read_until, new.lost, new.parted
  from aggregator.meter
  join aggregator.feed as old on old.meter_id = meter.id
  join aggregator.sink as old_sink on old_sink.id = old.sink_id and old_sink.name = %(old)s
  join aggregator.feed as new on new.meter_id = meter.id
  join aggregator.sink as new_sink on new_sink.id = new.sink_id and new_sink.name = %(new)s
 where meter.name = any(%(meters)s)
 order by meter.id
"""

HOLD = "select from aggregator.meter where id = any(%(meters)s) order by id for update"

TAKE_AWAY = """
update aggregator.meter set epoch = epoch + 1, lease_owner = null, lease_until = null where id = any(%(meters)s)
"""

# A backfill may have read windows ahead of the mark.
PLANNED_FROM = """
select min(slot.customer collate "C"), count(distinct slot.customer) from aggregator.slot
 where slot.feed_id = any(%(feeds)s) and slot.window_start >= %(at)s
   and (%(everybody)s or slot.customer = any(%(customers)s))
"""

OTHERWISE_BOUND = """
select meter.name, sink.name from aggregator.cutover
  join aggregator.feed on feed.id in (cutover.from_feed, cutover.to_feed)
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where (%(old)s in (from_feed, to_feed) or %(new)s in (from_feed, to_feed))
   and (from_feed, to_feed) <> (%(old)s, %(new)s)
   and feed.id not in (%(old)s, %(new)s)
 limit 1
"""

KNOWN_AT = """
select customer, at from aggregator.cutover
 where from_feed = %(old)s and coalesce(customer, '') = any(%(customers)s) and at <> %(at)s
"""

# Who had usage within as long as something can still be billed, and has no cutover of their own.
UNMOVED = """
select distinct slot.customer from aggregator.slot
  join aggregator.feed on feed.id = slot.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where sink.name = %(old)s and meter.name = any(%(meters)s) and slot.window_start >= meter.mark - %(furthest)s
   and not exists (select from aggregator.cutover where cutover.from_feed = feed.id and cutover.customer = slot.customer)
 order by 1 limit %(limit)s
"""

SET = """
insert into aggregator.cutover (from_feed, to_feed, customer, at, parallel, made_at, made_by, reason)
select %(old)s, %(new)s, nullif(customer, ''), %(at)s, %(parallel)s, clock_timestamp(), %(by)s, %(reason)s
  from unnest(%(customers)s::text[]) as customer
    on conflict (from_feed, coalesce(customer, '')) do update
       set at = excluded.at, parallel = excluded.parallel, made_at = excluded.made_at, made_by = excluded.made_by,
           reason = excluded.reason
     where (cutover.at, cutover.parallel) <> (excluded.at, excluded.parallel)
returning customer
"""

PART = "update aggregator.feed set parted = true where id in (%(old)s, %(new)s) and not parted"

PASSED = """
select at, customer from aggregator.cutover
 where from_feed = %(old)s and to_feed = %(new)s and coalesce(customer, '') = any(%(customers)s) and at < %(mark)s limit 1
"""

WITHDRAW = """
delete from aggregator.cutover
 where from_feed = %(old)s and to_feed = %(new)s and coalesce(customer, '') = any(%(customers)s)
returning customer
"""

LIST = """
select old_sink.name, new_sink.name, cutover.customer, cutover.at, cutover.parallel,
       array_agg(meter.name order by meter.name),
       max(cutover.made_at), max(cutover.made_by), max(cutover.reason), bool_and(meter.mark >= cutover.at)
  from aggregator.cutover
  join aggregator.feed as old on old.id = cutover.from_feed
  join aggregator.feed as new on new.id = cutover.to_feed
  join aggregator.sink as old_sink on old_sink.id = old.sink_id
  join aggregator.sink as new_sink on new_sink.id = new.sink_id
  join aggregator.meter on meter.id = old.meter_id
 group by 1, 2, 3, 4, 5 order by 4, 3 nulls last
"""

EVERYBODY = ""
"""How the cutover of all others stands among customers, none of whom is called so."""


class KnownCutover(NamedTuple):
    """A cutover as the ledger has it."""

    from_sink: str
    to_sink: str
    customer: str | None
    at: dt.datetime
    parallel: bool
    meters: list[str]
    made_at: dt.datetime
    made_by: str
    reason: str | None
    passed: bool
    """Whether every one of the meters was read up to it."""


class _Pair(NamedTuple):
    """One meter's two feeds."""

    crossing: Crossing
    old: int
    new: int
    meter_id: int


class Cutovers(Part):
    """The verbs about cutovers."""

    def crossings(self, old: str, new: str, meters: Iterable[str]) -> list[Crossing]:
        """Return those of some meters that feed both sinks, as they stand. Raises UsageError if there is none."""
        with self._database.transaction() as connection:
            return [each.crossing for each in _pairs(connection, old, new, meters)]

    def known(self) -> list[KnownCutover]:
        """Return all cutovers, in the order of time."""
        return [KnownCutover._make(row) for row in self._rows(LIST)]

    def unmoved(self, old: str, meters: Iterable[str], limit: int) -> list[str]:
        """Return customers who had usage lately, and have no cutover of their own."""
        values = {"old": old, "meters": list(meters), "limit": limit, "furthest": FURTHEST}
        return [customer for (customer,) in self._rows(UNMOVED, values)]

    def set(
        self,
        old: str,
        new: str,
        meters: Iterable[str],
        at: dt.datetime,
        customers: Sequence[str] | None,
        *,
        parallel: bool,
        by: str,
        reason: str | None,
    ) -> int:
        """Let customers, or all others (None), move at an instant; return for how many that is new.

        Doing it twice does no harm. Raises UsageError, with all that is in the way, and then nothing is written.
        """
        with self._database.transaction() as connection:
            pairs = _held(connection, old, new, meters)
            whose = [EVERYBODY] if customers is None else sorted(set(customers))
            refused = obstacles(at, [each.crossing for each in pairs], (old, new), parallel=parallel)
            for pair in pairs:
                refused += _in_the_way(connection, pair, at, whose)
            if refused:
                raise UsageError("\n".join(refused))
            changed: set[str | None] = set()
            for pair in pairs:
                values = {
                    "old": pair.old,
                    "new": pair.new,
                    "customers": whose,
                    "at": at,
                    "parallel": parallel,
                    "by": by,
                    "reason": reason,
                }
                changed |= {customer for (customer,) in connection.execute(SET, values).fetchall()}
                connection.execute(PART, values)
            if changed:
                connection.execute(TAKE_AWAY, {"meters": [each.meter_id for each in pairs]})
            failpoints.passing("cutover_written")
        failpoints.passing("cutover_committed")
        return len(changed)

    def withdraw(self, old: str, new: str, meters: Iterable[str], customers: Sequence[str] | None) -> int:
        """Take back cutovers that lie ahead of all that was read; return of how many customers. Raises UsageError."""
        with self._database.transaction() as connection:
            pairs = _held(connection, old, new, meters)
            whose = [EVERYBODY] if customers is None else sorted(set(customers))
            gone: set[str | None] = set()
            for pair in pairs:
                values = {"old": pair.old, "new": pair.new, "customers": whose}
                passed = connection.execute(PASSED, {**values, "mark": pair.crossing.mark}).fetchone()
                if passed is not None:
                    raise UsageError(
                        f"Meter {pair.crossing.meter} was read beyond {passed[0]:%Y-%m-%dT%H:%MZ} already, so what "
                        f"{passed[1] or 'everybody'} used since then is billed by {new}, and stays so."
                    )
                gone |= {customer for (customer,) in connection.execute(WITHDRAW, values).fetchall()}
            if gone:
                connection.execute(TAKE_AWAY, {"meters": [each.meter_id for each in pairs]})
            return len(gone)


def _pairs(connection: Connection, old: str, new: str, meters: Iterable[str]) -> list[_Pair]:
    """Return the meters that feed both sinks, as they stand. Raises UsageError if there is none."""
    values = {"old": old, "new": new, "meters": list(meters)}
    found: list[_Pair] = []
    for name, window, mark, old_id, new_id, meter_id, *terms in connection.execute(CROSSINGS, values):
        crossing = Crossing(name, window, mark, _coverage(terms[:7]), _coverage(terms[7:]))
        found.append(_Pair(crossing, old_id, new_id, meter_id))
    if not found:
        raise UsageError(
            f"No meter has fed both {old} and {new} so far: list both under `sinks` of a meter, and let `aggregator run` "
            "begin with that."
        )
    return found


def _coverage(columns: Sequence[Any]) -> FeedCoverage:
    *terms, lost, parted = columns
    span = Span(lost.lower, lost.upper) if lost is not None else None
    return FeedCoverage._make((*terms, span, parted))


def _held(connection: Connection, old: str, new: str, meters: Iterable[str]) -> list[_Pair]:
    """Lock the meters that feed both sinks, and return them as they stand then. Raises UsageError if there is none."""
    names = list(meters)
    found = _pairs(connection, old, new, names)
    connection.execute(HOLD, {"meters": [each.meter_id for each in found]})
    return _pairs(connection, old, new, names)


def _in_the_way(connection: Connection, pair: _Pair, at: dt.datetime, whose: Sequence[str]) -> Iterable[str]:
    """Say what of the ledger is in the way of a cutover of one meter."""
    values = {
        "old": pair.old,
        "new": pair.new,
        "feeds": [pair.old, pair.new],
        "at": at,
        "customers": list(whose),
    }
    other = connection.execute(OTHERWISE_BOUND, values).fetchone()
    if other is not None:
        yield f"Meter {other[0]}: customers move to or from {other[1]} already, and a sink is in one such pair only."
    for customer, before in connection.execute(KNOWN_AT, values).fetchall():
        if before < pair.crossing.mark:
            yield (
                f"Meter {pair.crossing.meter}: {customer or 'everybody else'} moved at {before:%Y-%m-%dT%H:%MZ} already, "
                "and windows since then are planned so."
            )
    row = connection.execute(PLANNED_FROM, {**values, "everybody": EVERYBODY in whose}).fetchone()
    if row is not None and row[1]:
        yield (
            f"Meter {pair.crossing.meter}: windows from {at:%Y-%m-%dT%H:%MZ} on are planned already, of {row[0]} and "
            "others, as by a backfill. Take a later time."
        )
