"""Bugs on purpose in which clock is believed."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from aggregator.ledger.clock import LedgerClock
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.mutation import mutant

NEVER_APART: list[tuple[object, str, object]] = [
    (LedgerClock, "apart", lambda self: None),
    (LedgerClock, "check", lambda self: None),
]


def by_the_caller(verb: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Let a verb of the ledger go by the time that it is called with, instead of the ledger's own."""

    def call(self: Any, *values: Any) -> Any:
        now: dt.datetime = values[place]
        before, self._ledger.clock = self._ledger.clock, lambda: now
        try:
            return verb(self, *values)
        finally:
            self._ledger.clock = before

    return call


@mutant("attempts are stamped and judged by the clock of the host, whatever it shows")
def host_clock_believed() -> list[tuple[object, str, object]]:
    return [
        *NEVER_APART,
        (LedgerClock, "__call__", lambda self: self._host()),
        (MemoryOutbox, "claim", by_the_caller(MemoryOutbox.claim, 2)),
        (MemoryOutbox, "settle", by_the_caller(MemoryOutbox.settle, 2)),
    ]


@mutant("a host whose clock differs from the ledger's goes on")
def wrong_clock_goes_on() -> list[tuple[object, str, object]]:
    return NEVER_APART
