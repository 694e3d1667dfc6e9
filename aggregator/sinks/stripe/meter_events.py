"""One event, one call, one judgement: `POST /v1/billing/meter_events`, or version 2 of the same.

Rules
- The bytes are a function of the event and of its meter's settings: nothing else goes in, above all no clock, so that an
  event which is sent again is the same.
- Each attempt has an `Idempotency-Key` of its own, so that no saved answer (docs.stripe.com/api/idempotent_requests) can
  stand in for the truth. It begins with the event's identifier: a report may name either (`invalid_events`).
- Numbers go out as plain digits: no exponent, which Stripe's parser is not known to take. Version 2 wants text, too.
- Whatever breaks once the call has begun leaves open whether it arrived.
"""

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from aggregator.core.model import Event
from aggregator.runtime import failpoints
from aggregator.sinks.dispatch import Queued
from aggregator.sinks.responses import Response
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.responses import Echo, judge_echo

if TYPE_CHECKING:
    from stripe import RequestOptions
    from stripe.billing import MeterEvent
    from stripe.params.v2.billing import MeterEventCreateParams
    from stripe.v2.billing import MeterEvent as MeterEventV2


def spoken(event: Event, context: AccountContext) -> "MeterEventCreateParams":
    """Return an event as version 2 and the stream want it: instants in RFC 3339, of whole seconds as in version 1."""
    meter = context.meters[event.meter]
    return {
        "event_name": meter.event_name,
        "identifier": event.identifier,
        "timestamp": f"{event.at:%Y-%m-%dT%H:%M:%SZ}",
        "payload": meter.payload(event, context.customer(event.customer)),
    }


def fresh_key(identifier: str) -> str:
    """Return an `Idempotency-Key` for one attempt: never used before, and telling whose it is."""
    return f"{identifier}.{secrets.token_hex(8)}"


def attempt(event: Event, context: AccountContext) -> "RequestOptions":
    """Return what one attempt says besides the event."""
    return {**context.options, "idempotency_key": fresh_key(event.identifier)}


class MeterEventSender:
    """Takes events to one account, one call each."""

    def __init__(self, context: AccountContext, version: Literal[1, 2]) -> None:
        self._context = context
        self._call = self._call_v1 if version == 1 else self._call_v2

    async def deliver(self, queued: Sequence[Queued]) -> list[Response]:
        """Send one event and judge the answer."""
        event = queued[0].event
        context = self._context
        failpoints.passing("event_leaving")
        try:
            echo = _echo(await self._call(event))
        except Exception as error:  # noqa: BLE001 - whatever broke in the library, the call may have arrived
            return [context.judge(error)]
        sent = Echo(event.identifier, context.meters[event.meter].event_name, context.livemode)
        judged = judge_echo(echo, sent, context.sink)
        hide = context.client.hide
        return [judged._replace(reason=hide(judged.reason), request_id=hide(judged.request_id))]

    async def _call_v1(self, event: Event) -> "MeterEvent":
        context, meter = self._context, self._context.meters[event.meter]
        return await context.client.api.v1.billing.meter_events.create_async(
            {
                "event_name": meter.event_name,
                "identifier": event.identifier,
                "timestamp": int(event.at.timestamp()),
                "payload": meter.payload(event, context.customer(event.customer)),
            },
            attempt(event, context),
        )

    async def _call_v2(self, event: Event) -> "MeterEventV2":
        context = self._context
        return await context.client.api.v2.billing.meter_events.create_async(
            spoken(event, context), attempt(event, context)
        )


def _echo(answer: "MeterEvent | MeterEventV2") -> Echo:
    failpoints.passing("answer_unread")
    response = answer.last_response
    return Echo(
        getattr(answer, "identifier", None),
        getattr(answer, "event_name", None),
        getattr(answer, "livemode", None),
        response.request_id if response else None,
    )
