"""Every route to every account that a sink sends to, made when it is first needed.

Rules
- Each account has a pace, a session and a look at its meters of its own: Stripe's limits are per account.
- They are kept while the sink is: there are as many as connected accounts that use anything, each a few kilobytes.
- An account that a customer names is looked at before its first event, once for all of our meters, while nobody else waits.
  What does not fit refuses the events of that meter in that account and nothing else, and is looked at again after a while,
  since people mend it.
- Of a customer and a Stripe meter one request is in flight, by whichever route: Stripe turns a second one away
  (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aggregator.core.model import Answer, Event, WriteModel
from aggregator.core.rate_limit import Pace
from aggregator.errors import SinkError
from aggregator.sinks.dispatch import Bound, Pacer, Route
from aggregator.sinks.responses import Response, no_longer_fed
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.account_context import AccountContext, Addresses
from aggregator.sinks.stripe.limits import Rates
from aggregator.sinks.stripe.meter_events import MeterEventSender
from aggregator.sinks.stripe.meter_usage import UsageReader
from aggregator.sinks.stripe.stream import AT_ONCE, Session, StreamSender, after_refusal

LOOK_AGAIN_SECONDS = 60.0
"""How soon a meter that did not fit is looked at again: its refused events come by hand, and not by the second."""

ASK_AGAIN_SECONDS = 1.0
"""How soon it is asked again what could not be seen; until then all events of the account wait, at no cost."""

LOOKS_AT_ONCE = 16
"""Looks that are under way together: as many connections are kept for what is only read."""


class FirstLook:
    """The look at an account before its first event: whether its meters fit.

    `look` is called by one at a time, `fault` by anybody after that.
    """

    def __init__(self, account: Account, monotonic: Callable[[], float], places: asyncio.Semaphore) -> None:
        self._account = account
        self._context = account.context
        self._places = places
        self._monotonic = monotonic
        self._found: Mapping[str, Sequence[str]] = {}
        self._failure: Response | None = None
        self._looked_at: float | None = None

    async def look(self) -> None:
        """Look at the account, if that has not been done, or is worth doing again."""
        if not self._is_due():
            return
        try:
            async with self._places:
                self._found, self._failure = await self._account.misfits(self._context.meters), None
        except SinkError as error:
            cause = error.__cause__
            self._failure = (
                self._context.judge_before(cause)
                if isinstance(cause, Exception)
                else Response(Answer.BUSY, str(error))
            )
        except Exception as error:  # noqa: BLE001 - an answer that makes no sense is this account's trouble, and no more
            reason = f"what {self._context.name} lists of its meters makes no sense ({type(error).__name__})"
            self._failure = Response(Answer.BUSY, reason)
        self._looked_at = self._monotonic()

    def fault(self, event: Event) -> Response | None:
        """Say what stands in the way of an event in this account; None if nothing does."""
        if event.meter not in self._found:
            return self._failure or Response(Answer.BUSY, f"{self._context.name} was not looked at yet")
        said = self._found[event.meter]
        if not said:
            return None
        there = f"`aggregator meters` acts there by a configuration with `stripe_account: {self._context.account}`."
        return Response(Answer.REFUSED, f"{self._context.account}: {' '.join(said)} {there}")

    def _is_due(self) -> bool:
        if self._looked_at is None:
            return True
        passed = self._monotonic() - self._looked_at
        misfit = any(self._found.values())
        return (self._failure is not None and passed > ASK_AGAIN_SECONDS) or (
            misfit and passed > LOOK_AGAIN_SECONDS
        )


@dataclass(slots=True)
class _Reached:
    """An account that something was sent to or asked of, and the routes to it by their transport."""

    account: Account
    usage: UsageReader
    first_look: FirstLook | None
    """None for the account that is configured: it is looked at before anything starts."""
    routes: dict[str, Route] = field(default_factory=dict)


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
        self._reached: dict[str | None, _Reached] = {}

    def bind(self, event: Event) -> Bound | Response:
        """Say by which route an event goes, and what of it may be in flight once; or why it cannot be sent."""
        address = self._addresses.of(event.customer)
        if address is None:
            return Response(Answer.REFUSED, self._addresses.fault(event.customer))
        meter = self._context.meters.get(event.meter)
        if meter is None:
            return no_longer_fed(event.meter, self._context.sink)
        event_name = meter.name_of(event)
        if event_name is None:
            return Response(Answer.REFUSED, meter.unmapped(event))
        key = (address.account, address.customer, event_name)
        # Of a `last` meter, the order within one request is not documented.
        alone = meter.write_model is WriteModel.LAST
        return Bound(self._route(event.transport or self._transport, address.account), key, alone)

    @property
    def configured(self) -> Account:
        """The account that the configuration names, or the one that the key belongs to."""
        return self.account(self._context.account)

    def account(self, name: str | None) -> Account:
        """Return what can be asked of an account."""
        return self._reach(name).account

    def usage(self, name: str | None) -> UsageReader:
        """Return what asks an account for the usage of several meters."""
        return self._reach(name).usage

    def paces(self) -> dict[tuple[str, str | None], float]:
        """Return how fast each route may be used now, by its transport and account."""
        return {
            (transport, name): route.pacer.pace.rate
            for name, reached in self._reached.items()
            for transport, route in reached.routes.items()
        }

    def _reach(self, name: str | None) -> _Reached:
        if name not in self._reached:
            by_customer = self._addresses.by_customer
            context = replace(self._context, account=name, of_customer=by_customer and name is not None)
            account = Account(context)
            look = FirstLook(account, self._monotonic, self._looking) if by_customer else None
            usage = UsageReader(account, self._monotonic)
            self._reached[name] = _Reached(account, usage, look)
        return self._reached[name]

    def _route(self, transport: str, name: str | None) -> Route:
        reached = self._reach(name)
        if transport not in reached.routes:
            reached.routes[transport] = self._made(transport, name, reached)
        return reached.routes[transport]

    def _made(self, transport: str, name: str | None, reached: _Reached) -> Route:
        context, rates, look = reached.account.context, self._rates, reached.first_look
        prepare, fault = (look.look, look.fault) if look else (None, None)
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
