"""Events taken back from a sink: never over, not even briefly; nothing planned again before it is known to be done."""

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import pytest

from aggregator.core.model import (
    Answer,
    Event,
    Rejection,
    Report,
    Span,
    Verdict,
)
from aggregator.core.notifications import CancelResult
from aggregator.core.states import CancellationState
from aggregator.errors import LedgerUnreachable, SinkUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.review.cancellations import Cancellations, Wanted
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.reconciliation.canceller import (
    CANCELS_WITHIN,
    LOOK_AGAIN,
    TRY_AGAIN,
    TRY_HOLD,
    Canceller,
    Round,
    why_not_cancellable,
)
from aggregator.reconciliation.reconciler import Reconciler
from tests.fakes import FakeSink
from tests.postgres.rejecting import reject_by_report
from tests.postgres.world import HOUR, METER, START, World

pytestmark = pytest.mark.usefixtures("says_what_changed")

SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)


class Sink(FakeSink):
    """Books what it accepts, takes back what it received within a day, and shows either in its totals after a while.

    At every moment that it changes, what it holds is compared with what the source says: never over, not even briefly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.journal: dict[str, tuple[Event, dt.datetime]] = {}
        self.cancelled: dict[str, dt.datetime] = {}
        self.lag = dt.timedelta(0)
        self.takes_effect = dt.timedelta(0)
        self.says_complete = True
        self.refuses_twice = False
        self.calls: list[str] = []
        self.answer: Callable[[str], CancelResult | None] = lambda identifier: None
        self.loses_answers = 0
        self.away = False

    def _take(self, event: Event) -> Verdict:
        verdict = super()._take(event)
        if verdict.answer is Answer.ACCEPTED:
            self.journal[event.identifier] = event, self.world.now
        self.check()
        return verdict

    def check(self) -> None:
        """Compare what it holds with what the source says."""
        for customer, truth in self.world.source.totals().items():
            assert self.holds(customer) <= truth, "never over, not even briefly"

    def holds(self, customer: str, lag: dt.timedelta = dt.timedelta(0), span: Span | None = None) -> Decimal:
        """Return what it bills a customer for; with `lag`, what its totals show of it."""
        seen_at = self.world.now - lag
        return sum(
            (
                event.delta
                for event, at in self.journal.values()
                if event.customer == customer
                and (span is None or event.at in span)
                and at <= seen_at
                and not (event.identifier in self.cancelled and self.cancelled[event.identifier] <= seen_at)
            ),
            Decimal(0),
        )

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        if self.away:
            raise SinkUnreachable("away")
        return self.holds(customer, self.lag, span)

    def cannot_cancel(self, meter: str) -> str | None:
        return None

    def cancel(self, meter: str, identifier: str, transport: str) -> CancelResult:
        self.calls.append(identifier)
        told = self.answer(identifier)
        if told is not None:
            return told
        if self.world.now - self.journal[identifier][1] > DAY:
            return CancelResult(Answer.REFUSED, complete=False, reason="out of window")
        if identifier in self.cancelled and self.refuses_twice:
            return CancelResult(Answer.REFUSED, complete=False, reason="cancelled already")
        self.cancelled.setdefault(identifier, self.world.now + self.takes_effect)
        if self.loses_answers:
            self.loses_answers -= 1
            return CancelResult(Answer.UNKNOWN, complete=False, reason="no answer")
        return CancelResult(Answer.ACCEPTED, complete=self.says_complete, reason="taken")


@pytest.fixture
def sink() -> Sink:
    """A sink that takes back."""
    return Sink()


@pytest.fixture
def owing(database: Database, sink: Sink) -> World:
    """A world whose sink has accepted ten of one customer, and five of another."""
    world = World(database, sinks=[sink])
    sink.world = world
    world.source.use("cus_a", START, 10)
    world.source.use("cus_b", START, 5)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.now += MINUTE
    return world


def sink_id(world: World) -> int:
    return world.registered.feeds[0].sink_id


def event_of(world: World, customer: str = "cus_a") -> int:
    """Return the id of a customer's newest event."""
    return int(world.one("select max(id) from aggregator.event where customer = %s", customer))


