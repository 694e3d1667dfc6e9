"""Delivery on a real ledger: write ahead, resend the same bytes, settle once."""

from typing import Any

import pytest

from aggregator.core.model import Answer, Event, Outcome, State
from aggregator.delivery.sender import Sender
from aggregator.errors import InvariantBroken, LedgerUnreachable
from aggregator.ledger.at_rest import to_outbox, to_rest
from aggregator.ledger.database import Database
from aggregator.ledger.facts import Facts
from aggregator.ledger.review.parked import Choice, ParkedEvents
from tests.fakes import FakeSink
from tests.postgres.world import HOUR, MINUTE, START, World

SECOND = MINUTE / 60


@pytest.fixture
def owing(world: World) -> World:
    """A world that owes ten customers one event each."""
    for number in range(10):
        world.source.use(f"cus_{number}", START, number + 1)
    world.at(1, 5)
    world.collect()
    return world


def states(world: World) -> dict[str, int]:
    """Return how many events are in each state."""
    return dict(world.rows("select state::text, count(*) from aggregator.event group by 1"))


@pytest.mark.sessions
def test_the_attempt_is_on_record_before_the_first_byte_leaves(owing: World) -> None:
    """While the sink is being talked to the claim is committed, and no transaction is open (invariant 3)."""
    seen: list[Any] = []

    def look() -> None:
        seen.append(
            owing.rows(
                "select state::text, attempts, exposed_at is not null from aggregator.event group by 1, 2, 3"
            )
        )
        seen.append(owing.one("select cardinality(events) from aggregator.claim where settled_at is null"))
        seen.append(
            owing.one("""
                select count(*) from pg_stat_activity
                 where datname = current_database() and state like 'idle in transaction%%' and pid <> pg_backend_pid()
            """)
        )

    owing.sink.during_send = look
    owing.deliver()
    assert seen[:3] == [[("sending", 1, True)], 10, 0]
    assert owing.one("select count(*) from aggregator.claim where settled_at is null") == 0


def test_a_lost_answer_is_asked_for_again_and_booked_once(owing: World) -> None:
    """An answer that never came is not a failure: the same bytes go out again, and the duplicate is a success (B1, B2)."""
    lost = {"cus_3", "cus_7"}
    owing.sink.lost_after_booking = lambda event: event.customer in lost and event.attempts == 1
    first = owing.deliver()
    assert (first.accepted, first.again) == (8, 2)
    owing.now += 10 * MINUTE
    second = owing.deliver()
    assert (second.accepted, second.duplicates) == (2, 2)
    assert owing.booked("cus_3") == 4
    assert states(owing) == {"accepted": 10}
    assert owing.one("select sum(cardinality(events)) from aggregator.attempt") == 2


def test_tries_that_came_to_the_same_are_one_row_and_each_event_keeps_its_own(owing: World) -> None:
    """What a batch came to is written once for all of it; an event still has its tries, with the id of its own request."""
    [feed] = Facts(owing.database).feeds()
    sink_id = owing.registered.feeds[0].sink_id
    for busy in (True, False):
        claim = owing.outbox.claim(sink_id, 10, owing.now)
        assert claim is not None
        *named, nameless = claim.events
        reason = "busy" if busy else "no answer"
        outcomes = [Outcome(each.id, State.DUE, owing.now, reason, f"req_{each.customer}") for each in named]
        outcomes.append(Outcome(nameless.id, State.DUE, owing.now, reason))
        assert owing.outbox.settle(claim.id, outcomes, owing.now) == 10
    assert owing.rows("select answer, reason, cardinality(events) from aggregator.attempt order by id") == [
        ("due", "busy", 10),
        ("due", "no answer", 10),
    ]
    for customer, request in (("cus_4", "req_cus_4"), (nameless.customer, None)):
        [window] = Facts(owing.database).windows(feed, customer, [START])
        [event] = window.events
        assert [(each.reason, each.request_id) for each in event.tries] == [
            ("busy", request),
            ("no answer", request),
        ]


def test_a_library_that_breaks_leaves_unknown_what_it_did_not_answer(owing: World) -> None:
    """Whatever it raises, what left may have arrived: the same bytes go out again, and nothing is lost or booked twice."""
    told = owing.sink.lost_after_booking

    def breaks(event: Event) -> bool:
        if event.customer == "cus_4":
            owing.sink.lost_after_booking = told
            raise TypeError("a string pattern on bytes, Bearer abc")
        return False

    owing.sink.lost_after_booking = breaks
    first = owing.deliver()
    assert first.claimed == 10
    assert first.accepted + first.again == 10
    assert first.again >= 1
    assert first.waits_for == "the sink's library failed (TypeError: a string pattern on bytes, Bearer ***)"
    owing.now += 10 * MINUTE
    owing.deliver()
    assert states(owing) == {"accepted": 10}
    assert [owing.booked(f"cus_{n}") for n in range(10)] == list(range(1, 11))


