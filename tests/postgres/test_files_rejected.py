"""A file of which nothing was taken, or not every row: refused on a person's word, and billed anew once it is released."""

import io
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aggregator.core.model import Decreases, Rejection
from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.outbox.uploads import Rejected, Row
from aggregator.ledger.review.decisions import Decisions, Verb
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import Choice, ParkedEvents
from aggregator.sinks.files import CsvFormat, DirectorySink, JsonFormat
from aggregator.sinks.stripe import StripeMeter
from tests.file_validator import validate
from tests.postgres.rejecting import reject_by_report
from tests.postgres.test_files import AT_STRIPE, FileWorld
from tests.postgres.world import METER, MINUTE

WHY = "a mandatory column is missing"
HOURLY = {METER.name: StripeMeter(event_name=METER.name, event_time_window="hour")}


class Replacing(DirectorySink):
    """A sink whose meter keeps the newest number of each hour."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **{**settings, "form": JsonFormat(HOURLY, lines=True)})


@pytest.fixture
def world(database: Database, tmp_path: Path) -> FileWorld:
    """A daemon that has written one file, of five customers' events."""
    world = FileWorld(database, tmp_path / "files")
    world.owe(*(f"cus_{n}" for n in range(5)))
    world.write()
    return world


def newest(world: FileWorld) -> str:
    """Return the name of the newest file."""
    return world.listed()[-1].name or ""


def reject(world: FileWorld, name: str, rows: Sequence[Row] | None = None) -> Rejected:
    return world.uploads.reject(name, WHY, world.now, rows, "Ada")


def release(world: FileWorld, name: str) -> int:
    """Let all of a file's refused events go, as `events release --file` does; plan and write what follows."""
    waiting = ParkedEvents(world.database).waiting(Choice(file=name, undecided=True), 100)
    world.outbox.release([each.event for each in waiting], world.now)
    world.collect()
    world.write()
    return len(waiting)


def taken(world: FileWorld, *rejected: str) -> dict[str, list[Decimal]]:
    """Return what Stripe has of each customer: row by row, in the order of the files' names, but for rejected files."""
    found: dict[str, list[Decimal]] = {}
    for name, content in world.lying().items():
        for line in [] if name in rejected else content.splitlines():
            each = validate([(name, io.BytesIO(line + b"\n"))])
            for (_, customer), value in each.totals.items():
                found.setdefault(customer, []).append(value)
    return found


def test_a_rejected_file_is_refused_and_billed_anew(world: FileWorld) -> None:
    """Its events are refused with the reason; released, they are in a new file under new identifiers, once."""
    first = newest(world)
    before = world.read().identifiers
    assert reject(world, first) == Rejected(5, None, by_hand=False)
    assert world.states() == {"refused": 5}
    [decided] = Decisions(world.database).latest(9)
    assert (decided.verb, decided.who, decided.reason, decided.number) == (Verb.REJECT, "Ada", WHY, 5)
    [row] = world.listed()
    assert (row.rejected_at, row.rejected_reason) == (world.now, WHY)
    waiting = ParkedEvents(world.database).waiting(Choice(file=first), 100)
    assert {each.reason for each in waiting} == {f"file {first} was not taken: {WHY}"}
    assert all(each.was_accepted for each in waiting)
    world.collect()
    assert world.write().claimed == 0, "nothing goes before a person says so"

    assert release(world, first) == 5
    assert release(world, first) == 0
    second = newest(world)
    assert taken(world, first) == {f"cus_{n}": [1] for n in range(5)}
    assert not before & (world.read().identifiers - before)
    assert len(world.read().identifiers) == 10
    assert second > first
    assert world.states() == {"void": 5, "accepted": 5}
    world.check_balance()


def test_saying_it_again_changes_nothing(world: FileWorld) -> None:
    """A second word says when the first was given, before and after the events went on."""
    name, at = newest(world), world.now
    reject(world, name)
    world.at(2)
    assert reject(world, name) == Rejected(0, at, by_hand=False)
    release(world, name)
    assert reject(world, name) == Rejected(0, at, by_hand=False)
    assert world.states() == {"void": 5, "accepted": 5}


def test_what_is_confirmed_is_not_rejected_nor_the_other_way_round(world: FileWorld) -> None:
    """One word excludes the other; a name that nobody wrote is refused."""
    first = newest(world)
    world.owe("cus_9", hour=2)
    world.write()
    second = newest(world)
    world.uploads.confirm([first], world.now)
    reject(world, second)
    with pytest.raises(
        UsageError, match=f"{first} was confirmed at 2026-11-01 02:05Z, so it cannot be rejected"
    ):
        reject(world, first)
    with pytest.raises(
        UsageError, match=f"{second} was rejected at 2026-11-01 02:05Z, so nothing of it counts"
    ):
        world.uploads.confirm([second], world.now)
    with pytest.raises(UsageError, match=r"no file usage-x\.csv"):
        reject(world, "usage-x.csv")
    assert world.states() == {"confirmed": 5, "refused": 1}


def test_a_rejected_file_waits_for_no_upload(database: Database, tmp_path: Path) -> None:
    """Nobody is asked to upload and confirm what came to nothing."""
    form = CsvFormat(AT_STRIPE, identified=False, alone=True)
    world = FileWorld(database, tmp_path / "files", by_hand=True, form=form)
    world.owe("cus_0")
    world.write()
    assert reject(world, newest(world)).by_hand
    assert world.uploads.listed(sink=None, unconfirmed=True, limit=10) == []


