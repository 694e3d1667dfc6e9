"""The ledger in memory: the first use of feeds."""

import datetime as dt
from collections.abc import Collection, Sequence
from hashlib import md5

from aggregator.core.model import EventId
from aggregator.ledger.outbox.first_use import (
    ALL_AFTER,
    ALL_EVENTS,
    BATCH,
    ENOUGH,
    Pending,
)
from tests.simulation.apart import customer_of
from tests.simulation.memory import FeedRow, MemoryLedger


class MemoryFirstUses:
    """The verbs about the first use of feeds."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    def _feeds(self, sink_id: int, among: Collection[int] | None) -> list[FeedRow]:
        feeds = self._ledger.tables.feeds.values()
        waiting = [feed for feed in feeds if not feed.cleared_at and (not feed.shadow or feed.parted)]
        return [feed for feed in waiting if feed.sink_id == sink_id and (among is None or feed.id in among)]

    def open(self, sink_id: int, feeds: Collection[int] | None = None) -> bool:
        """Tell whether a feed of a sink is still to be cleared, of some of its feeds or of all."""
        return bool(self._feeds(sink_id, feeds))

    def pending(
        self, sink_id: int, but: Collection[int] = (), feeds: Collection[int] | None = None
    ) -> list[Pending]:
        """Return, for each feed of a sink but those in `but`, the next of its events that may not leave yet."""
        found = (self._next_of(feed) for feed in self._feeds(sink_id, feeds) if feed.id not in but)
        return [each for each in found if each is not None]

    def _next_of(self, feed: FeedRow) -> Pending | None:
        tables = self._ledger.tables
        events = [
            event
            for event in sorted(tables.outbox)
            if event > feed.cleared_until and tables.events[event].feed_id == feed.id
        ][:BATCH]
        if not events:
            return None
        customers = {customer_of(tables.events[event].customer) for event in events} - set(feed.asked)
        drawn = sorted(customers, key=lambda who: (md5(who.encode(), usedforsecurity=False).hexdigest(), who))
        meter = tables.meters[feed.meter_id].name
        return Pending(
            feed.id,
            meter,
            feed.since,
            feed.until,
            feed.cleared_until,
            feed.asked,
            feed.asked_at,
            events[-1],
            tuple(drawn[: ENOUGH - len(feed.asked)]),
        )

    def clear(self, pending: Pending, now: dt.datetime) -> bool:
        """Let events go; return whether their feed is cleared for good."""
        asked = pending.asked + pending.customers
        if len(asked) >= ENOUGH or (pending.asked_at and now - pending.asked_at >= ALL_AFTER):
            self.clear_for_good([pending.feed], "the sink", now)
            return True
        feed = self._ledger.tables.feeds[pending.feed]
        if feed.cleared_at is None:
            feed.cleared_until = max(feed.cleared_until, pending.upto)
            feed.asked = asked
            feed.asked_at = feed.asked_at or (now if pending.customers else None)
            feed.stopped = None
        return False

    def clear_for_good(self, feeds: Sequence[int], by: str, now: dt.datetime) -> list[int]:
        """Let everything of these feeds go; return which of them waited for it."""
        waited = [each for each in feeds if self._ledger.tables.feeds[each].cleared_at is None]
        for each in waited:
            clear_for_good(self._ledger.tables.feeds[each], now)
        return waited

    def stop(self, pending: Pending, customers: Sequence[str], reason: str, now: dt.datetime) -> bool:
        """Note that a feed sends nothing, and why; False if somebody let it go, or has sent to these customers."""
        tables = self._ledger.tables
        feed = tables.feeds[pending.feed]
        sent = any(
            event.exposed_at and event.feed_id == feed.id and customer_of(event.customer) in customers
            for event in tables.events.values()
        )
        if sent or feed.cleared_at or feed.cleared_until != pending.cleared_until:
            return False
        feed.stopped = reason
        return True


def clear_for_good(feed: FeedRow, now: dt.datetime) -> None:
    """Let everything of a feed go."""
    feed.cleared_until, feed.cleared_at, feed.asked, feed.stopped = EventId(ALL_EVENTS), now, (), None
