"""The sinks that `test_every_sink` puts through the same trials: each a `Case`, and a line in `CASES`."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from aggregator.core.model import Answer, Encoding, Event, WriteModel
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox
from aggregator.sinks.protocol import Sink
from aggregator.sinks.stripe import StripeMeter, StripeSink
from aggregator.sinks.stripe.account_context import Addresses
from aggregator.sinks.stripe.limits import Rates, Transport
from tests.contract.metronome_case import MetronomeCase
from tests.fakes import LIMITS, FakeSink

KEY = "sk_test_0123456789abcdefghij"
HOUR_AGO = utcnow().replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=1)

METERS = (MeterSpec("api_requests"), MeterSpec("stored_gb", "sum", "hour"))
"""What the sandbox has."""


class Fault(StrEnum):
    """What may go wrong with a request on its way, by what became of its events."""

    DROPPED_BEFORE = "the connection broke, and nothing was done"
    DROPPED_AFTER = "the connection broke after it was done"
    ERROR_BEFORE = "a server error, and nothing was done"
    ERROR_AFTER = "a server error after it was done"
    TOO_MANY = "turned away: too many requests"
    EXPIRED = "what it was allowed by has expired"


class Case(Protocol):
    """One sink, and the far side that it talks to."""

    tells_duplicates: bool
    """Whether it says of an identifier that it has it already. One that does not counts it once all the same."""

    @property
    def sink(self) -> Sink: ...
    @property
    def secret(self) -> str:
        """What no message may hold."""
        ...

    def customer(self, name: str) -> str:
        """Return what the query would call a customer."""
        ...

    def booked(self) -> dict[str, Decimal]:
        """Return what the far side has of each customer, zeros left out, by the names that were given."""
        ...

    def strike(self, fault: Fault, customer: str) -> None:
        """Let it go wrong once, for the request that a customer's event is in."""
        ...

    def refuse(self, customer: str) -> None:
        """Have a customer's events found invalid."""
        ...

    def halt(self, how: str) -> None:
        """Have the sink refused as a whole."""
        ...

    def relent(self) -> None:
        """Have it refused no more."""
        ...


class Stage(NamedTuple):
    """What a case may use."""

    sandbox: RunningSandbox
    directory: Path


class FakeCase:
    """The sink in memory that other tests use."""

    secret = "sk_none"
    tells_duplicates = True

    def __init__(self) -> None:
        self.sink = FakeSink("fake", LIMITS)

    def customer(self, name: str) -> str:
        return name

    def booked(self) -> dict[str, Decimal]:
        return {customer: much for (_, customer), much in self.sink.booked.items() if much}

    def strike(self, fault: Fault, customer: str) -> None:
        left = [fault]

        def strikes(event: Event, *, after: bool) -> bool:
            due = event.customer == customer and bool(left) and (fault is Fault.DROPPED_AFTER) == after
            return due and bool(left.pop())

        answer = Answer.BUSY if fault is Fault.TOO_MANY else Answer.UNKNOWN
        self.sink.fault = lambda event: answer if strikes(event, after=False) else None
        self.sink.lost_after_booking = partial(strikes, after=True)

    def refuse(self, customer: str) -> None:
        self.sink.refused.add(customer)

    def halt(self, how: str) -> None:
        self.sink.halted = "told to halt"

    def relent(self) -> None:
        self.sink.halted = None


