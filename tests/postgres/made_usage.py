"""Ledgers with any history: slots whose events stand in any states, drawn at random, and consistent as passes leave them."""

import datetime as dt
import itertools
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg

from tests.usage_by_hand import Seen

HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 10, 31, tzinfo=dt.UTC)
HOURS = 60
"""They reach over a midnight, and into the next month."""

CUSTOMERS = ("cus_a", "cus_b", "=cus_c")
STATES = (
    *["accepted"] * 3,
    *["confirmed"] * 2,
    "due",
    "sending",
    "in_doubt",
    "held",
    "refused",
    "void",
    "shadow",
)
REASONS = ("no customer", "quantity is NULL")


class Made:
    """Makes meters with two feeds each; `dice` decides about everything."""

    def __init__(self, connection: psycopg.Connection[Any], dice: random.Random) -> None:
        self._connection = connection
        self._dice = dice
        connection.execute("insert into aggregator.sink (name) values ('one'), ('two')")

    def meter(self, name: str) -> None:
        """Make a meter and its history."""
        mark = START + HOURS * HOUR
        meter = self._one(
            "insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)"
            " values (%s, 'f', 3600, %s, %s) returning id", name, START, mark,
        )  # fmt: skip
        self._connection.execute(
            "insert into aggregator.definition (meter_id, since, fingerprint, query, window_seconds)"
            " values (%s, %s, 'f', '', 3600)",
            [meter, START],
        )
        last = self._dice.random() < 0.4
        for sink in (1, 2):
            since, until = (
                START + self._dice.choice([0, 0, 9]) * HOUR,
                self._dice.choice([None, mark - 7 * HOUR]),
            )
            shadow = self._dice.random() < 0.3
            feed = self._one(
                "insert into aggregator.feed (meter_id, sink_id, since, until, read_until, shadow, shadow_until, ordered)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s) returning id",
                meter, sink, since, until, until or mark, shadow, self._dice.choice([None, mark]), last,
            )  # fmt: skip
            shadowed = self._one(
                "select shadow or shadow_until is not null from aggregator.feed where id = %s", feed
            )
            for hour, whose in itertools.product(range(HOURS + 2), CUSTOMERS):
                if self._dice.random() < 0.3:
                    self._slot(feed, sink, START + hour * HOUR, whose, shadowed=shadowed)
        self._connection.execute(
            "insert into aggregator.usage_day (feed_id, day, changed_at) select feed_id, day, %s"
            " from (select distinct feed_id, date_trunc('day', window_start, 'UTC') as day from aggregator.slot) as its"
            " on conflict do nothing",
            [START],
        )
        for _ in range(20):
            customer: str | None = self._dice.choice([None, *CUSTOMERS])
            quantity = None if customer and self._dice.random() < 0.3 else self._amount()
            self._connection.execute(
                "insert into aggregator.unmapped (meter_id, window_start, reason, customer, rows, quantity)"
                " values (%s, %s, %s, %s, 1, %s) on conflict do nothing",
                [meter, START + self._dice.randrange(HOURS + 2) * HOUR, REASONS[customer is not None], customer, quantity],
            )  # fmt: skip

    def seen(self, since: dt.datetime) -> Iterator[Seen]:
        """Yield what a source may have from an instant on."""
        for hour, customer in itertools.product(range(HOURS + 3), (None, *CUSTOMERS)):
            start = START + hour * HOUR
            for _ in range(self._dice.choice([0, 0, 1, 2])):
                if start >= since:
                    flawed = customer is None or self._dice.random() < 0.2
                    quantity = None if flawed and customer else self._amount()
                    yield Seen(start, customer, quantity, REASONS[customer is not None] if flawed else None)

    def _slot(self, feed: int, sink: int, start: dt.datetime, customer: str, *, shadowed: bool) -> None:
        slot, total, revisions = (
            self._one("select nextval('aggregator.event_id')"),
            Decimal(),
            self._dice.choice([0, 1, 1, 2, 3]),
        )
        tail = None
        for revision in range(revisions):
            state = self._dice.choice(STATES if shadowed else STATES[:-1])
            delta = self._amount()
            tail = self._event(feed, sink, slot, start, customer, revision, state, delta, total + delta)
            total += delta * (state != "void")
        self._connection.execute(
            "insert into aggregator.slot (id, feed_id, revision, window_start, customer, quantity, total, tail)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [slot, feed, revisions, start, customer, total + self._dice.choice([Decimal(), Decimal("0.4"), Decimal("-0.6")]),
             total, tail],
        )  # fmt: skip

    def _event(
        self, feed: int, sink: int, slot: int, start: dt.datetime, customer: str, revision: int, state: str,
        delta: Decimal, total: Decimal,
    ) -> int:  # fmt: skip
        event: int = self._one("select nextval('aggregator.event_id')") if revision else slot
        if state in ("due", "sending"):
            self._connection.execute(
                "insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at,"
                " planned_at, due_at, claim_id, customer, identifier, delta, total)"
                " values (%s, %s, 1, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [event, slot, sink, feed, revision, start, start, start, start, 1 if state == "sending" else None, customer,
                 f"agg_{event}", delta, total],
            )  # fmt: skip
            return event
        self._connection.execute(
            "insert into aggregator.event_at_rest (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at,"
            " state, attempts, customer, identifier, delta, total)"
            " values (%s, %s, 1, %s, %s, %s, %s, %s, %s, 0, %s, %s, %s, %s)",
            [event, slot if revision else None, feed, revision or None, start, start, start, state, customer,
             f"agg_{event}", delta, total],
        )  # fmt: skip
        if state in ("held", "refused", "in_doubt"):
            dismissed = start if state != "in_doubt" and self._dice.random() < 0.4 else None
            self._connection.execute(
                "insert into aggregator.parked (event_id, feed_id, state, reason, since, dismissed_at)"
                " values (%s, %s, %s, 'it is so', %s, %s)",
                [event, feed, state, start, dismissed],
            )
        return event

    def _amount(self) -> Decimal:
        return self._dice.choice(
            [Decimal(1), Decimal(7), Decimal("2.5"), Decimal(-3), Decimal("1234567.125")]
        )

    def _one(self, statement: str, *values: object) -> Any:
        row = self._connection.execute(statement.encode(), values).fetchone()
        assert row is not None
        return row[0]
