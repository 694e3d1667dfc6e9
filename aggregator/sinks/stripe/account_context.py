"""The account at Stripe that a customer is in: by which client and header it is reached, and whose trouble its trouble is.

Rules
- Where customers name their account, theirs is the part before the slash: `acct_123/cus_456`. One without is refused: it
  may exist on the platform too, and would be billed there.
- Every call for a connected account names it (docs.stripe.com/connect/authentication), reads included.
- An account that is the customers' own has its own trouble: it refuses their events, and halts nothing.
- What fails before a request with events leaves says nothing about them: they come again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aggregator.core.model import Answer
from aggregator.sinks.responses import NoResponse, Response, judge_silence
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.responses import Refusal, describe, is_wrong_account, judge_refusal, why_halt
from aggregator.sinks.stripe_meter import StripeMeter

if TYPE_CHECKING:
    from stripe import RequestOptions


NAMED = re.compile(r"(acct_[A-Za-z0-9]+)/(\S.*)")


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


@dataclass(frozen=True, slots=True)
class AccountContext:
    """Where calls for one account go. `account` is None for the account that the key belongs to.

    `of_customer` says that the account is named by a customer rather than by the configuration.
    """

    client: Client
    sink: str
    meters: Mapping[str, StripeMeter]
    livemode: bool
    account: str | None = None
    of_customer: bool = False

    @property
    def options(self) -> "RequestOptions":
        """What each call is to say besides its parameters."""
        return {"stripe_account": self.account} if self.account else {}

    @property
    def as_context(self) -> "RequestOptions":
        """The same for what the account tells, which a notification calls its context (docs.stripe.com/context)."""
        return {"stripe_context": self.account} if self.account else {}

    @property
    def name(self) -> str:
        """Name it in a sentence."""
        return f"account {self.account} of sink {self.sink}" if self.account else f"sink {self.sink}"

    def customer(self, named: str) -> str:
        """Return what Stripe calls a customer of ours."""
        return named.partition("/")[2] if self.of_customer else named

    def judge_refusal(self, refusal: Refusal) -> Response:
        """Judge a request of events that was refused."""
        if not self.of_customer:
            return judge_refusal(refusal, self.sink)
        if is_wrong_account(refusal):
            reason = (
                f"Stripe account {self.account} cannot be used: {describe(refusal)}. Let its owner connect it again, "
                "or correct what the query returns before the slash"
            )
            return Response(Answer.REFUSED, reason, refusal.request_id)
        if self._is_closed(refusal):
            return Response(Answer.BUSY, f"{self.account}: {describe(refusal)}", refusal.request_id)
        return judge_refusal(refusal, self.sink)

    def why_halt(self, refusal: Refusal) -> str | None:
        """Say why the sink as a whole is refused; None if only the call is, or an account that a customer names."""
        if self.of_customer and (is_wrong_account(refusal) or self._is_closed(refusal)):
            return None
        return why_halt(refusal, self.sink)

    def _is_closed(self, refusal: Refusal) -> bool:
        """Tell whether a permission is lacking for this account, rather than for the key."""
        return refusal.status == 403 and why_halt(refusal._replace(status=400), self.sink) is None

    def judge_before(self, error: Exception) -> Response:
        """Judge a call that raised before any event left: what it says of the key or the account counts, no more."""
        failure = self.client.describe(error)
        judged = judge_silence(failure) if isinstance(failure, NoResponse) else self.judge_refusal(failure)
        settled = judged.halt or (
            self.of_customer and isinstance(failure, Refusal) and is_wrong_account(failure)
        )
        return judged if settled else judged._replace(answer=Answer.BUSY)
