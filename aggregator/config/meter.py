"""A meter, as the file describes it; and the fingerprint of what decides its numbers.

A field comes after the fields it is compared with, so that each comparison is a validator of its own and one mistake does
not hide another.
"""

import datetime as dt
import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticKnownError

from aggregator.config.block import Block
from aggregator.config.deltas import Deltas, adds_up, goes_with_deltas, reads_windows
from aggregator.config.durations import parse_duration
from aggregator.config.guards import Guards
from aggregator.config.meter_events import MetronomeEvent, StripeEvent
from aggregator.config.query import (
    DELTA_PARAMETERS,
    PARAMETERS,
    final_query,
    normalised_query,
    sampling_query,
)
from aggregator.config.query_tests import QueryTests
from aggregator.config.revisits import Changed, by_windows
from aggregator.config.sampling import (
    NOT_BY_WINDOWS,
    ONE_NUMBER,
    READS,
    SAMPLES_ARE_KEPT,
    SHOWN,
    USE_EVERY,
    FirstValueOfCounters,
    KeepSamples,
    MissingOfGauges,
    ResetsOfCounters,
    SampleOfGauges,
    not_with_customers,
    not_with_samples,
    often_enough,
    sampling_of,
)
from aggregator.config.values import (
    Cron,
    DetailQuery,
    Duration,
    Instant,
    Share,
    SinceOrFor,
    WindowLength,
    at_least,
    at_most,
    check_boundary,
    refuse,
)
from aggregator.core.sampling import definition


class FedSink(Block):
    """A sink that a meter feeds, and on what terms."""

    sink: str = Field(description="The sink, by its name under `sinks:`.", examples=["stripe"])
    bill_from: Instant | None = Field(
        default=None,
        description=(
            "The start of the first window that this sink bills; it may lie in the past. Left out: the first window that "
            "was not read yet when the sink joined the meter."
        ),
        examples=["2026-12-01T00:00Z"],
    )
    bill_until: Instant | None = Field(
        default=None,
        description=(
            "Windows that begin at this time or later are not billed through this sink; corrections of earlier ones are. "
            "Left out: no end."
        ),
        examples=["2027-01-01T00:00Z"],
    )
    shadow: bool = Field(
        default=False,
        description="Plan and record every event for this sink, and send none: to compare it with another one.",
        examples=[True],
    )


def _by_name_or_in_full(entry: object) -> object:
    if isinstance(entry, str):
        return {"sink": entry}
    if isinstance(entry, dict | FedSink):
        return entry
    raise PydanticKnownError("string_type")


def _within_the_meter(fed: FedSink, info: ValidationInfo) -> FedSink:
    """Compare the bounds with the meter's windows, as far as those are known, and with each other."""
    window, start_at = info.data.get("window"), info.data.get("start_at")
    for key, bound in (("bill_from", fed.bill_from), ("bill_until", fed.bill_until)):
        if bound is not None and window is not None:
            check_boundary(bound, window, key)
        if bound is not None and start_at is not None and bound < start_at:
            raise refuse(
                "lies before `start_at`, and nothing before that is ever billed: move one of the two", key
            )
    if fed.bill_from is not None and fed.bill_until is not None and fed.bill_from >= fed.bill_until:
        raise refuse(
            "is not after `bill_from`, so that no window would be billed: correct one of the two",
            "bill_until",
        )
    return fed


def _some_and_once_each(feeds: tuple[FedSink, ...]) -> tuple[FedSink, ...]:
    if not feeds:
        raise refuse("must not be empty: name at least one")
    if len({fed.sink for fed in feeds}) < len(feeds):
        raise refuse("names the same sink twice: each event would be counted twice; name it once")
    return feeds


FedSinks = Annotated[
    tuple[Annotated[FedSink, BeforeValidator(_by_name_or_in_full), AfterValidator(_within_the_meter)], ...],
    Field(strict=False, json_schema_extra={"minItems": 1, "uniqueItems": True}),
    AfterValidator(_some_and_once_each),
]


