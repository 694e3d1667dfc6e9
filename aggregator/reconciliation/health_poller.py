"""Whether a sink says that its totals are late: asked for by itself, and often, since what they lack would else be believed.

Rules
- It is asked apart from reports: Stripe has these messages in a preview, and may refuse a list that names a type it does not
  know. Then it is asked again an hour later, and everything else goes on.
- A sink that gives no answer gives no totals either, so nothing is judged by them: that is said elsewhere.
- The newest message counts, by whichever way each of them came; the ledger sees to that.
"""

import datetime as dt
import threading
from dataclasses import dataclass
from typing import Protocol

from aggregator.core.counts import Counts
from aggregator.core.model import Span
from aggregator.core.notifications import ParsedNotification
from aggregator.errors import SinkError, SinkUnreachable
from aggregator.ledger.notifications import HEALTH, Notifications, Origins
from aggregator.reconciliation.notification_poller import AGAIN_AFTER, start_of


class HealthClient(Protocol):
    """What is asked of a sink."""

    def health(self, span: Span) -> list[ParsedNotification]: ...  # noqa: D102


@dataclass(slots=True)
class HealthPolled(Counts):
    """What one round came to. `refused` says why the sink does not let itself be asked, if it does not."""

    messages: int = 0
    refused: str | None = None


class HealthPoller:
    """Hears one sink. One at a time is enough; several do no harm."""

    def __init__(self, ledger: Notifications, origins: Origins, client: HealthClient, sink_id: int) -> None:
        self._ledger = ledger
        self._origins = origins
        self._client = client
        self._sink_id = sink_id
        self._stopping = threading.Event()

    def run_once(self, now: dt.datetime) -> HealthPolled:
        """Ask for what was said since the last time, and take it."""
        result = HealthPolled()
        origin = self._origins.named(self._sink_id, HEALTH, now, AGAIN_AFTER)
        if origin is None or self._stopping.is_set():
            return result
        try:
            found = self._client.health(Span(start_of(origin.polled_until, now), now))
        except SinkUnreachable:
            self._origins.not_polled(self._sink_id, HEALTH, None, now)
            return result
        except SinkError as error:
            result.refused = f"whether its totals are late cannot be asked: {error}"
            self._origins.not_polled(self._sink_id, HEALTH, result.refused, now)
            return result
        for parsed in sorted(found, key=lambda each: each.notification.created_at):
            result.messages += self._ledger.take(self._sink_id, parsed, "poll", now, ()).fresh
        self._origins.polled(self._sink_id, HEALTH, now, now)
        return result

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopping.set()
