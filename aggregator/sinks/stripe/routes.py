"""Every route to every account that a sink sends to, made when it is first needed.

Rules
- Each account has a pace, a session and a look at its meters of its own: Stripe's limits are per account.
- They are kept while the sink is: there are as many as connected accounts that use anything, each a few kilobytes.
- Of a customer and a Stripe meter one request is in flight, by whichever route: Stripe turns a second one away
  (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api).
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from aggregator.core.model import Answer, Event, WriteModel
from aggregator.core.rate_limit import Pace
from aggregator.sinks.dispatch import Bound, Pacer, Route
from aggregator.sinks.responses import Response, no_longer_fed
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.connect import LOOKS_AT_ONCE, Addresses, Checked
from aggregator.sinks.stripe.limits import Rates
from aggregator.sinks.stripe.meter_events import MeterEventSender
from aggregator.sinks.stripe.stream import AT_ONCE, Session, StreamSender, after_refusal


class Routes:
    """The accounts of one sink, and the routes to them. Used on its event loop.

    `context` is that of the account that the configuration names, or the one that the key belongs to.
    """

    def __init__(
        self,
        context: AccountContext,
        addresses: Addresses,
        rates: Rates,
        *,
        transport: str,
        monotonic: Callable[[], float],
        pacer: Callable[..., Pacer],
    ) -> None:
        self._context = context
        self._addresses = addresses
        self._rates = rates
        self._transport = transport
        self._monotonic = monotonic
        self._pacer = pacer
        self._looking = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._accounts: dict[str | None, Account] = {}
        self._checked: dict[str | None, Checked] = {}
        self._routes: dict[tuple[str, str | None], Route] = {}

    def bind(self, event: Event) -> Bound | Response:
        """Say by which route an event goes, and what of it may be in flight once; or why it cannot be sent."""
        address = self._addresses.of(event.customer)
        if address is None:
            return Response(Answer.REFUSED, self._addresses.fault(event.customer))
        meter = self._context.meters.get(event.meter)
        if meter is None:
            return no_longer_fed(event.meter, self._context.sink)
        key = (address.account, address.customer, meter.event_name)
        # Of a `last` meter, the order within one request is not documented.
        alone = meter.write_model is WriteModel.LAST
        return Bound(self._route(event.transport or self._transport, address.account), key, alone)

    @property
    def configured(self) -> Account:
        """The account that the configuration names, or the one that the key belongs to."""
        return self.account(self._context.account)

    def account(self, name: str | None) -> Account:
        """Return what can be asked of an account."""
        if name not in self._accounts:
            of_customer = self._addresses.by_customer and name is not None
            self._accounts[name] = Account(replace(self._context, account=name, of_customer=of_customer))
        return self._accounts[name]

    def paces(self) -> dict[tuple[str, str | None], float]:
        """Return how fast each route may be used now, by its transport and account."""
        return {key: route.pacer.pace.rate for key, route in self._routes.items()}

    def _route(self, transport: str, account: str | None) -> Route:
        known = self._routes.get((transport, account))
        if known is None:
            known = self._routes[transport, account] = self._made(transport, account)
        return known

    def _made(self, transport: str, name: str | None) -> Route:
        context, rates, checked = self.account(name).context, self._rates, self._look(name)
        prepare, fault = (checked.look, checked.fault) if checked else (None, None)
        called = f"{transport} {name}" if name else transport
        if transport == "stream":
            return Route(
                pacer=self._pacer(
                    called, Pace(rates.stream), self._monotonic, by_event=rates.stream_by_event
                ),
                deliver=StreamSender(context, Session(context, self._monotonic)).deliver,
                at_once=AT_ONCE,
                prepare=prepare,
                fault=fault,
                after_refusal=after_refusal,
            )
        return Route(
            pacer=self._pacer(called, Pace(rates.calls), self._monotonic),
            deliver=MeterEventSender(context, 2 if transport == "v2" else 1).deliver,
            prepare=prepare,
            fault=fault,
        )

    def _look(self, name: str | None) -> Checked | None:
        """Return the look at a customer's account; the configured one is looked at before anything starts."""
        if not self._addresses.by_customer:
            return None
        if name not in self._checked:
            self._checked[name] = Checked(self.account(name), self._monotonic, self._looking)
        return self._checked[name]
