"""Rejections, and a person's decisions: what each does to an event in each state, and that nothing of it happens twice."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aggregator.cli.events import events
from aggregator.core.model import (
    Answer,
    ClaimId,
    EventId,
    Outcome,
    Rejection,
    Report,
    Span,
    State,
)
from aggregator.core.notifications import Notification, ParsedNotification
from aggregator.core.readbacks import Conclusion, EventsInSpan, EventState, Finding
from aggregator.errors import AggregatorError, InvariantBroken
from aggregator.ledger.database import Database
from aggregator.ledger.notifications import Notifications, Taking
from aggregator.ledger.review.decisions import Decisions, Verb
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import Choice, ParkedEvents
from aggregator.ledger.review.rejections import refuse_missing
from tests.postgres.configured import written
from tests.postgres.rejecting import reject_by_report
from tests.postgres.world import HOUR, METER, MINUTE, START, World

SECOND = dt.timedelta(seconds=1)


CLOSED = ("", "")
"""Nothing is changed in the configuration: the month is archived."""


@pytest.fixture
def owing(world: World) -> World:
    """A world that owes three customers one event each."""
    for number in range(3):
        world.source.use(f"cus_{number}", START, number + 1)
    world.at(1, 5)
    world.collect()
    return world


@pytest.fixture
def in_doubt(database: Database) -> InDoubt:
    """The verbs under test."""
    return InDoubt(database)


@pytest.fixture
def parked(database: Database) -> ParkedEvents:
    """The verbs of a person."""
    return ParkedEvents(database)


def sink_id(world: World) -> int:
    """Return the one sink's id."""
    return world.registered.feeds[0].sink_id


def event_of(world: World, customer: str = "cus_1") -> tuple[int, str]:
    """Return a customer's latest event, and its identifier."""
    rows = world.rows("select id, identifier from aggregator.event where customer = %s order by id", customer)
    event, identifier = rows[-1]
    return event, identifier


def state_of(world: World, event: int) -> str:
    """Return the state of an event."""
    state: str = world.one("select state::text from aggregator.event where id = %s", event)
    return state


def bring(world: World, state: str) -> None:
    """Bring the events of a world that owes into a state."""
    match state:
        case "sending":
            assert world.outbox.claim(sink_id(world), 100, world.now) is not None
        case "accepted" | "confirmed":
            world.deliver()
            if state == "confirmed":
                world.execute("update aggregator.event_at_rest set state = 'confirmed'")
        case "refused":
            world.sink.refused |= {"cus_0", "cus_1", "cus_2"}
            world.deliver()
        case "in_doubt":
            world.sink.fault = lambda event: Answer.UNKNOWN
            world.deliver()
            world.now += 25 * HOUR
            world.deliver()
            world.sink.fault = lambda event: None
        case "held" | "void":
            world.deliver()
            world.source.uses = [use for use in world.source.uses if use[0] != "cus_1"]
            world.source.use("cus_1", START, 1)
            world.collect()
            if state == "void":
                world.source.use("cus_1", START, 1)
                world.collect()


@pytest.mark.parametrize("state", ["due", "sending", "in_doubt", "accepted", "confirmed"])
def test_a_rejection_refuses_whatever_stood_there(
    owing: World, in_doubt: InDoubt, parked: ParkedEvents, state: str
) -> None:
    """Before or after the 200, in doubt or confirmed: refused with the sink's reason, once, and never sent again (B5)."""
    bring(owing, state)
    event, name = event_of(owing)
    assert state_of(owing, event) == state
    sent = len(owing.sink.received)
    assert reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now) == [
        event
    ]
    assert reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "again")], owing.now) == []
    assert owing.rows("select event_id, reason from aggregator.rejection") == [(event, "invalid value")]
    [each] = parked.waiting(Choice(state="refused"), 10)
    assert (each.event, each.reason, each.was_accepted, each.look_at) == (event, "invalid value", True, None)
    assert state_of(owing, event) == "refused"
    assert owing.one("select count(*) from aggregator.outbox where event_id = %s", event) == 0
    owing.now += 2 * HOUR
    owing.deliver()
    assert event not in {each.id for each in owing.sink.received[sent:]}
    owing.check_balance()


