"""The story of a window: what each fact is in a sentence, and in which order they stand."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from aggregator.core import query_text, story
from aggregator.core.explanation import (
    CancelFact,
    Decided,
    EventFact,
    Evidence,
    Now,
    Parked,
    PassFact,
    Sentence,
    Try,
    WindowFacts,
)
from aggregator.core.model import Definition, Span, State
from aggregator.ledger.review.decisions import Verb

HOUR = dt.timedelta(hours=1)
NINE = dt.datetime(2026, 11, 20, 9, tzinfo=dt.UTC)
TEN = NINE + HOUR
PASS = PassFact(1, "live", TEN, 0.1)
D = Decimal


def event(state: State = State.ACCEPTED, **more: Any) -> EventFact:
    """Return an event of 40 that was sent once."""
    known: dict[str, Any] = {
        "id": 7, "revision": 0, "delta": D(40), "total": D(40), "quantity": D(40), "at": NINE, "identifier": "agg_7",
        "planned_at": TEN, "state": state, "reason": None, "attempts": 1, "exposed_at": TEN, "attempted_at": TEN + HOUR,
        "settled_at": TEN + 2 * HOUR, "transport": "v1", "request_id": "req_1", "planned_by": PASS,
    }  # fmt: skip
    return EventFact(**{**known, **more})


def facts(*events: EventFact, **more: Any) -> WindowFacts:
    """Return a window of which these events are on record."""
    known: dict[str, Any] = {
        "meter": "api", "sink": "stripe", "customer": "cus_ada", "window": Span(NINE, TEN), "quantity": D(40),
        "total": D(40), "definition": Definition(NINE, "f", "select", HOUR), "last": False, "mark": TEN,
        "bills": Span(NINE, NINE + 99 * HOUR), "events": events,
    }  # fmt: skip
    return WindowFacts(**{**known, **more})


def told(*events: EventFact, now: Now | None = None, **more: Any) -> list[str]:
    """Return the sentences that come after the first event's planning, without their instants."""
    return [each.text for each in story.sentences(facts(*events, **more), now)][1:]


def parked(**more: Any) -> Parked:
    """Return why an event waits."""
    known: dict[str, Any] = {
        "since": TEN + 3 * HOUR, "reason": "no such customer", "look_at": None, "dismissed_at": None,
        "was_accepted": False, "moved_with": None,
    }  # fmt: skip
    return Parked(**{**known, **more})


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (event(), ["stripe accepted event 7 by v1: 40 (request req_1)."]),
        (
            event(State.CONFIRMED, file="usage-1.csv", transport=None, request_id=None),
            ["stripe accepted event 7 in file usage-1.csv: 40. Its own totals show it."],
        ),
        (event(attempts=12), ["stripe accepted event 7 by v1, at the 12th try: 40 (request req_1)."]),
        (
            event(State.IN_DOUBT, tries=(Try(TEN, State.IN_DOUBT, "no answer", None),)),
            [
                "Event 7 had no answer for too long to be sent again safely: it is in doubt: no answer.",
                "Event 7 is settled by what stripe's own totals show; until then it is not sent again.",
            ],
        ),
        (
            event(State.REFUSED, parked=parked(was_accepted=True)),
            [
                "stripe accepted event 7 by v1: 40 (request req_1).",
                "Event 7 was found not to count: no such customer.",
                "Event 7 (+40) is not billed: `aggregator events release 7` sends it.",
            ],
        ),
        (
            event(State.VOID, reason="replaced by a newer plan", attempts=0),
            ["Event 7 was withdrawn: replaced by a newer plan."],
        ),
        (
            event(State.HELD, attempts=0, exposed_at=None, settled_at=None, parked=parked(moved_with=9)),
            [
                "Event 7 (+40) waits for a person: `aggregator events release 7` sends it.",
                "Event 9 of another customer waits with it, since usage moved between the two.",
            ],
        ),
        (
            event(cancelling=(CancelFact(TEN + 4 * HOUR, "done", TEN + 5 * HOUR, None),)),
            [
                "stripe accepted event 7 by v1: 40 (request req_1).",
                "stripe was to take event 7 back.",
                "stripe took event 7 back.",
            ],
        ),
        (
            event(
                cancelling=(CancelFact(TEN + 4 * HOUR, "done", TEN + 5 * HOUR, None),),
                decided=(Decided(TEN + 4 * HOUR, "cancel", "jo", "billed twice"),),
            ),
            [
                "stripe accepted event 7 by v1: 40 (request req_1).",
                "jo asked stripe to take event 7 back (billed twice).",
                "stripe took event 7 back.",
            ],
        ),
        (
            event(
                State.HELD,
                attempts=0,
                settled_at=None,
                parked=parked(dismissed_at=TEN + 5 * HOUR),
                decided=(Decided(TEN + 5 * HOUR, "dismiss", "jo", None),),
            ),
            ["jo dismissed event 7: nothing of it is billed."],
        ),
        (
            event(cancelling=(CancelFact(TEN + 4 * HOUR, "refused", TEN + 5 * HOUR, "too old"),)),
            [
                "stripe accepted event 7 by v1: 40 (request req_1).",
                "stripe was to take event 7 back.",
                "stripe did not take event 7 back: too old.",
            ],
        ),
    ],
)  # fmt: skip
def test_what_became_of_an_event_is_told(what: EventFact, said: list[str]) -> None:
    """In the order of time, and at the end how it stands."""
    assert told(what) == said


