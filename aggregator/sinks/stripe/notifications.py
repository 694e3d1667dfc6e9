"""What Stripe tells by itself and takes back on demand: listed, fetched, or delivered to a webhook and signed.

Rules
- What is delivered is believed only with a signature by a secret of ours that is not older than five minutes
  (docs.stripe.com/webhooks/signature). Why one is not believed is nobody's business.
- What is signed by none of the secrets may be signed by one that was rotated: they are read again, and it is looked at once
  more. Anybody may deliver what is not signed, so that is done now and then only, however much of it comes.
- A delivered message on invalid events says no more than its id: it is fetched by that, so that it is Stripe that says it.
- A list is read page by page, to a bound. Whoever asks gets all of a span or an error.
- What an account tells is asked in its own context, and says nothing of events that went to another. What is delivered for
  an account that is not the sink's is nothing to us.
- An account that a customer names has its own trouble: it is never the key's, unless Stripe says so.

docs.stripe.com/api/v2/core/events, and docs.stripe.com/api/events/list for imports
"""

import asyncio
import datetime as dt
import json
import math
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from aggregator.core.model import Answer, Span, WriteModel
from aggregator.core.notifications import CancelResult, Notification, ParsedNotification
from aggregator.errors import AccountRefused, SinkCrowded, SinkError
from aggregator.runtime.clock import monotonic, utcnow
from aggregator.sinks.stripe import invalid_events, wire
from aggregator.sinks.stripe.account import Account
from aggregator.sinks.stripe.cancelling import cancel
from aggregator.sinks.stripe.invalid_events import HEALTH, WHOLE
from aggregator.sinks.stripe.responses import KEY_CODES, Refusal, describe, is_wrong_account
from aggregator.sinks.stripe.sink import StripeSink
from aggregator.sinks.stripe_meter import StripeMeter

Read = TypeVar("Read")

MESSAGES = "/v2/core/events"

PAGE = 100
MOST_LISTED = 5_000
"""Of one span. A meter makes a report every ten seconds at most, so that an hour of one has 360."""

LIST_SECONDS = 60.0
"""For all pages of a list together, so that one without an end has one."""

TOLERANCE_SECONDS = 300
"""docs.stripe.com/webhooks/signature: how old a delivery may be. What is older may be somebody's who recorded it."""

NOT_FOUND = 404
FORBIDDEN = 403


class NotThere(SinkError):
    """Stripe has no event with this id in the account that was asked."""


class Messages:
    """Reads what Stripe tells one account by itself."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._context = account.context
        self._client = account.context.client
        self._sink = account.context.sink

    async def listed(self, span: Span) -> list[Notification]:
        """Return the messages on invalid events that Stripe made within a span.

        Raises SinkCrowded if there are more than can be read at once; AccountRefused, SinkUnreachable, SinkHalted or
        SinkError.
        """
        messages = self._listed(invalid_events.FETCHED, span)
        return await self._all(messages, _heads, f"reports for sink {self._sink} in {span}")

    async def imports(self, span: Span) -> list[ParsedNotification]:
        """Return what Stripe said within a span of files, or rows of files, that it could not import.

        Raises SinkCrowded if it said more than can be read at once, of what went well, too; SinkUnreachable, SinkHalted or
        SinkError.
        """
        start, end = math.floor(span.start.timestamp()), math.ceil(span.end.timestamp())
        messages = self._of_imports(start, end)
        return await self._all(messages, _imported, f"imports for sink {self._sink} in {span}")

    async def health(self, span: Span) -> list[ParsedNotification]:
        """Return what Stripe said within a span of its summaries being late, and being on time again.

        Raises SinkError where it does not know such messages, as they are in a preview; or SinkUnreachable or SinkHalted.
        """
        messages = self._listed(invalid_events.HEALTH, span)
        return await self._all(messages, _of_health, f"messages on the health of sink {self._sink} in {span}")

    async def _listed(self, kinds: Iterable[str], span: Span) -> AsyncIterator[Mapping[str, object]]:
        """Yield the messages of these kinds within a span; past the library, since it is asked for in every pass."""
        params: dict[str, str | int] = {f"types[{place}]": kind for place, kind in enumerate(kinds)}
        params |= {"created[gte]": _shown(span.start), "created[lt]": _shown(span.end), "limit": PAGE}
        whose, page = wire.in_context(self._context.account), wire.query(MESSAGES, params)
        while page is not None:
            listed = await self._client.get(page, whose)
            for message in listed["data"]:
                yield message
            page = listed["next_page_url"]

    async def _of_imports(self, start: int, end: int) -> AsyncIterator[Mapping[str, object]]:
        listed = await self._client.api.v1.events.list_async(
            {"types": list(invalid_events.WHOLE), "created": {"gte": start, "lt": end}, "limit": PAGE},
            self._context.options,
        )
        async for message in listed.auto_paging_iter():
            yield message.to_dict()

    async def _all(
        self,
        messages: AsyncIterator[Mapping[str, object]],
        read: Callable[[Mapping[str, object]], list[Read]],
        what: str,
    ) -> list[Read]:
        """Return what is read of all pages of a list; `what` names it where it is too long."""
        found: list[Read] = []
        listed = 0
        with self._asking():
            async with asyncio.timeout(LIST_SECONDS):
                async for message in messages:
                    listed += 1
                    found += read(message)
                    if listed > MOST_LISTED:
                        break
        if listed > MOST_LISTED:
            raise SinkCrowded(f"Stripe has more than {MOST_LISTED} {what}.")
        return found

    async def fetched(self, name: str) -> ParsedNotification:
        """Return what the message with this id says.

        Raises NotThere, AccountRefused, SinkUnreachable, SinkHalted or SinkError.
        """
        try:
            found = await self._client.api.v2.core.events.retrieve_async(name, None, self._context.as_context)
            message = found.to_dict()
        except Exception as error:
            failure = self._client.describe(error)
            if isinstance(failure, Refusal) and failure.status == NOT_FOUND:
                raise NotThere(f"Stripe has no event {name} for {self._context.name}.") from error
            self._fail(error)
        try:
            stripe_meter = invalid_events.related_meter(message)
            with self._asking():
                meter = await self._account.our_meter(stripe_meter) if stripe_meter else None
            event_names = {ours: known.names for ours, known in self._context.meters.items()}
            read = invalid_events.read_report(message, meter, event_names)
        except ValueError as error:
            raise SinkError(f"Stripe's event {name} cannot be read: {error}.") from error
        if read.notification.id != name:
            raise SinkError(f"Stripe answered with another event than {name}.")
        return read

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        """Raise what an error means: of an account that a customer names, no more than that account's trouble, if it is."""
        failure, context = self._client.describe(error), self._context
        if context.of_customer and isinstance(failure, Refusal) and failure.code not in KEY_CODES:
            if is_wrong_account(failure):
                sentence = f"Stripe account {context.account} cannot be used: {describe(failure)}."
                raise AccountRefused(f"{sentence} Let its owner connect it again.") from error
            if failure.status == FORBIDDEN:
                raise SinkError(
                    f"Stripe does not say what {context.name} asked: {describe(failure)}."
                ) from error
        self._account.fail(error)


