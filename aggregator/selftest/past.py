"""Months that were billed long ago: what the daemons archive while they are killed.

Rules
- Before each daemon that is to die on a month's way out of the ledger, the ledger is given one more old month, as it stands
  once all of it is billed. It is the ledger's alone: neither the source nor the sandbox knows of it.
- In the end every month is out of the ledger, its archive holds what left to the last row, and `aggregator usage` answers as
  if nothing had left.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from aggregator.core.archive import LEAST_KEPT, closed_before, later
from aggregator.runtime.clock import utcnow
from aggregator.selftest.world import CUSTOMERS, PAST_METER, World

FIRST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)

# What was sent in those days was let go then.
LET_GO = """
update aggregator.feed set cleared_at = now(), cleared_until = 9223372036854775807, cleared_by = 'the proof'
 where cleared_at is null and meter_id = (select id from aggregator.meter where name = %(meter)s)
"""

ADD = """
with made as (
    select nextval('aggregator.event_id') as id, feed.id as feed_id,
           %(month)s::timestamptz + (day - 1) * interval '1 day' + minute * interval '1 minute' as window_start,
           'cus_' || lpad(who::text, 2, '0') as customer, 1 + (who * 7 + day + minute) %% 9 as quantity
      from aggregator.feed
      join aggregator.meter on meter.id = feed.meter_id and meter.name = %(meter)s
     cross join unnest(array[1, 15, 28]) as day
     cross join generate_series(0, 2) as minute
     cross join generate_series(1, %(customers)s) as who
), slots as (
    insert into aggregator.slot (id, window_start, stamped_at, tail, feed_id, revision, customer, quantity, total)
    select id, window_start, window_start, id, feed_id, 1, customer, quantity, quantity from made
), days as (
    insert into aggregator.usage_day (feed_id, day, changed_at)
    select distinct feed_id, date_trunc('day', window_start, 'UTC'), window_start + interval '1 hour' from made
     where mod(extract(minute from window_start), 3) = 0
), events as (
    insert into aggregator.event_at_rest (id, pass_id, feed_id, window_start, at, planned_at, exposed_at, settled_at, state,
                                          customer, identifier, delta, transport, request_id)
    select id, 0, feed_id, window_start, window_start, window_start + interval '1 minute',
           window_start + interval '2 min', window_start + interval '2 min', 'accepted', customer, 'past_' || id, quantity,
           'v1', 'req_' || id
      from made
)
select customer, quantity from made
"""


class Past:
    """The old months of a world, and what was used in them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._months = 0
        self._used: Counter[str] = Counter()

    def add_month(self) -> None:
        """Give the ledger the next month, unless no daemon has come so far as to know the meter, or none is old enough."""
        month = later(FIRST, self._months)
        if month >= closed_before(utcnow(), LEAST_KEPT):
            return
        values = {"month": month, "meter": PAST_METER, "customers": CUSTOMERS}
        with psycopg.connect(self._world.ledger_url) as connection:
            connection.execute(LET_GO, values)
            found = connection.execute(ADD, values).fetchall()
        self._months += bool(found)
        for customer, quantity in found:
            self._used[customer] += quantity

    def wrong(self) -> list[str]:
        """Archive what is left, and say what is not as it should be."""
        return [f"archives: {each}" for each in self._wrong()] if self._months else []

    def _wrong(self) -> Iterator[str]:
        _, archived = self._world.answer("ledger", "archive", PAST_METER, "--json")
        yield from (str(each) for each in (*archived["troubles"], *archived["waits"]))
        _, verified = self._world.answer("ledger", "verify", "--json")
        if verified != {"archives": self._months, "wrong": {}, "unknown": []}:
            yield f"of {self._months} months, `aggregator ledger verify` says {verified}"
        with psycopg.connect(self._world.ledger_url) as connection:
            row = connection.execute(
                "select count(*) from aggregator.slot where window_start < %s", [self._end]
            )
            if (left := row.fetchone()) != (0,):
                yield f"slots of archived months are in the ledger: {left}"
        for customer in (None, *sorted(self._used)[:: CUSTOMERS // 3]):
            whole = sum(self._used.values()) if customer is None else self._used[customer]
            asked = ("--by", "day", "--customer", customer) if customer else ("--by", "month")
            lines = self._lines(*asked)
            for figure in ("used", "billed"):
                if (found := sum(int(line[figure]) for line in lines)) != whole:
                    yield f"{found} {figure} by {customer or 'all'}, and {whole} were"

    @property
    def _end(self) -> dt.datetime:
        return later(FIRST, self._months)

    def _lines(self, *asked: str) -> Sequence[dict[str, Any]]:
        between = ("--from", f"{FIRST:%Y-%m-%d}", "--to", f"{self._end:%Y-%m-%d}")
        _, answer = self._world.answer("usage", PAST_METER, *asked, *between, "--json")
        return [line for feed in answer["feeds"] for line in feed["lines"]]