def test_a_rejection_of_what_was_refused_marks_its_name_as_used(
    owing: World, in_doubt: InDoubt, parked: ParkedEvents
) -> None:
    """It stays refused for its first reason, and a release plans it anew instead of sending a duplicate (B5)."""
    bring(owing, "refused")
    _, name = event_of(owing)
    assert reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now) == []
    [each] = parked.waiting(Choice(customer="cus_1"), 10)
    assert (each.reason, each.was_accepted) == ("no such customer", True)


@pytest.mark.parametrize("state", ["held", "void"])
def test_a_rejection_of_what_was_never_sent_changes_nothing(
    owing: World, in_doubt: InDoubt, state: str
) -> None:
    """A held event, or one that a newer plan has replaced: on record, and ignored (B5)."""
    bring(owing, state)
    [(event, name)] = owing.rows("select id, identifier from aggregator.event where state::text = %s", state)
    before = owing.rows("select id, state::text, reason from aggregator.event order by id")
    assert reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now) == []
    assert owing.rows("select id, state::text, reason from aggregator.event order by id") == before
    assert owing.rows("select event_id from aggregator.rejection") == [(event,)]


def test_a_rejection_of_an_event_we_do_not_have(owing: World, in_doubt: InDoubt) -> None:
    """Somebody else's identifier, or another sink's: on record, and ignored; those beside it count."""
    owing.deliver()
    event, name = event_of(owing)
    owing.execute("insert into aggregator.sink (name) values ('other')")
    other = owing.one("select id from aggregator.sink where name = 'other'")
    assert reject_by_report(in_doubt, other, [Rejection(name, "not ours")], owing.now) == []
    assert state_of(owing, event) == "accepted"
    unknown = Rejection("agg_unknown", "no such customer")
    assert reject_by_report(
        in_doubt, sink_id(owing), [unknown, Rejection(name, "invalid value")], owing.now
    ) == [event]
    assert owing.one("select count(*) from aggregator.rejection where event_id is null") == 2
    assert reject_by_report(in_doubt, sink_id(owing), [], owing.now) == []


def test_a_late_200_finds_nothing_to_settle(owing: World, in_doubt: InDoubt) -> None:
    """All interleavings of a claim, a rejection and the answer end refused, with nothing in the outbox (B5)."""
    claim = owing.outbox.claim(sink_id(owing), 100, owing.now)
    assert claim is not None
    event, name = event_of(owing)
    reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now)
    for state in (State.ACCEPTED, State.DUE, State.IN_DOUBT, State.REFUSED):
        late = Outcome(EventId(event), state, owing.now, "late")
        assert owing.outbox.settle(ClaimId(claim.id), [late], owing.now) == 0
        assert state_of(owing, event) == "refused"
    assert owing.one("select reason from aggregator.parked") == "invalid value"
    assert owing.one("select count(*) from aggregator.outbox where event_id = %s", event) == 0


def test_an_older_event_than_a_report_can_name_is_not_looked_for(owing: World, in_doubt: InDoubt) -> None:
    """The search is bounded by when an event was planned; what it does not find is on record."""
    owing.deliver()
    old, its_name = event_of(owing, "cus_0")
    weeks = owing.now + dt.timedelta(days=30)
    assert reject_by_report(in_doubt, sink_id(owing), [Rejection(its_name, "invalid value")], weeks) == [old]
    event, name = event_of(owing)
    late = owing.now + dt.timedelta(days=61)
    assert reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], late) == []
    assert owing.rows("select event_id from aggregator.rejection order by id") == [(old,), (None,)]
    assert state_of(owing, event) == "accepted"


PROOF = 26 * HOUR


def heard(world: World, report: Report, proof: dt.timedelta | None = PROOF) -> Taking:
    """Take a report as it comes in a notification."""
    told = ParsedNotification(Notification(report.id, "kind", world.now), (report,))
    return Notifications(world.database).take(sink_id(world), told, "poll", world.now, [proof])


