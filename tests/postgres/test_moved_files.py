"""A file that was begun in one place, when its sink writes to another by now: never written twice, and never silent."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aggregator.core.model import Rejection
from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.outbox.moved_files import LATEST_WRITE, MovedFile, Places
from aggregator.ledger.review.decisions import Decider, Decisions, Verb
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.sinks.files import DirectorySink
from aggregator.sinks.files.directory import numbered
from tests.postgres.rejecting import reject_by_report
from tests.postgres.test_files import HOLD, AfterItsName, BeforeItsName, FileWorld, Killed
from tests.postgres.world import METER, MINUTE


def begun(world: FileWorld, kind: type) -> None:
    """Let a process die with a file open."""
    sink, world.files_sink = world.files_sink, world.new_sink(kind=kind)
    with pytest.raises(Killed):
        world.write()
    world.files_sink = sink


def moved(world: FileWorld, directory: Path) -> FileWorld:
    """Return the daemon that comes next, whose sink writes elsewhere."""
    other = FileWorld(world.database, directory, source=world.source, meter=world.meter, **world.settings)
    other.now = world.now
    return other


@pytest.fixture
def world(database: Database, tmp_path: Path) -> FileWorld:
    """A daemon that owes five customers an event each."""
    world = FileWorld(database, tmp_path / "old")
    world.owe(*(f"cus_{n}" for n in range(5)))
    return world


def places(world: FileWorld) -> Places:
    return Places(world.database)


def found(world: FileWorld) -> list[MovedFile]:
    return places(world).moved_files({"fake": str(world.directory)})


def test_what_waits_is_said_with_both_places_and_what_to_do(world: FileWorld, tmp_path: Path) -> None:
    """Sink, both places, files, events and the remedy stand in one message; where nothing waits, nothing is said."""
    assert found(world) == []
    begun(world, AfterItsName)
    assert found(world) == [], "it is the next one's to finish"
    other = moved(world, tmp_path / "new")
    [each] = found(other)
    assert (each.sink, each.place, each.begun_in) == ("fake", str(tmp_path / "new"), str(world.directory))
    assert (each.files, each.events, each.held_until) == (1, 5, world.now + HOLD)
    [(name, number)] = numbered(world.directory)
    assert each.first == number
    assert name.startswith(f"usage-{each.first:015d}-")
    told = str(each)
    assert f"Begun in {world.directory} and not finished: 1 file of sink fake, with 5 events;" in told
    assert f"writes to {tmp_path / 'new'} now" in told
    assert f"`aggregator files move fake --from {world.directory}`" in told
    assert places(other).moved_files({"another": "somewhere"}) == []


def test_on_a_person_s_word_it_is_written_in_the_new_place(world: FileWorld, tmp_path: Path) -> None:
    """What was not finished goes into another file there, as it was planned; the old try stays on record."""
    begun(world, BeforeItsName)
    assert world.lying() == {}
    other = moved(world, tmp_path / "new")
    other.owe("cus_5", hour=3)
    assert other.write().accepted == 1
    looked = Decider("Ada", "looked there")
    assert places(other).move("fake", str(world.directory), other.now, looked) == (1, 5)
    [decided] = Decisions(other.database).latest(9)
    assert (decided.verb, decided.who, decided.reason, decided.number) == (
        Verb.MOVE,
        "Ada",
        "looked there",
        5,
    )
    assert found(other) == []
    assert other.write().accepted == 5
    other.check_once(6)
    assert other.rows("select distinct answer, reason from aggregator.attempt") == [
        ("due", f"not in {world.directory}, on a person's word")
    ]
    back = world.another()
    back.now = other.now
    assert back.write().claimed == 0
    assert world.lying() == {}


def test_nobody_is_believed_while_somebody_may_still_write(world: FileWorld, tmp_path: Path) -> None:
    """A writer that is only paused would give the file its name after the person has looked: an hour must pass."""
    begun(world, BeforeItsName)
    other = moved(world, tmp_path / "new")
    held = world.now + HOLD
    with pytest.raises(UsageError, match=f"say it, after {held + LATEST_WRITE:%Y-%m-%d %H:%M:%S}Z"):
        places(other).move("fake", str(world.directory), held + LATEST_WRITE - MINUTE / 60)
    assert other.states() == {"sending": 5}
    assert places(other).move("fake", str(world.directory), held + LATEST_WRITE) == (1, 5)
    for place in (str(world.directory), "nowhere"):
        with pytest.raises(UsageError, match=f"begun in {place} is open"):
            places(other).move("fake", place, held + LATEST_WRITE)


def test_who_wakes_after_the_word_was_given_names_no_file(world: FileWorld, tmp_path: Path) -> None:
    """The first writer looks at its claim before the file gets its name: it is gone by then."""
    other, time = moved(world, tmp_path / "new"), [0.0]

    class Paused(DirectorySink):
        def _made(self, *given: Any) -> Any:
            time[0] += HOLD.total_seconds()
            places(other).move("fake", str(world.directory), world.now + HOLD + LATEST_WRITE)
            return super()._made(*given)

    world.files_sink = world.new_sink(kind=Paused)
    filing = world.filing(at_once=True, elapsed=lambda: time[0])
    result = filing.run_once(world.now)
    assert (result.accepted, result.unsent) == (0, 5)
    assert world.lying() == {}
    other.now += HOLD + LATEST_WRITE
    assert other.write().accepted == 5
    other.check_once(5)


def test_what_was_rejected_meanwhile_is_not_written_again(world: FileWorld, tmp_path: Path) -> None:
    """An event that Stripe found invalid before the word was given stays refused."""
    begun(world, BeforeItsName)
    name = world.one("select min(identifier) from aggregator.event")
    reject_by_report(InDoubt(world.database), world.sink_id, [Rejection(name, "no such customer")], world.now)
    other = moved(world, tmp_path / "new")
    other.now += HOLD + LATEST_WRITE
    assert places(other).events_in("fake", str(world.directory)) == {
        row[0] for row in world.rows("select id from aggregator.event")
    }
    assert places(other).move("fake", str(world.directory), other.now) == (1, 4)
    assert other.write().accepted == 4
    assert other.states() == {"accepted": 4, "refused": 1}


# Order: what keeps the newest number must not be told an older one last


def test_a_window_that_waits_elsewhere_has_no_newer_number_here(database: Database, tmp_path: Path) -> None:
    """A change of a window whose event is in an open file waits for it, so no file is set back by an older one."""
    world = FileWorld(database, tmp_path / "old")
    world.owe("cus_0", quantity=5)
    begun(world, BeforeItsName)
    other = moved(world, tmp_path / "new")
    other.owe("cus_0", quantity=3)
    assert other.write().claimed == 0
    other.now += HOLD + LATEST_WRITE
    places(other).move("fake", str(world.directory), other.now)
    other.write()
    other.collect()
    other.write()
    assert other.read().totals == {(METER.name, "cus_0"): Decimal(8)}
    other.check_balance()
