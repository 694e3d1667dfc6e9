"""Meter usage: what one customer has used of several meters at once, and how fresh that is.

From docs.stripe.com/api/billing/analytics/meter-usage, in preview at Stripe, with the names of release 2025-09-30.preview
(docs.stripe.com/changelog/clover/2025-09-30/update-meter-usage-fields): `starts_at` and `ends_at` lie on whole minutes,
`meters` names up to as many meters as the caller likes, each with filters and groups of its own, and the answer has
`refreshed_at` and a list of `rows`. Only an account that has the preview is answered, and only by a preview version.

Stripe leaves much of it open. Here: an answer shows what summaries showed at `refreshed_at`; rows come oldest first, and a
bucket without events has none; buckets are those of UTC, hours and days; grouped, the bounds lie on such; one answer has at
most `meter_usage_rows` rows, says `has_more` beyond that, and no parameter asks for the rest.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from aggregator.sandbox.errors import ApiError, invalid, unknown_route
from aggregator.sandbox.meters import WINDOW_SECONDS, Meter
from aggregator.sandbox.paging import Row
from aggregator.sandbox.request import Request
from aggregator.sandbox.series import Event, Sight
from aggregator.sandbox.settings import TIME_WINDOWS
from aggregator.sandbox.summaries import aggregate, require_aligned

PATH = "/v1/billing/analytics/meter_usage"

# The release that has today's names of parameters and fields.
SINCE = "2025-09-30"
PREVIEW = re.compile(r"(\d{4}-\d{2}-\d{2})\.preview")

# Nobody's limit: as many as a form may hold here.
MOST_KEYS = 100


class Wanted(NamedTuple):
    """One meter of a call: which of its events, and by which of its dimensions they are told apart."""

    meter: Meter
    filters: Mapping[str, Sequence[str]]
    groups: tuple[str, ...]

    def takes(self, event: Event) -> bool:
        """Say whether an event is meant."""
        extra = dict(event.extra)
        return all(extra.get(key) in values for key, values in self.filters.items())

    def group(self, event: Event) -> tuple[tuple[str, str], ...]:
        """Return the values by which it is told apart."""
        extra = dict(event.extra)
        return tuple((key, extra.get(key, "")) for key in self.groups)


def retrieve_meter_usage(request: Request) -> dict[str, object]:
    """GET /v1/billing/analytics/meter_usage."""
    _let_in(request)
    params, account, rules = request.params, request.account, request.rules
    params.only("customer", "starts_at", "ends_at", "meters", "timezone", "value_grouping_window")
    customer = params.required("customer")
    params.choice("timezone", ("UTC", "Etc/UTC"))
    grouping = params.choice("value_grouping_window", TIME_WINDOWS)
    step = None if grouping is None else WINDOW_SECONDS[grouping]
    start, end = params.required_integer("starts_at"), params.required_integer("ends_at")
    for name, bound in (("starts_at", start), ("ends_at", end)):
        require_aligned(name, bound, step or 60)
    if start >= end:
        raise invalid(f"ends_at must be after starts_at, but {end} is not after {start}.", "ends_at")
    sight = request.store.sight(account)
    sight = sight._replace(now=sight.now - rules.meter_usage_lag_seconds)
    rows = [
        row
        for wanted in _wanted(request)
        for row in _rows(request, wanted, customer, (start, end, step), sight)
    ]
    if not params.section("meters").names():
        rows = _together(rows)
    rows.sort(key=lambda row: int(str(row["starts_at"])))
    shown = rows[: rules.meter_usage_rows]
    return {
        "object": "billing.analytics.meter_usage",
        "livemode": account.livemode,
        "refreshed_at": int(sight.now),
        "rows": {
            "object": "list",
            "data": shown,
            "has_more": len(shown) < len(rows),
            "total": len(rows),
            "url": PATH,
        },
    }


def _let_in(request: Request) -> None:
    """Refuse whoever does not have the preview. What Stripe answers is not documented: the rules say."""
    version = PREVIEW.fullmatch(request.version)
    if request.rules.meter_usage and version and version[1] >= SINCE:
        return
    match request.rules.meter_usage_status:
        case 404:
            raise unknown_route("GET", PATH)
        case 403:
            raise ApiError(403, "This account does not have the preview of meter usage.", reason="no_preview")
        case status:
            raise ApiError(
                status, f"Invalid Stripe API version: {request.version or 'none'}.", reason="no_preview"
            )


def _wanted(request: Request) -> Iterator[Wanted]:
    """Yield the meters of a call; of one that names none, each that there is, of whose usage there is one row a bucket."""
    named = list(request.params.sections("meters"))
    if not named:
        yield from (Wanted(meter, {}, ()) for meter in request.account.meters.newest_first())
    for each in named:
        each.only("meter", "dimension_filters", "dimension_group_by_keys")
        meter = request.account.meters.get(each.required("meter"))
        filters = each.section("dimension_filters")
        keys = tuple(each.texts("dimension_group_by_keys", most=MOST_KEYS) or ())
        by_key = {key: filters.texts(key, most=MOST_KEYS) or [] for key in filters.names()}
        for key in (*keys, *by_key):
            if key not in meter.dimension_keys:
                raise invalid(f"Meter {meter.id} has no dimension {key}.", each.name_of("meter"))
        yield Wanted(meter, by_key, keys)


def _together(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each bucket, of all meters."""
    sums: dict[object, Row] = {}
    for row in rows:
        start = row["starts_at"]
        so_far = float(str(sums[start]["value"])) if start in sums else 0.0
        sums[start] = {
            **row,
            "id": f"mtrusgrow_{start}",
            "meter": None,
            "value": so_far + float(str(row["value"])),
        }
    return list(sums.values())


def _rows(
    request: Request, wanted: Wanted, customer: str, span: tuple[int, int, int | None], sight: Sight
) -> Iterator[Row]:
    start, end, step = span
    meter = wanted.meter
    buckets: dict[tuple[int, tuple[tuple[str, str], ...]], list[Event]] = {}
    for event in request.account.events.counting(meter, customer, sight):
        if start <= event.timestamp < end and wanted.takes(event):
            first = start if step is None else int(event.timestamp // step) * step
            buckets.setdefault((first, wanted.group(event)), []).append(event)
    whose = crc32(customer.encode())
    for (first, group), events in buckets.items():
        which = crc32(repr(group).encode())
        yield {
            "id": f"mtrusgrow_{meter.id.removeprefix('mtr_')}_{whose:08x}_{which:08x}_{first}",
            "object": "billing.analytics.meter_usage_row",
            "dimensions": dict(group) if group else None,
            "ends_at": end if step is None else first + step,
            "meter": meter.id,
            "starts_at": first,
            "value": float(aggregate(meter.formula, events, sight)),
        }
