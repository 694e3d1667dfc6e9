"""One request, one judgement.

Whatever breaks once the call has begun leaves open what arrived of it.
"""

from collections.abc import Mapping, Sequence

from aggregator.core.model import Encoding, Event
from aggregator.runtime import failpoints
from aggregator.sinks.metronome import event as wire
from aggregator.sinks.metronome.client import Client
from aggregator.sinks.metronome.meter import MetronomeMeter
from aggregator.sinks.metronome.responses import judge_refusal, judge_success
from aggregator.sinks.responses import Judgement, Silence, judge_silence


class Courier:
    """Takes events to Metronome, many at a time. Each belongs to a meter that feeds the sink."""

    def __init__(
        self, client: Client, sink: str, meters: Mapping[str, MetronomeMeter], encoding: Encoding
    ) -> None:
        self._client = client
        self._sink = sink
        self._meters = meters
        self._encoding = encoding

    async def deliver(self, events: Sequence[Event]) -> Judgement:
        """Send events in one request and judge the answer."""
        body = wire.body(wire.written(each, self._meters[each.meter], self._encoding) for each in events)
        failpoints.passing("event_leaving")
        try:
            response = await self._client.ingest(body)
        except Exception as error:  # noqa: BLE001 - whatever broke in the library, the call may have arrived
            told = self._client.describe(error)
            return judge_silence(told) if isinstance(told, Silence) else judge_refusal(told, self._sink)
        failpoints.passing("answer_unread")
        return judge_success(response.content, self._client.request_id(response))
