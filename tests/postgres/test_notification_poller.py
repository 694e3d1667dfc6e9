"""What a sink tells by itself comes into the ledger once, whoever brings it, however often, and wherever it was cut off."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aggregator.core.model import Rejection, Report, Span
from aggregator.core.notifications import Notification, ParsedNotification, Unimported
from aggregator.errors import LedgerUnreachable, SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.notifications import KEPT, Notifications, PollState, Taking
from aggregator.reconciliation.notification_poller import (
    AGAIN_AFTER,
    LOOKBACK,
    OVERLAP,
    NotificationPoller,
    NotSigned,
    Taken,
)
from tests.postgres.notification_client import SIGNED, NotificationClient
from tests.postgres.world import HOUR, METER, World

SECOND = dt.timedelta(seconds=1)
DAY = dt.timedelta(days=1)


@pytest.fixture
def owing(database: Database) -> World:
    """A world whose sink has accepted an event of each of three customers."""
    world = World(database)
    for number in range(3):
        world.source.use(f"cus_{number}", world.now, number + 1)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.now += SECOND
    return world


@pytest.fixture
def notification_client(owing: World) -> NotificationClient:
    """A sink that tells."""
    return NotificationClient(owing)


def sink_id(world: World) -> int:
    return world.registered.feeds[0].sink_id


def poller(world: World, notification_client: NotificationClient) -> NotificationPoller:
    """A fresh process's ears."""
    return NotificationPoller(
        Notifications(world.database), notification_client, world.sink.limits_for, sink_id(world)
    )


def hear(world: World, notification_client: NotificationClient) -> Taken:
    return poller(world, notification_client).run_once(world.now)


def name_of(world: World, customer: str) -> str:
    name: str = world.one("select identifier from aggregator.event where customer = %s", customer)
    return name


def report(world: World, *customers: str, rejected: int | None = None, name: str = "evt_1") -> Report:
    """A report that names the events of these customers."""
    named = tuple(Rejection(name_of(world, each), "no such customer") for each in customers)
    span = Span(world.now - 10 * SECOND, world.now)
    return Report(name, METER.name, span, len(named) if rejected is None else rejected, named)


def states(world: World) -> list[str]:
    return [row[0] for row in world.rows("select state::text from aggregator.event order by customer")]


def polled(world: World) -> PollState | None:
    return next(iter(Notifications(world.database).poll_states()), None)


def test_what_a_sink_reports_is_taken_once(owing: World, notification_client: NotificationClient) -> None:
    """The event it names is refused, the message is on record, and asking again changes nothing and fetches nothing."""
    notification_client.tell("evt_1", report(owing, "cus_1"))
    owing.now += SECOND
    assert hear(owing, notification_client).figures() == {"messages": 1, "rejected": 1}
    assert states(owing) == ["accepted", "refused", "accepted"]
    assert hear(owing, notification_client).figures() == {}
    assert notification_client.fetches == ["evt_1"]
    said = owing.rows("select id, came_by, said from aggregator.notification")
    assert said == [("evt_1", "poll", "api_requests: 1 invalid, 1 named")]
    owing.check_balance()


def test_the_first_question_reaches_back_as_far_as_a_sink_remembers(
    owing: World, notification_client: NotificationClient
) -> None:
    """A ledger that never asked hears everything that there is; after that, the last hour again each time."""
    notification_client.tell("evt_old", report(owing, "cus_0"), made_at=owing.now - 28 * DAY)
    assert hear(owing, notification_client).messages == 1
    assert notification_client.asked[0].start == owing.now - LOOKBACK
    assert notification_client.asked[-1].end == owing.now
    assert all(
        before.end == after.start
        for before, after in zip(notification_client.asked, notification_client.asked[1:], strict=False)
    )
    before, owing.now = owing.now, owing.now + 60 * SECOND
    notification_client.asked.clear()
    hear(owing, notification_client)
    assert notification_client.asked == [Span(before - OVERLAP, owing.now)]