def ask(world: World, *events: int) -> list[int]:
    return Cancellations(world.database).ask(sink_id(world), events, world.now)


def go_on(world: World, sink: Sink, ledger: Cancellations | None = None) -> Round:
    """Let a fresh process do one round."""
    return Canceller(ledger or Cancellations(world.database), sink, sink, sink_id(world)).run_once(world.now)


def later(world: World, by: dt.timedelta) -> None:
    world.now += by


def read_again(world: World) -> None:
    """Let a pass run, and what it plans be sent."""
    world.now += 2 * MINUTE
    world.collect()
    world.deliver()


def states_of(world: World) -> tuple[str, str]:
    """Return the states of the only cancellation and of its event."""
    [row] = world.rows(
        "select cancellation.state, event.state::text from aggregator.cancellation"
        " join aggregator.event on event.id = event_id"
    )
    return row[0], row[1]


def used(world: World, customer: str, quantity: int) -> None:
    """Correct the source: the customer used so much."""
    world.source.uses = [use for use in world.source.uses if use[0] != customer]
    if quantity:
        world.source.use(customer, START, quantity)


def settles(world: World, sink: Sink, rounds: int = 200) -> None:
    """Go on, a quarter of an hour at a time, until no cancellation is open."""
    for _ in range(rounds):
        go_on(world, sink)
        if not Cancellations(world.database).wanted(limit=1):
            return
        later(world, LOOK_AGAIN)
    raise AssertionError(f"still open: {states_of(world)}")


def test_what_is_cancelled_is_owed_as_the_source_says(owing: World, sink: Sink) -> None:
    """Ten were billed and four were used: the ten are taken back, and four are billed under another identifier."""
    used(owing, "cus_a", 4)
    assert ask(owing, event_of(owing)) == [event_of(owing)]
    sink.world.source.use("cus_a", START, 6)  # until it is done, ten are not too many
    assert go_on(owing, sink).figures() == {"done": 1}
    used(owing, "cus_a", 4)
    assert sink.holds("cus_a") == 0
    read_again(owing)
    assert sink.holds("cus_a") == 4
    assert sink.holds("cus_b") == 5
    assert owing.rows(
        "select state::text, delta from aggregator.event where customer = 'cus_a' order by id"
    ) == [
        ("void", 10),
        ("accepted", 4),
    ]
    owing.check_balance()


def test_what_the_source_says_is_zero_is_not_owed(owing: World, sink: Sink) -> None:
    """A customer who used nothing: nothing is billed, nothing waits."""
    ask(owing, event_of(owing))
    go_on(owing, sink)
    used(owing, "cus_a", 0)
    read_again(owing)
    assert sink.holds("cus_a") == 0
    assert owing.one("select count(*) from aggregator.parked") == 0
    owing.check_balance()


def test_what_the_source_still_says_waits_for_a_person(owing: World, sink: Sink) -> None:
    """Nothing is billed again behind the back of whoever cancelled it; a release plans it anew."""
    event = event_of(owing)
    ask(owing, event)
    go_on(owing, sink)
    read_again(owing)
    assert sink.holds("cus_a") == 0
    assert states_of(owing) == ("done", "refused")
    reason = owing.one("select reason from aggregator.parked where was_accepted")
    assert reason == "cancelled: taken"
    Outbox(owing.database, owing.owner, MINUTE, MINUTE).release([event], owing.now)
    read_again(owing)
    assert sink.holds("cus_a") == 10
    owing.check_balance()


