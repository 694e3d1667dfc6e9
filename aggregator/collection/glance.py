"""A glance: many meters of one source, looked at in one snapshot, each by its own query, before any of them is collected.

Most rounds read again what they read before, and find it unchanged. Such a round needs no lease, no transaction of its own
and no connection of its own to the source: a glance stands for it. In a process that begins, it goes by what the last round
of another one has left in the ledger.

Rules
- A glance bills nothing. It finds that a round would do nothing at all, or leaves that round to be done: whatever is new,
  differs, fails, takes long or cannot be told is looked at by a round as if there had been no glance.
- What it compares is every row that the round would read, judged by what the very snapshot proves; then the ledger says, in
  the transaction that notes the glance, that nothing has happened to the meter meanwhile.
- Nobody waits long for anybody: what the source did not give at once before is left out, a query may take a moment only, and
  so may the whole. Who was not reached is looked at by the next glance.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import dropwhile
from typing import NamedTuple, Protocol

from aggregator.collection import sight
from aggregator.collection.collector import Collector
from aggregator.collection.mapped_source import under_customers
from aggregator.collection.rounds import Collected
from aggregator.core.model import Fence, Reading, Span
from aggregator.errors import AggregatorError, SourceError
from aggregator.ledger.passes.passes import Pass, Passes
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.passes.unchanged import LeftAs, Unchanged

MAYBE_QUICK_SECONDS = 1.0
"""What took a round longer to read, maybe beside seven others, is not tried."""

QUICK_SECONDS = 0.1
"""What takes longer keeps others waiting: it is read by its own rounds then, for `SLOW_FOR_SECONDS`."""

SLOW_FOR_SECONDS = 3_600.0

QUERY_TIMEOUT = dt.timedelta(seconds=1)
"""How long one query may take at most."""

LONGEST_SECONDS = 1.0
"""For how long others wait, and a snapshot stands open: a thousand small queries take about so long."""

GOOD_SECONDS = 10.0
"""For how long it counts what a glance found. The alarms of those that are looked at together ring together."""


class Glimpse(Protocol):
    """An open snapshot of a source, and what it proves."""

    @property
    def fence(self) -> Fence | None: ...  # noqa: D102

    def read(
        self, query: str, span: Span, window: dt.timedelta, dimensions: Sequence[str] = (), /
    ) -> Iterator[list[Reading]]:
        """Yield all readings of a span in batches, by a query that returns `window`."""
        ...


class Source(Protocol):
    """What a glance asks of an application database."""

    def glimpse(self, timeout: dt.timedelta) -> AbstractContextManager[Glimpse]:
        """Hold a snapshot open in which each query may take so long."""
        ...


class _Found(NamedTuple):
    """What a glance found of a meter, and when: the result of a round that does nothing, None if one is to be done."""

    at: float
    result: Collected | None


class Glance:
    """Looks at meters of one source whose alarms ring together, given in the order in which they ring.

    Any number of threads may ask at any time. `present` gives the ledger's instant, and raises while this host's clock
    differs from that one; `elapsed` tells seconds.
    """

    def __init__(
        self,
        collectors: Sequence[Collector],
        source: Source,
        passes: Passes,
        *,
        present: Callable[[], dt.datetime],
        elapsed: Callable[[], float],
    ) -> None:
        self._collectors = {collector.meter.name: collector for collector in collectors}
        self._source = source
        self._passes = passes
        self._present = present
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._found: dict[str, _Found] = {}
        self._slow_until: dict[str, float] = {}
        self._recalled: dict[str, LeftAs] | None = None

    def unchanged(self, meter: str) -> Collected | None:
        """Return what a round of a meter would come to that does nothing; None if the round is to be done."""
        with self._lock:
            found = self._found.pop(meter, None)
            if found is None or self._elapsed() - found.at > GOOD_SECONDS:
                self._look(list(dropwhile(lambda name: name != meter, self._collectors)))
                found = self._found.pop(meter, None)
            return found and found.result

    def _look(self, names: Sequence[str]) -> None:
        """Look at meters in their order, and hold what was found. Where it fails, all of them are left to their rounds."""
        began = self._elapsed()
        try:
            found = self._compare(names, self._present(), began)
        except AggregatorError:  # their rounds say what is wrong, each of its own meter
            found = dict.fromkeys(names)
        now = self._elapsed()
        self._found = {name: each for name, each in self._found.items() if now - each.at <= GOOD_SECONDS}
        self._found |= {name: _Found(now, result) for name, result in found.items()}

    def _compare(self, names: Sequence[str], now: dt.datetime, began: float) -> dict[str, Collected | None]:
        """Return what was found of those that were reached in time."""
        self._recall()
        looked = self._read(names, now, began)
        found = [each for each in looked.values() if each is not None]
        noted = self._passes.note_unchanged(found, now, self._elapsed() - began) if found else set()
        return {
            name: self._collected(name, each)
            if each is not None and each.lease.registered.id in noted
            else None
            for name, each in looked.items()
        }

    def _collected(self, name: str, found: Unchanged) -> Collected:
        """Return what a round would have come to; one that stands for the first says also who was silent before."""
        collected = Collected(name, found.lease.mark, rows=found.rows)
        left = (self._recalled or {}).pop(name, None)
        if left is not None:
            collected.silent_since, collected.silent_customers = left.silent_since, left.silent_customers
        return collected

    def _recall(self) -> None:
        """Learn once how other processes left those meters of which this one has begun no round."""
        if self._recalled is not None:
            return
        fresh = [each.registered for each in self._collectors.values() if each.fresh and each.seen is None]
        self._recalled = self._passes.left_as(fresh)
        for name, left in self._recalled.items():
            if self._collectors[name].fresh:
                self._collectors[name].seen = sight.recalled(left)

    def _read(self, names: Sequence[str], now: dt.datetime, began: float) -> dict[str, Unchanged | None]:
        """Read again what those would read that have nothing else to do, until it takes too long, or one of them fails."""
        passes = {name: self._next_pass(name, now) for name in names}
        looked: dict[str, Unchanged | None] = {}
        if not any(passes.values()):
            return dict.fromkeys(names)
        with self._source.glimpse(QUERY_TIMEOUT) as glimpse, suppress(SourceError):
            for name, this in passes.items():
                if self._elapsed() - began > LONGEST_SECONDS:
                    break
                looked[name] = None
                if this is not None:
                    with self._timing(name):
                        looked[name] = _unchanged(self._collectors[name], this, glimpse)
        return looked or dict.fromkeys(names[:1])

    def _next_pass(self, name: str, now: dt.datetime) -> Pass | None:
        collector = self._collectors[name]
        seen = collector.seen
        if seen is None or seen.seconds > MAYBE_QUICK_SECONDS:
            return None
        if self._elapsed() < self._slow_until.get(name, 0.0):
            return None
        return seen.next_pass(collector.meter, now)

    @contextmanager
    def _timing(self, name: str) -> Iterator[None]:
        """Leave a meter to its rounds from now on if it takes long."""
        began = self._elapsed()
        try:
            yield
        finally:
            now = self._elapsed()
            if now - began > QUICK_SECONDS:
                self._slow_until[name] = now + SLOW_FOR_SECONDS


def _unchanged(collector: Collector, this: Pass, glimpse: Glimpse) -> Unchanged | None:
    """Read again what a round saw; None if that is not all, or not the same."""
    seen = collector.seen
    if seen is None:  # a round has begun meanwhile
        return None
    allow = collector.admission(this.span, this.definition, this.now, seen.lease.definitions, seen.lease)
    if not seen.is_all(glimpse.fence, allow, collector.patience):
        return None
    with Spool(seen.since) as spool:
        held = this.definition
        for batch in glimpse.read(held.query, this.span, held.window, held.dimensions):
            spool.add(under_customers(collector.source, this.span, batch))
        if not seen.same(this.span, spool.digests()):
            return None
        return Unchanged(seen.lease, seen.left_as, this._replace(seen=allow.seen), spool.rows)
