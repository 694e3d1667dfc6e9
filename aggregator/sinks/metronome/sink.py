"""The Metronome sink as the rest knows it.

Rules
- A request holds as many events as one may; any number of a customer's are in flight at once.
- A decrease is asked about before it lines up: nothing lowers an invoice that is finalized.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal

from aggregator.core import age_limits
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import Encoding, Event, Limits, Span, WriteModel
from aggregator.core.rate_limit import Pace
from aggregator.core.windows import HOUR
from aggregator.errors import SinkError, SinkHalted
from aggregator.runtime import clock
from aggregator.sinks.dispatch import Bound, Dispatcher, Route
from aggregator.sinks.http_sink import PATIENCE, Connection, HttpSink, batch
from aggregator.sinks.metronome import trial
from aggregator.sinks.metronome.account import Account
from aggregator.sinks.metronome.client import MOST_EVENTS, Client, RequestSender
from aggregator.sinks.metronome.event import MetronomeMeter
from aggregator.sinks.metronome.invoices import ASKED_AT_ONCE, Invoices
from aggregator.sinks.metronome.responses import after_refusal
from aggregator.sinks.protocol import Readiness
from aggregator.sinks.responses import Response, no_longer_fed

LIMITS = Limits(
    write_model=WriteModel.DELTA,
    # A transaction_id is remembered for as long as usage is taken (docs.metronome.com, send usage events). A day less: for
    # clocks that differ, and for requests that arrive late.
    memory=age_limits.METRONOME - dt.timedelta(days=1),
    past=age_limits.METRONOME - age_limits.MARGIN,
    # 24 hours on the same page, less what clocks differ by.
    future=dt.timedelta(hours=23),
    # Usage shows events at once (API reference, ingest events), without a bound. A day, and two hours for a request that
    # arrives late.
    proof=dt.timedelta(hours=26),
    # Usage is counted by whole UTC hours (API reference, get batched usage data).
    reads_by=HOUR,
    # Metronome names no bound (its pages speak of arbitrary precision); as many as our own sums carry.
    significant_digits=28,
    # docs.metronome.com, send usage events
    identifier_length=128,
    batch=1_000,
    # docs.metronome.com, high-volume ingestion: an account's default; raised on request.
    rate=5_000.0,
    negatives=True,
    zeros=True,
)

READS = 2
"""Calls that a figure takes: one for the customer's id, and one for a page of usage."""

TRIAL_PATIENCE = dt.timedelta(minutes=2)
"""How long a test event may take to be counted; Metronome says at once, and names no bound."""