@pytest.mark.parametrize("guarded", [False, True])
def test_a_held_correction_goes_with_the_event_that_it_corrected(
    owing: World, sink: Sink, guarded: bool
) -> None:
    """The source fell first and a correction is held, by the shrink guard or not: cancelling does it without a negative."""
    if not guarded:
        owing.source.use("cus_b", START, 95)
        read_again(owing)
    event = event_of(owing)
    sink.check = lambda: None  # type: ignore[method-assign]  # ten were billed before the source fell to four
    used(owing, "cus_a", 4)
    owing.now += 2 * HOUR
    owing.collect()
    assert owing.rows(
        "select state::text, delta from aggregator.event where customer = 'cus_a' order by id"
    ) == [
        ("accepted", 10),
        ("held", -6),
    ]
    ask(owing, event)
    go_on(owing, sink)
    owing.check_balance()
    read_again(owing)
    assert sink.holds("cus_a") == 4
    assert owing.rows(
        "select state::text, delta from aggregator.event where customer = 'cus_a' order by id"
    ) == [
        ("void", 10),
        ("void", -6),
        ("accepted", 4),
    ]
    assert owing.one("select count(*) from aggregator.parked") == 0
    owing.check_balance()


def test_an_older_event_of_a_slot_can_be_cancelled(owing: World, sink: Sink) -> None:
    """Ten, then three more: the ten are taken back, the three stay; in the end the sum is what was used."""
    first = event_of(owing)
    owing.source.use("cus_a", START, 3)
    read_again(owing)
    assert sink.holds("cus_a") == 13
    ask(owing, first)
    go_on(owing, sink)
    assert sink.holds("cus_a") == 3
    Outbox(owing.database, owing.owner, MINUTE, MINUTE).release([first], owing.now)
    read_again(owing)
    assert sink.holds("cus_a") == 13
    owing.check_balance()


def test_nothing_is_planned_again_before_it_is_done(owing: World, sink: Sink) -> None:
    """Stripe says `pending`: the event counts as booked until the totals no longer show it."""
    sink.says_complete, sink.takes_effect = False, 2 * HOUR
    event = event_of(owing)
    go_on(owing, sink)
    ask(owing, event)
    assert go_on(owing, sink).figures() == {"taken": 1}
    assert states_of(owing) == ("taken", "accepted")
    for _ in range(7):
        later(owing, LOOK_AGAIN)
        assert go_on(owing, sink).figures() == {}
        read_again(owing)
        assert states_of(owing) == ("taken", "accepted")
    settles(owing, sink)
    assert sink.holds("cus_a") == 0
    assert states_of(owing) == ("done", "refused")


def test_totals_that_lag_are_no_proof(owing: World, sink: Sink) -> None:
    """That they do not show an event which they never showed proves nothing for a day: it may only not be there yet."""
    sink.says_complete, sink.takes_effect, sink.lag = False, 5 * HOUR, 3 * HOUR
    ask(owing, event_of(owing))
    go_on(owing, sink)
    for _ in range(7):
        later(owing, LOOK_AGAIN)
        go_on(owing, sink)
        assert states_of(owing) == ("taken", "accepted")
    settles(owing, sink)
    assert states_of(owing) == ("done", "refused")
    assert sink.cancelled[sink.calls[0]] + sink.lag <= owing.now


@pytest.mark.parametrize("refuses_twice", [False, True])
@pytest.mark.parametrize("says_complete", [False, True])
def test_a_lost_answer_is_asked_for_again(
    owing: World, sink: Sink, refuses_twice: bool, says_complete: bool
) -> None:
    """Whether the sink minds a second cancellation or not, the event ends as cancelled, and is billed once."""
    sink.loses_answers, sink.refuses_twice, sink.says_complete = 2, refuses_twice, says_complete
    event = event_of(owing)
    ask(owing, event)
    assert go_on(owing, sink).figures() == {"again": 1}
    assert states_of(owing) == ("asked", "accepted")
    settles(owing, sink)
    assert states_of(owing) == ("done", "refused")
    assert len(sink.calls) >= 2
    Outbox(owing.database, owing.owner, MINUTE, MINUTE).release([event], owing.now)
    read_again(owing)
    assert sink.holds("cus_a") == 10
    owing.check_balance()


