"""What no part shows by itself: adoptions beside cancellations and read-backs, the last number beside whoever releases."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from aggregator.core.model import (
    Answer,
    Decreases,
    Event,
    Reading,
    Rejection,
    Span,
    WriteModel,
)
from aggregator.core.notifications import CancelResult
from aggregator.errors import LedgerError
from aggregator.ledger.database import Database
from aggregator.ledger.review.cancellations import Cancellations
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.reconciliation.canceller import Canceller, why_not_cancellable
from aggregator.reconciliation.reconciler import Reconciler
from tests.fakes import FakeSource
from tests.postgres.rejecting import reject_by_report
from tests.postgres.restore import PinnedWorld, back_up
from tests.postgres.test_adoption import begin, cycle, lose, quiet_down, use
from tests.postgres.test_replacing_sinks import Replacing
from tests.postgres.world import HOUR, METER, MINUTE, START, World


class NotificationClient:
    """Takes every wish for a cancellation on, and says no more than that."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def cannot_cancel(self, meter: str) -> str | None:
        return None

    def cancel(self, meter: str, identifier: str, transport: str) -> CancelResult:
        self.asked.append(identifier)
        return CancelResult(Answer.ACCEPTED, complete=False, reason="Stripe says pending")


def sink_id(world: PinnedWorld) -> int:
    return world.registered.feeds[0].sink_id


def test_what_an_adoption_took_over_is_never_cancelled(database: Database, tmp_path: Path) -> None:
    """It never left under its name, so the sink's silence about it proves nothing; by hand and by itself."""
    world = begin(database, tmp_path, replace(METER, decreases=Decreases.CANCEL, shrink_guard=Decimal(1)))
    backup = back_up(world.database)
    use(world, 0, 5)
    use(world, 0, 1)
    cycle(world, 1)
    lose(world, backup)
    world.adopt()
    quiet_down(world)
    [(event,)] = world.rows(
        "select id from aggregator.event where customer = 'cus_1' and state = 'confirmed'"
    )
    cancellations, notification_client = Cancellations(world.database), NotificationClient()
    [candidate] = cancellations.candidates(sink_id(world), [event])
    assert "never sent under its name" in (
        why_not_cancellable(candidate, notification_client, world.now) or ""
    )
    assert cancellations.ask(sink_id(world), [event], world.now) == []
    world.source.uses.remove(next(use for use in world.source.uses if (use[0], use[2]) == ("cus_1", 1)))
    world.now += 31 * MINUTE
    world.collect()
    Canceller(cancellations, notification_client, world.sink, sink_id(world), [METER.name]).run_once(
        world.now
    )
    assert notification_client.asked == []
    assert world.booked("cus_1") == 6


def test_a_stopped_ledger_cancels_nothing_and_is_adopted_only_once_that_is_known(
    database: Database, tmp_path: Path
) -> None:
    """What was asked for before is to be told apart from what the sink holds: a person says so first."""
    world = begin(database, tmp_path)
    use(world, 0, 5)
    cycle(world, 1)
    backup = back_up(world.database)
    use(world, 1, 2)
    cycle(world, 2)
    [(event,)] = world.rows(
        "select id from aggregator.event where customer = 'cus_1' and window_start = %s", START
    )
    cancellations, notification_client = Cancellations(world.database), NotificationClient()
    lose(world, backup)
    cancellations.ask(sink_id(world), [event], world.now)
    Canceller(cancellations, notification_client, world.sink, sink_id(world)).run_once(world.now)
    assert notification_client.asked == []
    world.execute("update aggregator.cancellation set state = 'taken', tried_at = %s", world.now)
    with pytest.raises(LedgerError, match=rf"whether these events are cancelled: {event}\b"):
        world.adopt()


class WithoutInstants(FakeSource):
    """A source whose query gives no `at`."""

    def answer(
        self, query: str, span: Span, window: dt.timedelta, step: dt.timedelta | None = None
    ) -> list[Reading]:
        """Return the readings, each without its instant."""
        return [reading._replace(at=None) for reading in super().answer(query, span, window, step)]


def test_what_was_taken_over_stands_in_for_no_lost_correction(database: Database, tmp_path: Path) -> None:
    """It lies in a minute that nobody knows, which may be the correction's: the whole window's figure decides.

    So the correction is found missing, and sent again.
    """
    world = PinnedWorld(database, tmp_path / "state", source=WithoutInstants())
    assert world.identity.check(world.now) is None
    backup = back_up(world.database)
    use(world, 0, 1)
    cycle(world, 1)
    lose(world, backup)
    world.adopt()
    quiet_down(world)
    use(world, 0, 1)
    world.like.fate = lambda event: "request" if event.customer == "cus_1" else "book"

    def total(meter: str, customer: str, span: Span) -> Decimal:
        mine = (event for _, event in world.like.bookings if event.customer == customer and event.at in span)
        return sum((event.delta for event in mine), Decimal(0))

    world.like.total = total  # type: ignore[method-assign]  # without the lag, which is not the point
    for _ in range(60):
        world.now += 31 * MINUTE
        world.collect()
        world.deliver()
    for _ in range(5):
        Reconciler(InDoubt(world.database), world.like, sink_id(world)).run_once(world.now)
        world.now += 7 * HOUR
    [(state, reason)] = world.rows(
        "select state::text, reason from aggregator.event where customer = 'cus_1' and attempts > 0"
    )
    assert state == "due"
    assert reason.startswith("not there: the sink has 1 for api_requests of cus_1 in [2026-")
    world.like.fate = lambda event: "book"
    world.deliver()
    assert world.booked("cus_1") == 2