MOST_DIMENSIONS = 10
"""More than any price depends on; each makes combinations of what there was before it."""

_OF_EVERY_QUERY = {"customer", "quantity", "at", "window", "cursor"}


def _columns_of_its_own(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name in _OF_EVERY_QUERY:
            raise refuse(f"names `{name}`, which says something else already: give that column another name")
    if len(set(names)) < len(names):
        raise refuse("names the same column twice: name it once")
    if len(names) > MOST_DIMENSIONS:
        raise refuse(
            f"names {len(names)} columns, and each makes an event of every value: {MOST_DIMENSIONS} at most"
        )
    return names


Dimension = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]

Dimensions = Annotated[
    tuple[Dimension, ...],
    Field(strict=False, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_columns_of_its_own),
]

EVENT_TIME_WINDOWS = {"hour": dt.timedelta(hours=1), "day": dt.timedelta(days=1)}


def _cancels_what_adds_up(event: StripeEvent, info: ValidationInfo) -> StripeEvent:
    if info.data.get("decreases") == "cancel" and (event.event_time_window or event.formula == "last"):
        raise refuse(
            "says that its events replace each other, and what comes back when Stripe cancels the newest is not documented: "
            "use `decreases: apply`, by which the lower total replaces the higher one"
        )
    return event


def _windows_hold_whole_ones(event: StripeEvent, info: ValidationInfo) -> StripeEvent:
    """Two of our windows in one of Stripe's would replace each other's total."""
    kept, window = event.event_time_window, info.data.get("window")
    if kept is not None and isinstance(window, dt.timedelta) and window % EVENT_TIME_WINDOWS[kept]:
        raise refuse(
            f"has `event_time_window: {kept}`, of which only the newest event counts, so several windows of this meter "
            f"would replace each other: use `window: {'1h' if kept == 'hour' else '1d'}`"
        )
    return event


def _adds_up_by_combination(event: StripeEvent, info: ValidationInfo) -> StripeEvent:
    """Of a customer, only the newest event counts there: that of one combination would take the place of another's."""
    if info.data.get("dimensions") and (event.event_time_window or event.formula == "last"):
        replaces = "event_time_window" if event.event_time_window else "formula: last"
        raise refuse(
            f"has `{replaces}`, by which a customer's newest event replaces the ones before it, and with `dimensions` there "
            "is one for each combination: use a Stripe meter that sums, or a meter for each value"
        )
    return event


def _shows_what_is_taken_back(decreases: str, info: ValidationInfo) -> str:
    """An event counts as taken back once the totals of its minute lack it; several that are taken back hide each other."""
    if decreases == "cancel" and info.data.get("dimensions"):
        raise refuse(
            "is `cancel`, and with `dimensions` a minute of a customer has several events, so that its total does not show "
            "which of them was taken back: use `hold` or `apply`"
        )
    return decreases


def _of_known_dimensions(event: StripeEvent, info: ValidationInfo) -> StripeEvent:
    """Let every dimension that is named be one, with a key of its own."""
    dimensions = info.data.get("dimensions", ())
    _named_in("dimension_keys", event.dimension_keys, dimensions)
    for each in event.event_names:
        _named_in("event_names", each.where, dimensions)
    keys = [
        event.customer_key,
        event.value_key,
        *(event.dimension_keys.get(each, each) for each in dimensions),
    ]
    _once_each("dimension_keys", keys)
    return event


def _of_known_properties(event: MetronomeEvent, info: ValidationInfo) -> MetronomeEvent:
    dimensions = info.data.get("dimensions", ())
    _named_in("dimension_properties", event.dimension_properties, dimensions)
    own = (event.dimension_properties.get(each, each) for each in dimensions)
    _once_each("dimension_properties", [event.quantity_property, *event.properties, *own])
    return event


def _named_in(key: str, named: dict[str, str], dimensions: tuple[str, ...]) -> None:
    for name in named:
        if name not in dimensions:
            raise refuse(f"names `{name}`, which is none of the meter's `dimensions`: name one of them", key)


