"""Connected accounts: which one a customer belongs to, and whether its meters fit before its first event.

Rules
- Where customers name their account, theirs is the part before the slash: `acct_123/cus_456`. One without is refused: it
  may exist on the platform too, and would be billed there.
- An account is looked at before its first event, once for all of our meters, while nobody else waits. What does not fit
  refuses the events of that meter in that account and nothing else, and is looked at again after a while, since people
  mend it.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from aggregator.core.model import Answer, Event
from aggregator.errors import SinkError
from aggregator.sinks.responses import Response
from aggregator.sinks.stripe.account import Account

NAMED = re.compile(r"(acct_[A-Za-z0-9]+)/(\S.*)")

LOOK_AGAIN_SECONDS = 60.0
"""How soon a meter that did not fit is looked at again: its refused events come by hand, and not by the second."""

ASK_AGAIN_SECONDS = 1.0
"""How soon it is asked again what could not be seen; until then all events of the account wait, at no cost."""

LOOKS_AT_ONCE = 16
"""Looks that are under way together: as many connections are kept for what is only read."""


class Address(NamedTuple):
    """Whom an event is about: a customer, and the account it is to be found in; None for the one of the key."""

    account: str | None
    customer: str


class Addresses:
    """Says where customers are: all in one account, or each in the one that it names."""

    def __init__(self, account: str | None = None, *, by_customer: bool = False) -> None:
        assert not (account and by_customer), "one account for all, or each its own"
        self.configured = account
        self.by_customer = by_customer

    def of(self, customer: str) -> Address | None:
        """Return where a customer is; None if it does not say and has to."""
        if not self.by_customer:
            return Address(self.configured, customer)
        named = NAMED.fullmatch(customer)
        return Address(named[1], named[2]) if named else None

    def account_of(self, customer: str) -> str | None:
        """Return which account a customer is in, if it is the customer that says so."""
        address = self.of(customer)
        return address.account if address and self.by_customer else None

    @staticmethod
    def fault(customer: str) -> str:
        """Say why a customer's events cannot be sent, and what to do about it."""
        return (
            f"customer {customer} names no connected account: let the query return `acct_.../cus_...`, "
            "or take `accounts: by_customer` off the sink"
        )


class Checked:
    """The look at an account before its first event. `look` is called by one at a time, `fault` by anybody after that."""

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
