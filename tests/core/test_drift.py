"""Why source, ledger and sink differ: each cause by its figures, and how few reads tell them apart."""

import datetime as dt
from decimal import Decimal

import pytest

from aggregator.core.drift import (
    Cause,
    Difference,
    KnownEvent,
    Place,
    Repair,
    Terms,
    Window,
    judge,
    meant,
    next_command,
    reads_by_day,
    reads_by_hour,
    selection,
)
from aggregator.core.model import EventId, Span, State, WriteModel

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
NOW = START + 10 * DAY
PROOF = 26 * HOUR
LONG_AGO = NOW - 2 * DAY
D = Decimal

TERMS = Terms(NOW, D(1), WriteModel.DELTA, PROOF, read_again_from=START)


def event(number: int, delta: int | str, state: str = "accepted", **fields: object) -> KnownEvent:
    """Return an event that was sent once, long ago."""
    known = KnownEvent(
        EventId(number),
        number,
        D(delta),
        D(delta),
        State(state),
        attempts=1,
        attempted_at=LONG_AGO,
        exposed=True,
    )
    return known._replace(**fields)  # type: ignore[arg-type]


def place(
    *events: KnownEvent,
    sink: int | str | None = None,
    source: int | str | None = None,
    read: int | str | None = None,
    total: int | str | None = None,
) -> Place:
    """Return an hour of one customer; what is not said is as if all were well."""
    planned = sum((each.delta for each in events if each.state is not State.VOID), D(0))
    stands = planned if total is None else D(total)
    was = stands if read is None else D(read)
    window = Window(START, None if source is None else D(source), was, stands)
    return Place("cus_a", Span(START, START + HOUR), (window,), events, None if sink is None else D(sink))


def found(differing: Place, terms: Terms = TERMS) -> list[tuple[str, Decimal, tuple[int, ...], str]]:
    """Return what is said of a place: cause, amount, events and repair."""
    return [(each.cause, each.amount, each.events, each.repair) for each in judge(differing, terms)]


def test_what_agrees_is_no_difference() -> None:
    """Source, ledger and sink say the same; a binary fraction of the sink's is the decimal that it stands for."""
    assert found(place(event(1, 5), sink=5, source=5)) == []
    fine = TERMS._replace(unit=D("0.001"))
    assert found(place(event(1, "0.3"), sink="0.30000000000000004", source="0.3"), fine) == []


def test_what_is_carried_is_no_difference() -> None:
    """What was read beyond what the slot stands at is too small to bill, or was billed with another window."""
    assert found(place(event(1, 5), sink=5, read="5.7", source="5.7")) == []


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("due", Cause.PENDING),
        ("sending", Cause.PENDING),
        ("in_doubt", Cause.PENDING),
        ("held", Cause.PENDING),
        ("refused", Cause.REJECTED),
    ],
)
def test_what_waits_is_named_with_its_events(state: str, cause: Cause) -> None:
    """What the sink lacks is what the ledger knows it to lack."""
    assert found(place(event(1, 5), event(2, 3, state, exposed=False), sink=5, source=8)) == [
        (cause, D(3), (2,), Repair.NONE)
    ]


def test_what_was_dismissed_is_no_difference() -> None:
    """A person has decided that nothing of it is billed."""
    assert (
        found(place(event(1, 5), event(2, 3, "refused", dismissed=True, rejected=True), sink=5, source=8))
        == []
    )


def test_usage_that_came_late_is_found_by_itself() -> None:
    """Passes still read the window: the next one bills what the source has by now."""
    assert found(place(event(1, 5), sink=5, source=6)) == [(Cause.LATE, D(1), (), Repair.READ)]


@pytest.mark.parametrize(
    ("source", "again_from", "amount"), [(4, START, D(-1)), (6, START + HOUR, D(1)), (4, START + HOUR, D(-1))]
)
def test_what_the_source_changed_since(source: int, again_from: dt.datetime, amount: Decimal) -> None:
    """It says less, or no pass looks there any more."""
    terms = TERMS._replace(read_again_from=again_from)
    assert found(place(event(1, 5), sink=5, source=source), terms) == [
        (Cause.CHANGED, amount, (), Repair.READ)
    ]