def test_a_message_that_appears_late_is_heard(owing: World, notification_client: NotificationClient) -> None:
    """One that was made before the last question, and was not shown then, is found by asking for the last hour again."""
    notification_client.tell("evt_1", report(owing, "cus_1"), shown_at=owing.now + 50 * 60 * SECOND)
    for _ in range(10):
        owing.now += 6 * 60 * SECOND
        hear(owing, notification_client)
    assert states(owing) == ["accepted", "refused", "accepted"]


def test_a_daemon_that_was_off_catches_up(owing: World, notification_client: NotificationClient) -> None:
    """It asks from where it was, not from where it is."""
    hear(owing, notification_client)
    owing.now += 2 * DAY
    notification_client.tell("evt_1", report(owing, "cus_1"))
    owing.now += 20 * DAY
    assert hear(owing, notification_client).rejected == 1


def test_more_than_can_be_listed_at_once_is_asked_for_in_pieces(
    owing: World, notification_client: NotificationClient
) -> None:
    """A span with too much in it is cut until it fits; nothing of it is left out."""
    notification_client.most = 5
    for number in range(60):
        notification_client.tell(f"evt_{number}", made_at=owing.now - number * 60 * SECOND)
    owing.now += SECOND
    taken = hear(owing, notification_client)
    for _ in range(20):
        if not taken.more:
            break
        taken = hear(owing, notification_client)
    assert not taken.more
    assert owing.one("select count(*) from aggregator.notification") == 60


def test_a_sink_that_always_has_too_much_ends_in_an_error(
    owing: World, notification_client: NotificationClient
) -> None:
    """Cutting has an end: who cannot list ten seconds is not asked for ever."""
    notification_client.most = -1
    with pytest.raises(SinkError):
        hear(owing, notification_client)
    assert len(notification_client.asked) < 20


@pytest.mark.parametrize("told", [1, 2])
def test_what_names_nobody_we_know_is_read_back(
    owing: World, notification_client: NotificationClient, told: int
) -> None:
    """A report about events that somebody else's names stand for is followed up by the sink's own totals."""
    span = Span(owing.now - 10 * SECOND, owing.now)
    unconfigured_meter = Rejection("agg_" + "0" * 20, "no such customer")
    notification_client.tell("evt_1", Report("evt_1", METER.name, span, told, (unconfigured_meter,)))
    owing.now += SECOND
    assert hear(owing, notification_client).readbacks == 1
    assert owing.rows("select reason from aggregator.readback") == [
        (f"report evt_1 counts {told} rejected events and names 0",)
    ]
    assert states(owing) == ["accepted"] * 3


def test_what_is_counted_and_not_named_is_read_back(
    owing: World, notification_client: NotificationClient
) -> None:
    """A report that counts two and names one asks for the existing read-back, once."""
    notification_client.tell("evt_1", report(owing, "cus_1", rejected=2))
    owing.now += SECOND
    assert hear(owing, notification_client).figures() == {"messages": 1, "rejected": 1, "readbacks": 1}
    assert owing.one("select count(*) from aggregator.readback") == 1


def test_what_cannot_be_read_does_not_hold_up_the_rest(
    owing: World, notification_client: NotificationClient
) -> None:
    """One message that cannot be had is put on record as such and said; the one after it counts."""
    notification_client.tell("evt_0", made_at=owing.now - SECOND)
    notification_client.tell("evt_1", report(owing, "cus_1"))
    notification_client.unreadable = {"evt_0"}
    owing.now += SECOND
    taken = hear(owing, notification_client)
    assert taken.figures() == {"messages": 2, "rejected": 1, "unreadable": 1}
    assert taken.troubles == ["evt_0: evt_0 cannot be read"]
    assert hear(owing, notification_client).figures() == {}


def test_a_sink_that_is_away_is_asked_again_from_the_same_place(
    owing: World, notification_client: NotificationClient
) -> None:
    """Nothing is taken for heard that was not; what was taken before it broke off stays taken."""
    hear(owing, notification_client)
    notification_client.tell("evt_1", report(owing, "cus_1"))
    notification_client.refuses = SinkUnreachable("away")
    owing.now += SECOND
    with pytest.raises(SinkUnreachable):
        hear(owing, notification_client)
    notification_client.refuses = None
    owing.now += 3 * HOUR
    assert hear(owing, notification_client).rejected == 1


