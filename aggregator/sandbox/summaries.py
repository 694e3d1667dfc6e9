"""Event summaries: what one customer has used of one meter between two times.

From docs.stripe.com/api/billing/meter-event-summary/list: the range is half-open, `[start_time, end_time)`, on whole
minutes; grouped by hour or day its bounds lie on UTC hours or days; the value is a float and only what is processed is
in it.

Stripe leaves some of it open. Here, unless the rules say otherwise: rows come newest first; a bucket without events has
no row; without grouping there is always exactly one row, 0 if nothing was used; a customer nobody has heard of used
nothing; and `last` is the event with the latest timestamp, of equal ones the one received last.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple, assert_never
from zlib import crc32

from aggregator.sandbox.errors import invalid
from aggregator.sandbox.events import Events
from aggregator.sandbox.form import Params
from aggregator.sandbox.meters import WINDOW_SECONDS, Meter
from aggregator.sandbox.paging import PARAMS as PAGING
from aggregator.sandbox.paging import Row, page
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.series import Event, Sight
from aggregator.sandbox.settings import TIME_WINDOWS, Formula
from aggregator.sandbox.values import total

# Six years of hours. A limit, so that a range from 1970 costs little; Stripe states none.
MAX_BUCKETS = 50_000


class Query(NamedTuple):
    """What a list call asks for; `step` is the length of a bucket in seconds, None for one row."""

    customer: str
    start: int
    end: int
    step: int | None


def list_summaries(
    events: Events, meter: Meter, params: Params, sight: Sight, rules: Rules
) -> dict[str, object]:
    """Return the page of summaries that the parameters ask for."""
    query = read_query(params)
    counting = events.counting(meter, query.customer, sight)
    within = [event for event in counting if query.start <= event.timestamp < query.end]
    buckets = {query.start: within} if query.step is None else _buckets(within, query.step)
    length = query.step or query.end - query.start
    if rules.summaries_empty_buckets:
        buckets = {start: [] for start in _starts(query, length)} | buckets
    rows = [
        _row(meter, query.customer, (start, start + length), aggregate(meter.formula, inside, sight))
        for start, inside in sorted(buckets.items(), reverse=not rules.summaries_oldest_first)
    ]
    return page(rows, params, f"/v1/billing/meters/{meter.id}/event_summaries")


def aggregate(formula: Formula, events: Sequence[Event], sight: Sight) -> Decimal:
    """Return the exact quantity these events make under the meter's formula; 0 for no events."""
    match formula:
        case "sum":
            return total(event.value for event in events if event.value is not None)
        case "count":
            return Decimal(len(events))
        case "last":
            return _last(events, sight)
        case _:
            assert_never(formula)


def _last(events: Sequence[Event], sight: Sight) -> Decimal:
    def order(event: Event) -> tuple[float, int]:
        return event.timestamp if sight.last_by == "timestamp" else 0, event.sequence

    newest = max(events, key=order, default=None)
    return Decimal(0) if newest is None or newest.value is None else newest.value


def read_query(params: Params) -> Query:
    """Read the parameters of a list call. Raise ApiError when they are malformed or misaligned."""
    params.only("customer", "start_time", "end_time", "value_grouping_window", *PAGING)
    customer = params.required("customer")
    start, end = params.required_integer("start_time"), params.required_integer("end_time")
    grouping = params.choice("value_grouping_window", TIME_WINDOWS)
    step = None if grouping is None else WINDOW_SECONDS[grouping]
    for name, bound in (("start_time", start), ("end_time", end)):
        require_aligned(name, bound, step or 60)
    if start >= end:
        raise invalid(f"end_time must be after start_time, but {end} is not after {start}.", "end_time")
    return Query(customer, start, end, step)


def require_aligned(name: str, bound: int, step: int) -> None:
    """Refuse a bound that does not lie on a whole step."""
    if bound % step:
        unit = {60: "minute", 3600: "UTC hour", 86400: "UTC day"}[step]
        message = f"{name} must lie on a whole {unit}, but {bound} is {bound % step} seconds past one."
        raise invalid(message, name, reason="misaligned")


def _starts(query: Query, length: int) -> range:
    starts = range(query.start, query.end, length)
    if len(starts) > MAX_BUCKETS:
        message = f"The range has {len(starts)} buckets; at most {MAX_BUCKETS} are shown with empty ones."
        raise invalid(message, "end_time")
    return starts


def _buckets(events: list[Event], step: int) -> dict[int, list[Event]]:
    buckets: dict[int, list[Event]] = {}
    for event in events:
        buckets.setdefault(int(event.timestamp // step) * step, []).append(event)
    return buckets


def _row(meter: Meter, customer: str, span: tuple[int, int], value: Decimal) -> Row:
    # The id says which row it is, so that a cursor means the same on every page.
    whose = crc32(customer.encode())
    start, end = span
    return {
        "id": f"mtrusg_{meter.id.removeprefix('mtr_')}_{whose:08x}_{start}_{end}",
        "object": "billing.meter_event_summary",
        "aggregated_value": float(value),
        "end_time": end,
        "livemode": meter.livemode,
        "meter": meter.id,
        "start_time": start,
    }
