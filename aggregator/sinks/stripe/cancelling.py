"""Events taken back at Stripe: one adjustment, one call, one judgement.

Rules
- An answer that says `complete`, of this event, is the only one that says it is done. `pending` says that it was taken.
- What a refusal means is not known: Stripe documents no code for an identifier that is unknown, too old or cancelled before.
  So it is passed on in Stripe's words, and whoever has asked before decides nothing by it.
- Whatever breaks once the call has begun leaves open whether it arrived.

docs.stripe.com/api/billing/meter-event-adjustment
"""

from aggregator.core.model import Answer
from aggregator.core.notifications import CancelResult
from aggregator.sinks.responses import NoResponse, judge_silence
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.meter_events import fresh_key
from aggregator.sinks.stripe.responses import judge_refusal
from aggregator.sinks.stripe_meter import StripeMeter


async def cancel(
    context: AccountContext, meter: StripeMeter, identifier: str, *, version: int = 1
) -> CancelResult:
    """Ask Stripe to take back the event with this identifier, and judge the answer.

    `version` is that of the API by which it was sent: nothing says that one takes back what the other took.
    """
    if meter.event_names:
        why = "its meter sends by `stripe.event_names`, and nothing here says under which of them this event went"
        return CancelResult(Answer.REFUSED, complete=False, reason=why)
    api = context.client.api
    try:
        answer = await (api.v1 if version == 1 else api.v2).billing.meter_event_adjustments.create_async(
            {"event_name": meter.event_name, "type": "cancel", "cancel": {"identifier": identifier}},
            {**context.options, "idempotency_key": fresh_key(identifier)},
        )
    except Exception as error:  # noqa: BLE001 - whatever broke in the library, the call may have arrived
        failure = context.client.describe(error)
        judged = (
            judge_silence(failure)
            if isinstance(failure, NoResponse)
            else judge_refusal(failure, context.sink)
        )
        return CancelResult(judged.answer, complete=False, reason=judged.halt or judged.reason or "no reason")
    named = getattr(getattr(answer, "cancel", None), "identifier", None)
    if (named, getattr(answer, "livemode", None)) != (identifier, context.livemode):
        return CancelResult(Answer.UNKNOWN, complete=False, reason="the answer is about something else")
    status = str(getattr(answer, "status", None))
    return CancelResult(Answer.ACCEPTED, complete=status == "complete", reason=f"Stripe says {status}")
