"""What the figure of an hour proves where the newest event replaces the others."""

import datetime as dt
from decimal import Decimal

import pytest

from aggregator.core import newest
from aggregator.core.model import EventId, Span, State
from aggregator.core.readbacks import MOST_UNITS, EventsInSpan, EventState, Finding
from tests.core.usage import HOUR, TODAY

LONG_AGO = TODAY + HOUR
PRESENT, ABSENT, UNCLEAR = Finding.PRESENT, Finding.ABSENT, Finding.UNCLEAR


def hour(*events: str) -> EventsInSpan:
    """Make an hour of words like `confirmed 5`, `accepted? 7` (in question), `void~ 6` (given up): totals, in order."""
    statuses, before = [], Decimal(0)
    for number, text in enumerate(events, 1):
        state, total = text.split()
        statuses.append(
            EventState(
                EventId(number),
                TODAY + dt.timedelta(minutes=number),
                Decimal(total) - before,
                State(state.rstrip("?~")),
                LONG_AGO,
                asked=state.endswith("?"),
                maybe_sent=state.endswith("~"),
                total=Decimal(total),
            )
        )
        before = Decimal(total)
    return EventsInSpan(1, "stored_gb", "acme", Span(TODAY, TODAY + HOUR), tuple(statuses))


@pytest.mark.parametrize(
    ("events", "figure", "findings"),
    [
        (["accepted? 5"], "5", [PRESENT]),
        (["accepted? 5"], "0", [ABSENT]),
        (["accepted? 5"], "4", [UNCLEAR]),
        # The sum of the deltas is 7, and so is the newest total; the older one is of no matter any more.
        (["accepted? 5", "accepted? 7"], "7", [PRESENT, PRESENT]),
        (["accepted? 5", "accepted? 7"], "5", [PRESENT, ABSENT]),
        (["accepted? 5", "accepted? 7"], "12", [UNCLEAR, UNCLEAR]),
        (["accepted? 5", "accepted? 7"], "0", [UNCLEAR, UNCLEAR]),
        # A lower total that came later is as good as any.
        (["accepted? 7", "accepted? 5"], "5", [PRESENT, PRESENT]),
        (["confirmed 5", "accepted? 7"], "5", [ABSENT]),
        (["accepted? 5", "confirmed 7"], "7", [PRESENT]),
        # Known to have been there, and gone: nothing that is in question explains it.
        (["accepted? 5", "confirmed 7"], "5", [UNCLEAR]),
        # What was given up may be what the figure shows.
        (["accepted? 5", "void~ 4"], "5", [PRESENT]),
        (["accepted? 5", "void~ 4"], "4", [UNCLEAR]),
        (["confirmed 3", "accepted? 5", "void~ 3"], "3", [UNCLEAR]),
        # Sums of ours that a double cannot hold prove nothing.
        (["accepted? 0.1", "accepted? 0.3"], "0.30000000000000004", [PRESENT, PRESENT]),
        ([f"accepted? {MOST_UNITS}"], str(MOST_UNITS), [UNCLEAR]),
        (["accepted? 5"], "NaN", [UNCLEAR]),
    ],
)
def test_what_a_figure_shows(events: list[str], figure: str, findings: list[Finding]) -> None:
    """The newest total, or what stood there before it; anything else is for a person."""
    in_span = hour(*events)
    conclusions = newest.decide(in_span, Decimal(figure))
    assert [conclusion.event for conclusion in conclusions] == [event.id for event in in_span.asked]
    assert [conclusion.finding for conclusion in conclusions] == findings
    assert all(str(figure) in conclusion.reason for conclusion in conclusions)