STATE = "select state::text, (select count(*) from aggregator.rejection) from aggregator.event where id = %s"


def test_what_was_sent_once_more_after_a_report_is_left_to_the_totals(
    owing: World, in_doubt: InDoubt
) -> None:
    """The sink had forgotten what it names, and may have taken it since: refused on that word, it would be billed twice."""
    owing.deliver()
    [(event, identifier, at)] = owing.rows(
        "select id, identifier, attempted_at from aggregator.event limit 1"
    )
    then = Span(at - 72 * HOUR, at - 72 * HOUR + MINUTE)
    told = Report("rep_1", METER.name, then, 1, (Rejection(identifier, "no such customer"),))
    assert in_doubt.take_report(sink_id(owing), told, owing.now, PROOF) == ([], True)
    assert in_doubt.take_report(sink_id(owing), told, owing.now, PROOF) == ([], False)
    assert heard(owing, told._replace(id="rep_2")) == Taking(fresh=True, readbacks=(METER.name,))
    assert owing.rows(STATE, event) == [("accepted", 0)]
    soon = told._replace(id="rep_3", span=Span(at - MINUTE, at))
    assert heard(owing, soon) == Taking(fresh=True, refused=(event,))


@pytest.mark.parametrize("compared", [True, False])
@pytest.mark.parametrize("proof", [PROOF, None])
def test_what_an_adoption_has_compared_since_is_left_to_the_totals(
    owing: World, compared: bool, proof: dt.timedelta | None
) -> None:
    """What the ledger forgot may stand there in its place: refused on that word, that would be billed twice."""
    owing.deliver()
    [(event, identifier, at)] = owing.rows(
        "select id, identifier, attempted_at from aggregator.event limit 1"
    )
    owing.execute(ADOPTION, at + HOUR if compared else at - HOUR)
    told = Report("rep_1", METER.name, Span(at, at + MINUTE), 1, (Rejection(identifier, "invalid value"),))
    if compared and proof is not None:
        assert heard(owing, told, proof) == Taking(fresh=True, readbacks=(METER.name,))
        assert owing.rows(STATE, event) == [("accepted", 0)]
    else:
        assert heard(owing, told, proof) == Taking(fresh=True, refused=(event,))


def test_a_report_under_a_former_name_is_followed_up(owing: World, in_doubt: InDoubt) -> None:
    """A process that knows a meter under the name it had takes a report of it: what it does not name is looked for (B5)."""
    owing.deliver()
    owing.meters.register([replace(METER, name="calls", renamed_from=METER.name)])
    told = Report("evt_1", METER.name, Span(owing.now - 10 * SECOND, owing.now), 1, ())
    assert in_doubt.take_report(sink_id(owing), told, owing.now, PROOF) == ([], True)
    assert in_doubt.take_report(sink_id(owing), told._replace(meter="calls"), owing.now, PROOF) == ([], False)


@pytest.mark.parametrize(
    ("rejected", "proof", "asks"), [(1, PROOF, False), (0, PROOF, False), (2, PROOF, True), (2, None, False)]
)
def test_what_a_report_asks_for(
    owing: World, in_doubt: InDoubt, rejected: int, proof: dt.timedelta | None, asks: bool
) -> None:
    """Only one that counts more than it names, from a sink that can be read back, asks for a read-back; and once (B5)."""
    owing.deliver()
    event, name = event_of(owing)
    span = Span(owing.now - 10 * SECOND, owing.now)
    twice = (Rejection(name, "invalid value"), Rejection(name, "invalid value"))
    told = Report("evt_1", METER.name, span, rejected, twice)
    assert in_doubt.take_report(sink_id(owing), told, owing.now, proof) == ([event], asks)
    assert in_doubt.take_report(sink_id(owing), told, owing.now, proof) == ([], False)
    rows = owing.rows("select reason, due_at from aggregator.readback")
    assert rows == ([("report evt_1 counts 2 rejected events and names 1", span.end + PROOF)] if asks else [])
    nowhere = told._replace(meter="unknown", rejected=9, id="evt_2")
    assert in_doubt.take_report(sink_id(owing), nowhere, owing.now, proof) == ([], False)