def delivered(
    body: bytes, signature: str, secrets: Sequence[str], *, livemode: bool
) -> Notification | ParsedNotification | None:
    """Return what was delivered to a webhook, if it is of a kind we know: a notice to be fetched, or all that it says.

    None for any other kind, and for one of the other mode. Raises SinkError if it is not signed by one of the secrets, or
    cannot be read.
    """
    if not is_signed(body, signature, secrets):
        raise SinkError("not signed as it must be")
    try:
        message = json.loads(body)
        if not isinstance(message, dict):
            raise SinkError("not an object")
        known = (*invalid_events.FETCHED, *invalid_events.WHOLE, *invalid_events.HEALTH)
        if message.get("type") not in known or _other(message, livemode):
            return None
        if message["type"] in invalid_events.HEALTH:
            return invalid_events.read_health(message)
        return (
            invalid_events.notification_of(message)
            if message["type"] in invalid_events.FETCHED
            else invalid_events.read_import(message)
        )
    except (ValueError, RecursionError) as error:
        raise SinkError("it cannot be read") from error


def is_signed(body: bytes, signature: str, secrets: Sequence[str]) -> bool:
    """Tell whether what was delivered is signed by one of the secrets, not long ago."""
    return any(_signed(body, signature, secret) for secret in secrets)


def _signed(body: bytes, signature: str, secret: str) -> bool:
    """Tell whether the official library takes the signature."""
    import stripe

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS)
        signed_at = int(TIMESTAMP.findall(signature)[0])
    except (stripe.SignatureVerificationError, ValueError, TypeError, OverflowError, IndexError):
        return False
    # The library looks only for what is too old. What is signed for tomorrow could be delivered again until then.
    return signed_at - utcnow().timestamp() <= TOLERANCE_SECONDS


TIMESTAMP = re.compile(r"(?:^|,)\s*t=(\d{1,12})(?=,|$)")


def _other(message: Mapping[str, object], livemode: bool) -> bool:  # noqa: FBT001 - it is compared
    return message.get("livemode") is not livemode


def _heads(message: Mapping[str, object]) -> list[Notification]:
    """Return the message's name; nothing if it has none, or is of a kind that was not asked for."""
    try:
        notification = invalid_events.notification_of(message)
    except ValueError:
        return []
    return [notification] if notification.kind in invalid_events.FETCHED else []


def _imported(message: Mapping[str, object]) -> list[ParsedNotification]:
    """Return what an import came to, if something was not imported; nothing if it cannot be read."""
    try:
        imported = invalid_events.read_import(message)
    except ValueError:
        return []
    return [imported] if imported.unimported and imported.notification.kind in invalid_events.WHOLE else []


def _of_health(message: Mapping[str, object]) -> list[ParsedNotification]:
    """Return what a message says of summaries being late; nothing if it is of another kind, or has no name."""
    try:
        parsed = invalid_events.read_health(message)
    except ValueError:
        return []
    return [parsed] if parsed.notification.kind in invalid_events.HEALTH else []


