"""Files on a real ledger: claimed as a whole, written once, settled as a whole, whatever breaks off in between."""

import datetime as dt
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from aggregator.core.model import (
    Bounds,
    Decreases,
    Event,
    Meter,
    Outcome,
    Rejection,
    Span,
    State,
    Written,
)
from aggregator.delivery.file_writer import FileWriter
from aggregator.delivery.sender import Delivered, drain
from aggregator.errors import InvariantBroken, LedgerStopped, SinkHalted, SinkUnreachable, UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.outbox.files import FileClaim, Files
from aggregator.ledger.outbox.uploads import FileRow, Uploads
from aggregator.ledger.review.decisions import Decider, Decisions, Verb
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.sinks.files import CsvFormat, DirectorySink, Format, JsonFormat
from aggregator.sinks.protocol import Batch
from aggregator.sinks.stripe import StripeMeter
from tests.fakes import FakeSink, FakeSource
from tests.file_validator import Found, validate
from tests.postgres.rejecting import reject_by_report
from tests.postgres.restore import back_up, restore
from tests.postgres.world import HOUR, METER, MINUTE, START, World

HOLD = MINUTE
WAIT = 10 * MINUTE
BOUNDS = Bounds(1_000, 900_000, WAIT)
AT_STRIPE = {METER.name: StripeMeter(event_name=METER.name)}

DIRECTORIES = {True: "files for the Dashboard", False: "files for the import"}


