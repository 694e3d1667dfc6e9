"""The Stripe sink as the rest knows it: several threads send, one event loop on a thread of its own makes the calls.

Rules
- Nothing is imported, opened or started before the first use: the library alone takes most of a second.
- A send lasts no longer than an event may wait for its turn, and one call's timeout.
- Once halted, a sink stays halted until `resume` finds that the key is taken. One that leads to another mode never comes
  back: whoever has corrected that makes a new one.
"""

import datetime as dt
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeVar

from aggregator.core.model import (
    ZERO,
    Answer,
    Event,
    Limits,
    Span,
    Verdict,
)
from aggregator.errors import SinkHalted
from aggregator.runtime import clock
from aggregator.sinks.event_loop import LazyLoop
from aggregator.sinks.stripe.account import GROUPINGS, MINUTE, Account, assert_whole
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.connect import LOOKS_AT_ONCE, Addresses
from aggregator.sinks.stripe.dispatch import Batch, Bound, Dispatcher
from aggregator.sinks.stripe.limits import Rates, Transport, limits, of_meter
from aggregator.sinks.stripe.responses import wrong_mode
from aggregator.sinks.stripe.routes import Roads
from aggregator.sinks.stripe_meter import StripeMeter

Answered = TypeVar("Answered")

PATIENCE = dt.timedelta(minutes=1)
"""How long an event may wait for its turn before it is given back: far less than a claim in the ledger lasts."""


LOOKED_UP = re.compile(r"(?:acct_\w+/)?cus_\w+")
"""A customer, behind its account where accounts are named (docs.stripe.com/api/customers)."""


class _Connection(NamedTuple):
    """What is open while a sink is in use."""

    client: Client
    roads: Roads
    dispatcher: Dispatcher


