"""The Stripe sink as the rest knows it: several threads send, one event loop on a thread of its own makes the calls.

Rules
- Nothing is imported, opened or started before the first use: the library alone takes most of a second.
- A send lasts no longer than an event may wait for its turn, and one call's timeout.
- Once halted, a sink stays halted: whoever has corrected the cause makes a new one.
"""

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeVar

from aggregator import clock
from aggregator.errors import SinkHalted
from aggregator.model import Answer, Event, Limits, Span, Verdict, WriteModel
from aggregator.pace import Pace
from aggregator.sinks.loop import LoopThread
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.courier import Courier
from aggregator.sinks.stripe.dispatch import Batch, Dispatcher
from aggregator.sinks.stripe.meter import StripeMeter

Answered = TypeVar("Answered")

LIMITS = Limits(
    write_model=WriteModel.DELTA,
    # An identifier is remembered for at least 24 hours (docs.stripe.com/api/billing/meter-event/create); the rest is for
    # clocks that differ and for requests that arrive late.
    memory=dt.timedelta(hours=20),
    # Summaries are eventually consistent, without a bound (docs.stripe.com/api/billing/meter-event-summary); identifiers
    # are remembered for 24 hours. Two more are for a request that arrives late.
    proof=dt.timedelta(hours=26),
    # 35 days on the same page, less an hour, so that nothing becomes too old on its way.
    past=dt.timedelta(days=35) - dt.timedelta(hours=1),
    # docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api
    significant_digits=15,
    identifier_length=100,
    batch=500,
    # docs.stripe.com/rate-limits: live mode; the configuration lowers it.
    rate=1_000.0,
)

BATCH_SECONDS = 5
"""A batch is as many events as leave within this time, at most `LIMITS.batch`: a slow sink holds few."""

LEAST_BATCH = 20

PATIENCE = dt.timedelta(minutes=1)
"""How long an event may wait for its turn before it is given back: far less than a claim in the ledger lasts."""


class _Line(NamedTuple):
    """What is open while a sink is in use."""

    thread: LoopThread
    client: Client
    account: Account
    running: "asyncio.Task[None]"


class StripeSink:
    """Sends each event as one call. `meters` says what our meters are called at Stripe.

    `max_in_flight` calls at most wait for their answer at once, `timeout` each at most.
    """

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        mode: Literal["live", "test"],
        api_base: str | None,
        calls_per_second: float,
        timeout: dt.timedelta,
        max_in_flight: int,
        meters: Mapping[str, StripeMeter],
        patience: dt.timedelta = PATIENCE,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self.name = name
        self.limits = _limits(calls_per_second)
        self._limits_by_model = {model: replace(self.limits, write_model=model) for model in WriteModel}
        self._api_key = api_key
        self._livemode = mode == "live"
        self._api_base = api_base
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._meters = meters
        self._pace = Pace(calls_per_second)
        self._dispatcher = Dispatcher(
            self._key,
            self._pace,
            max_in_flight=max_in_flight,
            patience_seconds=patience.total_seconds(),
            monotonic=monotonic,
        )
        self._opening = threading.Lock()
        self._line: _Line | None = None
        self._stopped = False

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for the events of one of our meters: where they replace each other, they say the total."""
        known = self._meters.get(meter)
        return self._limits_by_model[known.write_model] if known is not None else self.limits

    @property
    def calls_per_second(self) -> float:
        """The rate at which calls may leave now: what was configured, or less after Stripe asked for less."""
        return self._pace.rate

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Send events and yield a verdict on each as it arrives. Raises SinkHalted, at the end, once the sink is halted."""
        if events and self._stopped:
            yield from (Verdict(event.id, Answer.UNSENT) for event in events)
        elif events:
            yield from self._send(events, may_leave)
        if self._dispatcher.halted:
            raise SinkHalted(self._dispatcher.halted)

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what Stripe's meters do not fit the events of these meters, a sentence each; empty if they do.

        Raises SinkUnreachable, SinkHalted or SinkError if Stripe does not say.
        """
        line = self._open()
        return line.thread.call(line.account.problems(meters))

    def account(self) -> str | None:
        """Name the account and mode that everything goes to, as `acct_1 live`; None if the key may not ask.

        Raises SinkUnreachable, SinkHalted or SinkError if Stripe does not say.
        """
        line = self._open()
        return line.thread.call(line.account.identity())

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what Stripe has counted of a meter for a customer; the span lies on whole minutes.

        Stripe counts with some delay. Raises SinkUnreachable, SinkHalted or SinkError if it gives no number.
        """
        line = self._open()
        return line.thread.call(line.account.total(meter, customer, span))

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return the same for each UTC hour or day of the span in which it is not zero, by its start.

        `step` is one hour or one day, and the span lies on such. Raises as `total` does.
        """
        line = self._open()
        return line.thread.call(line.account.breakdown(meter, customer, span, step))

    def ask(self, question: Callable[[Client, Account], Coroutine[Any, Any, Answered]]) -> Answered:
        """Have something asked of Stripe beside the events, on the same connections; return or raise what comes of it."""
        line = self._open()
        return line.thread.call(question(line.client, line.account))

    def stop(self) -> None:
        """Begin nothing new: what has not left is UNSENT from now on, what has left is waited for."""
        self._stopped = True
        line = self._line
        if line is not None:
            line.thread.post(self._dispatcher.stop)

    def close(self) -> None:
        """Wait for what has left, then give back connections and thread. Doing it twice does no harm."""
        self.stop()
        with self._opening:
            line, self._line = self._line, None
        if line is not None:
            try:
                line.thread.call(self._shut(line))
            finally:
                line.thread.close()

    def _send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        line = self._open()
        if self._stopped:
            self.stop()  # it may have come while there was no dispatcher to be told
        batch = Batch(events, may_leave)
        line.thread.call(self._dispatcher.submit(batch))
        try:
            for _ in events:
                said = batch.said.get()
                if isinstance(said, BaseException):
                    raise said
                yield said
        finally:
            if batch.unanswered:  # whoever asked has gone: nothing more of it may leave
                line.thread.post(self._dispatcher.give_back, batch)

    def _open(self) -> _Line:
        """Return what is open, opening it at the first use."""
        with self._opening:
            if self._line is None:
                thread = LoopThread(f"sink-{self.name}")
                try:
                    self._line = thread.call(self._connect(thread))
                except BaseException:
                    thread.close()
                    raise
            return self._line

    async def _connect(self, thread: LoopThread) -> _Line:
        client = Client(
            self._api_key,
            api_base=self._api_base,
            timeout_seconds=self._timeout.total_seconds(),
            connections=self._max_in_flight,
        )
        courier = Courier(client, self.name, self._meters, livemode=self._livemode)
        account = Account(client, self.name, self._meters, livemode=self._livemode)
        running = asyncio.create_task(self._dispatcher.run(courier.deliver))
        return _Line(thread, client, account, running)

    async def _shut(self, line: _Line) -> None:
        try:
            await self._dispatcher.landed()
            line.running.cancel()
            with suppress(asyncio.CancelledError):
                await line.running
        finally:
            await line.client.close()

    def _key(self, event: Event) -> Hashable:
        """Return what may have one call in flight: a customer of a meter as Stripe sees it."""
        meter = self._meters.get(event.meter)
        return event.customer, meter.event_name if meter else None


def _limits(calls_per_second: float) -> Limits:
    fitting = int(calls_per_second * BATCH_SECONDS)
    return replace(LIMITS, batch=min(LIMITS.batch, max(LEAST_BATCH, fitting)), rate=calls_per_second)
