"""What the last round of a meter saw and left, so that a glance can tell whether another round would do anything. No I/O.

Rules
- A round is remembered only if it left nothing to be done: no window that waits, was left out or is guarded, no change that
  waits for an event. Then the next round reads the same windows again, by the same query, until one more has ended or it is
  time to look further back.
- Where old windows changed just now, more may come: nothing is remembered before a round found none that did.
- What is remembered holds for as long as the ledger has the meter as that round left it, or as another round did to which
  all of it was the same, in whatever process: rounds leave a digest of it with the meter. The ledger itself says so.
- That digest is of what the next round would read, and of nothing that only the round before knew. So a process that begins
  needs no round of its own: it finds out whether what it reads comes to the same digest.
"""

import datetime as dt
import hashlib
import json
from dataclasses import astuple
from decimal import Decimal
from itertools import islice
from typing import NamedTuple, Protocol

from aggregator.collection import schedule
from aggregator.core import definitions, freshness, windows
from aggregator.core.feed_terms import read_up_to
from aggregator.core.freshness import Admission
from aggregator.core.model import Fence, Meter, Span
from aggregator.ledger.meters import Lease, Left
from aggregator.ledger.passes.passes import Pass
from aggregator.ledger.passes.spool import DIGEST_BYTES, Digests, Spool
from aggregator.ledger.passes.unchanged import LeftAs


class Sight:
    """Takes down what a round reads of the windows that every round reads again."""

    def __init__(self, meter: Meter, lease: Lease) -> None:
        self.lease = lease
        self.since = _since(meter, lease)
        self.digests: dict[dt.datetime, bytes] | None = {}
        self.seconds = 0.0
        """How long the longest of its readings took."""

    def took(self, spool: Spool, seconds: float) -> None:
        """Take down one reading that was committed."""
        found = spool.digests()
        self.seconds = max(self.seconds, seconds)
        if found is None or self.digests is None:
            self.digests = None
        else:
            self.digests.update(found)


class Seen(NamedTuple):
    """What a round saw, and the meter as that round left it."""

    lease: Lease
    """The lease of that round, with what stood in the ledger at its end."""
    since: dt.datetime
    digests: Digests | None
    """Of the windows from `since` to the mark; None in a process that has not read them: the digest of all tells then."""
    seconds: float
    left_as: bytes
    """A digest of all that a round goes by: what was read, how the meter is configured, and how it was left."""

    def given_back(self, left: Left) -> "Seen | None":
        """Return the same with the meter as it was given back; None if the ledger has something to be read again."""
        if left.reread_from is not None or left.swept is not None:
            return None
        lease = self.lease._replace(
            hourly_at=left.hourly_at, daily_at=left.daily_at, seen_until=left.seen_until
        )
        return self._replace(lease=lease)

    def next_pass(self, meter: Meter, now: dt.datetime) -> Pass | None:
        """Return what a round would read if all of it has been seen; None if it has more to do."""
        lease = self.lease
        if definitions.ready_until(lease.definitions, lease.mark, now - meter.delay) > lease.mark:
            return None
        coming = schedule.passes(meter, lease, now, meter.start_at, lease.mark, at_once=True)
        found = list(islice(coming, 2))
        if len(found) != 1:
            return None
        [this] = found
        known = Span(self.since, lease.mark)
        within = known.start <= this.span.start and this.span.end == known.end
        return this if within and not (this.hourly or this.daily) else None

    def is_all(self, fence: Fence | None, allow: Admission, patience: dt.timedelta) -> bool:
        """Tell whether a round would read up to the mark and note nothing, by what the source says of its transactions.

        `allow` judges the reading, and has been asked then.
        """
        lease = self.lease
        allow(fence)
        if allow.is_cut:
            return False
        if fence is None or not (patience or fence.must_prove):
            return True
        passed = freshness.passed(fence, lease.definitions, lease.mark, lease.noted, lease.seen_until)
        return passed.noted == lease.noted

    def same(self, span: Span, digests: Digests | None) -> bool:
        """Tell whether another reading of a span found what was seen of it."""
        if self.digests is not None:
            return digests == {start: each for start, each in self.digests.items() if start in span}
        whole = span == Span(self.since, self.lease.mark)
        return whole and digests is not None and _digest(self.lease, self.since, digests) == self.left_as


class Outcome(Protocol):
    """What is asked of the result of a round."""

    mark: dt.datetime | None
    changed: int
    moved: bool
    deferred: int
    guarded: int
    unread: int
    waits_for: str | None
    unfenced: bool
    left_from: dt.datetime | None


def seen(meter: Meter, sight: Sight, result: Outcome) -> Seen | None:
    """Return what a round saw that has come to its end, if it leaves nothing to be done but what the ledger knows of."""
    lease = sight.lease
    nothing_waits = not (
        result.deferred
        or result.guarded
        or result.unread
        or result.waits_for
        or result.unfenced
        or result.left_from
        or lease.unread
        or lease.unread_due
    )
    all_fed = lease.fed_until >= lease.mark
    late = result.changed > 0 and not result.moved
    if meter.retained is not None or result.mark is None:
        return None
    if sight.digests is None or late or not (nothing_waits and all_fed):
        return None
    mark = result.mark
    lease = lease._replace(
        mark=mark,
        reread_from=None,
        swept=None,
        fed_until=mark,
        waits_for=None,
        coverages=tuple(read_up_to(coverage, mark) for coverage in lease.coverages),
    )
    since = max(sight.since, _since(meter, lease))
    digests = {start: each for start, each in sight.digests.items() if start >= since}
    return Seen(lease, since, digests, sight.seconds, _digest(lease, since, digests))


def recalled(left: LeftAs) -> Seen:
    """Return what a round saw that another process made, or one before this: all that is known of it is its digest."""
    since = _since(left.lease.registered.meter, left.lease)
    return Seen(left.lease, since, None, left.seconds, left.left_as)


def _since(meter: Meter, lease: Lease) -> dt.datetime:
    """Return from where on every round reads windows again."""
    length = definitions.at(lease.definitions, lease.mark).window
    return max(windows.near(lease.mark, meter.revisit, length), meter.start_at)


def _digest(lease: Lease, since: dt.datetime, digests: Digests) -> bytes:
    """Digest what was seen and left, the same in every process; but for what the ledger compares by itself."""
    registered = lease.registered
    left = (lease.mark, lease.definitions, lease.noted, lease.coverages, sorted(lease.unstable))
    known = (astuple(registered.meter), registered.feeds, left, since, sorted(digests.items()))
    text = json.dumps(known, default=_plain)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _plain(value: object) -> str:
    """Write what JSON has no word for. An instant is the same in whatever zone it is written."""
    match value:
        case dt.datetime():
            return value.astimezone(dt.UTC).isoformat()
        case bytes():
            return value.hex()
        case dt.timedelta() | Decimal():
            return str(value)
    raise TypeError(f"a round goes by {value!r}, which has no digest")
