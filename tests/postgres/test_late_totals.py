"""A sink that says that its totals are late: heard by asking it, and nothing is judged by them until they are on time."""

import datetime as dt
from collections.abc import Callable

import pytest

from aggregator.core.model import ZERO, Span
from aggregator.core.notifications import Notification, ParsedNotification
from aggregator.delivery.first_use import ASK_AGAIN, FirstUse
from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.notifications import Notifications, Origins
from aggregator.ledger.outbox.first_use import FirstUses
from aggregator.ledger.review.cancellations import Cancellations
from aggregator.ledger.review.checks import Checks
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.reconciliation.canceller import Canceller
from aggregator.reconciliation.health_poller import HealthPolled, HealthPoller
from aggregator.reconciliation.notification_poller import AGAIN_AFTER, LOOKBACK, OVERLAP
from aggregator.reconciliation.reconciler import Reconciled, Reconciler
from tests.postgres import test_cancelling, test_first_use, test_reconciliation
from tests.postgres.world import HOUR, MINUTE, START, World

KIND = "v2.core.health.meter_event_summaries_delayed"
LATE = "it says that its totals are late"
DAY = dt.timedelta(days=1)


class Client:
    """A sink that says how its totals are, and keeps what it said."""

    def __init__(self) -> None:
        self.said: list[ParsedNotification] = []
        self.asked: list[Span] = []
        self.refuses: SinkError | None = None

    def say(self, name: str, at: dt.datetime, *, late: bool) -> None:
        kind = f"{KIND}.{'firing' if late else 'resolved'}"
        self.said.insert(0, ParsedNotification(Notification(name, kind, at), totals_late=late))

    def health(self, span: Span) -> list[ParsedNotification]:
        self.asked.append(span)
        if self.refuses is not None:
            raise self.refuses
        return [each for each in self.said if each.notification.created_at in span]


@pytest.fixture
def world(database: Database) -> World:
    """A world with a sink."""
    return World(database)


@pytest.fixture
def client() -> Client:
    """A sink that has said nothing."""
    return Client()


def sink_id(world: World) -> int:
    return world.registered.feeds[0].sink_id


def hear(world: World, client: Client) -> HealthPolled:
    """Let a fresh process ask once."""
    ledger = Notifications(world.database), Origins(world.database)
    return HealthPoller(*ledger, client, sink_id(world)).run_once(world.now)


def late(world: World) -> bool:
    return Checks(world.database).late(sink_id(world)) is not None


def test_what_it_says_is_heard_by_asking(world: World, client: Client) -> None:
    """The newest counts, each is taken once, and a message may appear after one that is newer."""
    assert hear(world, client) == HealthPolled()
    assert not late(world)
    client.say("evt_1", world.now + MINUTE, late=True)
    world.now += 2 * MINUTE
    assert hear(world, client) == HealthPolled(messages=1)
    assert late(world)
    assert hear(world, client) == HealthPolled(), "once"
    client.say("evt_3", world.now + 3 * MINUTE, late=False)
    world.now += 4 * MINUTE
    assert hear(world, client) == HealthPolled(messages=1)
    assert not late(world)
    client.said.insert(
        0,
        ParsedNotification(Notification("evt_2", f"{KIND}.firing", world.now - 5 * MINUTE), totals_late=True),
    )
    assert hear(world, client) == HealthPolled(messages=1)
    assert not late(world), "it was said before"


def test_at_first_it_is_asked_as_far_back_as_it_keeps_and_then_for_the_rest(
    world: World, client: Client
) -> None:
    """What began before we did is heard as well; both of one stretch in the order in which they were said."""
    client.say("evt_1", world.now - 20 * DAY, late=True)
    client.say("evt_2", world.now - 19 * DAY, late=False)
    client.say("evt_3", world.now - 3 * DAY, late=True)
    assert hear(world, client) == HealthPolled(messages=3)
    assert late(world)
    world.now += MINUTE
    hear(world, client)
    before = world.now - MINUTE
    assert client.asked == [Span(before - LOOKBACK, before), Span(before - OVERLAP, world.now)]


