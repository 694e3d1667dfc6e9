"""Before the first events of a feed leave, its sink is asked what it holds: over real Postgres, with a sink in memory."""

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import Answer, Span, Terms
from aggregator.delivery.first_use import ASK_AGAIN, LOOK_AGAIN, FirstUse, asked_span
from aggregator.delivery.sender import Delivered, Sender, drain
from aggregator.errors import (
    CustomerUnknown,
    SinkError,
    SinkHalted,
    SinkUnreachable,
    SinkUnreadable,
)
from aggregator.ledger.database import Database
from aggregator.ledger.outbox import first_use as verbs
from aggregator.ledger.outbox.first_use import ALL_AFTER, FirstUses
from aggregator.ledger.review.rejections import FIND_REJECTED
from tests.fakes import LIMITS, FakeSink
from tests.postgres.world import HOUR, METER, MINUTE, START, World

Fault = Callable[[str], Exception | None]

SECONDS = 60
"""How long a test waits for something that happens at once, before it fails."""


class Asked(FakeSink):
    """A sink that holds what somebody else sent, and counts who was asked about."""

    def __init__(self, **others: int) -> None:
        super().__init__(limits=replace(LIMITS, proof=26 * HOUR))
        self.others = {who: Decimal(much) for who, much in others.items()}
        self.asked: list[str] = []
        self.spans: set[Span] = set()
        self.trouble: Fault = lambda _: None
        self.knows: set[str] | None = None
        """What it was told of, as a real one looks each meter up in its configuration; None: everything."""

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Say what is there of a customer, whoever sent it."""
        if self.knows is not None and meter not in self.knows:
            raise KeyError(meter)
        self.asked.append(customer)
        self.spans.add(span)
        trouble = self.trouble(customer)
        if trouble is not None:
            raise trouble
        return super().total(meter, customer, span) + self.others.get(customer, Decimal(0))


class Fresh(World):
    """A daemon on a ledger that has never sent anything."""

    def __init__(self, database: Database, sink: Asked) -> None:
        super().__init__(database, sinks=[sink])
        self.asked = sink
        self.execute("update aggregator.feed set cleared_until = 0, cleared_at = null, cleared_by = null")
        self.first_use = FirstUse(FirstUses(database), sink, self.registered.feeds[0].sink_id)

    def deliver(self) -> Delivered:
        """Let delivery run until nothing leaves any more."""
        whole = Delivered()
        feed = self.registered.feeds[0]
        worker = Sender(self.outbox, self.sink, feed.sink_id, lambda: self.now, clear=self.first_use.run_once)
        while (part := worker.run_once(self.now)).claimed or part.first_uses:
            whole.add(part)
        return whole

    def feed(self) -> Mapping[str, object]:
        """Return how the feed stands."""
        [row] = self.rows(
            "select cleared_until, cleared_at, cleared_by, cardinality(asked), stopped_reason from aggregator.feed"
        )
        return dict(zip(("until", "at", "by", "asked", "stopped"), row, strict=True))


@pytest.fixture
def sink() -> Asked:
    """A sink with nothing in it."""
    return Asked()


@pytest.fixture
def fresh(database: Database, sink: Asked) -> Fresh:
    """A fresh ledger, and two customers with usage."""
    world = Fresh(database, sink)
    for who in ("cus_1", "cus_2"):
        world.source.use(who, START + 10 * MINUTE, 5)
    world.at(1, 10)
    world.collect()
    return world


def test_each_customer_is_asked_about_once_and_then_sent(fresh: Fresh) -> None:
    """By one call each, over all that the feed may bill until now; who comes later is asked about, too, for a day."""
    assert fresh.deliver().accepted == 2
    assert sorted(fresh.asked.asked) == ["cus_1", "cus_2"]
    assert fresh.asked.spans == {Span(START, START + HOUR + 10 * MINUTE)}
    fresh.source.use("cus_1", START + HOUR, 1)
    fresh.source.use("cus_3", START + HOUR, 1)
    fresh.at(2, 10)
    fresh.collect()
    assert fresh.deliver().accepted == 2
    assert sorted(fresh.asked.asked) == ["cus_1", "cus_2", "cus_3"]
    assert fresh.feed()["at"] is None
    fresh.source.use("cus_4", START + 2 * HOUR, 1)
    fresh.at(1 + ALL_AFTER / HOUR, 20)
    fresh.collect()
    fresh.deliver()
    assert fresh.feed()["at"] is not None
    fresh.source.use("cus_5", START + 25 * HOUR, 1)
    fresh.at(26, 10)
    fresh.collect()
    assert fresh.deliver().accepted == 1
    assert "cus_5" not in fresh.asked.asked


def test_a_sink_that_answers_slowly_keeps_no_other_feed(fresh: Fresh) -> None:
    """While one lane asks it about a new feed, another one sends and settles what may leave of a feed that was cleared."""
    asking, answer = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        asking.set()
        assert answer.wait(SECONDS)

    fresh.asked.trouble = slow
    other = World(fresh.database, meter=replace(METER, name="other"), sinks=[fresh.asked])
    other.source.use("cus_9", START + 10 * MINUTE, 7)
    other.at(1, 10)
    other.collect()
    sink_id = fresh.registered.feeds[0].sink_id
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fresh.deliver)
        assert asking.wait(SECONDS)
        worker = Sender(other.outbox, other.sink, sink_id, lambda: other.now, clear=fresh.first_use.run_once)
        beside = pool.submit(worker.run_once, other.now)
        try:
            sent = beside.result(SECONDS)
            assert (sent.accepted, sent.more_to_come) == (1, True)
            assert not first.done()
            assert worker.run_once(other.now).claimed == 0, (
                "nothing of the new feed leaves before the sink has answered"
            )
        finally:
            answer.set()
        assert first.result(SECONDS).accepted == 2


def test_lanes_wait_for_what_one_of_them_lets_go() -> None:
    """Where everything due is sent once, a lane that finds nothing yet does not end while another one is asking."""
    came, again = threading.Event(), threading.Event()

    class Asking:
        """It asks first, until the other has come; then it has something to send."""

        rounds = 0

        def run_once(self, now: dt.datetime) -> Delivered:
            self.rounds += 1
            if self.rounds == 1:
                assert came.wait(SECONDS)
                return Delivered(claimed=1, accepted=1)
            assert again.wait(SECONDS)
            return Delivered()

        def stop(self) -> None:
            """Nothing is under way."""

    class PlannedUsage:
        """It finds nothing while the other one asks, and something after that."""

        rounds = 0

        def run_once(self, now: dt.datetime) -> Delivered:
            self.rounds += 1
            came.set()
            if self.rounds > 1:
                again.set()
            return Delivered(more_to_come=self.rounds == 1)

        def stop(self) -> None:
            """Nothing is under way."""

    assert drain([Asking(), PlannedUsage()], lambda: START).accepted == 1


def test_a_meter_that_is_not_configured_here_keeps_nobody(fresh: Fresh) -> None:
    """A sink is asked about the meters it knows: not of one that was removed, or that has another name by now."""
    removed = """
        with meter as (
            insert into aggregator.meter (name, fingerprint, window_seconds, start_at, mark)
            values ('removed', 'f', 3600, %(at)s, %(at)s) returning id
        ), feed as (
            insert into aggregator.feed (meter_id, sink_id, since, read_until)
            select meter.id, %(sink)s, %(at)s, %(at)s from meter returning id
        )
        insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at,
                                       due_at, customer, identifier, delta, total)
        select 1000, 1000, 1, %(sink)s, feed.id, 0, %(at)s, %(at)s, %(at)s, %(at)s, 'cus_1', 'agg_r', 1, 1 from feed
        """
    with fresh.database.transaction() as connection:
        connection.execute(removed, {"at": START, "sink": fresh.registered.feeds[0].sink_id})
    feed = fresh.registered.feeds[0]
    fresh.asked.knows = {fresh.meter.name}
    fresh.first_use = FirstUse(
        FirstUses(fresh.database), fresh.asked, feed.sink_id, {feed.id: fresh.meter.name}
    )
    assert fresh.deliver().accepted == 2
    other = fresh.one("select feed_id from aggregator.event where id = 1000")
    renamed = FirstUse(FirstUses(fresh.database), fresh.asked, feed.sink_id, {other: "its old name"})
    assert renamed.run_once(fresh.now) == []
    assert fresh.rows("select id from aggregator.event where exposed_at is null") == [(1000,)]


def test_a_clock_that_is_set_back_puts_no_look_off(fresh: Fresh) -> None:
    """What was put off by a clock that was ahead, until a time that is far off by now, is looked at at once."""
    fresh.asked.trouble = lambda _: SinkUnreachable("gone")
    assert [told.kind for told in fresh.first_use.run_once(fresh.now + 30 * HOUR) or []] == ["waiting"]
    fresh.asked.trouble = lambda _: None
    assert fresh.deliver().accepted == 2
    fresh.execute("update aggregator.feed set cleared_at = %s", fresh.now)
    assert fresh.first_use.run_once(fresh.now + 30 * HOUR) == []
    fresh.execute("update aggregator.feed set cleared_at = null")
    fresh.source.use("cus_3", START + HOUR, 1)
    fresh.at(2, 10)
    fresh.collect()
    assert fresh.deliver().accepted == 1


def test_usage_that_is_not_ours_stops_the_feed_until_a_person_decides(fresh: Fresh) -> None:
    """Nothing is claimed, the figures are on record, and it is said once; on a person's word all of it leaves."""
    fresh.asked.others["cus_2"] = Decimal(7)
    stopped = fresh.deliver()
    assert [told.kind for told in stopped.first_uses] == ["stopped"]
    assert "7 of cus_2" in str(fresh.feed()["stopped"])
    assert fresh.one("select count(*) from aggregator.claim") == 0
    fresh.now += LOOK_AGAIN
    assert fresh.deliver() == Delivered()
    feeds = [feed.id for feed in fresh.registered.feeds]
    assert FirstUses(fresh.database).clear_for_good(feeds, "somebody", fresh.now) == feeds
    assert fresh.deliver().accepted == 2
    assert fresh.feed()["by"] == "somebody"
    assert fresh.feed()["stopped"] is None


