"""Customers who move from one sink to another, each at a time of their own, on a real ledger: what is sent where."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.model import Decreases, Meter, Span, Terms
from aggregator.errors import InvariantBroken, LeaseLost, MeterRefused, UsageError
from aggregator.ledger.cutovers import Cutovers
from aggregator.ledger.database import Database
from aggregator.ledger.passes.passes import Pass
from aggregator.ledger.passes.spool import Spool
from tests.fakes import FakeSink
from tests.postgres.test_feed_terms import NAME, T, Two
from tests.postgres.world import HOUR, METER, MINUTE, START

SHADOW = Terms("new", bill_from=START, shadow=True)
CUSTOMERS = ("cus_a", "cus_b", "cus_c")


class Moving(Two):
    """A meter whose customers move from the old sink to the new one, which is a shadow for who has not moved."""

    def __init__(self, database: Database, *, meter: Meter = METER, new: Terms = SHADOW) -> None:
        super().__init__(database, new, meter=meter)
        self.cutovers = Cutovers(database)

    def move(self, *customers: str, at: dt.datetime = T, parallel: bool = False) -> int:
        """Let customers move; without one, everybody."""
        whose = list(customers) or None
        return self.cutovers.set("old", "new", [NAME], at, whose, parallel=parallel, by="a test", reason=None)

    def use_hourly(self, hours: int = 10) -> None:
        """Let everybody use something each hour: so much more the later."""
        for hour in range(hours):
            for number, customer in enumerate(CUSTOMERS):
                self.source.use(customer, START + hour * HOUR, 10 * hour + number + 1)

    def sent(self, customer: str) -> tuple[list[int], list[int]]:
        """Return the hours that each sink holds something of."""
        return sorted(self.held(self.old, customer)), sorted(self.held(self.new, customer))

    def all_is_billed_once(self) -> None:
        """Assert that of each customer and hour one sink holds what the source says, and the other nothing."""
        used: dict[tuple[str, int], Decimal] = {}
        for customer, at, quantity in self.source.uses:
            assert customer is not None
            key = customer, (at - START) // HOUR
            used[key] = used.get(key, Decimal(0)) + quantity
        for customer in {customer for customer, _ in used}:
            old, new = self.held(self.old, customer), self.held(self.new, customer)
            assert not old.keys() & new.keys(), f"billed twice: {customer}"
            assert old | new == {hour: much for (who, hour), much in used.items() if who == customer}


@pytest.fixture
def moving(database: Database) -> Moving:
    """Three customers; nobody has moved yet."""
    return Moving(database)


def test_each_customer_moves_at_a_time_of_their_own(moving: Moving) -> None:
    """Right up to the boundary; who does not move is billed as before, and planned in shadow at the new sink."""
    moving.use_hourly()
    moving.source.use("cus_a", T - dt.timedelta(microseconds=1), 1_000)
    moving.source.use("cus_a", T, 5_000)
    moving.round(2)
    assert moving.move("cus_a") == 1
    assert moving.move("cus_b", at=T + 2 * HOUR) == 1
    for hour in (3, 5, 6, 8, 10):
        moving.round(hour)
    assert moving.sent("cus_a") == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert moving.sent("cus_b") == ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9])
    assert moving.sent("cus_c") == (list(range(10)), [])
    moving.all_is_billed_once()


def test_late_usage_goes_where_its_window_was_billed(moving: Moving) -> None:
    """Long after the cutover, and of customers whose first usage in a window comes late; restarts change nothing."""
    moving.use_hourly()
    moving.move("cus_a", "cus_new")
    moving.round(9)
    moving.source.use("cus_a", T - MINUTE, 100)
    moving.source.use("cus_a", T, 200)
    moving.source.use("cus_new", T - HOUR, 7)
    moving.source.use("cus_new", T + HOUR, 8)
    moving.on(SHADOW)
    moving.round(12)
    assert moving.held(moving.old, "cus_new") == {4: 7}
    assert moving.held(moving.new, "cus_new") == {6: 8}
    moving.all_is_billed_once()


def test_what_is_taken_back_lowers_the_sink_that_billed_it(database: Database) -> None:
    """On either side of the cutover, and no other sink."""
    meter = replace(METER, decreases=Decreases.APPLY, shrink_guard=Decimal(1))
    moving = Moving(database, meter=meter)
    moving.use_hourly()
    moving.move("cus_a")
    moving.round(11)
    gone = {START + 4 * HOUR, T}
    moving.source.uses = [each for each in moving.source.uses if each[0] != "cus_a" or each[1] not in gone]
    moving.round(12)
    assert moving.sent("cus_a") == ([0, 1, 2, 3], [6, 7, 8, 9])
    moving.all_is_billed_once()


def test_fractions_are_never_billed_twice(moving: Moving) -> None:
    """What is carried at the cutover stays a fraction: both sinks together bill no more than was used."""
    for hour in range(10):
        moving.source.use("cus_a", START + hour * HOUR, Decimal("0.75"))
    moving.move("cus_a")
    for hour in range(1, 11):
        moving.round(hour)
    old, new = (sum(moving.held(sink).values(), Decimal(0)) for sink in (moving.old, moving.new))
    assert (old, new) == (3, 4)


def test_everybody_else_moves_at_once_and_the_shadow_can_end(moving: Moving) -> None:
    """With the cutover for all; then the new sink is none any more, the old one is taken off, and nothing is lost."""
    moving.use_hourly(20)
    moving.move("cus_a")
    moving.round(7)
    with pytest.raises(MeterRefused, match="`aggregator cutover set --all`"):
        moving.on(Terms("new", bill_from=START))
    assert moving.move(at=T + 5 * HOUR) == 1
    moving.round(12)
    moving.on(Terms("new", bill_from=START), Terms("old", bill_until=T + 5 * HOUR))
    moving.source.use("cus_b", T + HOUR, 100)
    moving.source.use("cus_a", T + HOUR, 200)
    moving.source.use("cus_c", T + 5 * HOUR, 300)
    moving.source.use("cus_late", T + HOUR, 400)
    moving.round(21)
    assert moving.sent("cus_b") == (list(range(10)), list(range(10, 20)))
    assert moving.sent("cus_late") == ([6], [])
    moving.all_is_billed_once()
    with pytest.raises(MeterRefused, match="must leave that to it"):
        moving.on(Terms("new", bill_from=T + 9 * HOUR))
    with pytest.raises(MeterRefused, match="must not end before"):
        moving.on(Terms("new", bill_from=START), Terms("old", bill_until=T))


def test_a_shadow_ends_without_losing_who_moved_before(moving: Moving) -> None:
    """Without `bill_from` a feed would begin anew where it stands: of one to which customers moved it is not so."""
    moving.use_hourly(20)
    moving.move("cus_a")
    moving.move(at=T + 5 * HOUR)
    moving.round(15)
    moving.on(Terms("new"))
    moving.source.use("cus_a", T + HOUR, 200)
    moving.source.use("cus_a", T - HOUR, 300)
    moving.source.use("cus_b", T + 6 * HOUR, 400)
    moving.round(21)
    moving.all_is_billed_once()


def test_in_a_parallel_run_both_are_sent_what_lies_before(database: Database) -> None:
    """As Stripe's steps have it; from the cutover on, only the new sink is."""
    moving = Moving(database, new=Terms("new", bill_from=START))
    moving.use_hourly()
    with pytest.raises(UsageError, match="say --parallel"):
        moving.move("cus_a")
    moving.move("cus_a", parallel=True)
    for hour in (3, 11):
        moving.round(hour)
    assert moving.sent("cus_a") == ([0, 1, 2, 3, 4], list(range(10)))
    assert moving.sent("cus_b") == (list(range(10)), list(range(10)))