class FileWorld(World):
    """A daemon whose one sink writes files to a directory."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        meter: Meter = METER,
        state: Path | None = None,
        source: FakeSource | None = None,
        **settings: Any,
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.files_sink = self.new_sink(**settings)
        super().__init__(database, meter=meter, source=source, sinks=[cast("FakeSink", self.files_sink)])
        limits = self.files_sink.limits_for(self.meter.name)
        feeds = tuple(feed._replace(model=limits.write_model) for feed in self.registered.feeds)
        self.registered = self.registered._replace(feeds=feeds)
        self.collection.registered = self.registered
        self.collection.limits = dict.fromkeys(self.collection.limits, limits)
        self.state = state
        self.identity = LedgerIdentity(database, ClaimCounter(state)) if state else None
        self.files = Files(database, self.owner, HOLD, self.identity)
        self.uploads = Uploads(database)
        self.sink_id = self.registered.feeds[0].sink_id

    def new_sink(
        self,
        *,
        form: Format | None = None,
        by_hand: bool = False,
        bounds: Bounds = BOUNDS,
        kind: type | None = None,
    ) -> DirectorySink:
        """Make the sink, or one of a kind that breaks off."""
        made: DirectorySink = (kind or DirectorySink)(
            "fake",
            directory=self.directory,
            kind=DIRECTORIES[by_hand],
            by_hand=by_hand,
            bounds=bounds,
            form=form or JsonFormat(AT_STRIPE, lines=True),
        )
        return made

    def another(self, **settings: Any) -> "FileWorld":
        """Return another process on the same ledger, source and directory."""
        other = FileWorld(
            self.database,
            self.directory,
            meter=self.meter,
            state=self.state,
            source=self.source,
            **{**self.settings, **settings},
        )
        other.now = self.now
        return other

    def filing(self, **more: Any) -> FileWriter:
        """Return what writes files."""
        return FileWriter(
            self.files,
            self.outbox,
            self.files_sink,
            self.sink_id,
            lambda: self.now,
            **{"elapsed": lambda: 0.0, **more},
        )

    def write(self, **more: Any) -> Delivered:
        """Write what is to be written, file by file."""
        workers = [self.filing(at_once=True, **more)]
        return drain(workers, lambda: self.now)

    def owe(self, *customers: str, hour: int = 1, quantity: int = 1) -> None:
        """Let customers use something in an hour, and plan it."""
        for customer in customers:
            self.source.use(customer, START + (hour - 1) * HOUR + 30 * MINUTE, quantity)
        self.at(hour, 5)
        self.collect()

    def lying(self) -> dict[str, bytes]:
        """Return what lies in the directory, hidden names included."""
        return {path.name: path.read_bytes() for path in sorted(self.directory.glob("*"))}

    def read(self) -> Found:
        """Validate all of it."""
        return validate((name, io.BytesIO(content)) for name, content in self.lying().items())

    def listed(self) -> list[FileRow]:
        """Return the files on record, the oldest first."""
        return self.uploads.listed(sink=None, unconfirmed=False, limit=100)[::-1]

    def states(self) -> dict[str, int]:
        """Return how many events are in each state."""
        return dict(self.rows("select state::text, count(*) from aggregator.event group by 1"))

    def check_once(self, customers: int) -> None:
        """Assert that each customer is in a file once, that the ledger says so, and that nothing is left open."""
        found = self.read()
        assert found.totals == {(METER.name, f"cus_{n}"): 1 for n in range(customers)}
        assert found.records == len(found.identifiers) == customers
        assert self.states() == {"accepted": customers}
        assert self.one("select count(*) from aggregator.outbox") == 0
        assert self.one("select count(*) from aggregator.claim where settled_at is null") == 0
        assert sorted(row.name or "" for row in self.listed()) == list(self.lying())
        self.check_balance()


@pytest.fixture
def world(database: Database, tmp_path: Path) -> FileWorld:
    """A daemon that owes five customers an event each."""
    world = FileWorld(database, tmp_path / "files")
    world.owe(*(f"cus_{n}" for n in range(5)))
    return world


def test_a_clock_that_is_set_back_keeps_no_file_waiting(database: Database, tmp_path: Path) -> None:
    """When a file is to be looked at next was put down by a clock that was ahead: that time is not waited for."""
    world = FileWorld(database, tmp_path / "out", bounds=BOUNDS._replace(wait=HOUR))
    filing = world.filing()
    assert not filing.run_once(START + 30 * HOUR).claimed
    world.owe("cus_1")
    assert filing.run_once(world.at(3)).accepted == 1


def test_a_file_is_written_settled_and_listed(world: FileWorld) -> None:
    """What was owed lies in one file, is accepted under its name, and the ledger says what the file is."""
    result = world.write()
    assert result.figures() == {"claimed": 5, "accepted": 5}
    world.check_once(5)
    [row] = world.listed()
    [(name, content)] = world.lying().items()
    assert (row.name, row.records, row.bytes, row.by_hand) == (name, 5, len(content), False)
    assert (row.meters, row.first_window, row.last_window) == ([METER.name], START, START)
    assert row.written_at == world.now
    assert world.rows("select distinct request_id from aggregator.event") == [(name,)]


def test_a_file_waits_to_be_filled(world: FileWorld) -> None:
    """It is closed once its oldest event has waited long enough, and not before."""
    filing = world.filing()
    assert filing.run_once(world.now).claimed == 0
    world.now += WAIT - dt.timedelta(seconds=1)
    world.owe("cus_5", hour=1)
    assert filing.run_once(world.at(1, 14)).claimed == 0
    assert world.filing().run_once(world.at(1, 14.9)).claimed == 0
    assert world.filing().run_once(world.at(1, 15)).accepted == 6


def test_a_full_file_does_not_wait(database: Database, tmp_path: Path) -> None:
    """As many records as a file may hold are written at once; what is over waits for the next one."""
    world = FileWorld(database, tmp_path / "files", bounds=Bounds(3, 900_000, WAIT))
    world.owe(*(f"cus_{n}" for n in range(8)))
    filing = world.filing()
    assert [filing.run_once(world.now).accepted for _ in range(4)] == [3, 3, 0, 0]
    assert world.write().accepted == 2
    world.check_once(8)


def test_a_file_stays_below_its_size(database: Database, tmp_path: Path) -> None:
    """Files are cut by bytes before a byte is written, and none is larger than allowed."""
    form = CsvFormat(AT_STRIPE, identified=True, alone=False)
    world = FileWorld(database, tmp_path / "files", bounds=Bounds(1_000, 2_000, WAIT), form=form)
    world.owe(*(f"cus_{n}" for n in range(80)))
    world.write()
    sizes = [len(content) for content in world.lying().values()]
    assert len(sizes) > 2
    assert max(sizes) <= 2_000
    assert min(sizes[:-1]) > 1_400
    world.check_once(80)


def test_nothing_owed_is_no_file(world: FileWorld) -> None:
    """A second run finds nothing, and writes nothing."""
    world.write()
    assert world.write().claimed == 0
    assert len(world.lying()) == 1


def test_a_meter_that_replaces_is_written_as_a_total(database: Database, tmp_path: Path) -> None:
    """A correction of a meter that replaces says where the window stands."""
    replacing = {METER.name: StripeMeter(event_name=METER.name, event_time_window="hour")}

    class Replacing(DirectorySink):
        def __init__(self, name: str, **settings: Any) -> None:
            super().__init__(name, **{**settings, "form": JsonFormat(replacing, lines=True)})

    world = FileWorld(database, tmp_path / "files", kind=Replacing)
    for quantity in (5, 2):
        world.owe("cus_1", quantity=quantity)
        world.write()
    values = sorted(
        validate([(n, io.BytesIO(c))]).totals[METER.name, "cus_1"] for n, c in world.lying().items()
    )
    assert values == [5, 7]


# What breaks off, and where


class Killed(BaseException):
    """The process is gone."""


class BeforeAByte(DirectorySink):
    """Gone right after the claim."""

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        raise Killed


class InTheMiddle(DirectorySink):
    """Gone while the bytes are being made."""

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        def some() -> Iterator[Event]:
            for number, event in enumerate(batch.events):
                if number == 2:
                    raise Killed
                yield event

        return super()._write(batch._replace(events=some()), may_go_on)


class BeforeItsName(DirectorySink):
    """Gone when all bytes are on disk."""

    def _publish(self, path: Path, written: Written) -> None:
        raise Killed


class AfterItsName(DirectorySink):
    """Gone when the file is there, and not yet settled."""

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        super()._write(batch, may_go_on)
        raise Killed


class NotSettled(Files):
    """Gone before the ledger is told."""

    def settle(self, claim: FileClaim, written: Written | None, now: dt.datetime) -> int:
        raise Killed


class Settled(Files):
    """Gone right after."""

    def settle(self, claim: FileClaim, written: Written | None, now: dt.datetime) -> int:
        super().settle(claim, written, now)
        raise Killed


CRASHES = [BeforeAByte, InTheMiddle, BeforeItsName, AfterItsName, NotSettled, Settled]


@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.__name__)
def test_a_crash_leaves_one_file(world: FileWorld, crash: type) -> None:
    """Wherever a process dies, the next one makes the same file of the same events, though more has come meanwhile."""
    if issubclass(crash, Files):
        world.files = crash(world.database, world.owner, HOLD)
    else:
        world.files_sink = world.new_sink(kind=crash)
    with pytest.raises(Killed):
        world.write()
    other = world.another()
    other.owe("cus_5", "cus_6", hour=2)
    assert (other.write().accepted, crash is Settled) in {(7, False), (2, True)}
    world.check_once(7)
    assert [row.records for row in world.listed()] == [5, 2]


@pytest.mark.parametrize("crash", CRASHES[:4], ids=lambda crash: crash.__name__)
def test_a_claim_that_runs_is_nobody_else_s(world: FileWorld, crash: type) -> None:
    """Until its time is over, nobody takes over what a process has begun: it may only be slow."""
    world.files_sink = world.new_sink(kind=crash)
    with pytest.raises(Killed):
        world.write()
    other = world.another()
    assert other.write().claimed == 0
    other.now += HOLD
    assert other.write().accepted == 5
    world.check_once(5)


def test_a_slow_writer_and_a_fast_one_make_one_file(world: FileWorld) -> None:
    """A process that is paused before the file gets its name wakes to find it there, and changes nothing."""
    other = world.another()

    class Paused(DirectorySink):
        def _publish(self, path: Path, written: Written) -> None:
            other.now += HOLD
            assert other.write().accepted == 5
            super()._publish(path, written)

    world.files_sink = world.new_sink(kind=Paused)
    result = world.write()
    assert (result.accepted, result.stale) == (0, 5)
    world.check_once(5)
    assert world.one("select tries from aggregator.file") == 2


def test_only_the_owner_settles(world: FileWorld) -> None:
    """Who wakes to find its claim taken over settles nothing, neither the file nor what was in none."""
    claim = world.files.claim_whole(
        world.sink_id, str(world.directory), {world.registered.feeds[0].id: 100}, BOUNDS._replace(wait=0 * MINUTE),
        world.now, by_hand=False,
    )  # fmt: skip
    assert claim is not None
    other = world.another()
    taken = other.files.take_over(world.sink_id, str(world.directory), world.now + HOLD)
    assert taken is not None
    assert (taken.id, taken.tries, taken.claimed_at) == (claim.id, 2, claim.claimed_at)
    assert world.files.settle(claim, None, world.now) == 0
    assert not world.files.renew(claim, world.now)
    refused = [
        Outcome(event.id, State.REFUSED, reason="x") for page in world.files.members(claim) for event in page
    ]
    assert world.files.settle_unfit(claim, refused, world.now) == 0
    assert world.states() == {"sending": 5}
    assert len(world.listed()) == 1


def test_who_has_lost_its_claim_gives_its_file_no_name(world: FileWorld) -> None:
    """A claim is renewed as time passes; once it is another's, the writer stops before the file gets its name."""
    other, time = world.another(), [0.0]

    class Slow(DirectorySink):
        def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
            world.execute("update aggregator.claim set owner = %s", other.owner)
            time[0] += HOLD.total_seconds()
            return super()._write(batch, may_go_on)

    world.files_sink = world.new_sink(kind=Slow)
    filing = FileWriter(
        world.files, world.outbox, world.files_sink, world.sink_id, lambda: world.now, at_once=True,
        elapsed=lambda: time[0],
    )  # fmt: skip
    assert filing.run_once(world.now).unsent == 5
    assert world.lying() == {}


