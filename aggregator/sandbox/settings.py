"""What a sandbox is told: where to listen, which meters to make, which faults to inject; its rules are in `rules`.

`SandboxOptions` is fixed when the sandbox starts. `FaultSettings` are replaced whole while it runs, through
`/_sandbox/faults`; unknown names are refused, so that a misspelt fault cannot make a test pass.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from aggregator.sandbox.checks import (
    SECONDS_WANTED,
    Seconds,
    at_least_zero,
    is_count,
    is_names,
    is_seconds,
    refuse_unknown,
    require,
    with_pairs,
)
from aggregator.sandbox.rules import Rules

Formula = Literal["sum", "count", "last"]
TimeWindow = Literal["hour", "day"]

FORMULAS: tuple[Formula, ...] = ("sum", "count", "last")
TIME_WINDOWS: tuple[TimeWindow, ...] = ("hour", "day")

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
RATES = ("rate_limit_per_second", "stream_rate_limit_per_second", "connected_rate_limit_per_second")
CUSTOMER_SETS = ("only_customers", "refuse_customers", "reject_customers")


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
class FaultSettings:
    """What goes wrong, and how often. Those named in `PROBABILITIES` are chances from 0 to 1, those in `RANGES` seconds.

    `latency_seconds`: every request waits this long before it is processed; two numbers mean a range, here and below.
    `rate_limit_per_second`: 429 beyond this pace, for each account by itself; an event of a stream counts like any other.
    `stream_rate_limit_per_second`: a limit of its own for the stream's events; without it they share the one above.
    `stream_counts_requests`: to the limits a call of the stream is one, however many events it has.
    `connected_rate_limit_per_second`: instead of those above, for accounts that are named by a header.
    `retry_header`: what `stripe-should-retry` says on a 429.
    `error_before`, `drop_before`: a 500, or a closed connection, and nothing was processed.
    `error_after`, `drop_after`: the same, but the request was processed. A refusal is always answered.
    `late`: processed, and the answer leaves `late_seconds` later.
    `deliver_late`: a closed connection, and the request is processed `late_delivery_seconds` later by the sandbox's clock.
    `deliver_twice`: processed and answered, and processed once more, `late_delivery_seconds` later.
    `reject_later`: accepted, and found invalid `reject_after_seconds` later, with `reject_code` and `reject_message`.
    `reject_customers`: their events always are. `count_until_rejected`: until then they count; otherwise they never do.
    `black_hole`: no call is answered; if `black_hole_processes`, each is processed all the same.
    `only_customers`: if not empty, latency and chances touch the events of these customers alone.
    `refuse_customers`: their events always get a 400 with `refuse_message`; in a stream a report, as nothing else is there.
    `applies_to`: `events` touches only calls that bring meter events; `all` touches every call of Stripe's.
    `times`: after so many strikes of the chances the rest of the requests are spared.
    """

    latency_seconds: Seconds = 0.0
    rate_limit_per_second: float | None = None
    stream_rate_limit_per_second: float | None = None
    connected_rate_limit_per_second: float | None = None
    stream_counts_requests: bool = False
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
            require(at_least_zero(chance) and chance <= 1, name, "a chance from 0 to 1")
        for name in RANGES:
            require(is_seconds(getattr(self, name)), name, SECONDS_WANTED)
        for name in ("count_until_rejected", "black_hole", "black_hole_processes", "stream_counts_requests"):
            require(isinstance(getattr(self, name), bool), name, "true or false")
        for name in ("reject_code", "reject_message"):
            require(isinstance(getattr(self, name), str), name, "a text")
        require(at_least_zero(self.late_seconds), "late_seconds", "a number of seconds, 0 or more")
        for name in RATES:
            rate = getattr(self, name)
            require(rate is None or (at_least_zero(rate) and rate > 0), name, "above 0 or null")
        require(self.retry_header in {True, False, None}, "retry_header", "true, false or null")
        codes = {"rate_limit", "lock_timeout"}
        require(self.too_many_requests_code in codes, "too_many_requests_code", "rate_limit or lock_timeout")
        require(self.applies_to in {"events", "all"}, "applies_to", "events or all")
        require(self.times is None or is_count(self.times), "times", "a count, or null")

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


def read_faults(data: Mapping[str, Any]) -> FaultSettings:
    """Build fault settings from JSON. Raise ValueError for a name or a value that is not one."""
    refuse_unknown(data, FaultSettings)
    values = with_pairs(data, RANGES)
    for name in CUSTOMER_SETS:
        if name in values:
            require(is_names(values[name]), name, "a list of customer ids")
            values[name] = frozenset(values[name])
    return FaultSettings(**values)
