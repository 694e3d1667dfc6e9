"""What Stripe takes by each of its ways, and the pages that say so."""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Literal

from aggregator.core import age_limits
from aggregator.core.model import Bulk, Limits, WriteModel
from aggregator.sinks.http_sink import batch
from aggregator.sinks.stripe.stream import AT_ONCE
from aggregator.sinks.stripe_meter import StripeMeter

Transport = Literal["v1", "v2", "stream", "auto"]

LIMITS = Limits(
    write_model=WriteModel.DELTA,
    # An identifier is remembered for at least 24 hours (docs.stripe.com/api/billing/meter-event/create); the rest is for
    # clocks that differ and for requests that arrive late.
    memory=dt.timedelta(hours=20),
    # Summaries are eventually consistent, without a bound (docs.stripe.com/api/billing/meter-event-summary); identifiers
    # are remembered for 24 hours. Two more are for a request that arrives late.
    proof=dt.timedelta(hours=26),
    past=age_limits.STRIPE - age_limits.MARGIN,
    # docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api
    significant_digits=15,
    identifier_length=100,
    batch=1_000,
    silent_way="stream",
    # docs.stripe.com/rate-limits: live mode; the configuration lowers it.
    rate=1_000.0,
)

STRETCHES = {"hour": dt.timedelta(hours=1), "day": dt.timedelta(days=1)}
"""docs.stripe.com/billing/subscriptions/usage-based/meters/configure"""

STREAM_BATCH = 5_000
"""At most so many events per `send` where a hundred go at once: as many requests as keep a stream busy, over and over."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast each way may be used: calls a second, and what the stream takes, in events or in requests a second."""

    calls: float
    stream: float
    stream_by_event: bool
    """docs.stripe.com/rate-limits: in live mode events count, elsewhere requests do like any others."""

    @property
    def stream_events(self) -> float:
        """How many events a second the stream can take."""
        return self.stream if self.stream_by_event else self.stream * AT_ONCE


def limits(transport: Transport, rates: Rates, stream_above: int) -> Limits:
    """Return what holds for a sink that goes by this transport."""
    streaming = replace(
        LIMITS,
        answers=False,
        transport="stream",
        batch=batch(rates.stream_events, STREAM_BATCH),
        rate=rates.stream_events,
    )
    if transport == "stream":
        return streaming
    calling = replace(
        LIMITS,
        transport="v1" if transport == "auto" else transport,
        batch=batch(rates.calls, LIMITS.batch),
        rate=rates.calls,
    )
    if transport == "auto":
        return replace(calling, answers=False, bulk=Bulk(streaming.transport, stream_above, streaming.batch))
    return calling


def of_meter(meter: StripeMeter, whole: Limits) -> Limits:
    """Return what holds for a meter's events: where they replace each other, they say the total.

    What a summary shows of a `last` meter without a time window is not known well enough to prove anything by it.
    """
    if not meter.replaces:
        return whole
    stretch = STRETCHES[meter.event_time_window] if meter.event_time_window else None
    return replace(whole, write_model=meter.write_model, newest_of=stretch)