def test_what_a_person_put_right_at_the_sink_is_seen(fresh: Fresh) -> None:
    """A feed that stands still is looked at again after a while, and goes on by itself."""
    fresh.asked.others["cus_2"] = Decimal(7)
    fresh.deliver()
    fresh.asked.others.clear()
    assert fresh.deliver().accepted == 0
    fresh.now += LOOK_AGAIN
    went = fresh.deliver()
    assert ([told.kind for told in went.first_uses], went.accepted) == (["cleared"], 2)


@pytest.mark.parametrize("error", [SinkUnreachable, SinkHalted, SinkError])
def test_nothing_leaves_before_the_sink_has_said_it(fresh: Fresh, error: type[SinkError]) -> None:
    """A sink that is away, refuses us, or makes no sense is asked again; that is said once."""
    fresh.asked.trouble = lambda _: error("away")
    for _ in range(3):
        assert fresh.deliver().accepted == 0
        fresh.now += ASK_AGAIN
    asked = len(fresh.asked.asked)
    assert fresh.one("select count(*) from aggregator.claim") == 0
    fresh.asked.trouble = lambda _: None
    assert fresh.deliver().accepted == 2
    assert len(fresh.asked.asked) == asked + 2


def test_a_figure_that_is_missing_for_one_customer_is_waited_for(fresh: Fresh) -> None:
    """What the sink says of others says nothing of this one, who may have been billed: it is asked again."""
    fresh.asked.others["cus_2"] = Decimal(7)
    fresh.asked.trouble = lambda who: SinkError("makes no sense") if who == "cus_2" else None
    waiting = fresh.deliver()
    assert ([told.kind for told in waiting.first_uses], waiting.claimed) == (["waiting"], 0)
    assert "makes no sense" in waiting.first_uses[0].text
    fresh.asked.trouble = lambda who: None
    fresh.now += ASK_AGAIN
    assert [told.kind for told in fresh.deliver().first_uses] == ["stopped"]
    assert not fresh.asked.received