def test_a_claim_is_renewed_while_its_file_is_made(world: FileWorld) -> None:
    """A writer that takes longer than a claim lasts keeps it, as long as it gives signs of life."""
    other, time, seen = world.another(), [0.0], []

    class Slow(DirectorySink):
        def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
            for _ in range(10):
                time[0] += HOLD.total_seconds() / 2
                world.now += HOLD / 2
                other.now = world.now
                assert may_go_on()
                seen.append(other.write().claimed)
            return super()._write(batch, may_go_on)

    world.files_sink = world.new_sink(kind=Slow)
    filing = FileWriter(
        world.files, world.outbox, world.files_sink, world.sink_id, lambda: world.now, at_once=True,
        elapsed=lambda: time[0],
    )  # fmt: skip
    assert filing.run_once(world.now).accepted == 5
    assert seen == [0] * 10
    world.check_once(5)


def test_two_processes_share_the_work(database: Database, tmp_path: Path) -> None:
    """Two that write beside each other never have an event in common."""
    world = FileWorld(database, tmp_path / "files", bounds=Bounds(10, 900_000, WAIT))
    world.owe(*(f"cus_{n}" for n in range(100)))
    workers = [each.filing(at_once=True) for each in (world, world.another(), world.another())]
    assert drain(workers, lambda: world.now).accepted == 100
    world.check_once(100)


