"""A sink that reports what it has rejected, and cannot be read back."""

import datetime as dt
from collections.abc import Sequence

from aggregator.core.model import EventId, Rejection, Report, Span
from aggregator.ledger.review.in_doubt import InDoubt


def reject_by_report(
    in_doubt: InDoubt, sink_id: int, rejections: Sequence[Rejection], now: dt.datetime
) -> list[EventId]:
    """Let a sink report rejections; return the events that are refused by it now."""
    report = Report("", "", Span(now, now), len(rejections), tuple(rejections))
    return in_doubt.take_report(sink_id, report, now, None)[0]