class StripeCase:
    """The Stripe sink over a sandbox, by one of its ways."""

    secret = KEY
    CHANCES: Mapping[Fault, str] = {
        Fault.DROPPED_BEFORE: "drop_before",
        Fault.DROPPED_AFTER: "drop_after",
        Fault.ERROR_BEFORE: "error_before",
        Fault.ERROR_AFTER: "error_after",
        Fault.TOO_MANY: "too_many_requests",
    }

    def __init__(
        self, sandbox: RunningSandbox, transport: Transport, meter: StripeMeter, account: str | None = None
    ) -> None:
        self.tells_duplicates = transport != "stream"
        self._sandbox = sandbox
        self._meter = meter
        self._account = account
        self.sink = StripeSink(
            "stripe",
            api_key=KEY,
            mode="test",
            api_base=sandbox.url,
            rates=Rates(1_000.0, 10_000.0, stream_by_event=True),
            timeout=dt.timedelta(seconds=20),
            max_in_flight=16,
            meters={"api": meter},
            transport=transport,
            addresses=Addresses(by_customer=account is not None),
        )

    def customer(self, name: str) -> str:
        return f"{self._account}/{name}" if self._account else name

    def booked(self) -> dict[str, Decimal]:
        totals = self._sandbox.totals(self._meter.event_name, account=self._account)
        return {self.customer(customer): much for customer, much in totals.items() if much}

    def strike(self, fault: Fault, customer: str) -> None:
        if fault is Fault.EXPIRED:
            self._sandbox.control("POST", "clock", {"offset_seconds": 16 * 60})
        else:
            who = customer.rpartition("/")[2]
            self._sandbox.set_faults(**{self.CHANCES[fault]: 1.0}, only_customers=[who], times=1)

    def refuse(self, customer: str) -> None:
        who = customer.rpartition("/")[2]
        if self.sink.limits.answers:
            self._sandbox.set_faults(refuse_customers=[who])
        else:
            self._sandbox.set_faults(reject_customers=[who], count_until_rejected=False)

    def halt(self, how: str) -> None:
        if how == "401":
            self._sandbox.set_keys(revoked=[KEY])
        else:
            self._sandbox.set_keys(restricted=[KEY])

    def relent(self) -> None:
        self._sandbox.set_keys()


@contextmanager
def _fake(stage: Stage) -> Iterator[Case]:
    yield FakeCase()


@contextmanager
def _stripe(
    stage: Stage,
    transport: Transport = "v1",
    event_name: str = "api_requests",
    account: str | None = None,
) -> Iterator[Case]:
    hourly = event_name == "stored_gb"
    meter = StripeMeter(event_name=event_name, event_time_window="hour" if hourly else None)
    stage.sandbox.reset()
    if account:
        stage.sandbox.set_connected(account)
    case = StripeCase(stage.sandbox, transport, meter, account)
    try:
        yield case
    finally:
        case.sink.close()


class _Metronome(MetronomeCase):
    """The same, by the trials' own names for what goes wrong."""

    def strike(self, fault: Fault, customer: str) -> None:  # type: ignore[override]  # the names are the enum's
        super().strike(fault.name, customer)

    def halt(self, how: str) -> None:
        self.halts[how]()


@contextmanager
def _metronome(stage: Stage, encoding: Encoding) -> Iterator[Case]:
    case = _Metronome(stage.sandbox.url, encoding)
    try:
        yield case
    finally:
        case.sink.close()


class Entry(NamedTuple):
    """A sink in the suite: how its case is put up, what can go wrong there, and by what it can be halted."""

    put_up: Callable[[Stage], AbstractContextManager[Case]]
    faults: frozenset[Fault]
    halts: tuple[str, ...]


CALLS = frozenset(set(Fault) - {Fault.EXPIRED})
KEYS = ("401", "403")

CASES = {
    "fake": Entry(
        _fake, frozenset({Fault.DROPPED_BEFORE, Fault.DROPPED_AFTER, Fault.TOO_MANY}), ("refused",)
    ),
    "stripe v1": Entry(partial(_stripe, transport="v1"), CALLS, KEYS),
    "stripe v2": Entry(partial(_stripe, transport="v2"), CALLS, KEYS),
    "stripe stream": Entry(partial(_stripe, transport="stream"), frozenset(Fault), KEYS),
    "stripe auto": Entry(partial(_stripe, transport="auto"), CALLS, KEYS),
    "overwrite": Entry(partial(_stripe, event_name="stored_gb"), CALLS, KEYS),
    "overwrite by stream": Entry(
        partial(_stripe, transport="stream", event_name="stored_gb"), frozenset(Fault), KEYS
    ),
    # A 403 there may be about one account alone.
    "connect": Entry(partial(_stripe, account="acct_1ABC"), CALLS, ("401",)),
    "connect by stream": Entry(
        partial(_stripe, transport="stream", account="acct_1ABC"), frozenset(Fault), ("401",)
    ),
    "metronome text": Entry(partial(_metronome, encoding=Encoding.TEXT), CALLS, KEYS),
    "metronome number": Entry(partial(_metronome, encoding=Encoding.NUMBER), CALLS, KEYS),
}
"""A new sink adds a line."""


def replaces(case: Case) -> bool:
    """Tell whether a later event of a window takes an earlier one's place there."""
    return case.sink.limits_for("api").write_model is WriteModel.OVERWRITE
