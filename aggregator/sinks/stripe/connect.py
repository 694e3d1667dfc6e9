"""Connected accounts: which one a customer belongs to, and whether its meters fit before its first event.

Rules
- Where customers name their account, theirs is the part before the slash: `acct_123/cus_456`. One without is refused: it
  may exist on the platform too, and would be billed there.
- An account is looked at before its first event, once for all of our meters. What does not fit refuses the events of that
  meter in that account and nothing else, and is looked at again after a while, since people mend it.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from aggregator.errors import SinkError
from aggregator.model import Answer
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.office import Office
from aggregator.sinks.stripe.verdicts import Judgement

NAMED = re.compile(r"(acct_[A-Za-z0-9]+)/(\S.*)")

LOOK_AGAIN_SECONDS = 60.0
"""How soon a meter that did not fit is looked at again: its refused events come by hand, and not by the second."""


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

    @staticmethod
    def fault(customer: str) -> str:
        """Say why a customer's events cannot be sent, and what to do about it."""
        return (
            f"customer {customer} names no connected account: let the query return `acct_.../cus_...`, "
            "or take `accounts: by_customer` off the sink"
        )


class Checked:
    """The look at an account before its first event."""

    def __init__(self, office: Office, account: Account, monotonic: Callable[[], float]) -> None:
        self._office = office
        self._account = account
        self._monotonic = monotonic
        self._found: Mapping[str, Sequence[str]] | None = None
        self._looked_at = 0.0
        self._looking = asyncio.Lock()

    async def fault(self, meter: str) -> Judgement | None:
        """Say what stands in the way of a meter's events in this account; None if nothing does."""
        if self._found is not None and not self._found[meter]:
            return None
        async with self._looking:
            if self._found is None or self._stale(meter):
                try:
                    self._found = await self._account.misfits(self._office.meters)
                except SinkError as error:
                    cause = error.__cause__
                    if isinstance(cause, Exception):
                        return self._office.judge_before(cause)
                    return Judgement(Answer.BUSY, str(error))
                self._looked_at = self._monotonic()
            said = self._found[meter]
        return Judgement(Answer.REFUSED, f"{self._office.account}: {' '.join(said)}") if said else None

    def _stale(self, meter: str) -> bool:
        assert self._found is not None, "it was looked at before"
        return bool(self._found[meter]) and self._monotonic() - self._looked_at > LOOK_AGAIN_SECONDS