def test_a_key_that_may_not_ask_is_on_record_until_it_may(
    owing: World, notification_client: NotificationClient
) -> None:
    """The reason stands in the ledger; the sink is asked again an hour later, and then nothing is missing."""
    ears = poller(owing, notification_client)
    notification_client.tell("evt_1", report(owing, "cus_1"))
    notification_client.refuses = SinkHalted("the key lacks a permission")
    owing.now += SECOND
    assert ears.run_once(owing.now).refused == "the key lacks a permission"
    meter_state = polled(owing)
    assert meter_state is not None
    assert (meter_state.refused_at, meter_state.refused_reason) == (owing.now, "the key lacks a permission")
    notification_client.refuses = None
    assert ears.run_once(owing.now + 60 * SECOND).figures() == {}
    owing.now += AGAIN_AFTER
    assert ears.run_once(owing.now).rejected == 1
    meter_state = polled(owing)
    assert meter_state is not None
    assert meter_state.refused_reason is None


def test_a_delivery_is_in_the_ledger_when_it_is_acknowledged(
    owing: World, notification_client: NotificationClient
) -> None:
    """It is fetched and committed; a second delivery, and a question, find it there."""
    notification_client.tell("evt_1", report(owing, "cus_1"))
    ears = poller(owing, notification_client)
    assert ears.deliver(b"evt_1", SIGNED, owing.now).figures() == {"messages": 1, "rejected": 1}
    assert ears.deliver(b"evt_1", SIGNED, owing.now).figures() == {}
    owing.now += SECOND
    assert hear(owing, notification_client).figures() == {}
    assert notification_client.fetches == ["evt_1"]
    assert owing.rows("select came_by from aggregator.notification") == [("webhook",)]


def test_what_is_not_signed_is_not_looked_at(owing: World, notification_client: NotificationClient) -> None:
    """Nothing is fetched or written for it."""
    notification_client.tell("evt_1", report(owing, "cus_1"))
    with pytest.raises(NotSigned):
        poller(owing, notification_client).deliver(b"evt_1", "forged", owing.now)
    assert (notification_client.fetches, states(owing)) == ([], ["accepted"] * 3)


def test_a_delivery_that_cannot_be_fetched_is_not_acknowledged(
    owing: World, notification_client: NotificationClient
) -> None:
    """The error reaches the sender, who delivers it again; then it counts."""
    notification_client.tell("evt_1", report(owing, "cus_1"))
    notification_client.refuses = SinkUnreachable("away")
    with pytest.raises(SinkUnreachable):
        poller(owing, notification_client).deliver(b"evt_1", SIGNED, owing.now)
    notification_client.refuses = None
    assert poller(owing, notification_client).deliver(b"evt_1", SIGNED, owing.now).rejected == 1


def test_a_kind_that_nobody_knows_is_acknowledged(
    owing: World, notification_client: NotificationClient
) -> None:
    """It is signed and concerns us in nothing: said yes to, and nothing else."""
    assert poller(owing, notification_client).deliver(b"evt_unknown", SIGNED, owing.now).figures() == {}


class Breaks(Notifications):
    """A ledger whose connection breaks at a place."""

    def __init__(self, database: Database, place: str) -> None:
        super().__init__(database)
        self.place = place

    def take(self, *arguments: object) -> Taking:
        if self.place == "before":
            raise LedgerUnreachable
        taking = super().take(*arguments)  # type: ignore[arg-type]
        if self.place == "after":
            raise LedgerUnreachable
        return taking

    def polled(self, sink_id: int, until: dt.datetime | None, now: dt.datetime) -> None:
        if self.place == "cursor":
            raise LedgerUnreachable
        super().polled(sink_id, until, now)