def test_nothing_is_concluded_from_what_has_changed(owing: World, in_doubt: InDoubt) -> None:
    """A figure compared with other events than those that stand there now proves nothing, and writes nothing (B4)."""
    bring(owing, "in_doubt")
    owing.now += 27 * HOUR
    in_spans = in_doubt.open(sink_id(owing), owing.now, PROOF, 100)
    assert [in_span.customer for in_span in in_spans] == ["cus_0", "cus_1", "cus_2"]
    in_span = in_spans[1]
    [meter_state] = in_span.events
    conclusion = [Conclusion(meter_state.id, Finding.ABSENT, "the figures")]
    changes: list[Callable[[EventState], EventsInSpan]] = [
        lambda one: in_span._replace(events=(one._replace(state=State.ACCEPTED),)),
        lambda one: in_span._replace(events=(one._replace(attempted_at=START),)),
        lambda one: in_span._replace(events=(one, one)),
    ]
    for change in changes:
        assert in_doubt.settle(change(meter_state), conclusion, owing.now, owing.now).stale
        assert state_of(owing, meter_state.id) == "in_doubt"
    assert in_doubt.settle(in_span, conclusion, owing.now, owing.now).absent == 1
    assert in_doubt.settle(in_span, conclusion, owing.now, owing.now).stale, "it is settled"
    assert owing.rows(
        "select state::text, exposed_at, reason from aggregator.event where id = %s", meter_state.id
    ) == [("due", None, "not there: the figures")]
    assert owing.deliver().accepted == 1


def test_a_neighbour_in_the_same_minute_belongs_to_the_picture(owing: World, in_doubt: InDoubt) -> None:
    """Every event of the customer in that minute is compared, in whatever state, and nobody else's."""
    bring(owing, "in_doubt")
    owing.source.use("cus_1", START + HOUR, 7)
    owing.source.use("cus_1", START - MINUTE, 7)
    owing.collect()
    owing.now += 27 * HOUR
    in_spans = in_doubt.open(sink_id(owing), owing.now, PROOF, 100)
    assert [len(in_span.events) for in_span in in_spans] == [1, 1, 1]
    assert [in_span.span for in_span in in_spans] == [Span(START, START + MINUTE)] * 3
    assert in_doubt.open(sink_id(owing), owing.now, PROOF, 2) == in_spans[:2]
    assert in_doubt.open(sink_id(owing) + 1, owing.now, PROOF, 100) == []


def test_another_minute_of_the_same_window_is_no_neighbour(owing: World, in_doubt: InDoubt) -> None:
    """A correction has a minute of its own, so that the sink's figure for it shows it alone."""
    owing.deliver()
    owing.source.use("cus_1", START, 5)
    owing.collect()
    bring(owing, "in_doubt")
    owing.now += 27 * HOUR
    [in_span] = in_doubt.open(sink_id(owing), owing.now, PROOF, 100)
    assert [event.delta for event in in_span.events] == [5]
    assert in_span.span.start > START


def test_an_event_that_was_given_up_may_be_there(owing: World, in_doubt: InDoubt) -> None:
    """What left and was voided without proof is in nobody's books, and yet perhaps in the figure; a rejected one is not."""
    bring(owing, "in_doubt")
    event, name = event_of(owing)
    owing.execute("update aggregator.event_at_rest set state = 'void' where id = %s", event)
    [meter_state] = _at_one_minute(owing, in_doubt, "cus_1")
    assert (meter_state.asked, meter_state.maybe_sent) == (False, True)
    reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now)
    [meter_state] = _at_one_minute(owing, in_doubt, "cus_1")
    assert not meter_state.maybe_sent


def _at_one_minute(world: World, in_doubt: InDoubt, customer: str) -> tuple[EventState, ...]:
    from aggregator.ledger.review.in_doubt import Readback

    span = Span(START, START + MINUTE)
    asked = Readback(1, world.registered.feeds[0].id, METER.name, span)
    return in_doubt.look(asked, customer, span).events


