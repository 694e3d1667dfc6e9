"""Meter usage: what Stripe holds of a customer for several meters by one call, and up to when. In preview at Stripe.

Rules
- It is a first look, and proves nothing: what differs is read again by event summaries, and only they are judged.
- An answer says by `refreshed_at` how fresh it is; who asks decides what that is worth.
- An answer that has more rows than it shows is not used, since no parameter is known that asks for the rest: the next
  calls name fewer meters.
- Only these calls name a preview version of the API. Who does not have the preview is told so in one sentence.
- What an answer says of the other meters is kept until they are asked for, once each and not for ever.

The names are those of release 2025-09-30.preview and later
(docs.stripe.com/changelog/clover/2025-09-30/update-meter-usage-fields,
docs.stripe.com/api/billing/analytics/meter-usage?api-version=2025-09-30.preview).
"""

import datetime as dt
import math
import threading
from array import array
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from aggregator.core.model import ZERO, Span, WriteModel
from aggregator.core.windows import DAY, floor, is_boundary
from aggregator.errors import NoOverview
from aggregator.runtime import clock
from aggregator.sinks.stripe.account import FORBIDDEN, GROUPINGS, NOT_FOUND, Account
from aggregator.sinks.stripe.responses import (
    KEY_CODES,
    Refusal,
    describe,
    is_missing_object,
    is_wrong_account,
)

PATH = "/v1/billing/analytics/meter_usage"

VERSION = "2026-09-30.preview"
"""docs.stripe.com/api/versioning; raised on purpose, together with the tests."""

BAD_REQUEST = 400

MOST_METERS = 100
"""So many meters are named in one call at most. Stripe states no limit; a longer address might be refused on the way."""

MOST_KEPT = 2_000_000
"""So many figures are kept for meters that are asked for later: sixteen megabytes of them, and the lists they are in."""

KEPT_SECONDS = 3600.0
"""How long an answer is kept for the other meters."""

ASK_AGAIN_SECONDS = 3600.0
"""How long an account that does not have the preview is left alone."""


