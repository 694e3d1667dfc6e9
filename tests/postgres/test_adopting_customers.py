"""A ledger that is set back behind a change of its mapping: whose usage it was since is forgotten, and billed already."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggregator.adoption.adopter import Adopter
from aggregator.core.customers import Moved
from aggregator.core.model import Decreases
from aggregator.errors import LedgerError
from aggregator.ledger.database import Database
from tests.postgres.accounts import EVERY, Accounts, Rows
from tests.postgres.restore import PinnedWorld, back_up, restore
from tests.postgres.world import METER

pytestmark = pytest.mark.usefixtures("says_what_changed")


class PinnedAccounts(Accounts, PinnedWorld):
    """A daemon with a mapping, and with a state directory."""

    def adoption(self, **named: Any) -> Adopter:
        """Return what adopts this ledger, from usage under customers."""
        reads: Any = {self.meter.name: self.collection.source}
        mappings = {"accounts": self.mapping.run_once}
        return Adopter(self.ledger, [self.registered], reads, self.sinks, mappings=mappings, **named)


def set_back(
    database: Database, directory: Path, moved: Moved, *after: tuple[str, str | None]
) -> PinnedAccounts:
    """Return a world that lost a change of its mapping, by which two hours were billed, and one unit came late since."""
    world = PinnedAccounts(database, moved, directory=directory)
    assert world.identity.check(world.now) is None
    world.use("1", 5, 7)
    world.use("2", 1, 1)
    world.at(2, 10)
    world.says(("1", "cus_one"), ("2", None))
    world.round()
    backup = back_up(database)
    world.says(*after)
    world.use("1", 8, 6, since=3)
    world.use("2", 1, 1, since=3)
    world.at(5, 10)
    world.round()
    restore(database, backup)
    world.use("1", 1, since=3)
    world.adopt()
    return world


def test_usage_of_a_forgotten_customer_is_no_others(database: Database, tmp_path: Path) -> None:
    """What the new customer was billed is not billed to the old one as well: both sides wait."""
    world = set_back(database, tmp_path, Moved.FUTURE, ("1", "cus_new"), ("2", None))
    assert world.everything() == {"cus_one": 12, "cus_new": 14}
    for _ in range(3):
        world.round()
    assert world.everything() == {"cus_one": 12, "cus_new": 14}
    assert world.held() == {"cus_one": 15, "cus_new": -14}
    world.use("1", 4, since=9)
    world.at(10, 10)
    world.round()
    assert world.everything() == {"cus_one": 12, "cus_new": 18}
    world.check_balance()


@pytest.mark.parametrize(
    ("moved", "after", "billed"),
    [
        (Moved.FUTURE, (("1", "cus_one"), ("2", "cus_two")), {"cus_one": 27, "cus_two": 4}),
        (Moved.ALL, (("1", "cus_one"), ("2", "cus_two")), {"cus_one": 27, "cus_two": 4}),
    ],
)
def test_a_customer_whom_a_key_got_is_looked_up_again(
    database: Database, tmp_path: Path, moved: Moved, after: Rows, billed: dict[str, int]
) -> None:
    """What was billed since is what the mapping says again: nothing waits, and nothing is billed twice."""
    world = set_back(database, tmp_path, moved, *after)
    for _ in range(3):
        world.round()
    assert world.everything() == billed
    assert world.held() == {}
    world.check_balance()


@pytest.mark.parametrize("decreases", [Decreases.HOLD, Decreases.APPLY])
def test_usage_that_moved_in_what_is_forgotten_is_not_billed_again(
    database: Database, tmp_path: Path, decreases: Decreases
) -> None:
    """The mapping says again whose it is, before anything is compared: nothing waits."""
    world = PinnedAccounts(database, Moved.ALL, directory=tmp_path, meter=replace(METER, decreases=decreases))
    world.use("1", 5, 7)
    world.at(2, 10)
    world.says(("1", "cus_one"))
    world.round()
    backup = back_up(database)
    world.says(("1", "cus_new"))
    world.round()
    world.outbox.release(
        [event for (event,) in world.rows("select event_id from aggregator.parked")], world.now
    )
    world.deliver()
    assert world.everything() == {"cus_new": 12}
    restore(database, backup)
    world.adopt()
    for _ in range(3):
        world.round()
    assert world.everything() == {"cus_new": 12}
    assert world.held() == {}
    world.check_balance()


def test_nothing_is_adopted_by_a_mapping_that_is_not_believed(database: Database, tmp_path: Path) -> None:
    """Who is named there cannot be asked about before; it is read again, and believed then."""
    world = PinnedAccounts(database, Moved.FUTURE, directory=tmp_path)
    world.use("1", 5)
    world.at(1, 10)
    world.says(("1", "cus_one"))
    world.round()
    world.identity.stop("a test", world.now)
    world.listed = []
    with pytest.raises(
        LedgerError, match=r"Mapping accounts is not believed yet: it lists no customer any more"
    ):
        world.adopt()
    world.now += EVERY
    world.adopt()
