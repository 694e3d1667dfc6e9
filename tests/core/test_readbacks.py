"""What a sink's figure for one minute proves, and what it does not."""

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aggregator.core.model import EventId, Span, State
from aggregator.core.readbacks import (
    LOOK_SOON,
    MOST_IN_QUESTION,
    MOST_UNITS,
    EventsInSpan,
    EventState,
    Finding,
    agrees,
    all_present,
    decide,
    proves_at,
    unclear,
)
from tests.core.usage import HOUR, MINUTE, TODAY

NOW = TODAY + 100 * HOUR
PROOF = dt.timedelta(hours=26)
LONG_AGO = NOW - 50 * HOUR
PRESENT, ABSENT, UNCLEAR = Finding.PRESENT, Finding.ABSENT, Finding.UNCLEAR


def minute(*events: str, tried: dt.datetime | None = LONG_AGO) -> EventsInSpan:
    """Make a minute of words like `accepted 5`, `in_doubt 2.50`, `accepted? 5` (in question), `void~ 5` (given up)."""
    statuses = []
    for number, text in enumerate(events, 1):
        state, delta = text.split()
        statuses.append(
            EventState(
                EventId(number),
                TODAY,
                Decimal(delta),
                State(state.rstrip("?~")),
                tried,
                asked=state.startswith("in_doubt") or state.endswith("?"),
                maybe_sent=state.endswith("~"),
            )
        )
    return EventsInSpan(1, "api_requests", "acme", Span(TODAY, TODAY + MINUTE), tuple(statuses))


def found(in_span: EventsInSpan, figure: str) -> list[Finding]:
    """Return what the figure shows of each event in question."""
    conclusions = decide(in_span, Decimal(figure))
    assert [conclusion.event for conclusion in conclusions] == [event.id for event in in_span.asked]
    return [conclusion.finding for conclusion in conclusions]


@pytest.mark.parametrize(
    ("events", "figure", "findings"),
    [
        (["in_doubt 5"], "5", [PRESENT]),
        (["in_doubt 5"], "0", [ABSENT]),
        (["in_doubt 5"], "4", [UNCLEAR]),
        (["in_doubt 5"], "10", [UNCLEAR]),
        (["accepted 7", "in_doubt 5"], "12", [PRESENT]),
        (["accepted 7", "in_doubt 5"], "7", [ABSENT]),
        (["accepted 7", "in_doubt 5"], "5", [UNCLEAR]),
        (["confirmed 7", "in_doubt 5"], "12", [PRESENT]),
        (["accepted 7", "accepted? 5"], "7", [ABSENT]),
        (["accepted 7", "accepted? 5"], "12", [PRESENT]),
        (["held 7", "in_doubt 5"], "5", [PRESENT]),
        (["refused 7", "in_doubt 5"], "5", [PRESENT]),
        (["void 7", "in_doubt 5"], "0", [ABSENT]),
        (["in_doubt 1", "in_doubt 2", "in_doubt 4"], "5", [PRESENT, ABSENT, PRESENT]),
        (["in_doubt 1", "in_doubt 2", "in_doubt 3"], "6", [PRESENT, PRESENT, PRESENT]),
        (["in_doubt 1", "in_doubt 2", "in_doubt 3"], "3", [UNCLEAR, UNCLEAR, UNCLEAR]),
        (["in_doubt 5", "in_doubt 5"], "5", [UNCLEAR, UNCLEAR]),
        (["in_doubt 5", "in_doubt 5"], "10", [PRESENT, PRESENT]),
        (["in_doubt 5", "in_doubt 5"], "0", [ABSENT, ABSENT]),
        (["in_doubt 5", "in_doubt -5"], "0", [UNCLEAR, UNCLEAR]),
        (["in_doubt -5", "accepted 9"], "4", [PRESENT]),
        (["in_doubt 0.10", "accepted 0.20"], "0.30000000000000004", [PRESENT]),
        (["in_doubt 0.10", "accepted 0.20"], "0.2", [ABSENT]),
        (["in_doubt 0.10", "accepted 0.20"], "0.305", [UNCLEAR]),
        (["in_doubt 0.10", "accepted 0.20"], "0.3049", [PRESENT]),
        (["in_doubt 5"], "NaN", [UNCLEAR]),
        (["in_doubt 5"], "Infinity", [UNCLEAR]),
        (["void~ 5", "in_doubt 5"], "5", [UNCLEAR]),
        (["void~ 5", "in_doubt 5"], "0", [ABSENT]),
        (["void~ 5", "in_doubt 3"], "5", [ABSENT]),
        (["void~ 5", "in_doubt 3"], "8", [PRESENT]),
    ],
)
def test_what_a_figure_proves(events: list[str], figure: str, findings: list[Finding]) -> None:
    """Exactly one selection of the events in question must explain the figure; otherwise nobody is sure (B4)."""
    assert found(minute(*events), figure) == findings


def test_too_many_in_question() -> None:
    """Beyond a dozen some selection fits by accident, so nothing is concluded."""
    many = [f"in_doubt {2**n}" for n in range(MOST_IN_QUESTION + 1)]
    assert set(found(minute(*many[:-1]), "0")) == {ABSENT}
    assert set(found(minute(*many), "0")) == {UNCLEAR}