@pytest.mark.parametrize("place", ["before", "after", "cursor"])
def test_a_crash_between_any_two_steps_loses_and_doubles_nothing(
    owing: World, notification_client: NotificationClient, place: str
) -> None:
    """Whether it breaks off before a message is committed, after it, or before the cursor moves: the next round has it."""
    hear(owing, notification_client)
    notification_client.tell("evt_1", report(owing, "cus_1", rejected=2))
    owing.now += 3 * HOUR  # longer ago than what is asked for again anyway
    broken = NotificationPoller(
        Breaks(owing.database, place), notification_client, owing.sink.limits_for, sink_id(owing)
    )
    with pytest.raises(LedgerUnreachable):
        broken.run_once(owing.now)
    owing.now += 2 * HOUR
    hear(owing, notification_client)
    assert states(owing) == ["accepted", "refused", "accepted"]
    assert owing.one("select count(*) from aggregator.readback") == 1
    assert owing.one("select count(*) from aggregator.notification") == 1
    owing.check_balance()


def test_two_who_bring_the_same_at_once_count_it_once(
    owing: World, notification_client: NotificationClient
) -> None:
    """A delivery and a question at the same moment: one takes it, the other waits for that and finds it taken."""
    notification_client.tell("evt_1", report(owing, "cus_1", rejected=2))
    owing.now += SECOND
    both = threading.Barrier(2, timeout=10)
    notification_client.during_fetch = both.wait
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(hear, owing, notification_client)
        delivered = pool.submit(poller(owing, notification_client).deliver, b"evt_1", SIGNED, owing.now)
        taken = [asked.result(), delivered.result()]
    assert sorted(each.messages for each in taken) == [0, 1]
    assert owing.one("select count(*) from aggregator.rejection") == 1
    assert owing.one("select count(*) from aggregator.readback") == 1


def test_a_message_and_what_follows_from_it_are_one(owing: World) -> None:
    """If what follows cannot be written, the message is not on record either, and comes again."""
    told = ParsedNotification(Notification("evt_1", "kind", owing.now), (report(owing, "cus_1"),))
    with pytest.raises(ValueError, match="zip"):
        Notifications(owing.database).take(sink_id(owing), told, "poll", owing.now, [])
    assert owing.one("select count(*) from aggregator.notification") == 0


def test_a_rejection_that_no_figure_can_show_is_said(
    owing: World, notification_client: NotificationClient
) -> None:
    """Where totals prove nothing about single events, one that is counted and not named needs a person."""
    told = ParsedNotification(Notification("evt_1", "kind", owing.now), (report(owing, "cus_1", rejected=2),))
    taking = Notifications(owing.database).take(sink_id(owing), told, "poll", owing.now, [None])
    assert taking.unseen == (METER.name,)
    assert owing.one("select count(*) from aggregator.readback") == 0


def test_what_was_not_imported_is_on_record(owing: World, notification_client: NotificationClient) -> None:
    """The file and the reason stand in the ledger and in what is said."""
    notification = Notification("evt_1", "data_management.import_set.failed", owing.now)
    notification_client.messages["evt_1"] = (
        ParsedNotification(notification, unimported=(Unimported(("a.csv",), "no column value"),)),
        owing.now,
    )
    taken = poller(owing, notification_client).deliver(b"evt_1", SIGNED, owing.now)
    assert [each.files for each in taken.unimported] == [("a.csv",)]
    assert owing.one("select said from aggregator.notification") == "a.csv not imported: no column value"


def test_old_messages_are_forgotten(owing: World, notification_client: NotificationClient) -> None:
    """What the sink itself has forgotten for long is not kept."""
    notification_client.tell("evt_1")
    owing.now += SECOND
    hear(owing, notification_client)
    owing.now += KEPT + SECOND
    hear(owing, notification_client)
    assert owing.one("select count(*) from aggregator.notification") == 0


def test_a_stretch_that_stopping_cut_short_is_not_noted_as_heard(
    owing: World, notification_client: NotificationClient
) -> None:
    """What was listed and not taken any more is told again after the restart."""
    for number, customer in enumerate(("cus_0", "cus_1", "cus_2")):
        notification_client.tell(f"evt_{number}", report(owing, customer, name=f"evt_{number}"))
    owing.now += SECOND
    ears = poller(owing, notification_client)
    notification_client.during_fetch = ears.stop
    ears.run_once(owing.now)
    assert states(owing) == ["refused", "accepted", "accepted"]
    assert Notifications(owing.database).polled_until(sink_id(owing)) is None
    notification_client.during_fetch = lambda: None
    hear(owing, notification_client)
    assert states(owing) == ["refused", "refused", "refused"]