def test_a_first_refusal_is_a_no(owing: World, sink: Sink) -> None:
    """Nothing was carried out before: the event stays, and the sink's words are kept and said."""
    sink.answer = lambda identifier: CancelResult(Answer.REFUSED, complete=False, reason="no such identifier")
    ask(owing, event_of(owing))
    result = go_on(owing, sink)
    assert result.figures() == {"refused": 1}
    assert "no such identifier" in result.troubles[0]
    assert states_of(owing) == ("refused", "accepted")
    later(owing, HOUR)
    assert go_on(owing, sink).figures() == {}
    assert len(sink.calls) == 1


@pytest.mark.parametrize("answer", [Answer.BUSY, Answer.UNSENT])
def test_what_was_not_carried_out_is_tried_again(owing: World, sink: Sink, answer: Answer) -> None:
    """A busy sink, or a key without the permission: asked again a minute later, and said."""
    sink.answer = lambda identifier: CancelResult(answer, complete=False, reason="not now")
    ask(owing, event_of(owing))
    assert go_on(owing, sink).figures() == {"again": 1}
    assert go_on(owing, sink).figures() == {}
    sink.answer = lambda identifier: None
    later(owing, TRY_AGAIN)
    assert go_on(owing, sink).figures() == {"done": 1}


def test_what_is_never_answered_is_decided_by_the_totals(owing: World, sink: Sink) -> None:
    """After a day the sink cancels nothing any more: its figures tell that the event is still there, and a person hears."""
    sink.answer = lambda identifier: CancelResult(Answer.UNKNOWN, complete=False, reason="no answer")
    ask(owing, event_of(owing))
    troubles = []
    for _ in range(400):
        later(owing, 10 * MINUTE)
        troubles += go_on(owing, sink).troubles
        if states_of(owing)[0] == "lapsed":
            break
    assert states_of(owing) == ("lapsed", "accepted")
    assert "the sink has 10" in troubles[-1]
    asked_last = owing.one("select tried_at from aggregator.cancellation")
    assert asked_last - START < CANCELS_WITHIN + 2 * HOUR
    later(owing, 10 * DAY)
    assert go_on(owing, sink).figures() == {}


def lapsed(world: World, sink: Sink) -> Wanted:
    """Bring the cancellation of the first event to where nobody can tell."""
    ask(world, event_of(world))
    world.execute(
        "update aggregator.cancellation set state = 'lapsed', unsure = true, tries = 1, answer = 'figures'"
    )
    [wanted] = Cancellations(world.database).wanted(limit=9)
    return wanted


def test_a_person_says_that_it_is_gone(owing: World, sink: Sink) -> None:
    """Then it is done as any other."""
    wanted = lapsed(owing, sink)
    sink.cancelled[wanted.identifier] = owing.now
    assert Cancellations(owing.database).settle(wanted, "gone", owing.now)
    assert states_of(owing) == ("done", "refused")
    assert not Cancellations(owing.database).settle(wanted, "gone", owing.now)


def test_a_person_says_that_it_is_still_there(owing: World, sink: Sink) -> None:
    """Then the event is what it was, and may be asked for again."""
    ledger = Cancellations(owing.database)
    wanted = lapsed(owing, sink)
    assert ledger.answered(
        wanted, CancellationState.REFUSED, "still there", owing.now, owing.now, unsure=False
    )
    assert states_of(owing) == ("refused", "accepted")
    assert ask(owing, event_of(owing)) == [event_of(owing)]


def test_what_was_not_asked_within_a_day_is_left(owing: World, sink: Sink) -> None:
    """A daemon that was off asks for nothing that the sink would not cancel, and says so."""
    ask(owing, event_of(owing))
    later(owing, DAY)
    result = go_on(owing, sink)
    assert (result.figures(), sink.calls) == ({"refused": 1}, [])
    assert states_of(owing) == ("refused", "accepted")


