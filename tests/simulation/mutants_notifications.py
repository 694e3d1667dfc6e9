"""Bugs on purpose in how reports reach the ledger."""

import datetime as dt
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from aggregator.core.notifications import ParsedNotification
from aggregator.errors import SinkUnreachable
from aggregator.ledger.notifications import Taking
from aggregator.reconciliation import notification_poller
from tests.simulation.memory_notifications import MemoryNotifications
from tests.simulation.mutation import mutant


@mutant("what appears late in a list is never asked for again")
def no_overlap() -> list[tuple[object, str, object]]:
    return [(notification_poller, "OVERLAP", dt.timedelta(0))]


@mutant("a message that could not be read just now counts as taken")
def noted_without_taking() -> list[tuple[object, str, object]]:
    real = notification_poller.NotificationPoller._take_all

    def take_all(self: Any, *values: Any) -> None:
        with suppress(SinkUnreachable):
            real(self, *values)

    return [(notification_poller.NotificationPoller, "_take_all", take_all)]


@mutant("which messages were taken is remembered outside of the ledger, where a restore does not reach")
def taken_beside_the_ledger() -> list[tuple[object, str, object]]:
    real, beside = MemoryNotifications.take, WeakKeyDictionary[Any, set[str]]()

    def take(self: MemoryNotifications, sink_id: int, parsed: ParsedNotification, *rest: Any) -> Taking:
        taken = beside.setdefault(self._ledger, set())
        if parsed.notification.id in taken:
            return Taking(fresh=False)
        taken.add(parsed.notification.id)
        return real(self, sink_id, parsed, *rest)

    return [(MemoryNotifications, "take", take)]