# What does not fit, and who says no


def test_what_does_not_fit_is_refused_and_the_rest_written(database: Database, tmp_path: Path) -> None:
    """One customer with a line break in its name is refused by name; the others' file does not wait for it."""
    world = FileWorld(database, tmp_path / "files", form=CsvFormat(AT_STRIPE, identified=True, alone=False))
    world.owe("cus_0", "bad\nid", "cus_1")
    result = world.write()
    assert result.figures() == {"claimed": 3, "accepted": 2, "refused": 1}
    assert world.states() == {"accepted": 2, "refused": 1}
    assert "line break" in world.one("select reason from aggregator.parked")
    assert world.read().records == 2
    assert world.one("select count(*) from aggregator.claim where settled_at is null") == 0


def test_what_does_not_fit_at_all_makes_no_file(database: Database, tmp_path: Path) -> None:
    """If nothing of a claim may be written, there is no file, and the claim is at its end."""
    world = FileWorld(database, tmp_path / "files", form=CsvFormat(AT_STRIPE, identified=True, alone=False))
    world.owe("bad\nid")
    assert world.write().figures() == {"claimed": 1, "refused": 1}
    assert (world.lying(), world.listed()) == ({}, [])
    assert world.one("select count(*) from aggregator.claim where settled_at is null") == 0


def test_what_became_too_old_is_refused(world: FileWorld) -> None:
    """An event that waited for longer than Stripe takes is debt, and in no file."""
    world.now += dt.timedelta(days=36)
    assert world.write().figures() == {"claimed": 5, "refused": 5}
    assert world.lying() == {}
    assert "became older than the 35 days" in world.one("select min(reason) from aggregator.parked")