class StripeSink:
    """Sends events by `transport`. `meters` says what our meters are called at Stripe, `addresses` where customers are.

    `max_in_flight` requests at most wait for their answer at once, `timeout` each at most.
    """

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        mode: Literal["live", "test"],
        api_base: str | None,
        rates: Rates,
        timeout: dt.timedelta,
        max_in_flight: int,
        meters: Mapping[str, StripeMeter],
        transport: Transport = "v1",
        stream_above: int = 10_000,
        addresses: Addresses | None = None,
        patience: dt.timedelta = PATIENCE,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self.name = name
        self.limits = limits(transport, rates, stream_above)
        self._of_meters = {key: of_meter(meter, self.limits) for key, meter in meters.items()}
        self._api_key = api_key
        self._livemode = mode == "live"
        self._api_base = api_base
        self._rates = rates
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._meters = meters
        self._addresses = addresses or Addresses()
        self._patience = patience
        self._monotonic = monotonic
        self._line = LazyLoop(f"sink-{name}", self._connect, _shut)
        self._halted: str | None = None
        self._stopped = False

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for the events of one of our meters: where they replace each other, they say the total."""
        return self._of_meters.get(meter, self.limits)

    @property
    def calls_per_second(self) -> float:
        """The slowest pace of all roads now: what was configured, or less after Stripe asked for less."""
        line = self._line.now
        paces = line.roads.paces() if line else {}
        return min(paces.values(), default=self._rates.calls)

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Send events and yield a verdict on each as it arrives. Raises SinkHalted, at the end, once the sink is halted."""
        if events and self._stopped:
            yield from (Verdict(event.id, Answer.UNSENT) for event in events)
        elif events:
            yield from self._send(events, may_leave)
        if self._halted:
            raise SinkHalted(self._halted)

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what Stripe's meters do not fit the events of these meters, a sentence each; empty if they do.

        Accounts that customers name are looked at before their first event instead: nobody knows of them before.
        Raises SinkUnreachable, SinkHalted or SinkError if Stripe does not say.
        """
        if self._addresses.by_customer:
            self.account()  # which shows at least whether the key is taken
            return []
        return self._line.ask(lambda line: line.roads.configured.problems(meters))

    def account(self) -> str | None:
        """Name the account and mode that everything goes to, as `acct_1 live`; None if the key may not ask.

        Where customers name accounts it is the platform's. Raises SinkUnreachable, SinkHalted or SinkError if Stripe does
        not say.
        """
        return self._line.ask(lambda line: line.roads.configured.identity())

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what Stripe has counted of a meter for a customer; the span lies on whole minutes.

        Stripe counts with some delay. Raises SinkUnreachable, SinkHalted or SinkError if it gives no number.
        """
        assert_whole(span, MINUTE)
        account = self._account(customer)
        return ZERO if account is None else self._line.ask(lambda _: account.total(meter, customer, span))

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return the same for each UTC hour or day of the span in which it is not zero, by its start.

        `step` is one hour or one day, and the span lies on such. Raises as `total` does.
        """
        assert step in GROUPINGS, f"Stripe breaks nothing down by {step}"
        assert_whole(span, step)
        account = self._account(customer)
        if account is None:
            return {}
        return self._line.ask(lambda _: account.breakdown(meter, customer, span, step))

    def knows_by_name(self, customer: str) -> bool:
        """Say whether a customer can be looked up: an account that is a customer itself is found elsewhere."""
        return LOOKED_UP.fullmatch(customer) is not None

    def why_unknown(self, customer: str) -> str | None:
        """Say why Stripe has no such customer, or no longer; None if it has.

        Raises SinkUnreadable if the key may not look, AccountRefused if an account does not let it, or another SinkError.
        """
        address = self._addresses.of(customer)
        if address is None:
            fault = self._addresses.fault(customer)
            return f"{fault[0].upper()}{fault[1:]}."
        return self._line.ask(lambda line: line.roads.account(address.account).why_unknown(customer))

    @property
    def by_customer(self) -> bool:
        """Whether each customer names the account that it is in."""
        return self._addresses.by_customer

    def account_of(self, customer: str) -> str | None:
        """Return which account a customer is in, if it is the customer that says so."""
        address = self._addresses.of(customer)
        return address.account if address and self.by_customer else None

    @property
    def configured(self) -> str | None:
        """The account that the configuration names."""
        return self._addresses.configured

    def ask(
        self,
        question: Callable[[Client, Account], Coroutine[Any, Any, Answered]],
        account: str | None = None,
    ) -> Answered:
        """Have something asked of Stripe beside the events, on the same connections; return or raise what comes of it.

        It is asked of the account that is configured, or of one that a customer names.
        """
        return self._line.ask(
            lambda line: question(
                line.client, line.roads.account(account) if account else line.roads.configured
            )
        )

    def use_key(self, api_key: str) -> None:
        """Make every call from now on with another key of the same account and mode; who calls has asked whose it is."""
        self._api_key = api_key
        self._line.open()
        self._line.tell(lambda line: line.client.use_key(api_key))

    def resume(self) -> None:
        """Send again, if Stripe takes the key by now; it is asked whose key that is. Raises SinkError."""
        if self._halted == wrong_mode(self.name, live=not self._livemode):
            raise SinkHalted(self._halted)
        self.account()
        self._line.tell(lambda line: line.dispatcher.resume())
        self._halted = None

    def stop(self) -> None:
        """Begin nothing new: what has not left is UNSENT from now on, what has left is waited for."""
        self._stopped = True
        self._line.tell(lambda line: line.dispatcher.stop())

    def close(self) -> None:
        """Wait for what has left, then give back connections and thread. Doing it twice does no harm."""
        self.stop()
        self._line.close()

    def _send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        line = self._line.open()
        if self._stopped:
            self.stop()  # it may have come while there was no dispatcher to be told
        known = [event for event in events if self._addresses.of(event.customer)]
        lost = [event for event in events if not self._addresses.of(event.customer)]
        yield from (
            Verdict(event.id, Answer.REFUSED, self._addresses.fault(event.customer)) for event in lost
        )
        if not known:
            return
        batch = Batch(known, may_leave)
        self._line.ask(lambda line: line.dispatcher.submit(batch))
        try:
            for _ in known:
                said = batch.said.get()
                if isinstance(said, BaseException):
                    raise said
                yield said
        finally:
            self._halted = line.dispatcher.halted
            if batch.unanswered:  # whoever asked has gone: nothing more of it may leave
                self._line.tell(lambda line: line.dispatcher.give_back(batch))

    def _account(self, customer: str) -> Account | None:
        """Return the account that a customer is in; None if it names none, so that nothing of it can be there."""
        address = self._addresses.of(customer)
        return None if address is None else self._line.open().roads.account(address.account)

    async def _connect(self) -> _Connection:
        client = Client(
            self._api_key,
            api_base=self._api_base,
            timeout_seconds=self._timeout.total_seconds(),
            connections=self._max_in_flight + LOOKS_AT_ONCE,
        )
        roads = Roads(
            client,
            self.name,
            self._meters,
            self._addresses,
            self._rates,
            livemode=self._livemode,
            monotonic=self._monotonic,
        )

        def bind(event: Event) -> Bound:
            return roads.bind(event, event.transport or self.limits.transport)

        dispatcher = Dispatcher(
            bind, max_in_flight=self._max_in_flight, patience_seconds=self._patience.total_seconds()
        )
        return _Connection(client, roads, dispatcher)


async def _shut(line: _Connection) -> None:
    try:
        await line.dispatcher.close()
    finally:
        await line.client.close()