def test_a_process_that_dies_leaves_its_events_to_the_next(owing: World) -> None:
    """A claim without verdicts runs out; its events go out again as the same bytes under the same identifiers (B1, B3)."""
    claim = owing.outbox.claim(owing.registered.feeds[0].sink_id, 100, owing.now)
    assert claim is not None
    list(owing.sink.send(claim.events, lambda: True))
    other = owing.beside()
    assert other.deliver().claimed == 0, "the claim still holds"
    other.now += 2 * MINUTE
    done = other.deliver()
    assert (done.accepted, done.duplicates) == (10, 10)
    assert [owing.booked(f"cus_{n}") for n in range(10)] == list(range(1, 11))


def test_settling_a_part_of_a_claim_renews_the_rest(owing: World) -> None:
    """It is a sign of life: what is still in the air is nobody else's until a whole claim's time after that (B12)."""
    sink_id = owing.registered.feeds[0].sink_id
    claim = owing.outbox.claim(sink_id, 100, owing.now)
    assert claim is not None
    owing.now += 50 * SECOND
    first, *rest = claim.events
    assert owing.outbox.settle(claim.id, [Outcome(first.id, State.ACCEPTED)], owing.now) == 1
    other = owing.beside()
    assert other.outbox.claim(sink_id, 100, owing.now + 50 * SECOND) is None
    accepted = [Outcome(event.id, State.ACCEPTED) for event in rest]
    assert owing.outbox.settle(claim.id, accepted, owing.now + 55 * SECOND) == 9


def test_without_a_renewal_the_rest_of_a_claim_is_due_when_it_was(owing: World) -> None:
    """A renewal writes every row that is left, so that who settles often asks for few."""
    sink_id = owing.registered.feeds[0].sink_id
    claim = owing.outbox.claim(sink_id, 100, owing.now)
    assert claim is not None
    owing.now += 50 * SECOND
    done = [Outcome(claim.events[0].id, State.ACCEPTED)]
    assert owing.outbox.settle(claim.id, done, owing.now, renew=False) == 1
    taken = owing.beside().outbox.claim(sink_id, 100, owing.now + 50 * SECOND)
    assert taken is not None
    assert len(taken.events) == 9


def test_a_claim_of_a_slow_sink_stays_its_senders_to_the_end(owing: World) -> None:
    """It is renewed with what is settled meanwhile, before anybody else may take it and while its events may leave."""
    seconds = [0.0]
    sink_id = owing.registered.feeds[0].sink_id
    delivery = Sender(owing.outbox, owing.sink, sink_id, lambda: owing.now, lambda: seconds[0])
    other = owing.beside()

    def slowly(event: Event) -> Answer | None:
        seconds[0] += 10.0
        owing.now += 10 * SECOND
        assert other.outbox.claim(sink_id, 100, owing.now) is None
        return None

    owing.sink.fault = slowly
    result = delivery.run_once(owing.now)
    assert (result.accepted, result.unsent, result.stale) == (10, 0, 0)


def test_a_late_settlement_changes_nothing(owing: World) -> None:
    """Whoever settles after its claim was taken over affects no row (invariant 6)."""
    sink_id = owing.registered.feeds[0].sink_id
    stale = owing.outbox.claim(sink_id, 100, owing.now)
    assert stale is not None
    other = owing.beside()
    other.now += 2 * MINUTE
    other.deliver()
    late = [Outcome(event.id, State.REFUSED, reason="late") for event in stale.events]
    assert owing.outbox.settle(stale.id, late, other.now) == 0
    assert states(owing) == {"accepted": 10}
    assert owing.one("select count(*) from aggregator.parked") == 0


def test_a_late_settlement_of_a_row_that_was_claimed_again_changes_nothing(owing: World) -> None:
    """The row is open again, but under another claim: the first one's word does not count."""
    sink_id = owing.registered.feeds[0].sink_id
    stale = owing.outbox.claim(sink_id, 100, owing.now)
    other = owing.beside()
    fresh = other.outbox.claim(sink_id, 100, owing.now + 2 * MINUTE)
    assert stale is not None
    assert fresh is not None
    accepted = [Outcome(event.id, State.ACCEPTED) for event in stale.events]
    assert owing.outbox.settle(stale.id, accepted, owing.now) == 0
    assert other.outbox.settle(fresh.id, accepted, owing.now) == 10


