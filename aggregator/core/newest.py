"""What a sink's figure proves where the newest event of a stretch of time replaces the others. Pure.

Rules
- There the figure of one such stretch is the total of the newest event that arrived; what came before it is of no matter.
- Equal to the newest event that is booked here: the stretch stands as we have it, and every event in it is settled.
- Equal to what stood there before that event, and to nothing else that may have arrived: that event is missing.
- Anything else proves nothing, and a person gets the figures.
"""

from collections.abc import Sequence
from decimal import Decimal

from aggregator.core.model import ZERO
from aggregator.core.readbacks import Conclusion, EventsInSpan, EventState, Finding, comparable, same, unclear
from aggregator.core.states import BOOKED


def decide(in_span: EventsInSpan, figure: Decimal) -> list[Conclusion]:
    """Rule on each event in question by the sink's figure for the stretch, read when `readbacks.proves_at` allowed it."""
    booked = [event for event in in_span.events if event.state in BOOKED]
    shown = booked[-1].total if booked else ZERO
    story = f"the sink has {figure} for {in_span}, of which the newest event counts, and we have {shown}"
    if not comparable(in_span, figure):
        return unclear(in_span, f"{story}: too large to be compared to the unit")
    if same(figure, shown, in_span):
        return [Conclusion(event.id, Finding.PRESENT, story) for event in in_span.asked]
    if not _is_what_stood_before(figure, in_span, booked):
        return unclear(in_span, f"{story}: neither this nor what stood there before")
    return [
        Conclusion(event.id, Finding.ABSENT if event is booked[-1] else Finding.PRESENT, story)
        for event in in_span.asked
    ]


def _is_what_stood_before(figure: Decimal, in_span: EventsInSpan, booked: Sequence[EventState]) -> bool:
    """Tell whether only the newest event, which is in question, is missing from the figure."""
    if not booked or not booked[-1].asked:
        return False
    given_up = [event.total for event in in_span.events if event.maybe_sent]
    before = booked[-2].total if len(booked) > 1 else ZERO
    return same(figure, before, in_span) and not any(same(figure, total, in_span) for total in given_up)