class Breaks(Cancellations):
    """A ledger whose connection breaks before, or after, one of its verbs."""

    def __init__(self, database: Database, verb: str, *, after: bool) -> None:
        super().__init__(database)
        whole = getattr(self, verb)

        def broken(*arguments: object, **named: object) -> object:
            if after:
                whole(*arguments, **named)
            raise LedgerUnreachable

        setattr(self, verb, broken)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verb", ["begin", "answered", "settle", "seen", "look"])
@pytest.mark.parametrize("says_complete", [False, True])
@pytest.mark.parametrize("refuses_twice", [False, True])
def test_a_crash_between_any_two_steps_ends_the_same(
    owing: World, sink: Sink, verb: str, after: bool, says_complete: bool, refuses_twice: bool
) -> None:
    """Asked, tried, answered, settled: wherever it breaks off, the next process comes to the same end, never over."""
    sink.says_complete, sink.refuses_twice = says_complete, refuses_twice
    event = event_of(owing)
    ask(owing, event)
    for _ in range(3):
        broken = Breaks(owing.database, verb, after=after)
        with suppress(LedgerUnreachable):
            go_on(owing, sink, broken)
        later(owing, TRY_HOLD)
        read_again(owing)
        owing.check_balance()
    settles(owing, sink)
    assert states_of(owing) == ("done", "refused")
    Outbox(owing.database, owing.owner, MINUTE, MINUTE).release([event], owing.now)
    read_again(owing)
    assert (sink.holds("cus_a"), sink.holds("cus_b")) == (10, 5)
    owing.check_balance()


def test_a_try_belongs_to_one_process(owing: World, sink: Sink) -> None:
    """While one has asked and heard nothing yet, another asks nothing."""
    ledger = Cancellations(owing.database)
    ask(owing, event_of(owing))
    [wanted] = ledger.wanted(sink_id(owing), now=owing.now, limit=9)
    assert ledger.begin(wanted, owing.now, owing.now + TRY_HOLD) is not None
    assert ledger.begin(wanted, owing.now, owing.now + TRY_HOLD) is None
    assert go_on(owing, sink).figures() == {}
    assert sink.calls == []


def test_an_answer_that_comes_late_changes_nothing(owing: World, sink: Sink) -> None:
    """A process that slept through its try, while another made the next, records nothing."""
    ledger = Cancellations(owing.database)
    ask(owing, event_of(owing))
    [wanted] = ledger.wanted(sink_id(owing), now=owing.now, limit=9)
    sleeper = ledger.begin(wanted, owing.now, owing.now + TRY_HOLD)
    assert sleeper is not None
    later(owing, TRY_HOLD)
    sink.loses_answers = 1
    go_on(owing, sink)
    assert not ledger.answered(sleeper, CancellationState.REFUSED, "no", owing.now, owing.now, unsure=False)
    assert not ledger.settle(sleeper, "done", owing.now)
    assert states_of(owing) == ("asked", "accepted")


def test_an_answer_from_before_a_restore_settles_nothing_of_the_same_number(owing: World, sink: Sink) -> None:
    """A ledger that was set back gives out numbers again: the row is another one, as when it was asked for tells."""
    ledger = Cancellations(owing.database)
    ask(owing, event_of(owing))
    [wanted] = ledger.wanted(sink_id(owing), now=owing.now, limit=9)
    forgotten = ledger.begin(wanted, owing.now, owing.now + TRY_HOLD)
    assert forgotten is not None
    later(owing, TRY_HOLD)
    owing.execute("update aggregator.cancellation set asked_at = %s", owing.now)
    assert not ledger.answered(forgotten, CancellationState.REFUSED, "no", owing.now, owing.now, unsure=False)
    assert not ledger.settle(forgotten, "done", owing.now)
    assert ledger.begin(forgotten, owing.now, owing.now + TRY_HOLD) is None
    ledger.seen(forgotten, owing.now)
    assert owing.one("select seen_at from aggregator.cancellation") is None
    assert states_of(owing) == ("asked", "accepted")


