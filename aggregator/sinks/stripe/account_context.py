"""One account at Stripe as a sink reaches it: by which client, in which mode, under which header, and whose trouble it is.

Rules
- Every call for a connected account names it (docs.stripe.com/connect/authentication), reads included.
- An account that is the customers' own has its own trouble: it refuses their events, and halts nothing.
- What fails before a request with events leaves says nothing about them: they come again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.core.model import Answer
from aggregator.sinks.responses import NoResponse, Response, judge_silence
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.responses import Refusal, describe, is_wrong_account, judge_refusal, why_halt
from aggregator.sinks.stripe_meter import StripeMeter

if TYPE_CHECKING:
    from stripe import RequestOptions


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