@pytest.mark.parametrize("state", ["due", "sending", "accepted", "confirmed", "refused", "held", "void"])
@pytest.mark.parametrize("finding", [Finding.PRESENT, Finding.ABSENT])
def test_a_persons_word_is_about_events_in_doubt(
    owing: World, parked: ParkedEvents, state: str, finding: Finding
) -> None:
    """In any other state it changes nothing."""
    bring(owing, state)
    before = owing.rows("select id, state::text from aggregator.event order by id")
    assert parked.settle_by_hand([event for event, _ in before], finding, owing.now) == []
    assert owing.rows("select id, state::text from aggregator.event order by id") == before
    assert owing.one("select count(*) from aggregator.readback") == 0


@pytest.mark.parametrize("state", ["due", "sending", "accepted", "confirmed", "in_doubt", "void"])
def test_only_what_is_held_or_refused_is_released_or_dismissed(
    owing: World, parked: ParkedEvents, state: str
) -> None:
    """An event in doubt above all is neither sent again nor forgotten that way (B4)."""
    bring(owing, state)
    event, _ = (
        event_of(owing)
        if state != "void"
        else (
            owing.one("select id from aggregator.event where state = 'void'"),
            "",
        )
    )
    assert owing.outbox.release([event], owing.now) == []
    assert parked.dismiss([event], owing.now) == []
    assert state_of(owing, event) == state


def test_a_dismissed_event_stays_what_it_is(owing: World, parked: ParkedEvents) -> None:
    """It is no longer listed, nothing of it is sent, and a newer plan replaces it all the same."""
    bring(owing, "refused")
    event, _ = event_of(owing)
    assert parked.dismiss([event], owing.now) == [event]
    assert event not in {each.event for each in parked.waiting(Choice(), 10)}
    assert event in {each.event for each in parked.waiting(Choice(dismissed=True), 10)}
    assert state_of(owing, event) == "refused"
    assert owing.deliver().claimed == 0
    owing.source.use("cus_1", START, 5)
    owing.sink.refused.clear()
    owing.collect()
    assert state_of(owing, event) == "void"
    owing.deliver()
    assert owing.booked("cus_1") == 7
    owing.check_balance()


def test_a_release_sends_some_and_plans_some_anew(owing: World, in_doubt: InDoubt) -> None:
    """What was only refused goes out as it is; what was accepted before is marked for the next pass; both in one call."""
    owing.sink.refused.add("cus_0")
    owing.deliver()
    refused, _ = event_of(owing, "cus_0")
    rejected, name = event_of(owing, "cus_1")
    reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now)
    owing.sink.refused.clear()
    assert owing.outbox.release([rejected, refused], owing.now) == sorted([refused, rejected])
    assert (state_of(owing, refused), state_of(owing, rejected)) == ("due", "refused")
    assert owing.rows("select event_id from aggregator.outbox") == [(refused,)]
    assert owing.rows("select customer from aggregator.slot where replan") == [("cus_1",)]
    assert owing.one("select reread_from from aggregator.meter") == START


def test_a_release_leaves_an_older_reread_as_it_is(owing: World, in_doubt: InDoubt) -> None:
    """What is to be read again from further back still is."""
    owing.deliver()
    event, name = event_of(owing)
    reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now)
    owing.execute("update aggregator.meter set reread_from = %s", START - HOUR)
    owing.outbox.release([event], owing.now)
    assert owing.one("select reread_from from aggregator.meter") == START - HOUR


def test_the_choice_of_events(owing: World, parked: ParkedEvents) -> None:
    """By id, meter, state, customer and window: all that is given must fit."""
    bring(owing, "refused")
    event, _ = event_of(owing)

    def chosen(**what: Any) -> set[str]:
        return {each.customer for each in parked.waiting(Choice(**what), 100)}

    everyone = {"cus_0", "cus_1", "cus_2"}
    assert chosen() == chosen(meter=METER.name) == chosen(state="refused") == everyone
    assert chosen(span=Span(START, START + HOUR)) == everyone
    assert chosen(ids=(event,)) == chosen(customer="cus_1") == {"cus_1"}
    for nothing in (
        {"ids": ()},
        {"meter": "other"},
        {"state": "held"},
        {"customer": "cus_9"},
        {"span": Span(START + HOUR, START + 9 * HOUR)},
        {"span": Span(START - HOUR, START)},
        {"ids": (event,), "state": "held"},
    ):
        assert chosen(**nothing) == set(), nothing
    assert len(parked.waiting(Choice(), 2)) == 2