def test_what_stripe_rejected_by_name_is_left_as_it_is(world: FileWorld) -> None:
    """An event that was refused, or planned anew, before the file was rejected is not owed a second time."""
    first = newest(world)
    names = [row[0] for row in world.rows("select identifier from aggregator.event order by id limit 2")]
    reject_by_report(
        InDoubt(world.database),
        world.sink_id,
        [Rejection(name, "no such customer") for name in names],
        world.now,
    )
    [refused] = world.rows("select min(id) from aggregator.event where state = 'refused'")
    world.outbox.release(refused, world.now)
    world.collect()
    world.write()
    assert reject(world, first).events == 3
    assert release(world, first) == 4
    assert taken(world, first) == {f"cus_{n}": [1] for n in range(5)}
    world.check_balance()


# A newer number of the same window, in a later file


def two_files(world: FileWorld) -> tuple[str, str]:
    """Write a window's first event, and its correction, into a file each."""
    world.owe("cus_0", quantity=5)
    world.write()
    first = newest(world)
    world.owe("cus_0", quantity=3)
    world.write()
    return first, newest(world)


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_a_sum_is_whole_whichever_file_fails(
    database: Database, tmp_path: Path, which: tuple[int, ...]
) -> None:
    """What the rejected files lacked is added, and no more."""
    world = FileWorld(database, tmp_path / "files")
    files = two_files(world)
    for n in which:
        reject(world, files[n])
    for n in which:
        release(world, files[n])
    world.collect()
    world.write()
    assert sum(taken(world, *(files[n] for n in which))["cus_0"]) == 8
    world.check_balance()


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_a_window_that_replaces_ends_at_its_newest_number(
    database: Database, tmp_path: Path, which: tuple[int, ...]
) -> None:
    """Whichever file failed, the last row that Stripe gets says where the window stands: an old total never comes last."""
    world = FileWorld(database, tmp_path / "files", kind=Replacing)
    files = two_files(world)
    for n in which:
        reject(world, files[n])
    for n in which:
        release(world, files[n])
    world.collect()
    world.write()
    assert taken(world, *(files[n] for n in which))["cus_0"][-1] == 8
    world.check_balance()


def lowered(database: Database, directory: Path) -> FileWorld:
    """A world that has written 5 units to a file and holds a correction back to 3."""
    world = FileWorld(
        database, directory / "files", meter=replace(METER, decreases=Decreases.HOLD, shrink_guard=Decimal(1))
    )
    world.owe("cus_0", quantity=5)
    world.write()
    world.source.uses.pop()
    world.owe("cus_0", quantity=3)
    return world


def test_a_correction_held_behind_a_rejected_file_goes_with_it(database: Database, tmp_path: Path) -> None:
    """It was made for what the file held: released, the window is planned as the source says, once and for good."""
    world = lowered(database, tmp_path)
    assert world.states() == {"accepted": 1, "held": 1}
    first = newest(world)
    reject(world, first)
    world.collect()
    assert world.states() == {"refused": 1, "held": 1}
    release(world, first)
    assert taken(world, first) == {"cus_0": [3]}
    for _ in range(3):
        world.now += 10 * MINUTE
        world.collect()
    assert world.one("select count(*) from aggregator.event") == 3
    assert world.states() == {"void": 2, "accepted": 1}
    world.check_balance()


def test_a_correction_that_changes_does_not_loop(database: Database, tmp_path: Path) -> None:
    """A held correction that is replaced, behind what was rejected and not released, is planned once, not in each pass."""
    world = lowered(database, tmp_path)
    first = newest(world)
    reject(world, first)
    world.owe("cus_0", quantity=1)
    for _ in range(3):
        world.collect()
    assert world.states() == {"refused": 1, "void": 1, "held": 1}
    release(world, first)
    assert taken(world, first) == {"cus_0": [4]}
    world.check_balance()


# Only rows of a file


def test_rows_are_rejected_by_their_identifiers(world: FileWorld) -> None:
    """The rest of the file stays accepted; what was named is billed anew, and naming it again changes nothing."""
    name = newest(world)
    rows = [
        Row(each, None, None)
        for (each,) in world.rows("select identifier from aggregator.event order by id limit 2")
    ]
    assert reject(world, name, rows).events == 2
    assert reject(world, name, rows).events == 0
    assert world.states() == {"accepted": 3, "refused": 2}
    assert world.uploads.confirm([name], world.now) == 3
    assert release(world, name) == 2
    assert world.read().totals == {(METER.name, f"cus_{n}"): 2 if n < 2 else 1 for n in range(5)}
    assert newest(world) != name


def test_rows_without_identifiers_are_known_by_customer_and_time(database: Database, tmp_path: Path) -> None:
    """A row for the Dashboard is the event of its customer at its second, in that file and in no other."""
    form = CsvFormat(AT_STRIPE, identified=False, alone=True)
    world = FileWorld(database, tmp_path / "files", by_hand=True, form=form)
    world.owe("cus_0", "cus_1")
    world.write()
    world.owe("cus_0", hour=2)
    world.write()
    first, second = (row.name or "" for row in world.listed())
    [(at,)] = world.rows("select extract(epoch from min(at))::bigint from aggregator.event")
    row = Row(None, "cus_0", at)
    for rows in ([row], [Row(None, "cus_0", at + 1)], [Row("agg_x", None, None)]):
        with pytest.raises(UsageError, match=rf"of 1 row, those are of no event in {second}: 1"):
            reject(world, second, rows)
    assert reject(world, first, [row]).events == 1
    assert world.rows("select customer, window_start from aggregator.event where state = 'refused'") == [
        ("cus_0", world.at(0))
    ]