def test_age_is_judged_as_of_the_claim(world: FileWorld) -> None:
    """Who takes a file over later makes the same file, though its events have become too old meanwhile."""
    world.files_sink = world.new_sink(kind=AfterItsName)
    with pytest.raises(Killed):
        world.write()
    other = world.another()
    other.now += dt.timedelta(days=40)
    assert other.write().accepted == 5
    world.check_once(5)


def test_what_was_rejected_meanwhile_stays_rejected(world: FileWorld) -> None:
    """Stripe may reject a row before the ledger knows that its file is written: the file is the same, the row refused."""
    world.files_sink = world.new_sink(kind=AfterItsName)
    with pytest.raises(Killed):
        world.write()
    [before] = world.lying().values()
    name = world.one("select min(identifier) from aggregator.event")
    assert (
        len(
            reject_by_report(
                InDoubt(world.database), world.sink_id, [Rejection(name, "no such customer")], world.now
            )
        )
        == 1
    )
    other = world.another()
    other.now += HOLD
    result = other.write()
    assert (result.accepted, result.stale) == (4, 1)
    assert list(world.lying().values()) == [before]
    assert world.states() == {"accepted": 4, "refused": 1}


class Away(DirectorySink):
    """A place that cannot be reached."""

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        list(batch.events)
        raise SinkUnreachable("The store is away.")


class Refusing(DirectorySink):
    """A place that wants nothing of ours."""

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        raise SinkHalted("The directory is somebody else's.")


def test_a_place_that_is_away_is_tried_again(world: FileWorld) -> None:
    """The claim is left with its reason, and taken up again as it was after a wait."""
    world.files_sink = world.new_sink(kind=Away)
    result = world.write()
    assert (result.again, result.waits_for) == (5, "The store is away.")
    assert [(row.name, row.reason) for row in world.listed()] == [(None, "The store is away.")]
    other = world.another()
    other.now += 2 * MINUTE
    assert other.write().accepted == 5
    world.check_once(5)


def test_a_place_that_refuses_halts_the_sink(world: FileWorld) -> None:
    """A person must act, `status` says so, and the first file that is written says that it is over."""
    world.files_sink = world.new_sink(kind=Refusing)
    assert world.write().halted == "The directory is somebody else's."
    halted = "select halted_reason from aggregator.sink"
    assert world.one(halted) == "The directory is somebody else's."
    other = world.another()
    other.now += 2 * MINUTE
    assert other.write().accepted == 5
    assert other.one(halted) is None


def test_a_file_begun_elsewhere_is_not_written_here(world: FileWorld, tmp_path: Path) -> None:
    """If the directory was changed in between, the file may lie in the old one: it waits for it, and the rest goes on."""
    world.files_sink = world.new_sink(kind=AfterItsName)
    with pytest.raises(Killed):
        world.write()
    moved = FileWorld(world.database, tmp_path / "elsewhere", source=world.source)
    moved.owe("cus_5", hour=2)
    assert moved.write().accepted == 1
    assert [row.place for row in world.listed() if row.name is None] == [str(world.directory)]
    back = world.another()
    back.now = moved.now
    assert back.write().accepted == 5


def test_no_other_claim_takes_what_a_file_is_made_of(world: FileWorld) -> None:
    """Whatever the configuration says of the sink by now, an event of an open file is sent by nothing else."""
    world.files_sink = world.new_sink(kind=AfterItsName)
    with pytest.raises(Killed):
        world.write()
    assert world.outbox.claim(world.sink_id, 100, world.now + dt.timedelta(days=30)) is None
    assert world.outbox.waiting(world.sink_id) == (None, 5)


# The ledger, the heartbeat, and what is on record


def test_a_claim_counts_and_so_does_taking_over(database: Database, tmp_path: Path) -> None:
    """The heartbeat knows of each before anything is written."""
    world = FileWorld(database, tmp_path / "files", state=tmp_path / "state")
    world.owe("cus_0")
    world.files_sink = world.new_sink(kind=AfterItsName)
    with pytest.raises(Killed):
        world.write()
    assert world.one("select claims_made from aggregator.identity") == 1
    other = world.another()
    other.now += HOLD
    other.write()
    assert world.one("select claims_made from aggregator.identity") == 2
    known = ClaimCounter(tmp_path / "state").known()
    assert known is not None
    assert known.claims_made == 2
    other.write()
    assert world.one("select claims_made from aggregator.identity") == 2, (
        "nothing was claimed, so nothing counts"
    )