def test_the_ledger_refuses_a_step_that_no_rule_allows(owing: World) -> None:
    """Whoever asks: what was rejected is not accepted again, and what is confirmed is not sent again (invariant 6)."""
    bring(owing, "confirmed")
    for state in ("accepted", "due", "in_doubt"):
        with pytest.raises(InvariantBroken):
            owing.execute("update aggregator.event_at_rest set state = %s::aggregator.event_state", state)
    owing.execute("update aggregator.event_at_rest set state = 'refused'")
    for state in ("accepted", "confirmed", "in_doubt"):
        with pytest.raises(InvariantBroken):
            owing.execute("update aggregator.event_at_rest set state = %s::aggregator.event_state", state)


# The commands, in this process: what they say, and what they refuse.

ADOPTION = """
insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, epoch, fingerprint)
select id, 'adoption', tstzrange(start_at, mark), tstzrange(start_at, mark), %s, 0, 1, 'f' from aggregator.meter
"""

TAKE_OVER = """
with pass as (
    insert into aggregator.pass (meter_id, kind, span, goal, started_at, seconds, epoch, fingerprint)
    select id, 'adoption', tstzrange(mark, mark), tstzrange(mark, mark), now(), 0, 1, 'f' from aggregator.meter
    returning id
), event as (
    insert into aggregator.event_at_rest (id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, state,
                                          customer, identifier, delta, total, reason)
    select nextval('aggregator.event_id'), slot_id, pass.id, feed_id, 1, window_start, at, now(), 'confirmed', customer,
           'taken_over', -delta, 0, 'taken over from the sink''s own totals'
      from aggregator.event, pass where customer = 'cus_1'
    returning slot_id, id
)
update aggregator.slot set revision = 2, tail = event.id, total = 0 from event where slot.id = event.slot_id
"""
"""An adoption finds that the sink has nothing of one customer."""


def test_what_an_adoption_has_taken_over_is_not_owed_again(owing: World) -> None:
    """A rejection that comes afterwards, by name or by a read-back, is on record and changes nothing."""
    owing.deliver()
    [(event, name)] = owing.rows("select id, identifier from aggregator.event where customer = 'cus_1'")
    owing.execute(TAKE_OVER)
    in_doubt, sink_id = InDoubt(owing.database), owing.registered.feeds[0].sink_id
    assert reject_by_report(in_doubt, sink_id, [Rejection(name, "no such customer")], owing.now) == []
    with owing.database.transaction() as connection:
        assert refuse_missing(connection, [EventId(event)], "its figure is 0", owing.now) == 0
    assert owing.one("select state::text from aggregator.event where id = %s", event) == "accepted"
    assert owing.one("select count(*) from aggregator.parked") == 0


def test_a_claim_is_settled_by_its_owner_only(owing: World) -> None:
    """A ledger that was wound back gives out numbers again: whoever slept through that settles nothing of others."""
    claim = owing.outbox.claim(owing.registered.feeds[0].sink_id, 10, owing.now)
    assert claim is not None
    outcomes = [Outcome(event.id, State.ACCEPTED) for event in claim.events]
    assert owing.beside().outbox.settle(claim.id, outcomes, owing.now) == 0
    assert owing.outbox.settle(claim.id, outcomes, owing.now) == len(outcomes)


LATER = START + 100 * HOUR
"""When the commands are called."""


