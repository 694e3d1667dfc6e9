"""What Stripe tells by itself and takes back on demand, as the rest knows it: over the sink's connections."""

from collections.abc import Mapping, Sequence

from aggregator.errors import SinkError
from aggregator.model import Answer, Span, WriteModel
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.cancelling import cancel
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.messages import Messages, delivered
from aggregator.sinks.stripe.meter import StripeMeter
from aggregator.sinks.stripe.sink import StripeSink
from aggregator.told import Cancelled, Notice, Told


class StripeTeller:
    """Listens to one Stripe account, and cancels there. `secrets` are those that sign what is delivered to us."""

    def __init__(
        self, sink: StripeSink, meters: Mapping[str, StripeMeter], *, secrets: Sequence[str], livemode: bool
    ) -> None:
        self._sink = sink
        self._meters = meters
        self._secrets = tuple(secrets)
        self._livemode = livemode
        self._messages: tuple[Client, Messages] | None = None

    @property
    def takes_deliveries(self) -> bool:
        """Whether there is a secret to know deliveries by."""
        return bool(self._secrets)

    def listed(self, span: Span) -> list[Notice]:
        """Return the messages on invalid events made within a span. Raises SinkUnreachable, SinkHalted or SinkError."""
        return self._sink.ask(lambda client, account: self._on(client, account).listed(span))

    def fetched(self, name: str) -> Told:
        """Return what the message with this id says. Raises SinkUnreachable, SinkHalted or SinkError."""
        return self._sink.ask(lambda client, account: self._on(client, account).fetched(name))

    def delivered(self, body: bytes, signature: str) -> Notice | Told | None:
        """Return what was delivered, if it is signed, and concerns us. Raises SinkError if it is not signed."""
        return delivered(body, signature, self._secrets, livemode=self._livemode)

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
            self._messages = client, Messages(client, account, self._sink.name, self._meters)
        return self._messages[1]
