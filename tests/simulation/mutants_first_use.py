"""Bugs on purpose in what a sink is asked before the first events of a feed leave."""

import datetime as dt
from typing import Any

from aggregator.core.model import ZERO, Span
from aggregator.delivery.first_use import FirstUse, Found
from aggregator.ledger.outbox.first_use import Pending
from tests.simulation.memory_first_use import MemoryFirstUses
from tests.simulation.mutation import mutant


@mutant("nobody asks what a sink holds before the first events of a feed leave")
def first_use_unasked() -> list[tuple[object, str, object]]:
    return [(FirstUse, "_ask", lambda self, pending, span: Found())]


@mutant("a sink is asked about one customer only, and the others are cleared with it")
def one_customer_asked() -> list[tuple[object, str, object]]:
    real = FirstUse._ask

    def ask(self: FirstUse, pending: Pending, span: Span) -> Found:
        return real(self, pending._replace(customers=pending.customers[:1]), span)

    return [(FirstUse, "_ask", ask)]


@mutant("a sink that does not answer holds nothing")
def silence_is_nothing() -> list[tuple[object, str, object]]:
    real = Found.take

    def take(self: Found, customer: str, said: Any) -> None:
        real(self, customer, ZERO if isinstance(said, Exception) else said)

    return [(Found, "take", take)]


@mutant("a feed that stands still for what its sink holds goes on with the next batch")
def stopped_feed_goes_on() -> list[tuple[object, str, object]]:
    real = MemoryFirstUses.stop

    def stop(self: MemoryFirstUses, pending: Pending, customers: Any, reason: str, now: dt.datetime) -> bool:
        done = real(self, pending, customers, reason, now)
        self._ledger.tables.feeds[pending.feed].cleared_until = pending.upto
        return done

    return [(MemoryFirstUses, "stop", stop)]