@pytest.fixture
def call(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `aggregator events` with some arguments, on the tests' own server, which is fast because it is not durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    monkeypatch.setattr(Database, "now", lambda self: LATER)
    path = written(tmp_path, ledger_url, "type: stripe, api_key: rk_test_1, mode: test", name="fake")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(events, [*map(str, arguments), "--config", str(path)])

    return run


def complaint(result: Result) -> str:
    """Return what a call was refused with."""
    assert isinstance(result.exception, AggregatorError), result.output
    return str(result.exception)


def test_the_list_shows_what_waits_and_why(owing: World, call: Callable[..., Result]) -> None:
    """A table for people, exact figures for programs, and a plain sentence when there is nothing."""
    assert "No event waits for a person." in call("list").output
    bring(owing, "refused")
    event, name = event_of(owing)
    shown = call("list").output
    assert f" {event} " in shown
    assert "no such customer" in shown
    assert "There are more than 2" in call("list", "--limit", 2).output
    told = json.loads(call("list", "--customer", "cus_1", "--json").output)
    assert told["more"] is False
    [each] = told["events"]
    assert (each["event"], each["delta"], each["state"], each["identifier"]) == (event, "2", "refused", name)
    assert json.loads(call("list", "--state", "in_doubt", "--json").output) == {
        "events": [],
        "more": False,
        "moves": [],
        "held_by_guards": [],
    }


def test_released_by_id_and_by_meter(owing: World, call: Callable[..., Result]) -> None:
    """Some by their ids, the rest of a meter at once; what is not waiting is named."""
    bring(owing, "refused")
    event, _ = event_of(owing)
    assert call("release", event).output.startswith("1 event released")
    again = call("release", event, 999)
    assert complaint(again) == f"Not held or refused: {event}, 999: see `aggregator events list`."
    assert call("release", "--meter", METER.name, "--state", "held").output == "0 events released.\n"
    assert call("release", "--meter", METER.name, "--to", "2026-11-01").output.startswith("0 events")
    told = json.loads(call("release", "--meter", METER.name, "--from", "2026-11-01", "--json").output)
    assert (len(told["released"]), told["planned_anew"], told["not_waiting"]) == (2, [], [])
    owing.sink.refused.clear()
    owing.now = LATER
    assert owing.deliver().accepted == 3


def test_released_after_a_rejection(owing: World, in_doubt: InDoubt, call: Callable[..., Result]) -> None:
    """It says that the event is planned anew, and the list shows it (B5)."""
    owing.deliver()
    event, name = event_of(owing)
    reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now)
    assert (
        "Planned anew by the next pass: 1 event, accepted once and rejected later."
        in call("release", event).output
    )
    assert "refused, planned anew" in call("list").output
    assert json.loads(call("release", event, "--json").output)["planned_anew"] == [event]


@pytest.mark.parametrize(
    ("away", "why"),
    [
        (("  api_requests:", "  another:"), "is no longer configured"),
        (("{fake: ", "{other: "), "does not feed fake any more"),
        (("start_at:", "data_retained_from: 2026-11-20T00:00Z\n    start_at:"), "`data_retained_from`"),
        (None, "`bill_until`"),
        (CLOSED, "Its month is archived"),
    ],
)
def test_what_no_pass_would_plan_anew_is_not_released(
    owing: World,
    in_doubt: InDoubt,
    call: Callable[..., Result],
    tmp_path: Path,
    away: tuple[str, str] | None,
    why: str,
) -> None:
    """Its window is not read, or not for that sink: it is said why, nothing is marked, and the others go."""
    owing.deliver()
    event, name = event_of(owing)
    reject_by_report(in_doubt, sink_id(owing), [Rejection(name, "invalid value")], owing.now)
    path = tmp_path / "aggregator.yaml"
    config = path.read_text()
    if away is None:
        owing.one("update aggregator.feed set until = %s returning id", START)
    elif away == CLOSED:
        owing.execute("update aggregator.meter set archived_until = %s", START + HOUR)
    else:
        path.write_text(config.replace(*away).replace("[fake]", "[other]" if "fake" in away[0] else "[fake]"))
    told = call("release", event)
    assert complaint(told) == "Not released: 1 event, which no pass would plan anew."
    assert f"Not released: {event}. " in told.output
    assert why in told.output
    assert owing.one("select replan from aggregator.slot where tail = %s", event) is False
    assert list(json.loads(call("release", event, "--json").stdout)["not_anew"]) == [str(event)]
    owing.execute("update aggregator.feed set until = null")
    owing.execute("update aggregator.meter set archived_until = null")
    path.write_text(config)
    assert "Planned anew by the next pass: 1 event" in call("release", event).output