def test_who_was_answered_for_is_not_asked_about_again(fresh: Fresh) -> None:
    """A sink that goes away in the middle is asked about the others only."""
    fresh.asked.trouble = lambda who: SinkUnreachable("away") if who == "cus_2" else None
    assert [told.kind for told in fresh.deliver().first_uses] == ["waiting"]
    fresh.asked.trouble = lambda _: None
    fresh.now += ASK_AGAIN
    assert fresh.deliver().accepted == 2
    assert fresh.asked.asked.count("cus_1") == 1


@pytest.mark.parametrize("error", [SinkUnreadable, CustomerUnknown])
def test_a_sink_that_never_says_it_is_sent_to(fresh: Fresh, error: type[SinkError]) -> None:
    """A key that may not read, and customers that the sink does not know, hold nothing up."""
    fresh.asked.trouble = lambda _: error("no")
    assert fresh.deliver().accepted == 2


def test_of_many_customers_enough_are_asked_about(
    database: Database, sink: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the feed is cleared for good; which of them, is left to chance, and not to their order."""
    monkeypatch.setattr(verbs, "ENOUGH", 20)
    world = Fresh(database, sink)
    for number in range(100):
        world.source.use(f"cus_{number:03}", START + MINUTE, 1)
    world.at(1, 10)
    world.collect()
    assert world.deliver().accepted == 100
    assert len(sink.asked) == 20
    assert max(sink.asked) > "cus_050"
    assert world.feed()["at"] is not None


def test_a_ledger_that_has_sent_is_not_stopped_by_its_own_usage(fresh: Fresh) -> None:
    """Another process let it go and sent while this one was asking: what the sink holds is ours."""
    [pending] = FirstUses(fresh.database).pending(fresh.registered.feeds[0].sink_id)
    assert fresh.deliver().accepted == 2
    assert not FirstUses(fresh.database).stop(pending, ["cus_1"], "not ours", fresh.now)
    fresh.execute("update aggregator.feed set cleared_until = 0, asked = '{}'")
    fresh.source.use("cus_1", START + 20 * MINUTE, 1)
    fresh.at(2, 10)
    fresh.collect()
    assert fresh.deliver().accepted == 1
    assert fresh.feed()["by"] == "it had sent before"


def test_a_later_beginning_takes_back_what_was_planned(fresh: Fresh) -> None:
    """Of a feed that never sent: the windows before are never sent, the others are planned anew, and the sums are right."""
    fresh.source.use("cus_1", START + 2 * HOUR, 3)
    fresh.asked.others["cus_2"] = Decimal(7)
    fresh.at(3, 10)
    fresh.collect()
    fresh.deliver()
    meter = replace(fresh.meter, terms=(Terms(fresh.sink.name, START + 2 * HOUR),))
    later = Fresh.__new__(Fresh)
    later.__dict__ |= fresh.__dict__
    later.registered = fresh.meters.register([meter])[meter.name]
    later.collection = fresh.beside().collection
    fresh.asked.others.clear()
    fresh.collect()
    fresh.now += LOOK_AGAIN
    assert fresh.deliver().accepted == 1
    assert (fresh.booked("cus_1"), fresh.booked("cus_2")) == (3, 0)
    fresh.check_balance()
    [(name, accepted)] = fresh.rows("select identifier, id from aggregator.event where state = 'accepted'")
    assert fresh.one("select count(*) from aggregator.event where identifier = %s", name) == 2
    named = {"sink_id": fresh.registered.feeds[0].sink_id, "identifiers": [name], "since": START}
    with fresh.database.transaction() as connection:
        found = connection.execute(FIND_REJECTED, {**named, "whose": "", "until": fresh.now}).fetchall()
    assert found == [(accepted, name, False)], "what a sink says of the name is about what it was sent"


def test_a_feed_that_sent_keeps_what_it_planned(fresh: Fresh) -> None:
    """Terms that begin later take nothing back once something has left."""
    assert fresh.deliver().accepted == 2
    meter = replace(METER, sinks=fresh.meter.sinks, terms=(Terms(fresh.sink.name, START + 2 * HOUR),))
    fresh.meters.register([meter])
    assert fresh.one("select count(*) from aggregator.slot") == 2


def test_what_was_let_go_meanwhile_is_not_taken_back(fresh: Fresh) -> None:
    """Another process may have let it go after terms that begin later were looked at: what was sent stays planned."""
    assert fresh.deliver().accepted == 2
    with fresh.database.transaction() as connection:
        verbs.take_back(connection, fresh.registered.feeds[0].id, START + 2 * HOUR)
    assert fresh.one("select count(*) from aggregator.slot") == 2
    assert fresh.one("select count(*) from aggregator.event where state = 'accepted'") == 2


def test_a_refused_customer_is_not_taken_for_usage(fresh: Fresh) -> None:
    """An event that is refused after it was cleared stays refused, and its feed is cleared all the same."""
    fresh.sink.fault = lambda event: Answer.REFUSED if event.customer == "cus_1" else None
    done = fresh.deliver()
    assert (done.accepted, done.refused) == (1, 1)


@pytest.mark.parametrize(
    ("until", "step", "span"),
    [
        (None, MINUTE, Span(START, START + 90 * MINUTE)),
        (None, HOUR, Span(START, START + 2 * HOUR)),
        (START + HOUR, MINUTE, Span(START, START + HOUR)),
        (START, MINUTE, None),
    ],
)
def test_what_is_asked_for(until: dt.datetime | None, step: dt.timedelta, span: Span | None) -> None:
    """Everything from the feed's beginning to its end or now, in steps that the sink counts by."""
    now = START + 90 * MINUTE - dt.timedelta(seconds=1)
    assert asked_span(START, until, START - 35 * dt.timedelta(days=1), now, step) == span


def test_whole_steps_are_asked_for_around_what_begins_or_ends_within_one() -> None:
    """A sink that counts by the hour is asked about the whole hour: what lies there beside the feed shows, too."""
    half = HOUR / 2
    asked = asked_span(START + half, START + 3 * HOUR + half, START - HOUR, START + 9 * HOUR, HOUR)
    assert asked == Span(START, START + 4 * HOUR)