def test_one_customer_that_is_always_refused_stops_nobody(owing: World) -> None:
    """Everyone else's events go out; the refused one is listed with the sink's own words (B11)."""
    owing.sink.refused.add("cus_4")
    done = owing.deliver()
    assert (done.accepted, done.refused) == (9, 1)
    assert owing.deliver().claimed == 0, "a refused event is not tried again by itself"
    [meter_state] = World(owing.database, source=owing.source, sinks=[owing.sink]).rows(
        "select count(*) from aggregator.parked"
    )
    assert meter_state == (1,)
    [parked] = ParkedEvents(owing.database).waiting(Choice(), 20)
    assert (parked.customer, parked.state, parked.reason) == ("cus_4", "refused", "no such customer")


def test_words_that_no_database_takes_are_kept_as_far_as_they_go(owing: World) -> None:
    """A refusal with a NUL or broken text in it is set down like any other; else it would be sent again for ever."""
    owing.sink.fault = lambda event: Answer.REFUSED if event.customer == "cus_4" else None
    owing.sink.says = lambda event: ("no\0such \ud800customer\n", "req\0")
    done = owing.deliver()
    assert (done.accepted, done.refused) == (9, 1)
    [parked] = ParkedEvents(owing.database).waiting(Choice(), 20)
    assert parked.reason == r"no\x00such \ud800customer"
    assert owing.rows("select distinct request_id from aggregator.event where state = 'refused'") == [
        (r"req\x00",)
    ]


def test_a_refused_event_is_sent_again_on_a_persons_word(owing: World) -> None:
    """Once the customer exists, the same event goes out as it was planned."""
    owing.sink.refused.add("cus_4")
    owing.deliver()
    owing.sink.refused.clear()
    [(event,)] = owing.rows("select event_id from aggregator.parked")
    assert owing.outbox.release([event], owing.now) == [event]
    assert owing.outbox.release([event], owing.now) == [], "it waits no more"
    assert owing.deliver().accepted == 1
    assert owing.booked("cus_4") == 5


def test_a_busy_sink_gets_the_events_later(owing: World) -> None:
    """An event that was turned away is due again after a while, and nothing of it counts as having arrived."""
    owing.sink.fault = lambda event: Answer.BUSY if event.attempts < 3 else None
    first = owing.deliver()
    assert (first.again, first.waits_for) == (10, "told to answer busy")
    assert owing.one("select count(*) from aggregator.event where exposed_at is not null") == 0
    owing.now += HOUR
    assert owing.deliver().again == 10
    owing.now += HOUR
    assert owing.deliver().accepted == 10


def test_what_never_left_burns_no_attempt(owing: World) -> None:
    """Events that were claimed but never sent, because we were told to stop, are due again as if nothing had been."""
    owing.sink.fault = lambda event: Answer.UNSENT
    delivery = Sender(owing.outbox, owing.sink, owing.registered.feeds[0].sink_id, lambda: owing.now)
    assert delivery.run_once(owing.now).unsent == 10
    rows = owing.rows("select state::text, attempts, exposed_at from aggregator.event group by 1, 2, 3")
    assert rows == [("due", 0, None)]
    owing.sink.fault = lambda event: None
    assert owing.deliver().accepted == 10


def test_a_halted_sink_is_shown_and_keeps_its_events(owing: World) -> None:
    """A revoked key stops the sink, loses nothing, and says so in the ledger."""
    owing.sink.halted = "The key was revoked."
    assert owing.deliver().halted == "The key was revoked."
    assert owing.one("select halted_reason from aggregator.sink") == "The key was revoked."
    assert states(owing) == {"sending": 10}
    owing.sink.halted = None
    owing.now += 2 * MINUTE
    assert owing.deliver().accepted == 10


def test_no_event_is_sent_again_beyond_the_cliff(owing: World) -> None:
    """25 hours after a lost answer the event is in doubt, and not sent (B4, invariant 7)."""
    owing.sink.lost_after_booking = lambda event: event.customer == "cus_3"
    owing.deliver()
    sent = len(owing.sink.received)
    owing.sink.identifiers.clear()
    owing.now += 25 * HOUR
    assert owing.deliver().in_doubt == 1
    assert len(owing.sink.received) == sent
    assert owing.booked("cus_3") == 4
    owing.source.use("cus_3", START, 5)
    assert owing.collect().deferred == 1, "nothing is planned for a slot in doubt"


