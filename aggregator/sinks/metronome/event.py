"""What one of our meters is at Metronome, and one event of it as the bytes that Metronome gets.

Rules
- They are a function of the event and of its meter's settings: nothing else goes in, above all no clock, so that an event
  which is sent again is the same. Metronome keeps the first and says nothing of a second that differs.
- A quantity is plain digits, all of them, as text or as a JSON number. It never becomes a float on its way, which would
  make 12345678901234567.25 another number; so the JSON is put together here and not by the library, which takes no Decimal.
"""

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted

from aggregator.core.model import Encoding, Event
from aggregator.core.planner import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class MetronomeMeter:
    """The type of its events, the property that holds the quantity, and properties that are the same on each event.

    docs.metronome.com, design usage events.
    """

    event_type: str
    quantity_property: str = "quantity"
    properties: Mapping[str, str] = field(default_factory=dict)
    metric_id: str | None = None
    """The billable metric that sums it; None looks it up by event type and property."""
    window: dt.timedelta = dt.timedelta(hours=1)
    """How long its windows are: Metronome shows no less than an hour."""
    dimensions: Mapping[str, str] = field(default_factory=dict)
    """The property of each dimension."""

    @property
    def sent(self) -> dict[str, str | None]:
        """Return every property of its events; None stands for the quantity and for dimensions, which differ."""
        return {self.quantity_property: None, **self.properties, **dict.fromkeys(self.dimensions.values())}


class Form:
    """How the events of one meter are written: what is alike in all of them is made up once."""

    def __init__(self, meter: MetronomeMeter, encoding: Encoding) -> None:
        mark = '"' if encoding is Encoding.TEXT else ""
        same = [f",{json.dumps(key)}:{json.dumps(value)}" for key, value in meter.properties.items()]
        self._type = f', "event_type": {json.dumps(meter.event_type)}, "timestamp": "'
        self._quantity = f'", "properties":{{{json.dumps(meter.quantity_property)}:{mark}'
        self._end = f"{mark}{''.join(same)}"
        self._dimensions = meter.dimensions

    def written(self, event: Event) -> str:
        """Return one event as JSON: by how much a customer used more."""
        return (
            f'{{"transaction_id": {quoted(event.identifier)}, "customer_id": {quoted(event.customer)}{self._type}'
            f"{instant(event.at)}{self._quantity}{plain(event.delta)}{self._end}{self._apart(event)}}}}}"
        )

    def _apart(self, event: Event) -> str:
        """Return the properties that its dimensions are."""
        return "".join(
            f",{quoted(self._dimensions.get(name, name))}:{quoted(value)}" for name, value in event.dimensions
        )


def body(events: Iterable[str]) -> bytes:
    """Return a request: a bare array (docs.metronome.com, send usage events)."""
    return f"[{','.join(events)}]".encode()


def instant(at: dt.datetime) -> str:
    """Write an instant as RFC 3339, in UTC."""
    utc = at if at.tzinfo is dt.UTC else at.astimezone(dt.UTC)
    return f"{utc.isoformat()[:-6]}Z"
