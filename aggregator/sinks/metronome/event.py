"""One event as the bytes that Metronome gets.

Rules
- They are a function of the event and of its meter's settings: nothing else goes in, above all no clock, so that an event
  which is sent again is the same. Metronome keeps the first and says nothing of a second that differs.
- A quantity is plain digits, all of them, as text or as a JSON number. It never becomes a float on its way, which would
  make 12345678901234567.25 another number; so the JSON is put together here and not by the library, which takes no Decimal.
"""

import datetime as dt
import json
from collections.abc import Iterable

from aggregator.core.model import Encoding, Event
from aggregator.core.planner import plain
from aggregator.sinks.metronome.meter import MetronomeMeter


def written(event: Event, meter: MetronomeMeter, encoding: Encoding) -> str:
    """Return one event as JSON: by how much a customer used more."""
    digits = plain(event.delta)
    quantity = json.dumps(digits) if encoding is Encoding.TEXT else digits
    properties = [f"{json.dumps(meter.quantity_property)}:{quantity}"]
    properties += [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in meter.properties.items()]
    fields = {
        "transaction_id": event.identifier,
        "customer_id": event.customer,
        "event_type": meter.event_type,
        "timestamp": instant(event.at),
    }
    return f'{json.dumps(fields)[:-1]}, "properties":{{{",".join(properties)}}}}}'


def body(events: Iterable[str]) -> bytes:
    """Return a request: a bare array (docs.metronome.com, send usage events)."""
    return f"[{','.join(events)}]".encode()


def instant(at: dt.datetime) -> str:
    """Write an instant as RFC 3339, in UTC."""
    return at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