@pytest.mark.parametrize("error", [SinkError, SinkHalted])
def test_a_sink_that_knows_no_such_messages_is_asked_again_later(
    world: World, client: Client, error: type[SinkError]
) -> None:
    """They are in a preview. Nothing is wrong with that: `status` does not show it."""
    client.refuses = error("types names what cannot be listed")
    refused = hear(world, client).refused
    assert refused is not None
    assert "cannot be listed" in refused
    assert Notifications(world.database).poll_states() == []
    world.now += AGAIN_AFTER - MINUTE
    assert hear(world, client) == HealthPolled()
    assert len(client.asked) == 1
    world.now += 2 * MINUTE
    client.refuses = None
    client.say("evt_1", world.now - MINUTE, late=True)
    assert hear(world, client) == HealthPolled(messages=1)


def test_a_sink_that_is_away_is_asked_at_the_next_round(world: World, client: Client) -> None:
    """That is said by others."""
    client.refuses = SinkUnreachable("away")
    assert hear(world, client) == HealthPolled()
    client.refuses = None
    client.say("evt_1", world.now - MINUTE, late=True)
    assert hear(world, client) == HealthPolled(messages=1)


@pytest.mark.usefixtures("says_what_changed")
def test_what_is_in_doubt_is_not_decided_by_late_totals(database: Database) -> None:
    """They lack what arrived: taken for missing, it would be sent, and billed, a second time."""
    sink = test_reconciliation.Sink()
    owing = test_reconciliation.build(database, sink)
    owing.source.use("cus_1", START, 2)
    owing.at(1, 5)
    owing.collect()
    sink.lost_after_booking = lambda event: True
    owing.deliver()
    owing.at(26, 5)
    assert owing.deliver().in_doubt == 1
    owing.at(52, 5)
    said: list[str | None] = [LATE]
    reading = Reconciler(InDoubt(database), sink, sink_id(owing), lambda: said[0])
    shows, sink.total = sink.total, lambda *_: ZERO  # type: ignore[method-assign]
    for _ in range(3):
        assert reading.run_once(owing.now) == Reconciled()
        owing.now += 7 * HOUR
    assert test_reconciliation.states(owing) == {"cus_1": "in_doubt"}
    sink.total = shows  # type: ignore[method-assign]
    said[0] = None
    result = reading.run_once(owing.now)
    assert (result.present, result.absent) == (1, 0)


def test_a_meter_that_is_new_to_a_sink_waits_for_totals_that_are_on_time(database: Database) -> None:
    """They may lack what another ledger has billed."""
    fresh = test_first_use.Fresh(database, test_first_use.Asked())
    fresh.source.use("cus_1", START + 10 * MINUTE, 5)
    fresh.at(1, 10)
    fresh.collect()
    said: list[str | None] = [LATE]
    feed = fresh.registered.feeds[0]
    fresh.first_use = FirstUse(FirstUses(database), fresh.asked, feed.sink_id, late=lambda: said[0])
    went = fresh.deliver()
    assert went.accepted == 0
    [told] = went.first_uses
    assert (told.kind, LATE in told.text) == ("waiting", True)
    assert fresh.asked.asked == []
    said[0] = None
    fresh.now += ASK_AGAIN
    assert fresh.deliver().accepted == 1


@pytest.mark.usefixtures("says_what_changed")
def test_late_totals_do_not_show_that_an_event_is_taken_back(
    owing_a: Callable[[], tuple[World, test_cancelling.Sink]],
) -> None:
    """They may lack it since it is new there."""
    world, sink = owing_a()
    sink.says_complete, sink.takes_effect = False, 2 * DAY
    test_cancelling.used(world, "cus_a", 4)
    test_cancelling.ask(world, test_cancelling.event_of(world))
    test_cancelling.go_on(world, sink)
    sink.lag = 30 * DAY  # it shows nothing at all
    world.now += 27 * HOUR
    said: list[str | None] = [LATE]
    canceller = Canceller(Cancellations(world.database), sink, sink, sink_id(world), late=lambda: said[0])
    before = test_cancelling.states_of(world)
    canceller.run_once(world.now)
    assert test_cancelling.states_of(world) == before
    said[0] = None
    world.now += HOUR
    canceller.run_once(world.now)
    assert test_cancelling.states_of(world) != before


@pytest.fixture
def owing_a(database: Database) -> Callable[[], tuple[World, test_cancelling.Sink]]:
    """What a cancellation is tried with: a world that has billed a customer ten."""

    def build() -> tuple[World, test_cancelling.Sink]:
        sink = test_cancelling.Sink()
        world = World(database, sinks=[sink])
        sink.world = world
        world.source.use("cus_a", START, 10)
        world.at(1, 5)
        world.collect()
        assert world.deliver().accepted == 1
        return world, sink

    return build
