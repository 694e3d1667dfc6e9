"""One event, one call, one judgement: `POST /v1/billing/meter_events`, or version 2 of the same.

Rules
- Each attempt has an `Idempotency-Key` of its own, so that no saved answer (docs.stripe.com/api/idempotent_requests) can
  stand in for the truth. It begins with the event's identifier: a report may name either (`invalid_events`).
- Whatever breaks once the call has begun leaves open whether it arrived.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

from aggregator.core.model import Event
from aggregator.runtime import failpoints
from aggregator.sinks.dispatch import Queued
from aggregator.sinks.responses import NoResponse, Response, judge_silence
from aggregator.sinks.stripe import wire
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.client import Answered
from aggregator.sinks.stripe.responses import Echo, Refusal, judge_echo


def document(event: Event, context: AccountContext) -> wire.Document:
    """Return an event as version 2 and the stream want it: instants in RFC 3339, of whole seconds as in version 1."""
    meter = context.meters[event.meter]
    return {
        "event_name": called(event, context),
        "identifier": event.identifier,
        "timestamp": f"{event.at:%Y-%m-%dT%H:%M:%SZ}",
        "payload": meter.payload(event, context.customer(event.customer)),
    }


def called(event: Event, context: AccountContext) -> str:
    """Return the event name of an event that has been bound to a route, and so has one."""
    name = context.meters[event.meter].name_of(event)
    assert name is not None, "what is not mapped is refused before it leaves"
    return name


def fresh_key(identifier: str) -> str:
    """Return an `Idempotency-Key` for one attempt: never used before, and telling whose it is."""
    return f"{identifier}.{secrets.token_hex(8)}"


class MeterEventSender:
    """Takes events to one account, one call each."""

    def __init__(self, context: AccountContext, version: Literal[1, 2]) -> None:
        self._context = context
        self._path = wire.Path.V1 if version == 1 else wire.Path.V2

    async def deliver(self, queued: Sequence[Queued]) -> list[Response]:
        """Send one event and judge the answer."""
        event, context = queued[0].event, self._context
        failpoints.passing("event_leaving")
        answer = await context.client.post(
            self._path, self._body(event), fresh_key(event.identifier), context.account
        )
        match answer:
            case NoResponse():
                return [judge_silence(answer)]
            case Refusal():
                return [context.judge_refusal(answer)]
        failpoints.passing("answer_unread")
        sent = Echo(event.identifier, called(event, context), context.livemode)
        judged = judge_echo(_echo(answer), sent, context.sink)
        return [judged._replace(reason=context.client.hide(judged.reason))] if judged.reason else [judged]

    def _body(self, event: Event) -> bytes:
        context = self._context
        if self._path is wire.Path.V2:
            return wire.document(document(event, context))
        meter = context.meters[event.meter]
        payload = meter.payload(event, context.customer(event.customer))
        return wire.form(called(event, context), event.identifier, int(event.at.timestamp()), payload)


def _echo(answer: Answered) -> Echo:
    body = answer.body if isinstance(answer.body, Mapping) else {}
    return Echo(body.get("identifier"), body.get("event_name"), body.get("livemode"), answer.request_id)
