"""Months that are closed for good, and what an archive of one holds. No I/O.

Rules
- A month is closed once all of it is older than `keep`, which is longer than any sink takes usage: nothing of it can be
  billed any more. What still waits for a person or a sink keeps it open.
- What an archive holds is flat: a slot with one of its events, or a slot alone. A row is known again by a digest that the
  ledger makes of what it removes, and the archive of what it read back (`aggregator.archive_digest` in the ledger).
"""

import datetime as dt
from collections.abc import Iterator
from decimal import Context, Decimal
from hashlib import md5
from typing import NamedTuple

from aggregator.core.model import ZERO, Span

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ALL_DIGITS = Context(prec=200)
"""More than any number has that is archived."""

LEAST_KEPT = 3
"""Months: later than any sink takes usage, and than anything that is compared with past weeks."""


class Row(NamedTuple):
    """A slot with one of its events; without any, all from `event_id` on is None. Times are UTC."""

    feed_id: int
    customer: str
    window_start: dt.datetime
    combination: int
    slot_id: int
    slot_revision: int
    """How many events the slot has had."""
    quantity: Decimal
    total: Decimal
    stamped_at: dt.datetime | None
    tail: int | None
    event_id: int | None = None
    pass_id: int | None = None
    revision: int | None = None
    at: dt.datetime | None = None
    planned_at: dt.datetime | None = None
    exposed_at: dt.datetime | None = None
    attempted_at: dt.datetime | None = None
    settled_at: dt.datetime | None = None
    state: str | None = None
    attempts: int | None = None
    identifier: str | None = None
    delta: Decimal | None = None
    event_total: Decimal | None = None
    event_quantity: Decimal | None = None
    transport: str | None = None
    request_id: str | None = None
    reason: str | None = None
    tries: str | None = None
    """As JSON, what its failed attempts came to."""

    @property
    def begins_slot(self) -> bool:
        """Whether it is the first row of its slot, by which that is counted."""
        return not self.revision


class Day(NamedTuple):
    """What an archive holds of a UTC day. `digest` is the sum of its rows' digests, in whatever order they come."""

    slots: int = 0
    events: int = 0
    quantity: Decimal = ZERO
    total: Decimal = ZERO
    digest: int = 0


def digest_of(text: str) -> int:
    """Return sixty bits of a hash of all that a row says, as the ledger makes them of its own.

    In the text, columns stand in the order of `Row`, with a space between: numbers without zeros at their end, instants in
    microseconds, a dash for nothing, and texts in quotes.
    """
    return int(md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16)


def month_of(instant: dt.datetime) -> dt.datetime:
    """Return when the UTC month of an instant begins."""
    return instant.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def later(month: dt.datetime, by: int) -> dt.datetime:
    """Return the beginning of a month so many months later, or earlier."""
    year, number = divmod(month.year * 12 + month.month - 1 + by, 12)
    return month.replace(year=year, month=number + 1)


def span_of(month: dt.datetime) -> Span:
    """Return a month from its beginning to the next one's."""
    return Span(month, later(month, 1))


def days_of(span: Span) -> Iterator[dt.datetime]:
    """Yield the beginnings of the UTC days of a span of whole days."""
    day = span.start
    while day < span.end:
        yield day
        day += dt.timedelta(days=1)


def closed(meter: str, until: dt.datetime) -> str:
    """Say that windows of a meter are asked for which are closed."""
    return (
        f"{meter} is archived up to {until:%Y-%m-%dT%H:%MZ}: nothing before that is read or billed any more. "
        "Begin there, or later."
    )


def closed_before(now: dt.datetime, keep: int) -> dt.datetime:
    """Return before when months are old enough: `keep` months are kept beside the one that runs now."""
    return later(month_of(now), -keep)
