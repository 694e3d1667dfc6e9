"""What Stripe tells by itself and takes back on demand, as the rest knows it: over the sink's connections.

Rules
- What an account tells is asked in its own context, and says nothing of events that went to another.
- What is delivered for an account that is not the sink's is nothing to us.
- What is signed by none of the secrets may be signed by one that was rotated: they are read again, and it is looked at once
  more. Anybody may deliver what is not signed, so that is done now and then only, however much of it comes.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

from aggregator.core.model import Answer, Span, WriteModel
from aggregator.core.notifications import Cancelled, Notice, Told
from aggregator.errors import SinkError
from aggregator.runtime.clock import monotonic
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.cancelling import cancel
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.invalid_events import WHOLE
from aggregator.sinks.stripe.messages import Messages, NotThere, delivered, is_signed
from aggregator.sinks.stripe.sink import StripeSink
from aggregator.sinks.stripe_meter import StripeMeter

READ_AGAIN_SECONDS = 5.0
"""How long secrets are not read again: what was refused meanwhile is delivered again, minutes and hours later."""


class StripeTeller:
    """Listens to one Stripe account, and cancels there.

    `secrets` are those that sign what is delivered to us, and `secrets_now` gives them as they are by now; None means that
    they are the same. `elapsed` tells seconds, to measure with.
    """

    def __init__(
        self,
        sink: StripeSink,
        meters: Mapping[str, StripeMeter],
        *,
        secrets: Sequence[str],
        livemode: bool,
        secrets_now: Callable[[], Sequence[str] | None] = lambda: None,
        elapsed: Callable[[], float] = monotonic,
    ) -> None:
        self._sink = sink
        self._meters = meters
        self._secrets = tuple(secrets)
        self._secrets_now = secrets_now
        self._elapsed = elapsed
        self._read_again_at: float | None = None
        self._reading = threading.Lock()
        self._livemode = livemode
        self._messages: tuple[Client, dict[Account, Messages]] | None = None

    @property
    def takes_deliveries(self) -> bool:
        """Whether there is a secret to know deliveries by."""
        return bool(self._secrets)

    @property
    def by_customer(self) -> bool:
        """Whether each customer's account is heard by itself."""
        return self._sink.by_customer

    def account_of(self, customer: str) -> str | None:
        """Return which account a customer is in, if it is the customer that says so."""
        return self._sink.account_of(customer)

    def listed(self, span: Span, account: str | None = None) -> list[Notice]:
        """Return the messages on invalid events made within a span, by the account configured or by one of a customer.

        Raises SinkCrowded, AccountRefused, SinkUnreachable, SinkHalted or SinkError.
        """
        found = self._sink.ask(lambda client, asked: self._on(client, asked).listed(span), account)
        return [notice._replace(account=account) for notice in found] if account else found

    def fetched(self, name: str, account: str | None = None) -> Told | None:
        """Return what the message with this id says; None if it turns out to be of an account that is not the sink's.

        `account` is the one that it is said to be of. Raises AccountRefused, SinkUnreachable, SinkHalted or SinkError.
        """
        if self._sink.by_customer:
            return self._of_customer(name, account) if account else None
        try:
            return self._sink.ask(lambda client, asked: self._on(client, asked).fetched(name))
        except NotThere:
            if account in (None, self._sink.configured):
                raise
            return None

    def imports(self, span: Span) -> list[Told]:
        """Return what within a span could not be imported. Raises SinkCrowded, SinkUnreachable, SinkHalted or SinkError."""
        return self._sink.ask(lambda client, asked: self._on(client, asked).imports(span))

    def delivered(self, body: bytes, signature: str) -> Notice | Told | None:
        """Return what was delivered, if it is signed, and concerns us. Raises SinkError if it is not signed."""
        if not is_signed(body, signature, self._secrets):
            self._read_secrets_again()
        found = delivered(body, signature, self._secrets, livemode=self._livemode)
        notice = found.notice if isinstance(found, Told) else found
        return found if notice and self._concerns(notice) else None

    def _read_secrets_again(self) -> None:
        """Take the secrets as they are by now, unless that was done just now."""
        with self._reading:
            now = self._elapsed()
            if self._read_again_at is not None and now - self._read_again_at < READ_AGAIN_SECONDS:
                return
            self._read_again_at = now
            self._secrets = tuple(self._secrets_now() or self._secrets)

    def _concerns(self, notice: Notice) -> bool:
        """Tell whether a delivery may be of an account of the sink's; where none is configured, fetching it will show."""
        if self._sink.by_customer:
            return notice.account is not None or notice.kind in WHOLE
        return notice.account in (None, self._sink.configured) or (
            self._sink.configured is None and notice.kind not in WHOLE
        )

    def _of_customer(self, name: str, account: str) -> Told:
        told = self._sink.ask(lambda client, asked: self._on(client, asked).fetched(name), account)
        if told.notice.account not in (None, account):
            raise SinkError(f"Stripe's event {name} is of account {told.notice.account}, not of {account}.")
        reports = tuple(report._replace(whose=f"{account}/") for report in told.reports)
        return told._replace(notice=told.notice._replace(account=account), reports=reports)

    def cannot_cancel(self, meter: str) -> str | None:
        """Say why events of a meter of ours cannot be cancelled; None if they can."""
        known = self._meters.get(meter)
        if known is None:
            return f"meter {meter} no longer feeds sink {self._sink.name}"
        if self._sink.by_customer:
            return "its customers name the accounts they are in, and a cancellation would go to the platform's own"
        if self._sink.limits_for(meter).write_model is not WriteModel.DELTA:
            return (
                "its events replace each other at Stripe, and what comes back when the newest is cancelled is not "
                "documented: correct the source instead, and the next total replaces this one"
            )
        return None

    def cancel(self, meter: str, identifier: str, way: str) -> Cancelled:
        """Ask Stripe to take an event back, by the version of the API by which it went."""
        known = self._meters.get(meter)
        if known is None:
            return Cancelled(Answer.UNSENT, complete=False, reason=self.cannot_cancel(meter) or "")
        try:
            return self._sink.ask(
                lambda client, account: cancel(
                    client,
                    account,
                    self._sink.name,
                    known,
                    identifier,
                    livemode=self._livemode,
                    version=2 if way in ("v2", "stream") else 1,
                )
            )
        except SinkError as error:
            return Cancelled(Answer.UNSENT, complete=False, reason=str(error))

    def _on(self, client: Client, account: Account) -> Messages:
        """Return what reads messages over these connections; it remembers which meter is which."""
        if self._messages is None or self._messages[0] is not client:
            self._messages = client, {}
        known = self._messages[1]
        if account not in known:
            known[account] = Messages(client, account, self._sink.name, self._meters)
        return known[account]
