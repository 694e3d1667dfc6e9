"""The Stripe sink as the rest knows it.

Rules
- A halted sink comes back when its key is taken. One that leads to another mode never does: whoever has corrected that
  makes a new one.
"""

import datetime as dt
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeVar

from aggregator.core.model import ZERO, Limits, Span
from aggregator.core.windows import DAY, MINUTE, floor
from aggregator.errors import CustomerUnknown, SinkError, SinkHalted
from aggregator.runtime import clock
from aggregator.sinks.dispatch import Dispatcher
from aggregator.sinks.http_sink import PATIENCE, Connection, HttpSink
from aggregator.sinks.protocol import Overview
from aggregator.sinks.stripe.account import GROUPINGS, PAGE, Account, assert_whole
from aggregator.sinks.stripe.account_context import AccountContext, Addresses
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.limits import Rates, Transport, limits, of_meter
from aggregator.sinks.stripe.meter_usage import RememberedUsage, looked_up_together
from aggregator.sinks.stripe.responses import wrong_mode
from aggregator.sinks.stripe.routes import LOOKS_AT_ONCE, Routes
from aggregator.sinks.stripe_meter import StripeMeter

Answered = TypeVar("Answered")

NOBODY = "cus_none"
"""A customer whom nobody has: what is asked about them shows only whether one may ask."""

LOOKED_UP = re.compile(r"(?:acct_\w+/)?cus_\w+")
"""A customer, behind its account where accounts are named (docs.stripe.com/api/customers)."""


