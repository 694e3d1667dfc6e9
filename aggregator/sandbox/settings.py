"""What a sandbox is told: where to listen, which meters to make, which rules to keep, which faults to inject.

`SandboxOptions` is fixed when the sandbox starts. `Rules` and `FaultSettings` are replaced whole while it runs, through
`/_sandbox/rules` and `/_sandbox/faults`; unknown names are refused, so that a misspelt fault cannot make a test pass.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Formula = Literal["sum", "count", "last"]
TimeWindow = Literal["hour", "day"]

FORMULAS: tuple[Formula, ...] = ("sum", "count", "last")
TIME_WINDOWS: tuple[TimeWindow, ...] = ("hour", "day")

# Stripe promises at least 24 hours (docs.stripe.com/api/billing/meter-event/create). The sandbox forgets exactly
# then, because the harm of a resend after the promise has run out must be possible to see.
IDENTIFIER_MEMORY_SECONDS = 24 * 3600.0

# docs.stripe.com/api/v2/core/events/event-types shows reports over ten seconds each.
REPORT_WINDOW_SECONDS = 10.0
REPORT_SAMPLES = 5

PROBABILITIES = (
    "too_many_requests",
    "error_before",
    "error_after",
    "drop_before",
    "drop_after",
    "late",
    "deliver_late",
    "deliver_twice",
    "reject_later",
)
RANGES = ("latency_seconds", "late_delivery_seconds", "reject_after_seconds")
CUSTOMER_SETS = ("only_customers", "refuse_customers", "reject_customers")

# Seconds: a number, or the least and the most of a range.
Seconds = float | tuple[float, float]
SECONDS_WANTED = "a number of seconds, 0 or more, or [least, most]"


@dataclass(frozen=True)
class MeterSpec:
    """A meter to make at start, in test mode and in live mode."""

    event_name: str
    formula: Formula = "sum"
    window: TimeWindow | None = None


def parse_meter(text: str) -> MeterSpec:
    """Read `event_name:formula[:window]`, such as `stored_gb:sum:hour`. Raise ValueError if it is not that."""
    name, *rest = text.split(":")
    formula = next((known for known in FORMULAS if rest[:1] == [known]), None)
    window = next((known for known in TIME_WINDOWS if rest[1:2] == [known]), None)
    if not name or formula is None or len(rest) > 2 or (len(rest) == 2 and window is None):
        raise ValueError(
            f"{text!r} is not a meter. Write event_name:formula or event_name:formula:window; "
            f"the formula is one of {', '.join(FORMULAS)}, the window one of {', '.join(TIME_WINDOWS)}."
        )
    return MeterSpec(name, formula, window)


@dataclass(frozen=True)
class Rules:
    """How strict the sandbox is where Stripe's behaviour is settable or not documented.

    `strict_customers`: only customers that were created exist. Otherwise any `cus_...` or `acct_...` does.
    `sync_customer_errors`: an unknown or missing customer is a 400. Otherwise a 200 which never counts.
    `sync_value_errors`: an unreadable or missing value is a 400. Otherwise a 200 which never counts.
    `processing_delay_seconds`: from receipt until an event shows in summaries; two numbers mean a range.
    `rejected_identifier_used`: an event that was found invalid keeps its identifier. Otherwise it may be used again.
    `report_window_seconds`: a report tells what was found within so long, and is there when that time is over; with 0
    each event has a report of its own, at once.
    `report_samples`: of each kind of error a report names at most so many events; it counts them all.
    """

    strict_customers: bool = False
    sync_customer_errors: bool = False
    sync_value_errors: bool = False
    identifier_memory_seconds: float = IDENTIFIER_MEMORY_SECONDS
    processing_delay_seconds: Seconds = 0.0
    rejected_identifier_used: bool = True
    report_window_seconds: float = REPORT_WINDOW_SECONDS
    report_samples: int = REPORT_SAMPLES

    def __post_init__(self) -> None:
        for name in (
            "strict_customers",
            "sync_customer_errors",
            "sync_value_errors",
            "rejected_identifier_used",
        ):
            _require(isinstance(getattr(self, name), bool), name, "true or false")
        for name in ("identifier_memory_seconds", "report_window_seconds"):
            _require(_at_least_zero(getattr(self, name)), name, "a number of seconds, 0 or more")
        _require(_is_seconds(self.processing_delay_seconds), "processing_delay_seconds", SECONDS_WANTED)
        _require(_is_count(self.report_samples), "report_samples", "a count")


@dataclass(frozen=True)
class FaultSettings:
    """What goes wrong, and how often. Those named in `PROBABILITIES` are chances from 0 to 1, those in `RANGES` seconds.

    `latency_seconds`: every request waits this long before it is processed; two numbers mean a range, here and below.
    `rate_limit_per_second`: 429 beyond this pace. `retry_header`: what `stripe-should-retry` says on a 429.
    `error_before`, `drop_before`: a 500, or a closed connection, and nothing was processed.
    `error_after`, `drop_after`: the same, but the request was processed. A refusal is always answered.
    `late`: processed, and the answer leaves `late_seconds` later.
    `deliver_late`: a closed connection, and the request is processed `late_delivery_seconds` later by the sandbox's clock.
    `deliver_twice`: processed and answered, and processed once more, `late_delivery_seconds` later.
    `reject_later`: accepted, and found invalid `reject_after_seconds` later, with `reject_code` and `reject_message`.
    `reject_customers`: their events always are. `count_until_rejected`: until then they count; otherwise they never do.
    `black_hole`: no call is answered; if `black_hole_processes`, each is processed all the same.
    `only_customers`: if not empty, latency and chances touch the events of these customers alone.
    `refuse_customers`: their events always get a 400 with `refuse_message`.
    `applies_to`: `events` touches only meter events; `all` touches every `/v1` call.
    `times`: after so many strikes of the chances the rest of the requests are spared.
    """

    latency_seconds: Seconds = 0.0
    rate_limit_per_second: float | None = None
    retry_header: bool | None = None
    too_many_requests_code: Literal["rate_limit", "lock_timeout"] = "rate_limit"
    too_many_requests: float = 0.0
    error_before: float = 0.0
    error_after: float = 0.0
    drop_before: float = 0.0
    drop_after: float = 0.0
    late: float = 0.0
    late_seconds: float = 0.0
    deliver_late: float = 0.0
    deliver_twice: float = 0.0
    late_delivery_seconds: Seconds = 0.0
    reject_later: float = 0.0
    reject_after_seconds: Seconds = 0.0
    reject_code: str = "meter_event_customer_not_found"
    reject_message: str = "This event is found invalid by a fault setting of the sandbox."
    reject_customers: frozenset[str] = frozenset()
    count_until_rejected: bool = True
    black_hole: bool = False
    black_hole_processes: bool = False
    only_customers: frozenset[str] = frozenset()
    refuse_customers: frozenset[str] = frozenset()
    refuse_message: str = "This customer's events are refused by a fault setting of the sandbox."
    applies_to: Literal["events", "all"] = "events"
    times: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            chance = getattr(self, name)
            _require(_at_least_zero(chance) and chance <= 1, name, "a chance from 0 to 1")
        for name in RANGES:
            _require(_is_seconds(getattr(self, name)), name, SECONDS_WANTED)
        for name in ("count_until_rejected", "black_hole", "black_hole_processes"):
            _require(isinstance(getattr(self, name), bool), name, "true or false")
        for name in ("reject_code", "reject_message"):
            _require(isinstance(getattr(self, name), str), name, "a text")
        _require(_at_least_zero(self.late_seconds), "late_seconds", "a number of seconds, 0 or more")
        rate = self.rate_limit_per_second
        _require(
            rate is None or (_at_least_zero(rate) and rate > 0), "rate_limit_per_second", "above 0 or null"
        )
        _require(self.retry_header in {True, False, None}, "retry_header", "true, false or null")
        codes = {"rate_limit", "lock_timeout"}
        _require(self.too_many_requests_code in codes, "too_many_requests_code", "rate_limit or lock_timeout")
        _require(self.applies_to in {"events", "all"}, "applies_to", "events or all")
        _require(self.times is None or _is_count(self.times), "times", "a count, or null")

    def json(self) -> dict[str, object]:
        """Return the settings as `/_sandbox/faults` shows and takes them."""
        shown = asdict(self)
        for name in CUSTOMER_SETS:
            shown[name] = sorted(shown[name])
        return shown


@dataclass(frozen=True)
class SandboxOptions:
    """Everything a sandbox is started with. Port 0 takes a free port; no `state` keeps everything in memory."""

    host: str = "127.0.0.1"
    port: int = 0
    meters: tuple[MeterSpec, ...] = ()
    state: Path | None = None
    account: str = "acct_sandbox"
    rules: Rules = field(default_factory=Rules)
    faults: FaultSettings = field(default_factory=FaultSettings)
    # Saved answers kept per account and mode; the oldest go first. About 0.6 GB when full.
    idempotency_limit: int = 1_000_000


def read_rules(data: Mapping[str, Any]) -> Rules:
    """Build rules from JSON. Raise ValueError for a name or a value that is not one."""
    _refuse_unknown(data, Rules)
    return Rules(**_with_pairs(data))


def read_faults(data: Mapping[str, Any]) -> FaultSettings:
    """Build fault settings from JSON. Raise ValueError for a name or a value that is not one."""
    _refuse_unknown(data, FaultSettings)
    values = _with_pairs(data)
    for name in CUSTOMER_SETS:
        if name in values:
            _require(_is_names(values[name]), name, "a list of customer ids")
            values[name] = frozenset(values[name])
    return FaultSettings(**values)


def _with_pairs(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data with `[least, most]` as a pair, as ranges have it."""
    pairs = {*RANGES, "processing_delay_seconds"}
    return {
        name: tuple(value) if name in pairs and isinstance(value, list) else value
        for name, value in data.items()
    }


def _refuse_unknown(data: Mapping[str, Any], kind: type[Rules | FaultSettings]) -> None:
    known = [each.name for each in fields(kind)]
    unknown = [name for name in data if name not in known]
    if unknown:
        raise ValueError(f"Unknown: {', '.join(unknown)}. Known: {', '.join(known)}.")


def _require(holds: object, name: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}.")


def _at_least_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _at_least_zero(value)


def _is_seconds(value: object) -> bool:
    if not isinstance(value, tuple):
        return _at_least_zero(value)
    return len(value) == 2 and all(map(_at_least_zero, value)) and value[0] <= value[1]


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple | frozenset) and all(isinstance(each, str) for each in value)
