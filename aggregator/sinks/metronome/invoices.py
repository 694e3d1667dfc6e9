"""Whether the invoice of an event's moment can still be lowered: asked before a quantity below zero leaves, and only then.

Usage changes an invoice as long as it is a draft, by default until 24 hours after its period; after that it is taken without
an error and changes nothing (docs.metronome.com, how invoicing works, and issue credit memos). So a decrease would be booked
here and lower no bill.

Rules
- Refused is only what Metronome plainly says to be too late: a finalized usage invoice covers the instant, no draft does.
- Where an answer may come later, the decrease is sent later. Nothing of it has left.
- Where none will come (the token may not read invoices, nobody has the alias yet, the answer makes no sense), it is sent as
  if nobody had asked. Kept back, it would leave a customer charged too much on a draft, for no reason of the customer's;
  sent too late, it changes nothing. Neither bills twice. `Account.cannot_promise` says that the token may not.
- What was said of a customer holds for a short while, for all events that ask.
"""

import asyncio
from collections.abc import Callable, Sequence

from aggregator.core.model import Answer, Event
from aggregator.errors import SinkError, SinkUnreachable
from aggregator.sinks.metronome.account import Account, Invoice
from aggregator.sinks.responses import Response

KEPT_SECONDS = 30.0
"""So long after it was finalized an invoice may still be thought a draft. Finalizing a draft may take as long."""

MOST_KEPT = 10_000
"""So many customers are remembered; then all are forgotten."""

ASKED_AT_ONCE = 4
"""Reading has limits of its own at Metronome, which are not published."""

PAUSE_SECONDS = 5.0
"""How long nothing is asked after no answer came, or none that could be used: the events come again by themselves."""

DRAFT, FINALIZED = "DRAFT", "FINALIZED"


class Invoices:
    """Says what stands against a decrease. Used on one event loop."""

    def __init__(self, account: Account, monotonic: Callable[[], float]) -> None:
        self._account = account
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)
        self._said: dict[str, tuple[float, asyncio.Task[Sequence[Invoice]]]] = {}
        self._silent_until = 0.0
        self._silence = ""

    async def objection(self, event: Event) -> Response | None:
        """Say why a decrease is not sent, or not now; None if it may leave."""
        try:
            invoices = await self._of(event.customer)
        except SinkUnreachable as error:
            reason = f"is a decrease, and nobody knows yet whether its invoice is still a draft: {error}"
            return Response(Answer.BUSY, reason)
        except SinkError:
            return None
        covering = [each for each in invoices if event.at in each.span]
        closed = [each for each in covering if each.status == FINALIZED]
        if not closed or any(each.status == DRAFT for each in covering):
            return None
        start, end = closed[0].span
        return Response(
            Answer.REFUSED,
            f"Metronome's invoice {closed[0].id} from {start:%Y-%m-%d} to {end:%Y-%m-%d} is finalized, and no decrease "
            "changes it any more. Give a credit there and dismiss this event; or void the invoice there, release this "
            "event, and regenerate the invoice once the event is accepted",
        )

    async def _of(self, customer: str) -> Sequence[Invoice]:
        now = self._monotonic()
        until, asking = self._said.get(customer, (now, None))
        if asking is None or (asking.done() and until <= now):
            if len(self._said) >= MOST_KEPT:
                self._said = {who: each for who, each in self._said.items() if not each[1].done()}
            asking = asyncio.create_task(self._ask(customer))
            self._said[customer] = now + KEPT_SECONDS, asking
        return await asking

    async def _ask(self, customer: str) -> Sequence[Invoice]:
        async with self._slots:
            if self._monotonic() < self._silent_until:
                self._said.pop(customer, None)
                raise SinkUnreachable(self._silence)
            try:
                return await self._account.invoices(customer)
            except SinkUnreachable as error:
                self._silent_until = self._monotonic() + PAUSE_SECONDS
                self._silence = str(error)
                self._said.pop(customer, None)
                raise