def test_dismissed_and_taken_back(owing: World, call: Callable[..., Result]) -> None:
    """A dismissed event is listed on demand only, left out of a meter's release, and released by its id."""
    bring(owing, "refused")
    event, _ = event_of(owing)
    assert call("dismiss", event).output.startswith("1 event dismissed")
    assert f" {event} " not in call("list").output
    assert "refused, dismissed" in call("list", "--dismissed").output
    assert call("release", "--meter", METER.name).output.startswith("2 events released")
    assert call("release", event).output.startswith("1 event released")
    assert json.loads(call("dismiss", "--meter", METER.name, "--json").output) == {
        "dismissed": [],
        "not_waiting": [],
    }


@pytest.mark.parametrize("command", ["release", "dismiss"])
def test_which_events_must_be_said(owing: World, call: Callable[..., Result], command: str) -> None:
    """Nothing is decided about everything by accident."""
    assert complaint(call(command)).startswith("Name the events")
    assert complaint(call(command, "--state", "held")).startswith("Name the events")
    assert "not both" in complaint(call(command, 1, "--meter", METER.name))


def test_a_persons_word_on_what_is_in_doubt(owing: World, call: Callable[..., Result]) -> None:
    """The figures are shown; booked is accepted; absent is sent again, once; and what does not fit is refused (B4)."""
    bring(owing, "in_doubt")
    (first, _), (second, _), (third, _) = (event_of(owing, f"cus_{n}") for n in range(3))
    doubt = (
        f"Not held or refused: {first} is in doubt: use `aggregator events mark-accepted` or `mark-missing`, "
        "after looking at the sink."
    )
    assert complaint(call("release", first)) == doubt
    assert complaint(call("dismiss", first)) == doubt
    shown = call("mark-accepted", "--reason", "seen in the Dashboard", first)
    decided = Decisions(owing.database).about([first])[first]
    assert (decided.verb, decided.reason) == (Verb.MARK_ACCEPTED, "seen in the Dashboard")
    assert decided.describe().startswith("marked as accepted by ")
    assert f"{first}: 1 for cus_0, stamped 2026-11-01 00:00:00Z" in shown.output
    assert "no answer, and 20 h after the first attempt" in shown.output
    assert shown.output.endswith("1 event accepted.\n")
    assert state_of(owing, first) == "accepted"
    assert complaint(call("mark-accepted", first)) == f"Not in doubt: {first}: see `aggregator events list`."
    owing.execute(
        "update aggregator.event_at_rest set attempted_at = %s where id = %s", LATER - 25 * HOUR, second
    )
    owing.execute("update aggregator.event_at_rest set attempted_at = %s where id = %s", LATER, third)
    early = call("mark-missing", second, third)
    assert f"Tried too recently to be called missing: {second}, {third}" in complaint(early)
    assert "look again after" in complaint(early)
    assert state_of(owing, second) == "in_doubt"
    assert "look again after 2026-11-05 05:00Z (1h)" in complaint(call("mark-missing", second))
    owing.execute(
        "update aggregator.event_at_rest set attempted_at = %s where id = %s", LATER - 27 * HOUR, second
    )
    assert json.loads(call("mark-missing", second, "--json").output) == {
        "missing": [second],
        "not_in_doubt": [],
        "too_early": {},
    }
    owing.now = LATER
    owing.deliver()
    assert (owing.booked("cus_0"), owing.booked("cus_1")) == (0, 2)


def test_a_word_on_what_is_not_in_doubt(owing: World, call: Callable[..., Result]) -> None:
    """The command that fits is named."""
    bring(owing, "refused")
    event, _ = event_of(owing)
    told = f"Not in doubt: {event} is refused: use `aggregator events release` or `dismiss`."
    assert complaint(call("mark-accepted", event)) == told
    assert complaint(call("mark-missing", event)) == told