@pytest.mark.parametrize("verb", Verb)
def test_whatever_somebody_decided_is_told(verb: Verb) -> None:
    """By whom, of which event, and why: no decision of the ledger is without a sentence."""
    [said] = [
        each
        for each in told(event(decided=(Decided(TEN + 4 * HOUR, verb.value, "jo", "because"),)))
        if each.startswith("jo ")
    ]
    assert "event 7" in said
    assert said.endswith("(because).")


@pytest.mark.parametrize(
    ("what", "more", "said"),
    [
        (
            event(),
            {},
            "Pass 1 read the window: the source said 40 for cus_ada. It was planned as event 7, stamped",
        ),
        (event(planned_by=None), {}, "A pass read the window"),
        (event(planned_by=PASS._replace(kind="backfill")), {}, "Backfill 1 read the window"),
        (
            event(State.CONFIRMED, planned_by=PASS._replace(kind="adoption"), attempts=0),
            {},
            "Adoption 1 found 40 in the sink's own totals, and took it over as event 7.",
        ),
        (event(State.SHADOW, attempts=0), {}, "It was planned in shadow, and is never sent."),
        (
            event(
                State.REFUSED, attempts=0, exposed_at=None, reason="older than the 35 days that stripe takes"
            ),
            {},
            "It was refused before it was sent: older than the 35 days that stripe takes.",
        ),
        (event(), {"last": True}, "the number is to be 40."),
        (event(delta=D(0), revision=1), {}, "Where the window stands was planned to be said once more"),
        (
            event(),
            {"evidence": (Evidence(1, TEN, 1204, D("88120.5"), -1),)},
            "(of all customers: 1,204 rows, 88,120.5 in all, checksum ffffffffffffffff)",
        ),
    ],
)
def test_how_an_event_came_about_is_told(what: EventFact, more: dict[str, Any], said: str) -> None:
    """By which pass, from what, and whether it was simply to be sent."""
    first, *_ = story.sentences(facts(what, **more))
    assert said in first.text
    assert first.at == TEN


def test_sentences_stand_in_the_order_of_time() -> None:
    """Whichever event they are about; what has no instant stands last."""
    late = event(
        id=8,
        revision=1,
        planned_at=TEN + HOUR,
        delta=D(5),
        total=D(45),
        quantity=D(45),
        settled_at=TEN + 9 * HOUR,
    )
    found: list[Sentence] = story.sentences(facts(event(), late), Now(TEN + 20 * HOUR, "app", quantity=D(45)))
    instants = [each.at for each in found if each.at is not None]
    assert instants == sorted(instants)
    assert [each.at for each in found[len(instants) :]] == [None]
    assert "the source now said 45, where it had said 40" in found[1].text


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Now(TEN, "app", "it is away"), ["What source app says now is not known: it is away"]),
        (
            Now(TEN, "app", quantity=D(43), customers=3, change=D(120)),
            [
                "At 2026-11-20 10:00:00Z source app said 43, +3 since it was last read.",
                (
                    "The source has changed since this window was last read: 3 customers, +120. The next pass "
                    "that reads it books that; `aggregator backfill api --from 2026-11-20T09:00Z --to "
                    "2026-11-20T10:00Z` does so now."
                ),
            ],
        ),
        (
            Now(TEN, "app", quantity=D(40), proven_until=NINE),
            [
                "At 2026-11-20 10:00:00Z source app said 40, as when it was last read.",
                "It has proven to show everything up to 2026-11-20 09:00:00Z only, so that some of it may be missing.",
            ],
        ),
    ],
)
def test_what_the_source_says_now_is_compared_with_what_it_said(now: Now, said: list[str]) -> None:
    """Of the customer, and of all together; what it has not proven to show is named."""
    assert told(event(), now=now)[1:] == said


