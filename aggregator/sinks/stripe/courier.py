"""One event, one call, one judgement.

Rules
- The bytes are a function of the event and of its meter's settings: nothing else goes in, above all no clock, so that an
  event which is sent again is the same.
- Numbers go out as plain digits: no exponent, which Stripe's parser is not known to take.
- Whatever breaks once the call has begun leaves open whether it arrived.
"""

from collections.abc import Mapping

from aggregator import points
from aggregator.model import Answer, Event
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.meter import StripeMeter
from aggregator.sinks.stripe.verdicts import (
    Echo,
    Judgement,
    Silence,
    judge_echo,
    judge_refusal,
    judge_silence,
)


class Courier:
    """Takes events to Stripe, one call each."""

    def __init__(
        self, client: Client, sink: str, meters: Mapping[str, StripeMeter], *, livemode: bool
    ) -> None:
        self._client = client
        self._create = client.api.v1.billing.meter_events.create_async
        self._sink = sink
        self._meters = meters
        self._livemode = livemode

    async def deliver(self, event: Event) -> Judgement:
        """Send one event and judge the answer."""
        meter = self._meters.get(event.meter)
        if meter is None:
            return Judgement(
                Answer.BUSY, f"meter {event.meter} no longer feeds sink {self._sink}: put it back"
            )
        try:
            echo = await self._call(event, meter)
        except Exception as error:  # noqa: BLE001 - whatever broke in the library, the call may have arrived
            told = self._client.describe(error)
            return judge_silence(told) if isinstance(told, Silence) else judge_refusal(told, self._sink)
        judged = judge_echo(echo, Echo(event.identifier, meter.event_name, self._livemode), self._sink)
        hide = self._client.hide
        return judged._replace(reason=hide(judged.reason), request_id=hide(judged.request_id))

    async def _call(self, event: Event, meter: StripeMeter) -> Echo:
        points.passing("event_leaving")
        answer = await self._create(
            {
                "event_name": meter.event_name,
                "identifier": event.identifier,
                "timestamp": int(event.at.timestamp()),
                "payload": meter.payload(event),
            }
        )
        points.passing("answer_unread")
        response = answer.last_response
        return Echo(
            getattr(answer, "identifier", None),
            getattr(answer, "event_name", None),
            getattr(answer, "livemode", None),
            response.request_id if response else None,
        )
