"""Every way to every account that a sink sends to, made when it is first needed.

Rules
- Each account has a pace, a session and a look at its meters of its own: Stripe's limits are per account.
- They are kept while the sink is: there are as many as connected accounts that use anything, each a few kilobytes.
- Of a customer and a Stripe meter one request is in flight, whichever way it goes.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

from aggregator.core.model import Event, WriteModel
from aggregator.core.rate_limit import Pace
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.connect import LOOKS_AT_ONCE, Addresses, Checked
from aggregator.sinks.stripe.dispatch import Bound, Pacer, Road
from aggregator.sinks.stripe.limits import Rates
from aggregator.sinks.stripe.meter_events import MeterEventSender
from aggregator.sinks.stripe.stream import AT_ONCE, Session, StreamSender
from aggregator.sinks.stripe_meter import StripeMeter


class Roads:
    """The roads of one sink. Used on its event loop."""

    def __init__(
        self,
        client: Client,
        sink: str,
        meters: Mapping[str, StripeMeter],
        addresses: Addresses,
        rates: Rates,
        *,
        livemode: bool,
        monotonic: Callable[[], float],
    ) -> None:
        self._client = client
        self._sink = sink
        self._meters = meters
        self._addresses = addresses
        self._rates = rates
        self._livemode = livemode
        self._monotonic = monotonic
        self._looking = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._accounts: dict[str | None, Account] = {}
        self._checked: dict[str | None, Checked] = {}
        self._roads: dict[tuple[str, str | None], Road] = {}

    def bind(self, event: Event, transport: str) -> Bound:
        """Say by which road an event goes, and what of it may be in flight once."""
        address = self._addresses.of(event.customer)
        assert address is not None, "who names no account is refused before"
        meter = self._meters.get(event.meter)
        key = (address.account, address.customer, meter.event_name if meter else None)
        # Of a `last` meter, the order within one request is not documented.
        alone = meter is None or meter.write_model is WriteModel.LAST
        return Bound(self._road(transport, address.account), key, alone)

    @property
    def configured(self) -> Account:
        """The account that the configuration names, or the one that the key belongs to."""
        return self.account(self._addresses.configured)

    def account(self, name: str | None) -> Account:
        """Return what can be asked of an account."""
        if name not in self._accounts:
            self._accounts[name] = Account(self._office(name))
        return self._accounts[name]

    def paces(self) -> dict[tuple[str, str | None], float]:
        """Return how fast each road may be used now, by its way and account."""
        return {key: road.turn.pace.rate for key, road in self._roads.items()}

    def _road(self, transport: str, account: str | None) -> Road:
        if (transport, account) not in self._roads:
            self._roads[transport, account] = (
                self._stream(account)
                if transport == "stream"
                else self._calls("v2" if transport == "v2" else "v1", account)
            )
        return self._roads[transport, account]

    def _calls(self, transport: Literal["v1", "v2"], account: str | None) -> Road:
        checked = self._look(account)
        courier = MeterEventSender(self._office(account), transport, checked)
        turn = Pacer(Pace(self._rates.calls), self._monotonic)
        return Road(turn, courier.deliver, prepare=checked.look if checked else None)

    def _stream(self, account: str | None) -> Road:
        rates, office = self._rates, self._office(account)
        turn = Pacer(Pace(rates.stream), self._monotonic, by_event=rates.stream_by_event)
        checked = self._look(account)
        streamer = StreamSender(office, Session(office, self._monotonic), turn, checked)
        return Road(turn, streamer.deliver, AT_ONCE, prepare=checked.look if checked else None)

    def _look(self, account: str | None) -> Checked | None:
        """Return the look at a customer's account; the configured one is looked at before anything starts."""
        if not self._addresses.by_customer:
            return None
        if account not in self._checked:
            self._checked[account] = Checked(
                self._office(account), self.account(account), self._monotonic, self._looking
            )
        return self._checked[account]

    def _office(self, account: str | None) -> AccountContext:
        return AccountContext(
            client=self._client,
            sink=self._sink,
            meters=self._meters,
            livemode=self._livemode,
            account=account,
            of_customer=self._addresses.by_customer and account is not None,
        )
