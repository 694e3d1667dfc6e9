"""What decides whether a person's word on an event comes to anything, by the configuration."""

import datetime as dt

from aggregator.config import Config
from aggregator.ledger.review.parked import Waiting
from aggregator.wiring.app import meter_of


def why_not_anew(config: Config, event: Waiting, now: dt.datetime) -> str | None:
    """Say why no pass would plan an event anew, and what to do; None if one does, or if it goes out as it is."""
    if event.closed:
        return (
            f"Its month is archived, or about to be, and nothing of {event.meter} is billed there any more: bill it "
            "otherwise, and dismiss it."
        )
    if not event.was_accepted:
        return None
    if not event.fed:
        return (
            f"Its window is not billed through {event.sink} any more (`bill_from`, `bill_until` of {event.meter}): change "
            "that, and release it then; or bill it otherwise, and dismiss it."
        )
    meter = config.meters.get(event.meter)
    if meter is None:
        return (
            f"Meter {event.meter} is no longer configured: put it back, and release it then; or dismiss it."
        )
    if event.sink not in meter.sinks:
        return f"Meter {event.meter} does not feed {event.sink} any more: put it back, and release it then; or dismiss it."
    sealed = meter_of(meter).sealed_until(now)
    if sealed is not None and event.window_start < sealed:
        return (
            f"Its window lies before `data_retained_from` of {event.meter} and is not read any more: bill it otherwise, "
            "and dismiss it."
        )
    return None