def _once_each(key: str, keys: list[str]) -> None:
    for each in keys:
        if keys.count(each) > 1:
            raise refuse(f"leaves two things under the key `{each}`: give each dimension one of its own", key)


def _on_a_boundary(start_at: Instant, info: ValidationInfo) -> Instant:
    if "window" in info.data:
        check_boundary(start_at, info.data["window"])
    return start_at


def _bound_as_it_is_read(query: str, info: ValidationInfo) -> str:
    read = info.data.get("read", "windows")
    try:
        if read in READS:
            return sampling_query(query, read)
        return final_query(query, DELTA_PARAMETERS if read == "deltas" else PARAMETERS)
    except ValueError as error:
        raise refuse(str(error)) from None


def _not_with_every(cron: str, info: ValidationInfo) -> str:
    if info.data.get("every") is not None:
        raise refuse("and `every` are both given: keep the one that says when to read")
    return cron


def _named_after_meter(event: StripeEvent, info: ValidationInfo) -> StripeEvent:
    return event if event.event_name else event.model_copy(update={"event_name": info.data.get("name", "")})


def _typed_after_meter(event: MetronomeEvent, info: ValidationInfo) -> MetronomeEvent:
    return event if event.event_type else event.model_copy(update={"event_type": info.data.get("name", "")})