class StripeSink(HttpSink[Routes]):
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
        totals_by: Literal["event_summaries", "meter_usage"] = "event_summaries",
        patience: dt.timedelta = PATIENCE,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        super().__init__(name, api_key)
        self.limits = limits(transport, rates, stream_above)
        self._of_meters = {key: of_meter(meter, self.limits) for key, meter in meters.items()}
        self._livemode = mode == "live"
        self._api_base = api_base
        self._rates = rates
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._meters = meters
        self.addresses = addresses or Addresses()
        self._patience = patience
        self._monotonic = monotonic
        self._kept = RememberedUsage(monotonic) if totals_by == "meter_usage" else None

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for the events of one of our meters: where they replace each other, they say the total."""
        return self._of_meters.get(meter, self.limits)

    @property
    def calls_per_second(self) -> float:
        """The slowest pace of all routes now: what was configured, or less after Stripe asked for less."""
        connection = self._loop.now
        paces = connection.far.paces() if connection else {}
        return min(paces.values(), default=self._rates.calls)

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what Stripe's meters do not fit the events of these meters, a sentence each; empty if they do.

        Accounts that customers name are looked at before their first event instead: nobody knows of them before.
        Raises SinkUnreachable, SinkHalted or SinkError if Stripe does not say.
        """
        if self.addresses.by_customer:
            self.account()  # which shows at least whether the key is taken
            return []
        return self._ask(lambda routes: routes.configured.problems(meters))

    def account(self) -> str | None:
        """Name the account and mode that everything goes to, as `acct_1 live`; None if the key may not ask.

        Where customers name accounts it is the platform's. Raises SinkUnreachable, SinkHalted or SinkError if Stripe does
        not say.
        """
        return self._ask(lambda routes: routes.configured.identity())

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what Stripe has counted of a meter for a customer; the span lies on whole minutes.

        Stripe counts with some delay. Raises SinkUnreachable, SinkHalted or SinkError if it gives no number.
        """
        assert_whole(span, MINUTE)
        address = self.addresses.of(customer)
        if address is None:  # so that nothing of it can be there
            return ZERO
        return self._read(
            lambda routes: routes.account(address.account).total(meter, customer, span),
            self._stripe_meters(meter),
        )

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return the same for each UTC hour or day of the span in which it is not zero, by its start.

        `step` is one hour or one day, and the span lies on such. Raises as `total` does.
        """
        assert step in GROUPINGS, f"Stripe breaks nothing down by {step}"
        assert_whole(span, step)
        address = self.addresses.of(customer)
        if address is None:
            return {}
        return self._read(
            lambda routes: routes.account(address.account).breakdown(meter, customer, span, step),
            max(1, -(-((span.end - span.start) // step) // PAGE)) * self._stripe_meters(meter),
        )

    def overview(self, meter: str, customer: str, span: Span, step: dt.timedelta) -> Overview | None:
        """Return what `breakdown` does by meter usage, which tells all meters of a customer at once; None if not set to.

        Raises NoOverview if Stripe gives none, or as `total` does.
        """
        assert step in GROUPINGS, f"Stripe breaks nothing down by {step}"
        assert_whole(span, step)
        address = self.addresses.of(customer)
        if self._kept is None or address is None or meter not in self._meters:
            return None
        kept = self._kept.take(meter, customer, span, step)
        if kept is not None:
            return Overview(*kept, 0)
        meters = looked_up_together(meter, self._meters)
        usage = self._read(
            lambda routes: routes.usage(address.account).read(
                meters, customer, span, step, self._turn_for_more
            )
        )
        found = usage.of(meter, span)
        self._kept.keep(customer, usage, meter)
        return Overview(found, usage.fresh_to, usage.calls)

    def cannot_promise(self) -> list[str]:
        """Say that totals cannot be looked at as configured, if that is so."""
        meters = looked_up_together(next(iter(self._meters), ""), self._meters) if self._meters else []
        if self._kept is None or not meters or self.addresses.by_customer:
            return []
        today = floor(clock.utcnow(), DAY)
        yesterday = Span(today - DAY, today)
        try:
            self._ask(
                lambda routes: routes.usage(self.addresses.configured).read(
                    meters, NOBODY, yesterday, DAY, self._turn_for_more
                )
            )
        except CustomerUnknown:  # and that is told only to who may ask
            return []
        except SinkError as error:  # which is no reason to send nothing
            return [str(error)]
        return []

    def _stripe_meters(self, meter: str) -> int:
        """Return how many Stripe meters have figures of one of ours."""
        return len(self._meters[meter].names) if meter in self._meters else 1

    def knows_by_name(self, customer: str) -> bool:
        """Say whether a customer can be looked up: an account that is a customer itself is found elsewhere."""
        return LOOKED_UP.fullmatch(customer) is not None

    def why_unknown(self, customer: str) -> str | None:
        """Say why Stripe has no such customer, or no longer; None if it has.

        Raises SinkUnreadable if the key may not look, AccountRefused if an account does not let it, or another SinkError.
        """
        address = self.addresses.of(customer)
        if address is None:
            fault = self.addresses.fault(customer)
            return f"{fault[0].upper()}{fault[1:]}."
        return self._ask(lambda routes: routes.account(address.account).why_unknown(customer))

    def ask(
        self,
        question: Callable[[Account], Coroutine[Any, Any, Answered]],
        account: str | None = None,
    ) -> Answered:
        """Have something asked of Stripe beside the events, on the same connections; return or raise what comes of it.

        It is asked of the account that is configured, or of one that a customer names.
        """
        return self._ask(lambda routes: question(routes.account(account) if account else routes.configured))

    def resume(self) -> None:
        """Send again, if Stripe takes the key by now; it is asked whose key that is. Raises SinkError."""
        if self._halted == wrong_mode(self.name, live=not self._livemode):
            raise SinkHalted(self._halted)
        self.account()
        self._resumed()

    async def _connect(self) -> Connection[Routes]:
        client = Client(
            self._api_key,
            api_base=self._api_base,
            timeout_seconds=self._timeout.total_seconds(),
            connections=self._max_in_flight + LOOKS_AT_ONCE,
        )
        routes = Routes(
            AccountContext(client, self.name, self._meters, self._livemode, self.addresses.configured),
            self.addresses,
            self._rates,
            transport=self.limits.transport,
            monotonic=self._monotonic,
            pacer=self._pacer,
        )
        dispatcher = Dispatcher(
            routes.bind, max_in_flight=self._max_in_flight, patience_seconds=self._patience.total_seconds()
        )
        return Connection(client, dispatcher, routes)