def _shown(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


READ_AGAIN_SECONDS = 5.0
"""How long secrets are not read again: what was refused meanwhile is delivered again, minutes and hours later."""


class StripeNotificationClient:
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

    @property
    def takes_deliveries(self) -> bool:
        """Whether there is a secret to know deliveries by."""
        return bool(self._secrets)

    @property
    def by_customer(self) -> bool:
        """Whether each customer's account is heard by itself."""
        return self._sink.addresses.by_customer

    def account_of(self, customer: str) -> str | None:
        """Return which account a customer is in, if it is the customer that says so."""
        return self._sink.addresses.account_of(customer)

    def listed(self, span: Span, account: str | None = None) -> list[Notification]:
        """Return the messages on invalid events made within a span, by the account configured or by one of a customer.

        Raises SinkCrowded, AccountRefused, SinkUnreachable, SinkHalted or SinkError.
        """
        found = self._sink.ask(lambda asked: Messages(asked).listed(span), account)
        return [notification._replace(account=account) for notification in found] if account else found

    def fetched(self, name: str, account: str | None = None) -> ParsedNotification | None:
        """Return what the message with this id says; None if it turns out to be of an account that is not the sink's.

        `account` is the one that it is said to be of. Raises AccountRefused, SinkUnreachable, SinkHalted or SinkError.
        """
        if self._sink.addresses.by_customer:
            return self._of_customer(name, account) if account else None
        try:
            return self._sink.ask(lambda asked: Messages(asked).fetched(name))
        except NotThere:
            if account in (None, self._sink.addresses.configured):
                raise
            return None

    def imports(self, span: Span) -> list[ParsedNotification]:
        """Return what within a span could not be imported. Raises SinkCrowded, SinkUnreachable, SinkHalted or SinkError."""
        return self._sink.ask(lambda asked: Messages(asked).imports(span))

    def health(self, span: Span) -> list[ParsedNotification]:
        """Return what was said within a span of totals being late, or on time again.

        Raises SinkCrowded, SinkUnreachable, SinkHalted, or SinkError where such messages are not known.
        """
        return self._sink.ask(lambda asked: Messages(asked).health(span))

    def delivered(self, body: bytes, signature: str) -> Notification | ParsedNotification | None:
        """Return what was delivered, if it is signed, and concerns us. Raises SinkError if it is not signed."""
        if not is_signed(body, signature, self._secrets):
            self._read_secrets_again()
        found = delivered(body, signature, self._secrets, livemode=self._livemode)
        notification = found.notification if isinstance(found, ParsedNotification) else found
        return found if notification and self._concerns(notification) else None

    def _read_secrets_again(self) -> None:
        """Take the secrets as they are by now, unless that was done just now."""
        with self._reading:
            now = self._elapsed()
            if self._read_again_at is not None and now - self._read_again_at < READ_AGAIN_SECONDS:
                return
            self._read_again_at = now
            self._secrets = tuple(self._secrets_now() or self._secrets)

    def _concerns(self, notification: Notification) -> bool:
        """Tell whether a delivery may be of an account of the sink's; where none is configured, fetching it will show."""
        if self._sink.addresses.by_customer:
            return notification.account is not None or notification.kind in (*WHOLE, *HEALTH)
        return notification.account in (None, self._sink.addresses.configured) or (
            self._sink.addresses.configured is None and notification.kind not in WHOLE
        )

    def _of_customer(self, name: str, account: str) -> ParsedNotification:
        parsed = self._sink.ask(lambda asked: Messages(asked).fetched(name), account)
        if parsed.notification.account not in (None, account):
            raise SinkError(
                f"Stripe's event {name} is of account {parsed.notification.account}, not of {account}."
            )
        reports = tuple(report._replace(whose=f"{account}/") for report in parsed.reports)
        return parsed._replace(notification=parsed.notification._replace(account=account), reports=reports)

    def cannot_cancel(self, meter: str) -> str | None:
        """Say why events of a meter of ours cannot be cancelled; None if they can."""
        known = self._meters.get(meter)
        if known is None:
            return f"meter {meter} no longer feeds sink {self._sink.name}"
        if self._sink.addresses.by_customer:
            return "its customers name the accounts they are in, and a cancellation would go to the platform's own"
        if self._sink.limits_for(meter).write_model is not WriteModel.DELTA:
            return (
                "its events replace each other at Stripe, and what comes back when the newest is cancelled is not "
                "documented: correct the source instead, and the next total replaces this one"
            )
        return None

    def cancel(self, meter: str, identifier: str, transport: str) -> CancelResult:
        """Ask Stripe to take an event back, by the version of the API by which it went."""
        known = self._meters.get(meter)
        if known is None:
            return CancelResult(Answer.UNSENT, complete=False, reason=self.cannot_cancel(meter) or "")
        try:
            return self._sink.ask(
                lambda asked: cancel(
                    asked.context, known, identifier, version=2 if transport in ("v2", "stream") else 1
                )
            )
        except SinkError as error:
            return CancelResult(Answer.UNSENT, complete=False, reason=str(error))