def test_a_stopped_ledger_asks_a_sink_for_nothing(owing: World, sink: Sink) -> None:
    """Not even for what a person wanted before: it may have forgotten what became of that."""
    ledger, event = Cancellations(owing.database), event_of(owing)
    ask(owing, event)
    [wanted] = ledger.wanted(sink_id(owing), now=owing.now, limit=9)
    owing.execute("update aggregator.identity set stopped_at = %s, stopped_reason = 'wound back'", owing.now)
    assert ledger.begin(wanted, owing.now, owing.now + TRY_HOLD) is None
    assert owing.one("select tries from aggregator.cancellation") == 0


def test_a_stopped_ledger_takes_a_person_s_word_for_what_was_begun(owing: World, sink: Sink) -> None:
    """Nobody asks the sink then, so what an adoption waits for would never become known."""
    ledger, event = Cancellations(owing.database), event_of(owing)
    ask(owing, event)
    [wanted] = ledger.wanted(sink_id(owing), now=owing.now, limit=9)
    assert ledger.begin(wanted, owing.now, owing.now + TRY_HOLD) is not None
    assert ledger.undecided(sink_id(owing), [event], limit=9) == []
    owing.execute("update aggregator.identity set stopped_at = %s, stopped_reason = 'wound back'", owing.now)
    [undecided] = ledger.undecided(sink_id(owing), [event], limit=9)
    assert ledger.answered(
        undecided, CancellationState.REFUSED, "still there", owing.now, owing.now, unsure=False
    )
    assert states_of(owing) == ("refused", "accepted")


def test_only_what_is_booked_is_asked_for_and_once(owing: World, sink: Sink) -> None:
    """An event that is not accepted, or is being cancelled already, is not asked for."""
    event, other = event_of(owing), event_of(owing, "cus_b")
    name = owing.one("select identifier from aggregator.event where id = %s", other)
    reject_by_report(InDoubt(owing.database), sink_id(owing), [Rejection(name, "invalid")], owing.now)
    assert ask(owing, event, other, event + 99) == [event]
    assert ask(owing, event) == []


def test_an_event_rejected_meanwhile_is_owed_once(owing: World, sink: Sink) -> None:
    """The sink reports the event as invalid while it is being cancelled: refused once, and planned anew once."""
    sink.says_complete, sink.takes_effect = False, HOUR
    event = event_of(owing)
    ask(owing, event)
    go_on(owing, sink)
    name = owing.one("select identifier from aggregator.event where id = %s", event)
    sink.cancelled[name] = owing.now
    span = Span(owing.now - 10 * SECOND, owing.now)
    InDoubt(owing.database).take_report(
        sink_id(owing),
        Report("evt_1", METER.name, span, 1, (Rejection(name, "invalid"),)),
        owing.now,
        26 * HOUR,
    )
    Outbox(owing.database, owing.owner, MINUTE, MINUTE).release([event], owing.now)
    read_again(owing)
    settles(owing, sink)
    read_again(owing)
    assert sink.holds("cus_a") == 10
    owing.check_balance()