class Usage(NamedTuple):
    """What one round of calls says: by meter of ours, how much in each step of the span; and up to when it is fresh."""

    span: Span
    step: dt.timedelta
    fresh_to: dt.datetime
    figures: dict[str, "array[float]"]
    calls: int = 0

    def of(self, meter: str, span: Span) -> dict[dt.datetime, Decimal]:
        """Return what it says of a meter within a part of its span, where that is not zero."""
        figures, first = self.figures[meter], (span.start - self.span.start) // self.step
        return {
            span.start + number * self.step: Decimal(repr(much))
            for number, much in enumerate(figures[first : first + (span.end - span.start) // self.step])
            if much
        }


class _Senseless(Exception):
    """An answer is not as Stripe documents it; the text says how."""


class UsageReader:
    """Asks one account. Used on the event loop of its sink."""

    def __init__(self, account: Account, monotonic: Callable[[], float]) -> None:
        self._account = account
        self._monotonic = monotonic
        self._most_rows: int | None = None
        """How many rows an answer has at most, as far as one was seen that had more to say."""
        self._refused: tuple[str, float] | None = None
        """Why the account does not answer, and since when."""

    async def read(
        self,
        meters: Sequence[str],
        customer: str,
        span: Span,
        step: dt.timedelta,
        turn_for_more: Callable[[], Awaitable[None]],
    ) -> Usage:
        """Ask for what a customer used of these meters of ours, whose first is the one that matters.

        `turn_for_more` lets each call but the first wait for its turn. Raises NoOverview if there is no such answer, and
        another SinkError if Stripe does not answer as it must.
        """
        self._refuse_if_known()
        try:
            return await self._read(meters, customer, span, step, turn_for_more)
        except _Senseless as error:
            raise self._refusal(str(error)) from error

    async def _read(
        self,
        meters: Sequence[str],
        customer: str,
        span: Span,
        step: dt.timedelta,
        turn_for_more: Callable[[], Awaitable[None]],
    ) -> Usage:
        wanted = await self._ids(meters)
        if not wanted:
            raise NoOverview(f"Stripe has no meter yet that {meters[0]} is counted by.")
        asked = span if self._most_rows is not None else _with_days_around(span, clock.utcnow())
        calls, left = 0, list(wanted)
        sums: dict[tuple[str, int], Decimal] = {}
        fresh_to: dt.datetime | None = None
        while left:
            some = left[: self._meters_at_once((asked.end - asked.start) // step)]
            if calls:
                await turn_for_more()
            calls += 1
            answer = await self._call(some, customer, asked, step)
            shown, whole = _rows(answer, set(some), asked, step)
            if not whole:
                self._learn(shown, some, (asked.end - asked.start) // step)
                asked, left, sums = span, list(wanted), {}
                continue
            for (
                meter_id,
                start,
                much,
            ) in shown:  # summed as decimals: event names of one meter add up to its digits
                place = wanted[meter_id], (start - asked.start) // step
                sums[place] = sums.get(place, ZERO) + Decimal(repr(much))
            refreshed = _refreshed_at(answer)
            fresh_to = refreshed if fresh_to is None else min(fresh_to, refreshed)
            del left[: len(some)]
        assert fresh_to is not None, "something was asked"
        figures = {meter: array("d", bytes(8 * ((asked.end - asked.start) // step))) for meter in meters}
        for (meter, number), sum_of in sums.items():
            figures[meter][number] = float(sum_of)
        return Usage(asked, step, fresh_to, figures, calls)

    def _meters_at_once(self, steps: int) -> int:
        """Return of how many meters one answer is surely whole, as far as is known. Raises NoOverview if of none."""
        if self._most_rows is None:
            return MOST_METERS
        if self._most_rows < steps:
            raise NoOverview(
                f"Stripe's answers on meter usage hold {self._most_rows} rows, and {steps} are asked for: event "
                "summaries are read instead."
            )
        return min(MOST_METERS, self._most_rows // steps)

    def _learn(self, shown: Sequence[object], some: Sequence[str], steps: int) -> None:
        """Remember that an answer has no room for more rows. Raises _Senseless if it can have none at all."""
        if not shown or len(shown) >= len(some) * steps:
            raise _Senseless(
                f"Stripe shows {len(shown)} rows of the usage of {len(some)} meters, and says there are more: that makes "
                "no sense. Take `totals_by: meter_usage` off the sink."
            )
        self._most_rows = min(len(shown), self._most_rows or len(shown))

    async def _ids(self, meters: Sequence[str]) -> dict[str, str]:
        """Return which of our meters each Stripe meter counts, by its id there; those of the first come first."""
        names = {name: meter for meter in meters for name in self._account.context.meters[meter].names}
        ids = await self._account.ids(names)
        return {ids[name]: meter for name, meter in names.items() if name in ids}

    async def _call(
        self, meter_ids: Sequence[str], customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[str, Any]:
        context = self._account.context
        start, end = (int(bound.timestamp()) for bound in span)
        try:
            answer = await context.client.api.raw_request_async(
                "get",
                PATH,
                customer=context.customer(customer),
                starts_at=start,
                ends_at=end,
                meters=[{"meter": each} for each in meter_ids],
                value_grouping_window=GROUPINGS[step],
                stripe_version=VERSION,
                **context.options,
            )
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self._refuse(error)
            self._account.fail_reading(error, customer)
        if not isinstance(answer.data, Mapping):
            raise _Senseless("Stripe's answer on meter usage is no object.")
        return answer.data

    def _refuse_if_known(self) -> None:
        """Raise NoOverview if the account was found not to have the preview a while ago."""
        if self._refused is not None:
            reason, since = self._refused
            if self._monotonic() - since < ASK_AGAIN_SECONDS:
                raise NoOverview(reason)
            self._refused = None

    def _refuse(self, error: Exception) -> None:
        """Raise NoOverview if an error says that the account does not have the preview.

        What Stripe answers to whom does not have it is not documented: any refusal of the call counts, unless it is about
        the key, the account or a customer.
        """
        failure = self._account.context.client.describe(error)
        if not isinstance(failure, Refusal) or failure.status not in (BAD_REQUEST, FORBIDDEN, NOT_FOUND):
            return
        if failure.code in KEY_CODES or is_wrong_account(failure) or not failure.readable:
            return
        if is_missing_object(failure) and "customer" in failure.message.lower():
            return
        said = f"Stripe does not give {self._account.context.name} meter usage: {describe(failure)}."
        raise self._refusal(f"{said} Ask Stripe for the preview.") from error

    def _refusal(self, said: str) -> NoOverview:
        """Leave the account alone for a while, and say why."""
        reason = f"{said} Event summaries are read instead; or take `totals_by: meter_usage` off the sink."
        self._refused = reason, self._monotonic()
        return NoOverview(reason)


class RememberedUsage:
    """What answers said of meters that were not asked for yet, by customer. Used by many threads."""

    def __init__(self, monotonic: Callable[[], float], most: int = MOST_KEPT) -> None:
        self._monotonic = monotonic
        self._most = most
        self._lock = threading.Lock()
        self._usages: dict[tuple[str, dt.timedelta], tuple[float, Usage]] = {}
        self._size = 0

    def keep(self, customer: str, usage: Usage, asked: str) -> None:
        """Keep what an answer says of all meters but the one that was asked for, if there is room."""
        others = {meter: figures for meter, figures in usage.figures.items() if meter != asked}
        now = self._monotonic()
        with self._lock:
            self._drop(customer, usage.step)
            self._expire(now)
            if others and self._size + _size(others) <= self._most:
                self._usages[customer, usage.step] = now, usage._replace(figures=others)
                self._size += _size(others)

    def take(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> tuple[Mapping[dt.datetime, Decimal], dt.datetime] | None:
        """Return what was kept of a meter, once, and up to when it is fresh; None if nothing was."""
        now = self._monotonic()
        with self._lock:
            since, usage = self._usages.get((customer, step), (now, None))
            if usage is None or meter not in usage.figures or now - since >= KEPT_SECONDS:
                return None
            if span.start < usage.span.start or span.end > usage.span.end:
                return None
            found = usage.of(meter, span)
            self._size -= len(usage.figures.pop(meter))
            if not usage.figures:
                self._drop(customer, step)
            return found, usage.fresh_to

    def _drop(self, customer: str, step: dt.timedelta) -> None:
        _, usage = self._usages.pop((customer, step), (0.0, None))
        self._size -= _size(usage.figures) if usage else 0

    def _expire(self, now: float) -> None:
        """Forget what was kept for long: the oldest stand first."""
        while self._usages:
            key, (since, _) = next(iter(self._usages.items()))
            if now - since < KEPT_SECONDS:
                return
            self._drop(*key)


def looked_up_together(first: str, meters: Mapping[str, Any]) -> list[str]:
    """Return the meters that are asked for beside one: all that totals can be compared of."""
    others = [
        name for name, meter in meters.items() if name != first and meter.write_model is not WriteModel.LAST
    ]
    return [first, *others]


def _with_days_around(span: Span, now: dt.datetime) -> Span:
    """Return a span with a day before and after it, but for days to come: it may be asked for of the other meters."""
    return Span(span.start - DAY, max(span.end, min(span.end + DAY, floor(now, DAY) + DAY)))


def _size(figures: Mapping[str, "array[float]"]) -> int:
    return sum(map(len, figures.values()))


def _refreshed_at(answer: Mapping[str, Any]) -> dt.datetime:
    """Return up to when an answer is fresh. Raises _Senseless if it does not say."""
    said = answer.get("refreshed_at")
    try:
        if isinstance(said, int):
            return dt.datetime.fromtimestamp(said, dt.UTC)
    except (OverflowError, OSError, ValueError):
        pass
    raise _Senseless(
        f"Stripe's answer on meter usage does not say how fresh it is: `refreshed_at` is {said!r}."
    )


def _rows(
    answer: Mapping[str, Any], meter_ids: set[str], span: Span, step: dt.timedelta
) -> tuple[list[tuple[str, dt.datetime, float]], bool]:
    """Return the rows of an answer (meter, start, quantity), and whether these are all. Raises _Senseless."""
    listed = answer.get("rows")
    if not isinstance(listed, Mapping) or not isinstance(listed.get("data"), list):
        raise _Senseless("Stripe's answer on meter usage has no list of rows.")
    if not isinstance(listed.get("has_more"), bool):
        raise _Senseless("Stripe's answer on meter usage does not say whether there are more rows.")
    rows = list(_read(listed["data"], span, step))
    seen = {(meter, start) for meter, start, _ in rows}
    if len(seen) < len(rows) or not {meter for meter, _, _ in rows} <= meter_ids:
        raise _Senseless("Stripe's answer on meter usage has a row twice, or one that was not asked for.")
    return rows, not listed["has_more"]


def _read(rows: Sequence[Any], span: Span, step: dt.timedelta) -> Iterator[tuple[str, dt.datetime, float]]:
    for row in rows:
        start, much, meter = (row.get(name) for name in ("starts_at", "value", "meter"))
        number = isinstance(much, int | float) and not isinstance(much, bool) and math.isfinite(much)
        if not isinstance(start, int) or not number or not isinstance(meter, str):
            raise _Senseless(f"Stripe's answer on meter usage has a row that makes no sense: {dict(row)}.")
        at = dt.datetime.fromtimestamp(start, dt.UTC)
        if at not in span or not is_boundary(at, step):
            raise _Senseless(f"Stripe's answer on meter usage has a row at {at}, which was not asked for.")
        yield meter, at, float(much)