def test_a_pass_that_is_under_way_does_not_plan_past_a_cutover(moving: Moving) -> None:
    """Whoever read before it was set loses the meter, and plans nothing by what it knew."""
    moving.use_hourly()
    moving.world.at(8)
    lease = moving.world.hold()
    assert lease is not None
    moving.move("cus_a")
    [definition] = lease.definitions
    span = Span(START, moving.world.now)
    this = Pass("live", span, span, moving.world.now, definition)
    with Spool() as spool, pytest.raises(LeaseLost):
        moving.world.passes.commit(lease, spool, this, lambda *_, **__: ())
    moving.round(10)
    moving.all_is_billed_once()


def test_it_lies_ahead_of_all_that_was_read(moving: Moving) -> None:
    """In the past, off a boundary, or where a backfill has planned: one sentence says so, and nothing is written."""
    moving.use_hourly()
    moving.round(6)
    with pytest.raises(UsageError, match="was read up to 2026-11-01T06:00Z"):
        moving.move("cus_a")
    with pytest.raises(UsageError, match="no window begins at"):
        moving.move("cus_a", at=T + 90 * MINUTE)
    with pytest.raises(UsageError, match="No meter has fed both old and nobody"):
        moving.cutovers.set("old", "nobody", [NAME], T, None, parallel=False, by="a test", reason=None)
    assert moving.cutovers.known() == []
    assert moving.move("cus_a", at=T + HOUR) == 1
    moving.round(10)
    moving.all_is_billed_once()