def rounds(world: Replacing, count: int) -> None:
    for _ in range(count):
        world.now += 6 * MINUTE
        world.collect()
        world.deliver()


@pytest.mark.parametrize("who", ["a person", "the guard"])
def test_an_old_window_that_is_let_go_does_not_stay_the_last(database: Database, who: str) -> None:
    """A held decrease leaves behind the newer windows: they are sent again, whoever lets it go."""
    world = Replacing(database, WriteModel.LAST)
    world.source.use("cus_a", START + 5 * MINUTE, 10)
    world.source.use("cus_a", START + HOUR + 5 * MINUTE, 12)
    world.round(2)
    if who == "a person":
        world.collection.meter = replace(world.meter, decreases=Decreases.HOLD, shrink_guard=Decimal(1))
        world.registered = world.registered._replace(meter=world.collection.meter)
        world.collection.registered = world.registered
    world.source.uses[0] = ("cus_a", START + 5 * MINUTE, Decimal(7))
    rounds(world, 15)
    if who == "a person":
        held = [row[0] for row in world.rows("select event_id from aggregator.parked where state = 'held'")]
        assert world.outbox.release(held, world.now) == held
        rounds(world, 5)
    last: list[Event] = [event for event in world.told.told if event.total == 7]
    assert len(last) == 1
    assert [world.told.last("cus_a", by_arrival=by) for by in (True, False)] == [12, 12]


def test_windows_that_are_floored_one_by_one_are_adopted(database: Database, tmp_path: Path) -> None:
    """There, what was read is not what is billed and the carry; nothing is lost by that."""
    meter = replace(METER, latest=True, decreases=Decreases.APPLY, shrink_guard=Decimal(1))
    world = begin(database, tmp_path, meter)
    limits = replace(world.sink.limits, write_model=WriteModel.LAST)
    world.sink.limits = limits
    feeds = tuple(feed._replace(model=WriteModel.LAST) for feed in world.registered.feeds)
    world.registered = world.registered._replace(feeds=feeds)
    world.collection.registered = world.registered
    world.collection.limits = dict.fromkeys(world.collection.limits, limits)
    use(world, 0, "2.5")
    cycle(world, 1)
    backup = back_up(world.database)
    use(world, 1, "3.5")
    cycle(world, 2)
    lose(world, backup)
    world.adopt()
    assert world.one("select stopped_at is null from aggregator.identity")


def shrunk_by_hand(database: Database) -> World:
    """A slot of two accepted events, of which the first was rejected later, and a decrease that is held behind them."""
    world = World(database, meter=replace(METER, shrink_guard=Decimal(1)))
    for quantity in (10, 5):
        world.source.use("cus_a", START, quantity)
        world.now += HOUR + 6 * MINUTE
        world.collect()
        world.deliver()
    [(name,)] = world.rows("select identifier from aggregator.event where revision = 0")
    assert reject_by_report(InDoubt(database), sink_of(world), [Rejection(name, "invalid")], world.now)
    world.source.uses[1] = ("cus_a", START, Decimal(2))
    a_few_rounds(world, 1)
    return world


def sink_of(world: World) -> int:
    return world.registered.feeds[0].sink_id


def a_few_rounds(world: World, count: int = 6) -> None:
    for _ in range(count):
        world.now += 6 * MINUTE
        world.collect()
        world.deliver()
        world.check_balance()


def newest_states(world: World) -> list[tuple[int, int, str]]:
    return world.rows(
        "select revision, delta::int, state::text from aggregator.event where state <> 'void' order by revision"
    )


def test_a_rejected_event_before_a_held_one_is_planned_anew_with_it(database: Database) -> None:
    """A person releases the older one: what both leave owed is one event, and nothing is replaced over and over."""
    world = shrunk_by_hand(database)
    assert newest_states(world) == [(0, 10, "refused"), (1, 5, "accepted"), (2, -3, "held")]
    assert world.outbox.release([1], world.now) == [1]
    a_few_rounds(world)
    assert newest_states(world) == [(1, 5, "accepted"), (3, 7, "accepted")]


def test_a_held_event_that_is_replaced_gives_no_rejected_one_its_turn(database: Database) -> None:
    """Each pass would replace it again, by one that is held again, for ever."""
    world = shrunk_by_hand(database)
    world.source.uses[1] = ("cus_a", START, Decimal(1))
    a_few_rounds(world)
    assert newest_states(world) == [(0, 10, "refused"), (1, 5, "accepted"), (3, -4, "held")]


def test_what_the_sink_refuses_again_is_not_planned_again_by_every_pass(database: Database) -> None:
    """Two events of a slot were rejected and released before the cause was mended: what is planned is refused, and waits."""
    world = World(database)
    for quantity in (10, 5):
        world.source.use("cus_a", START, quantity)
        world.now += HOUR + 6 * MINUTE
        world.collect()
        world.deliver()
    rows = world.rows("select id, identifier from aggregator.event order by id")
    reject_by_report(
        InDoubt(database), sink_of(world), [Rejection(name, "invalid") for _, name in rows], world.now
    )
    world.sink.refused = {"cus_a"}
    world.outbox.release([event for event, _ in rows], world.now)
    a_few_rounds(world, 10)
    assert world.one("select count(*) from aggregator.event") == 4
    world.sink.refused = set()
    for _ in range(2):
        world.outbox.release(
            [row[0] for row in world.rows("select event_id from aggregator.parked")], world.now
        )
        a_few_rounds(world)
    assert sum(each[1] for each in newest_states(world) if each[2] == "accepted") == 15