def test_a_sum_says_what_became_of_it() -> None:
    """Its parts make up what was used, where numbers add up."""
    late = event(State.HELD, id=8, revision=1, delta=D(-3), total=D(37))
    assert story.balance(facts(event(), late, quantity=D("37.5"), total=D(37))) == (
        "37.5 used = 40 billed + -3 held or refused + 0.5 carried"
    )
    assert story.balance(facts(quantity=None)) == "nothing is on record"
    assert "billed as the last number" in story.balance(facts(event(), last=True))


@pytest.mark.parametrize(
    ("number", "shown"),
    [("1234567.500", "1,234,567.5"), ("-0.5", "-0.5"), ("0", "0"), ("-1234", "-1,234"), ("1E+3", "1,000")],
)
def test_numbers_lose_no_digit(number: str, shown: str) -> None:
    """Thousands stand apart, and nothing is rounded."""
    assert story.amount(D(number)) == shown


def test_a_window_is_named_by_its_day_once() -> None:
    """Unless it ends on another one."""
    assert story.span_in_words(Span(NINE, TEN)) == "2026-11-20 09:00 to 10:00 UTC"
    midnight = NINE.replace(hour=0)
    assert (
        story.span_in_words(Span(midnight, midnight + 24 * HOUR))
        == "2026-11-20 00:00 to 2026-11-21 00:00 UTC"
    )


@pytest.mark.parametrize(
    ("query", "filled"),
    [
        ("a >= :start and b < :end", "a >= timestamptz '2026-11-20 09:00:00+00:00' and b < 5"),
        ("a >= :start::date", "a >= timestamptz '2026-11-20 09:00:00+00:00'::date"),
        (r"""x -> '{"a"\:1}' and :started and b::text""", """x -> '{"a":1}' and :started and b::text"""),
        ("c = :customer", "c = 'o''hara'"),
    ],
)
def test_a_query_is_filled_in_where_a_source_does(query: str, filled: str) -> None:
    """The names of its values, and nothing that only looks like them; a colon that is escaped is one."""
    assert query_text.filled(query, {"start": NINE, "end": 5, "customer": "o'hara"}) == filled


def test_a_repair_is_told_as_what_it_was() -> None:
    """It read nothing, and what it took over was not carried from anywhere; what it proposed waits."""
    repair = PASS._replace(id=3, kind="repair")
    taken = event(
        State.CONFIRMED, id=8, revision=1, delta=D(500), total=D(540), planned_by=repair, attempts=0,
        exposed_at=None, attempted_at=None, reason="taken over",
    )  # fmt: skip
    proposed = event(
        State.HELD, id=9, revision=2, delta=D(-500), planned_by=repair, attempts=0, exposed_at=None,
        attempted_at=None, settled_at=None, parked=parked(reason="too much by a reconciliation"),
    )  # fmt: skip
    said = told(event(), taken, proposed)
    assert (
        "Repair 3 found the sink's own totals differ from what was accepted, and took that over as event 8: "
        "+500, from 40 to 540."
    ) in said
    assert (
        "Repair 3 proposed to take back what the sink has too much: event 9, stamped 2026-11-20 09:00:00Z, "
        "-500, from 540 to 40. It was held for a person: too much by a reconciliation."
    ) in said
    assert not any("carried" in each or "read the window again" in each for each in said)