def test_an_accepted_event_that_is_not_there_is_missing() -> None:
    """The only selection of events that comes to what is missing is named, and planned anew."""
    assert found(place(event(1, 5), event(2, 3), sink=5, source=8)) == [
        (Cause.MISSING, D(3), (2,), Repair.PLAN)
    ]
    assert found(place(event(1, 5), event(2, 3), sink=0, source=8)) == [
        (Cause.MISSING, D(8), (1, 2), Repair.PLAN)
    ]


def test_several_selections_name_no_event() -> None:
    """Which of two equal events is missing cannot be told from the hour's figure; that one is, can."""
    assert found(place(event(1, 3), event(2, 3), sink=3, source=6)) == [
        (Cause.MISSING, D(3), (), Repair.TAKE_OVER)
    ]


def test_what_is_fresh_is_not_missing_yet() -> None:
    """The sink counts with a delay: until its totals must show an event, nothing is concluded."""
    fresh = event(2, 3, attempted_at=NOW - PROOF + HOUR)
    assert found(place(event(1, 5), fresh, sink=5, source=8)) == [(Cause.PENDING, D(3), (), Repair.NONE)]
    stale = event(2, 3, attempted_at=NOW - PROOF - HOUR)
    assert found(place(event(1, 5), stale, sink=5, source=8)) == [(Cause.MISSING, D(3), (2,), Repair.PLAN)]


@pytest.mark.parametrize(
    ("deltas", "fresh", "sink", "expected"),
    [
        ((7, 5), 5, 0, (Cause.MISSING, 12)),
        ((200, -100), -100, 200, (Cause.PENDING, -100)),
        ((7, 5), 5, 500, (Cause.FOREIGN, -488)),
        ((3, 7, -2), -2, 3, (Cause.MISSING, 5)),
    ],
    ids=["a lack", "a correction", "a stranger's", "a lack beside a correction"],
)
def test_nothing_is_repaired_before_all_must_be_shown(
    deltas: tuple[int, ...], fresh: int, sink: int, expected: tuple[Cause, int]
) -> None:
    """What the sink need not show yet is a part of the difference, or not: nobody can tell how much is to be put right."""
    lately = NOW - PROOF + HOUR
    events = [
        event(number, delta, attempted_at=lately if delta == fresh else LONG_AGO)
        for number, delta in enumerate(deltas, 1)
    ]
    cause, amount = expected
    assert found(place(*events, sink=sink, source=sum(deltas))) == [(cause, D(amount), (), Repair.NONE)]


def test_nothing_is_planned_anew_while_an_answer_is_lost() -> None:
    """What is in doubt may have arrived and hide how much is missing: the read-back decides first."""
    doubt = event(3, 5, "in_doubt")
    assert found(place(event(1, 7), event(2, 12), doubt, sink=7, source=24))[0] == (
        Cause.MISSING,
        D(12),
        (),
        Repair.NONE,
    )


def test_a_ledger_does_not_differ_alone_while_the_sink_is_still_counting() -> None:
    """Usage that was billed just now and is gone from the source: the sink has it, and shows it later."""
    fresh = event(1, 3, attempted_at=NOW - HOUR)
    assert found(place(fresh, sink=0, source=0)) == [
        (Cause.CHANGED, D(-3), (), Repair.READ),
        (Cause.PENDING, D(3), (), Repair.NONE),
    ]


def test_what_was_taken_over_stood_in_the_totals() -> None:
    """It was never sent, so nothing is waited for."""
    taken = event(2, 4, "confirmed", attempts=0, attempted_at=NOW - HOUR)
    assert found(place(event(1, 5), taken, sink=12, source=9)) == [(Cause.FOREIGN, D(-3), (), Repair.PROPOSE)]