class MetronomeSink(HttpSink[Account]):
    """Sends events in requests of up to a hundred. `meters` says what our meters are called at Metronome.

    `max_in_flight` requests at most wait for their answer at once, `timeout` each at most.
    """

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        api_base: str | None,
        encoding: Encoding,
        events_per_second: float,
        timeout: dt.timedelta,
        max_in_flight: int,
        meters: Mapping[str, MetronomeMeter],
        test_customer: str | None = None,
        patience: dt.timedelta = PATIENCE,
        trial_patience: dt.timedelta = TRIAL_PATIENCE,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        super().__init__(name, api_key)
        self.limits = _limits(events_per_second, encoding, meters.values())
        self._api_base = api_base
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._meters = meters
        self._test_customer = test_customer
        self._patience_seconds = patience.total_seconds()
        self._trial_patience_seconds = trial_patience.total_seconds()
        self._monotonic = monotonic
        self._pace = Pace(events_per_second, burst=max(MOST_EVENTS, events_per_second / 20))

    def limits_for(self, meter: str) -> Limits:  # noqa: ARG002 - all meters add up here
        """Return what holds for the events of one of our meters."""
        return self.limits

    @property
    def events_per_second(self) -> float:
        """The rate at which events may leave now: what was configured, or less after Metronome asked for less."""
        return self._pace.rate

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what Metronome's metrics do not fit the events of these meters, a sentence each; empty if they do.

        Raises SinkUnreachable, SinkHalted or SinkError if Metronome does not say.
        """
        return self._ask(lambda account: account.problems(meters))

    def cannot_promise(self) -> list[str]:
        """Say what the token is too little for, although it can send. Raises as `preflight` does."""
        return self._ask(lambda account: account.cannot_promise())

    def account(self) -> str | None:
        """Return None: no endpoint says to which environment a token belongs."""
        return None

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what Metronome has counted of a meter for a customer; the span lies on whole UTC hours.

        Raises SinkUnreachable, SinkHalted or SinkError if it gives no number, as for any other span.
        """
        return self._read(lambda account: account.total(meter, customer, span), READS)

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return the same for each UTC hour or day of the span in which it is not zero, by its start.

        `step` is one hour or one day, and the span lies on such. Raises as `total` does.
        """
        return self._read(lambda account: account.breakdown(meter, customer, span, step), READS)

    def by_combination(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[Dimensions, Mapping[dt.datetime, Decimal]] | None:
        """Return the same for each combination of a meter's dimensions; None if its metric cannot tell them apart."""
        return self._read(
            lambda account: account.by_combination(meter, customer, span, step, self._turn_for_more), READS
        )

    def knows_by_name(self, customer: str) -> bool:  # noqa: ARG002 - an alias may be anything
        """Say whether a customer can be looked up."""
        return True

    def why_unknown(self, customer: str) -> str | None:
        """Say why Metronome has no customer of this ingest alias or id; None if it has. Raises as `total` does."""
        return self._ask(lambda account: account.why_unknown(customer))

    def readiness(self, customer: str, at: dt.datetime, now: dt.datetime, *, parallel: bool) -> Readiness:
        """Say what keeps a customer from being billed right from an instant on. Raises as `total` does."""
        return self._ask(lambda account: account.readiness(customer, at, now, parallel=parallel))

    def send_test_event(self, meter: str, now: dt.datetime) -> str | None:
        """Send one event of a meter to the test customer, and say what is wrong if its quantity is not counted.

        Raises SinkError if there is no test customer, and as `total` does.
        """
        if self._test_customer is None:
            raise SinkError(f"Sink {self.name} has no `self_test_customer`: name one that is never billed.")
        customer = self._test_customer
        return self._ask(
            lambda account: trial.attempt(
                account,
                self._sender(account.client),
                meter,
                customer,
                self.limits.encoding,
                now,
                self._trial_patience_seconds,
                self._monotonic,
            )
        )

    def resume(self) -> None:
        """Send again, if Metronome takes the token by now; it is asked for our meters. Raises SinkError."""
        self.preflight(self._meters)
        self._resumed()

    def _sender(self, client: Client) -> RequestSender:
        return RequestSender(client, self.name, self._meters, self.limits.encoding)

    async def _connect(self) -> Connection[Account]:
        try:
            client = Client(
                self._api_key,
                api_base=self._api_base,
                timeout_seconds=self._timeout.total_seconds(),
                connections=self._max_in_flight + ASKED_AT_ONCE,
            )
        except ModuleNotFoundError as error:
            raise SinkHalted(
                f"Sink {self.name} needs Metronome's library, and {error.name} is not installed: "
                "`pip install 'usage-aggregator[metronome]'`, then restart."
            ) from error
        account = Account(client, self.name, self._meters)
        bound = Bound(self._route(client, account))

        def bind(event: Event) -> Bound | Response:
            return bound if event.meter in self._meters else no_longer_fed(event.meter, self.name)

        dispatcher = Dispatcher(
            bind, max_in_flight=self._max_in_flight, patience_seconds=self._patience_seconds
        )
        return Connection(client, dispatcher, account)

    def _route(self, client: Client, account: Account) -> Route:
        return Route(
            pacer=self._pacer("events", self._pace, self._monotonic, by_event=True),
            deliver=self._sender(client).deliver,
            at_once=MOST_EVENTS,
            objection=Invoices(account, self._monotonic).objection,
            after_refusal=after_refusal,
        )


def _limits(events_per_second: float, encoding: Encoding, meters: Iterable[MetronomeMeter]) -> Limits:
    """Return what holds for these meters.

    Usage is shown by whole UTC hours (API reference, get batched usage data). So it proves something of windows of whole
    hours; of one event, whose minute is asked for, it never does: that question is answered by an error which says so, and
    left to a person.
    """
    return replace(
        LIMITS,
        batch=batch(events_per_second, LIMITS.batch),
        rate=events_per_second,
        encoding=encoding,
        proof=None if any(meter.window % HOUR for meter in meters) else LIMITS.proof,
    )
