"""What a page is asked for in its address: months, days, instants, pages of tables. What makes no sense is refused."""

import datetime as dt
from typing import NamedTuple

from aggregator.core.model import Span
from aggregator.core.usage import month, month_of
from aggregator.core.windows import DAY, floor
from aggregator.web.application import Refused
from aggregator.web.site import Asked

MOST_PAGES = 1_000


class Period(NamedTuple):
    """A month, how it is written, and its neighbours."""

    span: Span
    text: str
    before: str
    after: str | None

    @property
    def title(self) -> str:
        """Return its name."""
        return f"{self.span.start:%B %Y}"


def period_of(asked: Asked) -> Period:
    """Return the month that is asked for; without any, the present one."""
    text = asked.query.get("period", "")
    wrong = Refused(400, f"{text[:40]} is not a month; write 2026-11")
    try:
        span = month(text) if text else month_of(asked.now)
    except ValueError:
        raise wrong from None
    if not 2000 <= span.start.year < 3000:
        raise wrong
    before = month_of(span.start - DAY).start
    after = f"{span.end:%Y-%m}" if span.end <= asked.now else None
    return Period(span, f"{span.start:%Y-%m}", f"{before:%Y-%m}", after)


def day_of(asked: Asked) -> dt.datetime | None:
    """Return the day that is asked for, if any."""
    text = asked.query.get("day")
    if not text:
        return None
    return floor(instant_of(text), DAY)


def instant_of(text: str) -> dt.datetime:
    """Return the instant that is written so; without a zone it is read as UTC."""
    try:
        instant = dt.datetime.fromisoformat(text)
    except ValueError:
        raise Refused(400, f"{text[:40]} is not a time; write 2026-11-01T06:00Z") from None
    instant = instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant.astimezone(dt.UTC)
    if not 2000 <= instant.year < 3000:
        raise Refused(400, f"{text[:40]} lies outside the years 2000 to 2999")
    return instant


def number_of(asked: Asked) -> int:
    """Return which page of a long table is asked for."""
    text = asked.query.get("page", "1")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_PAGES):
        raise Refused(400, "that is no page of this table")
    return int(text)