def test_other_doubts_of_the_minute_wait_for_a_cancellation(owing: World, sink: Sink) -> None:
    """While it is open whether an event counts, no figure that may contain it settles another event."""
    owing.source.use("cus_a", START + 5 * SECOND, 10)
    sink.fault = lambda event: Answer.UNKNOWN
    read_again(owing)
    doubtful = event_of(owing)
    # Revisions have minutes of their own while there is room; here both stand in one, as in a window of one minute.
    at = owing.one("select at from aggregator.event where customer = 'cus_a' order by id limit 1")
    owing.execute("alter table aggregator.outbox disable trigger outbox_is_frozen")
    owing.execute("update aggregator.outbox set at = %s where event_id = %s", at, doubtful)
    later(owing, 21 * HOUR)
    owing.deliver()
    assert owing.one("select state::text from aggregator.event where id = %s", doubtful) == "in_doubt"
    first = int(owing.one("select min(id) from aggregator.event where customer = 'cus_a'"))
    name = owing.one("select identifier from aggregator.event where id = %s", first)
    ask(owing, first)
    # The doubtful one had arrived, and the other is gone by now: the figure is ten either way.
    event = sink.received[-1]
    sink.journal[event.identifier] = event._replace(at=at), owing.now
    sink.cancelled[name] = owing.now
    later(owing, 30 * HOUR)
    result = Reconciler(InDoubt(owing.database), sink, sink_id(owing)).run_once(owing.now)
    assert result.waiting == 1
    assert owing.one("select state::text from aggregator.event where id = %s", doubtful) == "in_doubt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": "refused"}, "it is refused"),
        ({"open": "taken"}, "already"),
        ({"delta": Decimal(-1)}, "lowers a bill"),
        ({"received_at": START - DAY}, "nothing older than a day"),
    ],
)
def test_what_cannot_be_cancelled_is_said(
    owing: World, sink: Sink, change: dict[str, object], words: str
) -> None:
    """Only what is booked, raises a bill and was received within a day can be cancelled."""
    [candidate] = Cancellations(owing.database).candidates(sink_id(owing), [event_of(owing)])
    assert why_not_cancellable(candidate, sink, owing.now) is None
    told = why_not_cancellable(candidate._replace(**change), sink, owing.now)  # type: ignore[arg-type]  # fields of it
    assert told is not None
    assert words in told


# Decreases that are done by cancelling


def lowering(world: World, sink: Sink) -> Round:
    """Let a fresh process do one round for a meter with `decreases: cancel`."""
    cancellations = Cancellations(world.database)
    return Canceller(cancellations, sink, sink, sink_id(world), [METER.name]).run_once(world.now)


def settle_down(world: World, sink: Sink) -> None:
    """Let everything have its turn until nothing moves any more."""
    for _ in range(12):
        world.collect()
        world.deliver()
        lowering(world, sink)
        world.now += LOOK_AGAIN


def test_a_decrease_takes_back_what_it_lowers_and_bills_the_rest_anew(owing: World, sink: Sink) -> None:
    """Without a person: held, the event before it taken back, the lower total planned; nobody else is touched."""
    owing.source.uses[0] = ("cus_a", START, Decimal(7))
    settle_down(owing, sink)
    assert (sink.holds("cus_a"), sink.holds("cus_b")) == (7, 5)
    assert len(sink.calls) == 1
    assert owing.one("select count(*) from aggregator.parked where state = 'held'") == 0
    owing.check_balance()


def test_several_events_of_a_window_are_taken_back_one_after_the_other(owing: World, sink: Sink) -> None:
    """Until what the sink holds is not too much."""
    owing.source.use("cus_a", START + MINUTE, 4)
    owing.now += 10 * MINUTE
    owing.collect()
    owing.deliver()
    assert sink.holds("cus_a") == 14
    del owing.source.uses[2]
    owing.source.uses[0] = ("cus_a", START, Decimal(3))
    settle_down(owing, sink)
    assert sink.holds("cus_a") == 3
    assert len(sink.calls) == 2
    owing.check_balance()


def test_a_decrease_to_nothing_leaves_nothing(owing: World, sink: Sink) -> None:
    """The event is taken back, and nothing is owed."""
    del owing.source.uses[0]
    owing.collect()
    owing.now += (
        HOUR + MINUTE
    )  # the shrink guard wants to read twice before it believes that all of it is gone
    settle_down(owing, sink)
    assert sink.holds("cus_a") == 0