@pytest.mark.parametrize("open_file", [False, True])
def test_a_ledger_that_was_wound_back_writes_nothing(
    database: Database, tmp_path: Path, *, open_file: bool
) -> None:
    """It has forgotten what was written since, and would write it again: neither a new file nor one it remembers as open."""
    world = FileWorld(database, tmp_path / "files", state=tmp_path / "state")
    world.owe("cus_0")
    if open_file:
        world.files_sink = world.new_sink(kind=BeforeAByte)
        with pytest.raises(Killed):
            world.write()
    backup = back_up(database)
    world.files_sink = world.new_sink()
    world.now += HOLD
    world.write()
    lying = world.lying()
    restore(database, backup)
    other = world.another()
    other.now += HOLD
    with pytest.raises(LedgerStopped, match="wound back"):
        other.write()
    assert world.lying() == lying
    assert world.one("select stopped_at is not null from aggregator.identity") is True


def test_a_confirmed_file_confirms_its_events(world: FileWorld) -> None:
    """A person's word makes of accepted confirmed, once, for the files that are named."""
    world.write()
    world.owe("cus_9", hour=2)
    world.write()
    first, second = (row.name or "" for row in world.listed())
    assert world.uploads.confirm([first], world.now, Decider("Ada", "the Dashboard took it")) == 5
    assert world.states() == {"accepted": 1, "confirmed": 5}
    [decision] = Decisions(world.database).latest(9)
    assert (decision.verb, decision.who, decision.reason, decision.number) == (
        Verb.CONFIRM,
        "Ada",
        "the Dashboard took it",
        5,
    )
    assert [row.confirmed_at for row in world.listed()] == [world.now, None]
    for names, told in (
        ([first, second], f"{first} was confirmed at 2026-11-01 02:05Z already"),
        ([second, "usage-x.csv"], "there is no file usage-x.csv"),
    ):
        with pytest.raises(UsageError, match=f"Nothing was confirmed: {told}"):
            world.uploads.confirm(names, world.now)
    assert world.states() == {"accepted": 1, "confirmed": 5}


def test_only_files_for_hands_wait_for_them(database: Database, tmp_path: Path) -> None:
    """What is imported by itself waits for nobody's word; what a person uploads does until it is given."""
    form = CsvFormat(AT_STRIPE, identified=False, alone=True)
    world = FileWorld(database, tmp_path / "files", by_hand=True, form=form)
    world.owe("cus_0")
    world.write()
    [row] = world.uploads.listed(sink=None, unconfirmed=True, limit=10)
    world.uploads.confirm([row.name or ""], world.now)
    assert world.uploads.listed(sink=None, unconfirmed=True, limit=10) == []
    found = validate(((n, io.BytesIO(c)) for n, c in world.lying().items()), dashboard=True)
    assert found.totals == {(METER.name, "cus_0"): 1}


def test_a_written_file_stays_on_record(world: FileWorld) -> None:
    """The ledger itself refuses to forget a file, or to say something else of it."""
    world.write()
    for statement in ("delete from aggregator.file", "update aggregator.file set sha256 = 'x'"):
        with pytest.raises(InvariantBroken):
            world.execute(statement)


def test_a_range_alone_is_written(world: FileWorld) -> None:
    """An export takes the windows it was asked for, and leaves the others to their own file."""
    world.owe("cus_7", hour=2)
    only = (METER.name, Span(START + HOUR, START + 2 * HOUR))
    assert world.write(only=only).accepted == 1
    assert world.read().totals == {(METER.name, "cus_7"): 1}
    assert world.write(only=("another", only[1])).claimed == 0
    assert world.write().accepted == 5
    assert [row.first_window for row in world.uploads.of_range(world.sink_id, METER.name, only[1])] == [
        START + HOUR
    ]


def test_corrections_come_in_files_of_their_own(database: Database, tmp_path: Path) -> None:
    """What changes later is another event: deltas of all files add up to what was used."""
    world = FileWorld(
        database, tmp_path / "files", meter=replace(METER, decreases=Decreases.APPLY, shrink_guard=Decimal(1))
    )
    world.owe("cus_0", quantity=5)
    world.write()
    world.owe("cus_0", quantity=3)
    world.write()
    world.source.uses.pop()
    world.owe(hour=1)
    world.write()
    assert world.read().totals == {(METER.name, "cus_0"): Decimal(5)}
    assert world.read().records == 3
