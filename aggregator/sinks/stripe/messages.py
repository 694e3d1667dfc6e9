"""Stripe's messages: listed, fetched, or delivered to a webhook and signed.

Rules
- What is delivered is believed only with a signature by a secret of ours that is not older than five minutes
  (docs.stripe.com/webhooks/signature). Why one is not believed is nobody's business.
- A delivered message on invalid events says no more than its id: it is fetched by that, so that it is Stripe that says it.
- A list is read page by page, to a bound. Whoever asks gets all of a span or an error.

docs.stripe.com/api/v2/core/events
"""

import asyncio
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aggregator.errors import SinkError
from aggregator.model import Span
from aggregator.sinks.stripe import reports
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.meter import StripeMeter
from aggregator.sinks.stripe.verdicts import Refusal
from aggregator.told import Notice, Told

if TYPE_CHECKING:
    from aggregator.sinks.stripe.account import Account

PAGE = 100
MOST_LISTED = 5_000
"""Of one span. A meter makes a report every ten seconds at most, so that an hour of one has 360."""

LIST_SECONDS = 60.0
"""For all pages of a list together, so that one without an end has one."""

TOLERANCE_SECONDS = 300
"""docs.stripe.com/webhooks/signature: how old a delivery may be. What is older may be somebody's who recorded it."""

NOT_FOUND = 404


class Messages:
    """Reads what Stripe tells one account by itself."""

    def __init__(
        self, client: Client, account: "Account", sink: str, meters: Mapping[str, StripeMeter]
    ) -> None:
        self._client = client
        self._account = account
        self._sink = sink
        self._event_names = {name: meter.event_name for name, meter in meters.items()}
        self._by_id: dict[str, str | None] = {}

    async def listed(self, span: Span) -> list[Notice]:
        """Return the messages on invalid events that Stripe made within a span.

        Raises SinkUnreachable, SinkHalted or SinkError, also if there are more than can be read at once.
        """
        found: list[Notice] = []
        try:
            async with asyncio.timeout(LIST_SECONDS):
                page = await self._client.api.v2.core.events.list_async(
                    {
                        "types": list(reports.FETCHED),
                        "created": {"gte": _shown(span.start), "lt": _shown(span.end)},
                        "limit": PAGE,
                    },
                    self._account.options,
                )
                async for message in page.auto_paging_iter():
                    found += _heads(message.to_dict())
                    if len(found) > MOST_LISTED:
                        break
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self._account.fail(error)
        if len(found) > MOST_LISTED:
            raise SinkError(f"Stripe has more than {MOST_LISTED} reports for sink {self._sink} in {span}.")
        return found

    async def fetched(self, name: str) -> Told:
        """Return what the message with this id says. Raises SinkUnreachable, SinkHalted or SinkError."""
        try:
            message = (
                await self._client.api.v2.core.events.retrieve_async(name, None, self._account.options)
            ).to_dict()
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self._account.fail(error)
        try:
            stripe_meter = reports.related_meter(message)
            meter = await self._ours(stripe_meter) if stripe_meter else None
            told = reports.read_report(message, meter, self._event_names)
        except ValueError as error:
            raise SinkError(f"Stripe's event {name} cannot be read: {error}.") from error
        if told.notice.id != name:
            raise SinkError(f"Stripe answered with another event than {name}.")
        return told

    async def _ours(self, stripe_meter: str) -> str | None:
        """Return which meter of ours sends to a meter at Stripe; None if none does."""
        if stripe_meter not in self._by_id:
            try:
                found = await self._client.api.v1.billing.meters.retrieve_async(
                    stripe_meter, None, self._account.options
                )
            except Exception as error:  # noqa: BLE001 - turned into ours, and raised
                told = self._client.describe(error)
                if isinstance(told, Refusal) and told.status == NOT_FOUND:
                    return None
                self._account.fail(error)
            names = (name for name, event_name in self._event_names.items() if event_name == found.event_name)
            self._by_id[stripe_meter] = next(names, None)
        return self._by_id[stripe_meter]


def delivered(body: bytes, signature: str, secrets: Sequence[str], *, livemode: bool) -> Notice | Told | None:
    """Return what was delivered to a webhook, if it is of a kind we know: a notice to be fetched, or all that it says.

    None for any other kind, and for one of the other mode. Raises SinkError if it is not signed by one of the secrets, or
    cannot be read.
    """
    if not any(_signed(body, signature, secret) for secret in secrets):
        raise SinkError("not signed as it must be")
    try:
        message = json.loads(body)
        if not isinstance(message, dict):
            raise SinkError("not an object")
        if message.get("type") not in (*reports.FETCHED, *reports.WHOLE) or _other(message, livemode):
            return None
        return (
            reports.notice_of(message) if message["type"] in reports.FETCHED else reports.read_import(message)
        )
    except (ValueError, RecursionError) as error:
        raise SinkError("it cannot be read") from error


def _signed(body: bytes, signature: str, secret: str) -> bool:
    """Tell whether the official library takes the signature."""
    import stripe

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS)
    except (stripe.SignatureVerificationError, ValueError, TypeError, OverflowError):
        return False
    return True


def _other(message: Mapping[str, object], livemode: bool) -> bool:  # noqa: FBT001 - it is compared
    return message.get("livemode") is not livemode


def _heads(message: Mapping[str, object]) -> list[Notice]:
    """Return the message's name; nothing if it has none, or is of a kind that was not asked for."""
    try:
        notice = reports.notice_of(message)
    except ValueError:
        return []
    return [notice] if notice.kind in reports.FETCHED else []


def _shown(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