@pytest.mark.parametrize("why", ["too old", "the sink will not"])
def test_what_cannot_be_taken_back_stays_held_for_a_person(owing: World, sink: Sink, why: str) -> None:
    """It is asked for once at most."""
    if why == "too old":
        owing.now += CANCELS_WITHIN + HOUR
    else:
        sink.answer = lambda identifier: CancelResult(Answer.REFUSED, complete=False, reason="no")
    owing.source.uses[0] = ("cus_a", START, Decimal(7))
    settle_down(owing, sink)
    assert sink.holds("cus_a") == 10
    assert len(sink.calls) == (0 if why == "too old" else 1)
    assert owing.one("select count(*) from aggregator.parked where state = 'held'") == 1
    owing.check_balance()


def test_what_a_person_has_left_at_that_is_left_alone(owing: World, sink: Sink) -> None:
    """A decrease that was dismissed is not undone behind their back."""
    owing.source.uses[0] = ("cus_a", START, Decimal(7))
    owing.collect()
    owing.execute("update aggregator.parked set dismissed_at = %s", owing.now)
    lowering(owing, sink)
    assert sink.calls == []


@pytest.mark.parametrize("then", [10, 12, 8])
def test_a_decrease_that_is_gone_before_its_event_is_leaves_all_of_it_billed(
    owing: World, sink: Sink, then: int
) -> None:
    """Nobody was asked about the event that is taken back, so nobody has to release what the source says after all."""
    sink.says_complete = False
    owing.source.uses[0] = ("cus_a", START, Decimal(7))
    owing.now += 10 * MINUTE
    owing.collect()
    lowering(owing, sink)
    assert len(sink.calls) == 1
    owing.source.uses[0] = ("cus_a", START, Decimal(then))
    for _ in range(6):
        settle_down(owing, sink)
    assert sink.holds("cus_a") == then
    assert owing.one("select count(*) from aggregator.parked") == 0
    owing.check_balance()


def test_a_pass_that_began_before_it_was_asked_and_ended_after_it_counts(owing: World, sink: Sink) -> None:
    """It writes as of when it began, and withdraws the decrease: nobody was asked, so nobody has to release the event."""
    sink.says_complete = False
    owing.source.uses[0] = ("cus_a", START, Decimal(7))
    owing.now += 10 * MINUTE
    owing.collect()
    began, asked_at = owing.now + MINUTE, owing.now + 2 * MINUTE
    owing.now = asked_at
    lowering(owing, sink)
    assert len(sink.calls) == 1
    owing.source.uses[0] = ("cus_a", START, Decimal(10))
    owing.now = began
    owing.collect()
    assert owing.rows(
        "select delta, state::text, settled_at < %s from aggregator.event where revision > 0", asked_at
    ) == [(-3, "void", True)]
    owing.now = asked_at
    for _ in range(6):
        settle_down(owing, sink)
    assert sink.holds("cus_a") == 10
    assert owing.one("select count(*) from aggregator.parked") == 0
    owing.check_balance()


def test_a_figure_of_zero_proves_nothing_right_after_the_try(owing: World, sink: Sink) -> None:
    """The sink may take the event back and show it no more for a moment, or only answer from a copy that lags."""
    sink.says_complete = False
    ask(owing, event_of(owing))
    go_on(owing, sink)
    assert owing.one("select seen_at is not null from aggregator.cancellation"), (
        "its totals had shown the event"
    )
    owing.execute("update aggregator.cancellation set next_at = %s", owing.now)
    later(owing, LOOK_AGAIN - MINUTE)
    assert sink.total(METER.name, "cus_a", Span(START, START + HOUR)) == 0
    go_on(owing, sink)
    assert states_of(owing) == ("taken", "accepted")
    later(owing, LOOK_AGAIN)
    go_on(owing, sink)
    assert states_of(owing)[0] == "done"