def test_it_may_be_moved_and_taken_back_until_it_is_read(moving: Moving) -> None:
    """Saying it again changes nothing; once windows behind it are planned it stays."""
    moving.use_hourly()
    moving.round(2)
    assert moving.move("cus_a", "cus_b") == 2
    assert moving.move("cus_a", "cus_b") == 0
    assert moving.move("cus_a", at=T + HOUR) == 1
    assert moving.cutovers.withdraw("old", "new", [NAME], ["cus_b", "cus_c"]) == 1
    assert [(each.customer, each.at, each.passed) for each in moving.cutovers.known()] == [
        ("cus_a", T + HOUR, False)
    ]
    moving.round(8)
    with pytest.raises(UsageError, match="moved at 2026-11-01T06:00Z already"):
        moving.move("cus_a", at=T + 4 * HOUR)
    with pytest.raises(UsageError, match="is billed by new, and stays so"):
        moving.cutovers.withdraw("old", "new", [NAME], ["cus_a"])
    assert moving.sent("cus_b") == (list(range(8)), [])
    moving.round(10)
    moving.all_is_billed_once()


@pytest.mark.parametrize(
    "statement",
    [
        "update aggregator.cutover set at = at + interval '1 hour'",
        "update aggregator.cutover set at = at - interval '1 hour'",
        "delete from aggregator.cutover",
    ],
)
def test_the_database_keeps_what_was_planned_by(moving: Moving, statement: str) -> None:
    """Whatever the code does."""
    moving.use_hourly()
    moving.move("cus_a")
    moving.round(8)
    with pytest.raises(InvariantBroken, match="keep the cutover they were planned by"):
        moving.world.execute(statement)


def test_a_sink_moves_customers_to_one_other_only(database: Database) -> None:
    """A third sink would leave the second one's windows to nobody."""
    moving = Moving(database)
    third = FakeSink("third")
    moving.on(SHADOW, Terms("third", bill_from=START, shadow=True), sinks=[moving.old, moving.new, third])
    moving.move("cus_a")
    with pytest.raises(UsageError, match="a sink is in one such pair only"):
        moving.cutovers.set("old", "third", [NAME], T, ["cus_b"], parallel=False, by="a test", reason=None)


@pytest.mark.parametrize("ends_after", range(7))
def test_killed_between_any_two_steps_nothing_is_billed_twice_or_lost(
    database: Database, ends_after: int
) -> None:
    """Reading, setting the cutover, reading across it, sending: a process ends after any of them, and another goes on."""
    moving = Moving(database)
    moving.use_hourly()
    steps: list[Callable[[], object]] = [
        lambda: moving.world.at(4, 5),
        moving.world.collect,
        lambda: moving.move("cus_a"),
        lambda: moving.world.at(7, 5),
        moving.world.collect,
        moving.world.deliver,
        lambda: moving.world.at(9, 5),
    ]
    for step in steps[:ends_after]:
        step()
    moving.on(SHADOW)
    if not moving.cutovers.known() and ends_after < 4:
        moving.move("cus_a")
    moving.source.use("cus_a", T - HOUR, 50)
    moving.source.use("cus_a", T + HOUR, 60)
    moving.world.deliver()
    for hour in (10, 10 + 24, 10 + 49):
        moving.round(hour)
    assert moving.sent("cus_a") == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    moving.all_is_billed_once()