@pytest.mark.parametrize(
    ("figure", "unit", "decimal"),
    [
        ("500.30000000000001", "0.01", "500.3"),
        ("0.30000000000000004", "1", "0.3"),
        ("5", "0.01", "5"),
        ("12.345678", "1", "12.345678"),
    ],
)
def test_a_binary_fraction_is_the_decimal_that_it_stands_for(figure: str, unit: str, decimal: str) -> None:
    """Or what is proposed would have so many digits that no sink takes it."""
    assert meant(D(figure), D(unit)) == D(decimal)


def test_nothing_is_missing_while_the_sink_says_that_it_is_late() -> None:
    """Whatever its totals lack, they may yet have it; what they have too much is too much all the same."""
    late = TERMS._replace(late="Stripe says that its summaries are delayed")
    [difference] = judge(place(event(1, 5), sink=0, source=5), late)
    assert (difference.cause, difference.repair) == (Cause.PENDING, Repair.NONE)
    assert "Stripe says" in difference.reason
    assert found(place(event(1, 5), sink=7, source=5), late) == [(Cause.FOREIGN, D(-2), (), Repair.NONE)]
    assert found(place(event(1, 9), event(2, -4), sink=8, source=5), late) == [
        (Cause.PENDING, D(-3), (), Repair.NONE)
    ]


def test_somebody_else_sent_it() -> None:
    """More than we ever sent, or less by what no event of ours is: both are somebody else's."""
    assert found(place(event(1, 5), sink=505, source=5)) == [(Cause.FOREIGN, D(-500), (), Repair.PROPOSE)]
    assert found(place(sink=1)) == [(Cause.FOREIGN, D(-1), (), Repair.PROPOSE)]
    assert found(place(event(1, 5), sink=4, source=5)) == [(Cause.FOREIGN, D(1), (), Repair.TAKE_OVER)]


def test_an_event_that_was_tried_again_may_count_twice() -> None:
    """What is too much is what was sent more than once, or was given up after it had left."""
    assert found(place(event(1, 5, attempts=2), event(2, 3), sink=13, source=8)) == [
        (Cause.DUPLICATE, D(-5), (1,), Repair.PROPOSE)
    ]
    given_up = event(1, 5, "void")
    assert found(place(given_up, event(2, 6), sink=11, source=6)) == [
        (Cause.DUPLICATE, D(-5), (1,), Repair.PROPOSE)
    ]
    never_left = event(1, 5, "void", exposed=False)
    assert found(place(never_left, event(2, 6), sink=11, source=6)) == [
        (Cause.FOREIGN, D(-5), (), Repair.PROPOSE)
    ]
    rejected = event(1, 5, "void", rejected=True)
    assert found(place(rejected, event(2, 6), sink=11, source=6)) == [
        (Cause.FOREIGN, D(-5), (), Repair.PROPOSE)
    ]


def test_a_lost_answer_is_looked_for_and_no_duplicate() -> None:
    """What is in doubt and there already is settled by a read-back, not by a repair; it is told once."""
    assert found(place(event(1, 5), event(2, 3, "in_doubt"), sink=8, source=8)) == [
        (Cause.PENDING, D(-3), (2,), Repair.NONE)
    ]


def test_a_ledger_that_differs_alone_is_put_right() -> None:
    """Source and sink agree, so nobody is owed anything: nothing is sent, and nothing is proposed."""
    assert found(place(event(1, 4), sink=5, source=5)) == [(Cause.UNEXPLAINED, D(0), (), Repair.TAKE_OVER)]
    assert found(place(event(1, 6), sink=5, source=5)) == [(Cause.UNEXPLAINED, D(0), (), Repair.TAKE_OVER)]


def test_a_ledger_that_contradicts_itself_is_left_alone() -> None:
    """A slot that does not stand where its events lead is a bug: no repair is built on it."""
    [difference] = judge(place(event(1, 5), sink=6, source=6, total=6), TERMS)
    assert (difference.cause, difference.amount, difference.repair) == (Cause.UNEXPLAINED, D(1), Repair.NONE)