@pytest.mark.parametrize("decimals", [0, 2])
def test_too_large_for_a_float(decimals: int) -> None:
    """Where a binary fraction has no room for the unit, it proves nothing: no sum of up to 15 digits is that large."""
    unit = Decimal(1).scaleb(-decimals)
    assert MOST_UNITS < 2**53
    for units, finding in (
        (10**15, PRESENT),
        (MOST_UNITS - 1, PRESENT),
        (MOST_UNITS, UNCLEAR),
        (2**53, UNCLEAR),
    ):
        figure = units * unit
        assert found(minute(f"in_doubt {figure}"), str(figure)) == [finding]
        assert found(minute(f"in_doubt {unit}", f"accepted {figure}"), "0") == [UNCLEAR]


def test_the_figures_are_in_the_reason() -> None:
    """A person gets everything that was compared."""
    [conclusion] = decide(minute("accepted 7", "in_doubt 5", "void~ 2"), Decimal("6.5"))
    assert conclusion.reason == (
        "the sink has 6.5 for api_requests of acme in [2026-11-02T00:00Z, 2026-11-02T00:01Z), "
        "we have 7 for sure and in question 5 (event 2), and gave up 2 (event 3): nothing explains this"
    )
    [one, other] = decide(minute("in_doubt 5", "in_doubt 5"), Decimal(5))
    assert one.reason == other.reason
    assert one.reason.endswith("in question 5 (event 1), 5 (event 2): 2 ways explain this")
    assert unclear(minute("in_doubt 5"), "why")[0].reason == "why"


@pytest.mark.parametrize("state", ["due", "sending"])
def test_what_is_on_its_way_must_land_first(state: str) -> None:
    """An event that may arrive between the question and the answer makes every figure worthless."""
    in_span = minute("in_doubt 5", f"{state} 3")
    assert proves_at(in_span, NOW, PROOF) == NOW + LOOK_SOON
    with pytest.raises(AssertionError, match="on its way"):
        decide(in_span, Decimal(5))


@pytest.mark.parametrize("mate", ["accepted 3", "confirmed 3", "in_doubt 3", "accepted? 3"])
def test_the_sink_is_given_time_to_count(mate: str) -> None:
    """A figure proves something only so long after the last attempt of everything that it may show (B4)."""
    for age, early in ((PROOF - MINUTE, True), (PROOF, False), (PROOF + MINUTE, False)):
        in_span = minute("in_doubt 5", mate)
        first, second = in_span.events
        in_span = in_span._replace(events=(first, second._replace(attempted_at=NOW - age)))
        assert (proves_at(in_span, NOW, PROOF) > NOW) == early
        assert proves_at(in_span, NOW, PROOF) == NOW - age + PROOF
        assert (
            proves_at(in_span._replace(events=(second._replace(attempted_at=NOW - age), first)), NOW, PROOF)
            > NOW
        ) == early


def test_what_was_never_booked_keeps_nothing_waiting() -> None:
    """Held, refused and void events are in no figure, whenever they were tried."""
    in_span = minute("held 5", "refused 5", "void 5", tried=NOW)
    assert proves_at(in_span, NOW, PROOF) <= NOW


@pytest.mark.parametrize(
    ("events", "figure", "agreed"),
    [
        (["accepted? 5", "accepted 3"], "8", True),
        (["accepted? 5", "accepted 3"], "8.4", True),
        (["accepted? 5", "accepted 3"], "8.5", False),
        (["accepted? 5", "accepted 3"], "3", False),
        (["accepted? 5", "accepted 3"], "NaN", False),
        (["accepted? 5", "refused 3"], "5", True),
        (["accepted? 5", "in_doubt 3"], "5", False),
        (["accepted? 5", "void~ 3"], "5", False),
    ],
)
def test_agreement(events: list[str], figure: str, agreed: bool) -> None:
    """A long span is done with when its sum is what we have and nothing in it is unsure."""
    assert agrees(minute(*events), Decimal(figure)) == agreed


def test_agreement_confirms_what_was_asked() -> None:
    """Only events in question are ruled on."""
    conclusions = all_present(minute("accepted? 5", "accepted 3", "confirmed 2"), Decimal(10))
    assert [(conclusion.event, conclusion.finding) for conclusion in conclusions] == [(EventId(1), PRESENT)]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(-9, 9).filter(bool), st.booleans()), max_size=6),
    st.lists(st.integers(-9, 9).filter(bool), max_size=4),
    st.integers(0, 6),
)
@example([(5, True), (5, False)], [], 0)
def test_no_finding_is_ever_wrong(truth: list[tuple[int, bool]], sure: list[int], decimals: int) -> None:
    """Whatever arrived and whatever did not: the float that the sink makes of it never leads to a wrong conclusion."""
    unit = Decimal(1).scaleb(-decimals)
    in_span = minute(
        *[f"in_doubt {each * unit}" for each, _ in truth], *[f"accepted {each * unit}" for each in sure]
    )
    held = [each for each, arrived in truth if arrived] + sure
    figure = Decimal(repr(float(sum((each * unit for each in held), Decimal(0)))))
    findings = [conclusion.finding for conclusion in decide(in_span, figure)]
    for (_, arrived), finding in zip(truth, findings, strict=True):
        assert finding in {UNCLEAR, PRESENT if arrived else ABSENT}


@settings(max_examples=100)
@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_powers_of_two_are_always_told_apart(arrived: list[bool]) -> None:
    """Where every selection has a sum of its own, every event is decided."""
    in_span = minute(*[f"in_doubt {2**n}" for n in range(len(arrived))])
    figure = sum(2**n for n, there in enumerate(arrived) if there)
    assert found(in_span, str(figure)) == [PRESENT if there else ABSENT for there in arrived]