def test_an_event_that_was_never_exposed_may_wait_for_days(owing: World) -> None:
    """A sink that could not even be reached for days gets everything, since nothing can have arrived."""
    owing.sink.fault = lambda event: Answer.BUSY
    for hour in range(0, 72, 6):
        owing.at(1 + hour, 10)
        owing.deliver()
    owing.sink.fault = lambda event: None
    owing.at(80)
    assert owing.deliver().accepted == 10


def test_what_became_too_old_is_refused_without_a_call(owing: World) -> None:
    """An event that outlives what the sink takes is set down as what cannot be billed (B19)."""
    owing.at(24 * 36)
    assert owing.deliver().refused == 10
    assert owing.sink.received == []


def test_a_collision_of_identifiers_is_loud(owing: World) -> None:
    """ "Exists already" without an attempt of ours on record is refused with its reason, never taken for success (H-26)."""
    owing.sink.fault = lambda event: Answer.DUPLICATE if event.customer == "cus_0" else None
    assert owing.deliver().refused == 1
    [(reason,)] = owing.rows("select reason from aggregator.parked")
    assert "we never sent it" in reason


def test_two_deliveries_never_take_the_same_event(owing: World) -> None:
    """Claims are disjoint: what one holds the other passes over (B12)."""
    sink_id = owing.registered.feeds[0].sink_id
    first = owing.outbox.claim(sink_id, 6, owing.now)
    second = owing.beside().outbox.claim(sink_id, 6, owing.now)
    assert first is not None
    assert second is not None
    assert {event.id for event in first.events} & {event.id for event in second.events} == set()
    assert (len(first.events), len(second.events)) == (6, 4)


def test_a_customers_windows_go_out_in_order(world: World) -> None:
    """The oldest events are claimed first."""
    for hour in range(5):
        world.source.use("cus_a", START + hour * HOUR)
    world.at(5, 5)
    world.collect()
    world.deliver()
    starts = [event.window_start for event in world.sink.received]
    assert starts == sorted(starts)


GONE = "with gone as (delete from aggregator.outbox returning *)"
TAKEN = "with taken as (delete from aggregator.event_at_rest returning *)"


def rests(state: str) -> str:
    """Return a statement that takes all events out of the outbox, and puts them to rest in a state."""
    return f"{GONE} {to_rest('gone', state=repr(state), reason='null', settled_at='null')} from gone"


BACK = to_outbox("gone", sink="1", due_at="now()", reason="null")


@pytest.mark.parametrize(
    "statement",
    [
        "update aggregator.event_at_rest set delta = 99",
        "update aggregator.event_at_rest set identifier = 'agg_other'",
        "update aggregator.event_at_rest set at = at + interval '1 minute'",
        "delete from aggregator.event_at_rest",
        "truncate aggregator.event_at_rest cascade",
        "update aggregator.event_at_rest set state = 'void'",
        "update aggregator.event_at_rest set state = 'due'",
        f"with gone as (delete from aggregator.event_at_rest returning *) {BACK} from gone",
    ],
)
def test_the_database_refuses_what_would_break_an_invariant(owing: World, statement: str) -> None:
    """An accepted event can be neither changed, deleted nor sent back, whoever asks (invariants 2 and 6)."""
    owing.deliver()
    with pytest.raises(InvariantBroken):
        owing.execute(statement)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("update aggregator.outbox set total = 99", "what an event says never changes"),
        ("delete from aggregator.outbox", "never deleted"),
        ("truncate aggregator.outbox", "never deleted"),
        (rests("accepted"), "moves forward only"),
        (rests("confirmed"), "moves forward only"),
        (rests("void") + " where gone.revision > 0", "never deleted"),
        (rests("void").replace("gone.customer", "'cus_else'"), "never changes"),
        (rests("void").replace("gone.at,", "gone.at + interval '1 s',"), "never changes"),
        (rests("void").replace("gone.delta,", "gone.delta + 1,"), "never changes"),
    ],
)
def test_what_leaves_the_outbox_comes_to_rest_as_it_was(owing: World, statement: str, why: str) -> None:
    """A due event can be neither lost nor changed on its way, and it takes the steps of the table only."""
    with pytest.raises(InvariantBroken, match=why):
        owing.execute(statement)