def test_two_causes_at_once_are_told_apart() -> None:
    """The source has changed, and somebody else has sent something: each has its amount."""
    assert found(place(event(1, 5), sink=8, source=4)) == [
        (Cause.CHANGED, D(-1), (), Repair.READ),
        (Cause.FOREIGN, D(-3), (), Repair.PROPOSE),
    ]


def test_a_figure_without_room_for_the_unit_proves_nothing() -> None:
    """A double of such a size shows no single units."""
    huge = 2**51
    [difference] = judge(place(event(1, huge), sink=huge + 4, source=huge), TERMS)
    assert (difference.cause, difference.repair) == (Cause.UNEXPLAINED, Repair.NONE)


@pytest.mark.parametrize(
    ("sink", "cause", "repair"),
    [
        (5, Cause.MISSING, Repair.PLAN),
        (0, Cause.MISSING, Repair.PLAN),
        (9, Cause.FOREIGN, Repair.PROPOSE),
        (6, Cause.FOREIGN, Repair.TAKE_OVER),
    ],
)
def test_where_totals_overwrite_the_newest_one_must_be_there(sink: int, cause: Cause, repair: Repair) -> None:
    """An older total of ours means that the newer ones are missing; a total that we never sent is not ours."""
    terms = TERMS._replace(model=WriteModel.OVERWRITE)
    events = event(1, 5), event(2, 3, total=D(8))
    assert [(each.cause, each.repair) for each in judge(place(*events, sink=sink, source=8), terms)] == [
        (cause, repair)
    ]


def test_a_few_events_are_tried_in_all_ways_and_many_one_by_one() -> None:
    """Of thousands of events one that is as much as what is missing is named; sums of them are not tried."""
    many = [event(number, number) for number in range(1, 40)]
    assert selection(many, D(39), D(1)) == (many[38],)
    assert selection(many, D(100), D(1)) is None
    assert selection(many[:3], D(3), D(1)) == ()
    assert selection(many[:3], D(5), D(1)) == (many[1], many[2])


def test_the_fewest_reads_are_planned() -> None:
    """Four days of hours come by one read, and a hundred days."""
    days = [START + number * DAY for number in (0, 1, 3, 4, 20)]
    assert reads_by_hour(days) == [
        Span(START, START + 4 * DAY),
        Span(START + 4 * DAY, START + 5 * DAY),
        Span(START + 20 * DAY, START + 21 * DAY),
    ]
    assert reads_by_day(Span(START, START + 150 * DAY)) == [
        Span(START, START + 100 * DAY),
        Span(START + 100 * DAY, START + 150 * DAY),
    ]


@pytest.mark.parametrize(
    ("difference", "command"),
    [
        (Difference(Cause.PENDING, D(1), (EventId(7),), "", held=True), "aggregator events release 7"),
        (Difference(Cause.PENDING, D(1), (EventId(7),), ""), "aggregator run --once"),
        (
            Difference(Cause.CHANGED, D(1), (), "", Repair.READ),
            "aggregator backfill calls --from 2026-11-01T05:00Z --to 2026-11-01T06:00Z",
        ),
        (
            Difference(Cause.FOREIGN, D(1), (), "", Repair.PROPOSE),
            "aggregator reconcile calls --customer 'cus a' --from 2026-11-01 --to 2026-11-02 --repair",
        ),
        (
            Difference(Cause.REJECTED, D(1), (EventId(7),), ""),
            "aggregator events list --meter calls --customer 'cus a'",
        ),
    ],
)
def test_each_difference_has_a_next_command(difference: Difference, command: str) -> None:
    """Ready to paste, whatever a customer is called."""
    assert next_command(difference, "calls", "cus a", Span(START + 5 * HOUR, START + 6 * HOUR)) == command
