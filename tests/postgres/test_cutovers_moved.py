"""Customers who move between sinks, and usage that moves between customers: both at once, on a real ledger."""

from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.customers import Moved
from aggregator.core.model import Terms
from aggregator.ledger.cutovers import Cutovers
from aggregator.ledger.database import Database
from aggregator.ledger.review.parked import ParkedEvents
from tests.fakes import FakeSink
from tests.postgres.accounts import Accounts
from tests.postgres.world import HOUR, METER, START

T = START + 2 * HOUR
SHADOW = replace(METER, terms=(Terms("new", bill_from=START, shadow=True),))


class Both(Accounts):
    """Keys 1 and 2 of customers cus_one and cus_two, of whom the first moves to the new sink after two hours of four."""

    def __init__(self, database: Database, *moving: str) -> None:
        self.old, self.new = FakeSink("old"), FakeSink("new")
        super().__init__(database, Moved.ALL, meter=SHADOW, sinks=[self.old, self.new])
        self.parked = ParkedEvents(database)
        self.use("1", 5, 7, 9, 11)
        self.use("2", 1, 1, 1, 1)
        self.says(("1", "cus_one"), ("2", "cus_two"))
        for customer in moving:
            Cutovers(database).set(
                "old", "new", [METER.name], T, [customer], parallel=False, by="a test", reason=None
            )
        self.at(4, 10)
        self.round()

    def booked_at(self, sink: FakeSink) -> dict[str, Decimal]:
        """What a sink holds, by customer."""
        return {customer: much for (_, customer), much in sink.booked.items() if much}

    def both(self) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
        """What both hold."""
        return self.booked_at(self.old), self.booked_at(self.new)

    def in_all(self) -> Decimal:
        """What both hold of all customers: never more than was used, nor, once all is released, less."""
        return sum((much for sink in self.both() for much in sink.values()), Decimal(0))

    def release_all(self) -> None:
        """Let all go that waits."""
        waiting = [
            event for (event,) in self.rows("select event_id from aggregator.parked where state = 'held'")
        ]
        self.outbox.release(waiting, self.now)
        self.deliver()


def test_usage_that_moves_is_never_billed_by_both_sinks(database: Database) -> None:
    """What the new sink has of the old customer waits to be lowered, and the old sink is not sent it before that."""
    world = Both(database, "cus_one")
    before: object = ({"cus_one": 12, "cus_two": 4}, {"cus_one": 20})
    assert world.both() == before
    world.says(("1", "new_one"), ("2", "cus_two"))
    world.round()
    assert world.both() == before
    assert world.held() == {"cus_one": -32, "new_one": 32}
    [move] = world.parked.moved(10)
    assert (move.sink, move.quantity) == ("old", 12), "windows before the cutover are a pair at one sink"
    world.round()
    assert world.both() == before, "reading it again changes nothing"
    world.release_all()
    assert world.both() == ({"new_one": 32, "cus_two": 4}, {})
    world.check_balance()


def test_who_is_under_way_to_the_other_sink_is_waited_for(database: Database) -> None:
    """What was planned for the old customer and not sent may still be billed: before that is settled nothing is planned."""
    world = Both(database, "cus_one")
    world.use("1", 13, since=4)
    world.at(5, 10)
    world.collect()
    world.says(("1", "new_one"), ("2", "cus_two"))
    world.collect()
    world.now += HOUR / 60
    world.collect()
    world.deliver()
    assert world.in_all() == 32 + 4 + 13 == sum(much for sink in world.both() for much in sink.values())
    for _ in range(2):
        world.round()
        assert world.in_all() == 32 + 4 + 13
    assert world.held() == {"cus_one": -45, "new_one": 45}
    world.release_all()
    assert world.both() == ({"new_one": 45, "cus_two": 4}, {})
    world.check_balance()


@pytest.mark.parametrize(("moving", "ends"), [("new_one", 1), ("cus_two", 0)])
def test_both_customers_with_a_cutover_change_within_each_sink(
    database: Database, moving: str, ends: int
) -> None:
    """With a cutover of the new customer as well, each sink has both sides of its windows; without, they wait across."""
    world = Both(database, "cus_one", moving)
    world.says(("1", "new_one"), ("2", "cus_two"))
    world.round()
    assert world.in_all() == 36
    assert len(world.parked.moved(10)) == 1 + ends
    world.release_all()
    assert world.in_all() == 36
    old, new = world.both()
    assert (old["new_one"], new.get("new_one", 0)) == ((12, 20) if ends else (32, 0))
    world.check_balance()
