"""What Stripe finds wrong with rows of an imported file comes to a sink that sends to the same account."""

import datetime as dt
from pathlib import Path

import pytest

from aggregator.core.model import Rejection, Report, Span
from aggregator.core.notifications import Notification, ParsedNotification
from aggregator.ledger.database import Database
from aggregator.ledger.notifications import Notifications, Taking
from tests.postgres.test_files import FileWorld
from tests.postgres.world import METER


def filed(database: Database, directory: Path, *, by_hand: bool) -> FileWorld:
    """A world with one file of two customers, settled; a sink that hears of it is in the ledger besides."""
    world = FileWorld(database, directory, by_hand=by_hand)
    world.owe("cus_0", "cus_1")
    assert world.write().accepted == 2
    world.one("insert into aggregator.sink (name) values ('hears') returning id")
    return world


def tell(world: FileWorld, customer: str, *, whose: str = "") -> Taking:
    """Let the sink that hears be told that a customer's row was invalid."""
    name = world.one("select identifier from aggregator.event where customer = %s", customer)
    span = Span(world.now - dt.timedelta(hours=1), world.now)
    report = Report("evt_1", METER.name, span, 1, (Rejection(name, "no such customer"),), whose=whose)
    sink_id = world.one("select id from aggregator.sink where name = 'hears'")
    told = ParsedNotification(Notification("evt_1", "kind", world.now), (report,))
    return Notifications(world.database).take(sink_id, told, "poll", world.now, [None])


def test_a_row_that_was_invalid_is_owed_again(database: Database, tmp_path: Path) -> None:
    """It is refused with Stripe's words, the other row stays, and a release has it planned anew, in a new file."""
    world = filed(database, tmp_path, by_hand=False)
    taking = tell(world, "cus_1")
    assert len(taking.refused) == 1
    assert world.states() == {"accepted": 1, "refused": 1}
    assert world.one("select reason from aggregator.event where state = 'refused'") == "no such customer"
    world.outbox.release(list(taking.refused), world.now)
    world.at(2, 5)
    world.collect()
    assert world.write().accepted == 1
    assert world.states() == {"accepted": 2, "void": 1}
    assert world.read().totals == {(METER.name, "cus_0"): 1, (METER.name, "cus_1"): 2}
    world.check_balance()


@pytest.mark.parametrize(("named", "unseen"), [("cus_1", (METER.name,)), (None, ())])
def test_more_rows_than_a_report_names_are_not_passed_over(
    database: Database, tmp_path: Path, named: str | None, unseen: tuple[str, ...]
) -> None:
    """The sink that hears has no such meter, and no figure of it: it is said, if the report is about a row of ours."""
    world = filed(database, tmp_path, by_hand=False)
    name = world.one("select max(identifier) from aggregator.event where customer = %s", named) or "theirs"
    span = Span(world.now - dt.timedelta(hours=1), world.now)
    report = Report("evt_1", "", span, 1_000, (Rejection(name, "no such customer"),))
    sink_id = world.one("select id from aggregator.sink where name = 'hears'")
    told = ParsedNotification(Notification("evt_1", "kind", world.now), (report,))
    taking = Notifications(database).take(sink_id, told, "poll", world.now, [dt.timedelta(hours=26)])
    assert taking.unseen == unseen
    assert len(taking.refused) == len(unseen)


@pytest.mark.parametrize(("by_hand", "whose"), [(True, ""), (False, "acct_1/")])
def test_a_name_that_cannot_be_meant_changes_nothing(
    database: Database, tmp_path: Path, by_hand: bool, whose: str
) -> None:
    """Rows for the Dashboard have no identifier, and a customer's account is told nothing of our own account's files."""
    world = filed(database, tmp_path, by_hand=by_hand)
    assert tell(world, "cus_1", whose=whose).refused == ()
    assert world.states() == {"accepted": 2}
