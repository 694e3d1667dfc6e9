"""The Metronome sink as the rest knows it: several threads send, one event loop on a thread of its own makes the calls.

Rules
- Nothing is imported, opened or started before the first use.
- A send lasts no longer than an event may wait for its turn, and a few requests' timeouts.
- Once halted, a sink stays halted until `resume` finds that the token is taken.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import (
    Answer,
    Encoding,
    Event,
    Limits,
    Span,
    Verdict,
    WriteModel,
)
from aggregator.core.rate_limit import Pace
from aggregator.errors import SinkError, SinkHalted
from aggregator.runtime import clock
from aggregator.sinks.event_loop import LazyLoop
from aggregator.sinks.metronome import trial
from aggregator.sinks.metronome.account import HOUR, Account
from aggregator.sinks.metronome.client import Client, RequestSender
from aggregator.sinks.metronome.dispatch import MOST_EVENTS, Batch, Dispatcher
from aggregator.sinks.metronome.event import MetronomeMeter
from aggregator.sinks.metronome.invoices import ASKED_AT_ONCE, Invoices

LIMITS = Limits(
    write_model=WriteModel.DELTA,
    # A transaction_id is remembered for 34 days (docs.metronome.com, send usage events). A day less: for clocks that differ,
    # and for requests that arrive late.
    memory=dt.timedelta(days=33),
    # 34 days on the same page, less an hour, so that nothing becomes too old on its way.
    past=dt.timedelta(days=34) - dt.timedelta(hours=1),
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

BATCH_SECONDS = 5
"""A batch is as many events as leave within this time, at most `LIMITS.batch`: a slow sink holds few."""

LEAST_BATCH = 20

PATIENCE = dt.timedelta(minutes=1)
"""How long an event may wait for its turn before it is given back: far less than a claim in the ledger lasts."""

TRIAL_PATIENCE = dt.timedelta(minutes=2)
"""How long a test event may take to be counted; Metronome says at once, and names no bound."""


class _Connection(NamedTuple):
    """What is open while a sink is in use."""

    client: Client
    account: Account
    courier: RequestSender
    dispatcher: Dispatcher


class MetronomeSink:
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
        self.name = name
        self.limits = _limits(events_per_second, encoding, meters.values())
        self._api_key = api_key
        self._api_base = api_base
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._meters = meters
        self._test_customer = test_customer
        self._patience_seconds = patience.total_seconds()
        self._trial_patience_seconds = trial_patience.total_seconds()
        self._monotonic = monotonic
        self._pace = Pace(events_per_second, burst=max(MOST_EVENTS, events_per_second / 20))
        self._line = LazyLoop(f"sink-{name}", self._connect, _shut)
        self._stopped = False
        self._halted: str | None = None

    def limits_for(self, meter: str) -> Limits:  # noqa: ARG002 - all meters add up here
        """Return what holds for the events of one of our meters."""
        return self.limits

    @property
    def events_per_second(self) -> float:
        """The rate at which events may leave now: what was configured, or less after Metronome asked for less."""
        return self._pace.rate

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Send events and yield a verdict on each as it arrives. Raises SinkHalted, at the end, once the sink is halted."""
        known = [event for event in events if event.meter in self._meters]
        for event in events:
            if event.meter not in self._meters:
                reason = f"meter {event.meter} no longer feeds sink {self.name}: put it back"
                yield Verdict(event.id, Answer.BUSY, reason)
        if known and (self._stopped or self._halted):
            yield from (Verdict(event.id, Answer.UNSENT, self._halted) for event in known)
        elif known:
            yield from self._send(known, may_leave)
        if self._halted:
            raise SinkHalted(self._halted)

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what Metronome's metrics do not fit the events of these meters, a sentence each; empty if they do.

        Raises SinkUnreachable, SinkHalted or SinkError if Metronome does not say.
        """
        return self._line.ask(lambda line: line.account.problems(meters))

    def cannot_promise(self) -> list[str]:
        """Say what the token is too little for, although it can send. Raises as `preflight` does."""
        return self._line.ask(lambda line: line.account.cannot_promise())

    def account(self) -> str | None:
        """Return None: no endpoint says to which environment a token belongs."""
        return None

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what Metronome has counted of a meter for a customer; the span lies on whole UTC hours.

        Raises SinkUnreachable, SinkHalted or SinkError if it gives no number, as for any other span.
        """
        return self._line.ask(lambda line: line.account.total(meter, customer, span))

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return the same for each UTC hour or day of the span in which it is not zero, by its start.

        `step` is one hour or one day, and the span lies on such. Raises as `total` does.
        """
        return self._line.ask(lambda line: line.account.breakdown(meter, customer, span, step))

    def knows_by_name(self, customer: str) -> bool:  # noqa: ARG002 - an alias may be anything
        """Say whether a customer can be looked up."""
        return True

    def why_unknown(self, customer: str) -> str | None:
        """Say why Metronome has no customer of this ingest alias or id; None if it has. Raises as `total` does."""
        return self._line.ask(lambda line: line.account.why_unknown(customer))

    def send_test_event(self, meter: str, now: dt.datetime) -> str | None:
        """Send one event of a meter to the test customer, and say what is wrong if its quantity is not counted.

        Raises SinkError if there is no test customer, and as `total` does.
        """
        if self._test_customer is None:
            raise SinkError(f"Sink {self.name} has no `self_test_customer`: name one that is never billed.")
        customer = self._test_customer
        return self._line.ask(
            lambda line: trial.attempt(
                line.account,
                line.courier,
                meter,
                customer,
                self.limits.encoding,
                now,
                self._trial_patience_seconds,
                self._monotonic,
            )
        )

    def use_token(self, token: str) -> None:
        """Make every call from now on with another token."""
        self._api_key = token
        self._line.open()
        self._line.tell(lambda line: line.client.use_token(token))

    def resume(self) -> None:
        """Send again, if Metronome takes the token by now; it is asked for our meters. Raises SinkError."""
        self.preflight(self._meters)
        self._line.tell(lambda line: line.dispatcher.resume())
        self._halted = None

    def stop(self) -> None:
        """Begin nothing new: what has not left is given back from now on, what has left is waited for."""
        self._stopped = True
        self._line.tell(lambda line: line.dispatcher.stop())

    def close(self) -> None:
        """Wait for what has left, then give back connections and thread. Doing it twice does no harm."""
        self.stop()
        self._line.close()

    def _send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        line = self._line_or_halt()
        if line is None:
            yield from (Verdict(event.id, Answer.UNSENT, self._halted) for event in events)
            return
        if self._stopped:
            self.stop()  # it may have come while there was no dispatcher to be told
        batch = Batch(events, may_leave)
        self._line.ask(lambda line: line.dispatcher.submit(batch))
        try:
            for _ in events:
                said = batch.said.get()
                if isinstance(said, BaseException):
                    raise said
                yield said
        finally:
            self._halted = self._halted or line.dispatcher.halted
            if batch.unanswered:  # whoever asked has gone: nothing more of it may leave
                self._line.tell(lambda line: line.dispatcher.give_back(batch))

    def _line_or_halt(self) -> _Connection | None:
        """Return what is open; None, and the sink is halted, if it cannot be opened."""
        try:
            return self._line.open()
        except SinkHalted as halted:
            self._halted = str(halted)
            return None

    async def _connect(self) -> _Connection:
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
        courier = RequestSender(client, self.name, self._meters, self.limits.encoding)
        account = Account(client, self.name, self._meters)
        dispatcher = Dispatcher(
            self._pace,
            courier.deliver,
            Invoices(account, self._monotonic).objection,
            max_in_flight=self._max_in_flight,
            patience_seconds=self._patience_seconds,
            monotonic=self._monotonic,
        )
        return _Connection(client, account, courier, dispatcher)


async def _shut(line: _Connection) -> None:
    try:
        await line.dispatcher.close()
    finally:
        await line.client.close()


def _limits(events_per_second: float, encoding: Encoding, meters: Iterable[MetronomeMeter]) -> Limits:
    """Return what holds for these meters.

    Usage is shown by whole UTC hours (API reference, get batched usage data). So it proves something of windows of whole
    hours; of one event, whose minute is asked for, it never does: that question is answered by an error which says so, and
    left to a person.
    """
    fitting = int(events_per_second * BATCH_SECONDS)
    return replace(
        LIMITS,
        batch=min(LIMITS.batch, max(LEAST_BATCH, fitting)),
        rate=events_per_second,
        encoding=encoding,
        proof=None if any(meter.window % HOUR for meter in meters) else LIMITS.proof,
    )