def test_what_is_sent_after_all_goes_back_as_it_was(owing: World) -> None:
    """Whoever sends a held event puts it into the outbox whole, or the ledger refuses that."""
    owing.execute(rests("held"))
    for statement, why in (
        (f"{TAKEN} select from taken", "never deleted"),
        (
            f"{TAKEN} {BACK.replace('gone', 'taken').replace('taken.delta', 'taken.delta + 1')} from taken",
            "never changes",
        ),
    ):
        with pytest.raises(InvariantBroken, match=why):
            owing.execute(statement)
    before = owing.rows("select id, delta, total, identifier, attempts from aggregator.event order by id")
    owing.execute(f"{TAKEN} {BACK.replace('gone', 'taken')} from taken")
    assert (
        owing.rows("select id, delta, total, identifier, attempts from aggregator.event order by id")
        == before
    )
    assert owing.one("select count(*) from aggregator.event_at_rest") == 0


def test_the_database_refuses_a_second_event_for_a_revision(owing: World) -> None:
    """One slot and revision has one event: the first goes by the slot's number, and others stand in an index."""
    add = """
        insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at,
                                       due_at, customer, identifier, delta, total)
        select case %s when 'its own' then id else nextval('aggregator.event_id') end, slot_id, pass_id, 1, feed_id, %s,
               window_start, at, planned_at, at, customer, 'agg_second', delta, total
          from aggregator.event where revision = 0 order by id limit 1
    """
    owing.execute(add, "another", 1)
    for number, revision in (("its own", 0), ("another", 0), ("its own", 1), ("another", 1)):
        with pytest.raises(InvariantBroken):
            owing.execute(add, number, revision)


def test_a_ledger_that_goes_away_is_said_plainly(ledger_url: str) -> None:
    """A ledger that cannot be reached is one clear error with the remedy."""
    database = Database(ledger_url.replace("/test_", "/gone_"))
    database._pool.timeout = 0.5
    with database, pytest.raises(LedgerUnreachable, match=r"check `ledger\.url`"), database.transaction():
        raise AssertionError("never reached")


def test_a_sink_with_another_limit_batches_accordingly(database: Database) -> None:
    """Delivery asks for as many events as the sink wants at once."""
    sink = FakeSink()
    world = World(database, sinks=[sink])
    for number in range(250):
        world.source.use(f"cus_{number:03}", START)
    world.at(1, 5)
    world.collect()
    delivery = Sender(world.outbox, sink, world.registered.feeds[0].sink_id, lambda: world.now)
    assert [delivery.run_once(world.now).claimed for _ in range(4)] == [100, 100, 50, 0]


def test_a_process_that_slept_past_its_claim_sends_nothing_more(owing: World) -> None:
    """After a long pause the claim may be another's: nothing of it leaves any more (B12)."""
    woken = iter([0.0, 0.0, 3600.0])
    delivery = Sender(
        owing.outbox,
        owing.sink,
        owing.registered.feeds[0].sink_id,
        lambda: owing.now,
        lambda: next(woken, 3600.0),
    )
    assert delivery.run_once(owing.now).accepted <= 1
    assert len(owing.sink.received) <= 1
    assert owing.deliver().claimed >= 9
    assert sorted(owing.sink.booked.values()) == list(range(1, 11))


def test_after_a_long_pause_nothing_of_an_old_claim_leaves(owing: World) -> None:
    """A process that stands still for a day between two events sends no more: the sink may have forgotten them (B4)."""
    seconds = [0.0]
    delivery = Sender(
        owing.outbox, owing.sink, owing.registered.feeds[0].sink_id, lambda: owing.now, lambda: seconds[0]
    )
    sent = owing.sink.received

    def pause(event: Event) -> Answer | None:
        if len(sent) == 3:
            owing.now += 26 * HOUR
            seconds[0] += 26 * 3_600.0
        return None

    owing.sink.fault = pause
    result = delivery.run_once(owing.now)
    assert len(sent) == 3
    assert (result.accepted, result.unsent) == (3, 7)


def test_a_claim_that_lost_rows_to_another_process_sends_nothing_more(owing: World) -> None:
    """Its clock says that there is time, and the ledger says that the rows are another's by now: the ledger is right."""
    seconds = [0.0]
    delivery = Sender(
        owing.outbox, owing.sink, owing.registered.feeds[0].sink_id, lambda: owing.now, lambda: seconds[0]
    )
    other = owing.beside()
    sent = owing.sink.received

    def taken_over(event: Event) -> Answer | None:
        if len(sent) == 3:
            owing.execute("update aggregator.outbox set due_at = %s", owing.now)
            assert other.outbox.claim(other.registered.feeds[0].sink_id, 100, owing.now, "") is not None
            seconds[0] += 2.5
        return None

    owing.sink.fault = taken_over
    result = delivery.run_once(owing.now)
    assert len(sent) == 3
    assert (result.accepted, result.stale) == (3, 10)