class Meter(Block):
    """One billable thing: a source, a query, a window length, the sinks it feeds."""

    name: str = Field(
        description="The meter's name in `meters:`; not a key of its own.", examples=["api_requests"]
    )
    description: str | None = Field(
        default=None,
        description="What is counted, for people.",
        examples=["Requests to the public API."],
    )
    renamed_from: str | None = Field(
        default=None,
        min_length=1,
        description=(
            "What this meter was called before. It keeps its mark, its corrections and its identifiers. You may leave "
            "this in the file for good."
        ),
        examples=["requests"],
    )
    source: str = Field(
        description="The source the query runs on, by its name under `sources:`.", examples=["app"]
    )
    customers: str | None = Field(
        default=None,
        min_length=1,
        description=(
            "The mapping, by its name under `customers:`, that turns the keys which the query "
            "returns as `customer` into billing customers. Left out: the query returns billing "
            "customers."
        ),
        examples=["accounts"],
    )
    read: Annotated[
        Literal["windows", "deltas", "counters", "gauges"], AfterValidator(not_with_customers)
    ] = Field(
        default="windows",
        description=(
            "How the source is read. `windows`: the query gives the whole of each window asked for. `deltas`: it gives the "
            "rows after a cursor, each of them once, and they are added to their windows; then `deltas` says how. "
            "`counters`: it gives counters that only grow, whose increases are billed. `gauges`: it gives what there is "
            "now, such as seats, and is sampled."
        ),
        examples=["windows"],
    )
    deltas: Annotated[Deltas | None, AfterValidator(goes_with_deltas)] = Field(
        default=None,
        validate_default=True,
        description="How a meter is read by a cursor, with `read: deltas`.",
        examples=[
            {
                "start_after": 0,
                "upto_query": (
                    "select max(id) from (select id from usage where id > :after order by id limit 100000) as next"
                ),
            }
        ],
    )
    resets: ResetsOfCounters = None
    first_value: FirstValueOfCounters = None
    sample: SampleOfGauges = None
    missing: MissingOfGauges = None
    keep_samples: KeepSamples = None
    query_text: Annotated[str, AfterValidator(_bound_as_it_is_read)] = Field(
        alias="query",
        description=(
            "One select that gives `customer` and `quantity`, and optionally `at` and `window`, for the rows "
            "from `:start` to before `:end`. With `read: deltas`, it gives `cursor` as well, and `at` or `window`, for the "
            "rows after `:after` and up to `:upto`. Of a meter that is sampled, it gives what is there now, and of counters "
            "`series` if a customer has several. `${...}` is not replaced in here."
        ),
        examples=[
            "select customer, count(*) as quantity from usage where at >= :start and at < :end group by 1"
        ],
    )
    query_file: Annotated[Path, Field(strict=False)] | None = Field(
        default=None,
        description="File that holds the query, instead of `query`; relative to this file.",
        examples=["queries/api_requests.sql"],
    )
    detail_query: Annotated[DetailQuery | None, AfterValidator(not_with_samples(SHOWN))] = Field(
        default=None,
        description=(
            "One select that returns the single rows that `:customer` used from `:start` to before "
            "`:end`, with whichever columns help to explain a bill. Only `aggregator explain` runs "
            "it; it has no effect on what is billed."
        ),
        examples=[
            "select id, path, at from usage where customer = :customer and at >= :start and at < :end order by at"
        ],
    )
    window: WindowLength = Field(
        description="How long a window is; one event per customer and window. Divides a day; from 1m to 1d.",
        examples=["1h"],
    )
    dimensions: Annotated[Dimensions, AfterValidator(not_with_samples(ONE_NUMBER))] = Field(
        default=(),
        description=(
            "More columns of the query that split usage, such as model or region: one event per "
            "customer, window and combination of their values. Names in lower case. A change "
            "applies to windows that were not read yet."
        ),
        examples=[["model", "token_type"]],
    )
    max_combinations: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description=(
            "How many combinations of the dimensions' values there may be. If a reading has more, "
            "it is refused before anything is planned, and the message names the column that has "
            "too many values."
        ),
        examples=[1000],
    )
    tests: Annotated[
        QueryTests,
        reads_windows("tests", "whose query is asked for a stretch of cursors and not for windows"),
    ] = Field(
        default=(),
        description=(
            "Tests of the query, run by `aggregator test`: rows for its tables, and the usage that "
            "it should return for them."
        ),
        examples=[
            [
                {
                    "name": "each request counts once",
                    "rows": {"usage": [{"customer": "cus_1", "at": "2026-11-01T10:20Z"}]},
                    "usage": [{"customer": "cus_1", "window": "2026-11-01T10:00Z", "quantity": 1}],
                }
            ]
        ],
    )
    start_at: Annotated[Instant, AfterValidator(_on_a_boundary)] = Field(
        description="The start of the first window. Nothing before it is ever billed, so it has no default.",
        examples=["2026-11-01T00:00Z"],
    )
    feeds: FedSinks = Field(
        alias="sinks",
        description=(
            "The sinks that its events go to, by their names under `sinks:`. For a sink that bills "
            "only part of the time, or that you are trying out: a mapping of `sink`, `bill_from`, "
            "`bill_until` and `shadow`."
        ),
        examples=[["stripe"]],
    )
    delay: Annotated[Duration, at_most("34d", "Stripe refuses usage older than 35 days")] = Field(
        default=parse_duration("5m"),
        description="How long after its end a window is first read, so that late rows are in.",
        examples=["5m"],
    )
    revisit: Annotated[Duration, at_most("35d", "Stripe refuses usage older than that")] = Field(
        default=parse_duration("35d"),
        description=(
            "How far back billed windows are read again, for rows that came late or changed: two hours back in every "
            "pass, two days every hour, all of it every day."
        ),
        examples=["35d"],
    )
    changed: Annotated[Changed | None, AfterValidator(by_windows)] = Field(
        default=None,
        description=(
            "How the source says which windows were touched. Then only those are read again, once "
            "an hour. The last two hours are still read in every pass. Left out: old windows are "
            "read again by the calendar."
        ),
        examples=[
            {
                "query": "select distinct date_trunc('hour', used_at) as window from usage where updated_at >= :since",
                "lag": "15m",
            }
        ],
    )
    data_retained_from: Annotated[SinceOrFor | None, AfterValidator(not_with_samples(SAMPLES_ARE_KEPT))] = (
        Field(
            default=None,
            description=(
                "From which time on, or for how long, the source keeps its rows. Older windows are "
                "never read again, so that rows "
                "which retention removed are not taken for usage that was taken back."
            ),
            examples=["90d"],
        )
    )
    shrink_guard: Share = Field(
        default=Decimal("0.2"),
        json_schema_extra={"default": "20%"},
        description=(
            "A window that loses more than this share of its usage between two reads, or all of it, is lowered only once "
            "another read confirms it."
        ),
        examples=["20%"],
    )
    guards: Guards = Field(
        default=Guards(),
        description=(
            "Limits: increases beyond them are held until a person has looked at them, and all others go out."
        ),
        examples=[{"max_per_customer_window": 100000, "max_change": "10x", "unusual_from": 1000}],
    )
    split: Annotated[
        Annotated[Duration, at_least("1m")] | None,
        reads_windows("split", "where the limit of `upto_query` says how much is read at once"),
        AfterValidator(not_with_samples(NOT_BY_WINDOWS)),
    ] = Field(
        default=None,
        description=(
            "If a whole window takes too long, the query is run for parts of it, down to this "
            "length. Only for a query that counts or sums, because the parts are added up. Left "
            "out: the window is skipped, and tried again later."
        ),
        examples=["1m"],
    )
    every: Annotated[Annotated[Duration, at_least("1s")] | None, AfterValidator(often_enough)] = Field(
        default=None,
        description=(
            "How often to look for due windows, and to sample counters or gauges. Left out: a quarter of the window, 5s "
            "to 5m. Not with `cron`."
        ),
        examples=["5m"],
    )
    cron: Annotated[
        Annotated[Cron, AfterValidator(_not_with_every)] | None, AfterValidator(not_with_samples(USE_EVERY))
    ] = Field(
        default=None,
        description=(
            "When to look for windows that are due, in UTC: five cron fields as in a crontab (weekday 0 and 7 are Sunday), "
            "or a macro such as `@hourly`. Not with `every`."
        ),
        examples=["*/5 * * * *"],
    )
    decimals: int = Field(
        default=0,
        ge=0,
        le=12,
        description="How many decimal places are billed; what is smaller is carried to the next window.",
        examples=[0],
    )
    decreases: Annotated[Literal["hold", "apply", "cancel"], AfterValidator(_shows_what_is_taken_back)] = (
        Field(
            default="hold",
            description=(
                "What happens to a correction that lowers a bill: `hold` it for a person, `apply` it, or have Stripe "
                "`cancel` the event that it corrects, and bill the lower total anew. If Stripe cannot cancel it any more, "
                "it is held."
            ),
            examples=["hold"],
        )
    )
    stripe: Annotated[
        StripeEvent,
        AfterValidator(_named_after_meter),
        AfterValidator(_windows_hold_whole_ones),
        AfterValidator(_adds_up_by_combination),
        AfterValidator(_of_known_dimensions),
        AfterValidator(_cancels_what_adds_up),
        AfterValidator(adds_up),
    ] = Field(
        default=StripeEvent(),
        validate_default=True,
        description="What the events look like to Stripe sinks.",
        examples=[{"event_name": "api_requests"}],
    )
    metronome: Annotated[
        MetronomeEvent, AfterValidator(_typed_after_meter), AfterValidator(_of_known_properties)
    ] = Field(
        default=MetronomeEvent(),
        validate_default=True,
        description="What the events look like to Metronome sinks.",
        examples=[{"event_type": "api_requests"}],
    )

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names of the sinks its events go to."""
        return tuple(fed.sink for fed in self.feeds)


def fingerprint(meter: Meter) -> str:
    """Return a SHA-256, in hex, of what decides a meter's numbers: where it differs, history may too."""
    sampling = sampling_of(meter)
    text = meter.query_text if sampling is None else definition(sampling.reads, sampling.query)
    defining: list[object] = [
        normalised_query(text),
        int(meter.window.total_seconds()),
        meter.read,
        meter.decimals,
        *([meter.customers] if meter.customers else ()),
    ]
    if meter.dimensions:
        defining.append(sorted(meter.dimensions))
    return hashlib.sha256(json.dumps(defining).encode()).hexdigest()
