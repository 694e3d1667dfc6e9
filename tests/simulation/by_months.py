"""Lives that go on after months: old months are closed, written to files and let go, while everything else happens.

Rules
- A life begins shortly before a month's turn. Once all is quiet its processes are off for months; then they go on, with all
  faults again, and archive what is old by then.
- The application's old rows do not change any more, until their month is closed. What is written to a closed month then is
  late for good: nobody reads it.
- People leave at that what waits of old months, bring months back, let them go again, write beside an event of a closed
  month, and put files right that were damaged.

These lives have dice of their own, and bugs on purpose of their own: `test_by_months` lives them.
"""

import datetime as dt
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from aggregator.archive.archiver import Archived, Archiver
from aggregator.archive.places import Directory, Place
from aggregator.archive.reader import bring_back, trouble_of
from aggregator.core.archive import LEAST_KEPT, Row, closed_before
from aggregator.core.model import Span, State, WriteModel
from aggregator.core.states import BOOKED
from aggregator.errors import AggregatorError, ArchiveError
from aggregator.ledger.archives import Archive
from aggregator.ledger.ledger import Ledger
from tests.simulation.application import Row as Use
from tests.simulation.conditions import DAY, HOUR, MINUTE, Conditions
from tests.simulation.gates import MILLISECOND, Behind, Gate
from tests.simulation.invariants import require
from tests.simulation.invariants_archived import ArchivedMonths
from tests.simulation.memory import MemoryLedger
from tests.simulation.names import called
from tests.simulation.scheduler import Process

if TYPE_CHECKING:
    from tests.simulation.life import Life

DAYS = 2
"""How long all goes wrong again, after the months."""

MAY_WAIT = ("events waiting for a person, or for proof", "events being taken back")
"""What nobody in a life decides about: what is in doubt, and cancellations that have lapsed."""


def going_on(conditions: Conditions, random: random.Random) -> Conditions:
    """Let a life begin two days before December, and go on in March or in April."""
    conditions.begins_after = random.choice([28, 29]) * DAY
    conditions.days = DAYS
    conditions.window = max(conditions.window, 3 * HOUR)
    # On March 2nd November is old; on March 31st December becomes so in the middle of it; on April 2nd both are.
    conditions.goes_on_at = random.choice(
        [dt.datetime(2027, 3, 2, 5, tzinfo=dt.UTC), dt.datetime(2027, 3, 31, 2, tzinfo=dt.UTC)] * 2
        + [dt.datetime(2027, 4, 2, 5, tzinfo=dt.UTC)]
    )
    conditions.notes = random.choice([0, 1, 2])
    conditions.standbys, conditions.held_before = 0, False
    if conditions.write_model is WriteModel.LAST:
        conditions.write_model = WriteModel.DELTA
    return conditions


def drawn_by_months(seed: int, drawn: Callable[[int, Any, Any], Conditions]) -> Conditions:
    """Draw a life as any other, and let it go on after months."""
    conditions = drawn(seed, random.Random(seed), random.Random(f"{seed}: restores"))
    return going_on(conditions, random.Random(f"{seed}: months"))


class GatedArchives(Behind):
    """The verbs about archives, each behind the gate: a month is written over a while, as it stood at its beginning."""

    def rows(self, meter_id: int, span: Span) -> Iterator[Row]:
        """Yield what of a span can leave; the process may die or stand still in the middle."""
        self._gate.step()
        found = list(self._inner.rows(meter_id, span))  # type: ignore[attr-defined]
        yield from found[: len(found) // 2]
        self._gate.step(MINUTE)
        yield from found[len(found) // 2 :]


class GatedPlace:
    """Where archives lie, behind the gate: it may be away, or lose an answer."""

    def __init__(self, gate: Gate, inner: Place, watch: ArchivedMonths) -> None:
        self.where = "the archive"
        self._gate = gate
        self._inner = inner
        self._watch = watch

    @contextmanager
    def making(self) -> Iterator[tuple[Path, BinaryIO]]:
        """Give a file to write."""
        self._gate.step()
        with self._inner.making() as made:
            yield made

    def publish(self, path: Path, name: str) -> None:
        """Let a file lie there under its name. Raises ArchiveError, before or after."""
        gate, dice = self._gate, self._gate.random.random()
        gate.step()
        if dice < gate.conditions.ledger_down:
            raise ArchiveError("The archive is away.")
        self._watch.published(path, name)
        self._inner.publish(path, name)
        if dice > 1 - gate.conditions.ledger_ack_lost:
            gate.marks.saw("an archive is there, and the answer is lost")
            raise ArchiveError("The archive is away.")
        gate.step()

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Give a file to read."""
        self._gate.step()
        with self._inner.fetched(name) as path:
            yield path

    def names(self) -> set[str]:
        """Return the names of all."""
        return self._inner.names()

    def close(self) -> None:
        """Nothing is open."""


class Months:
    """What one life does after months, drawn by dice of its own."""

    def __init__(self, life: "Life", ledger: MemoryLedger | None, random: random.Random) -> None:
        self._life = life
        self._ledger = ledger
        self._random = random
        self._made = TemporaryDirectory(prefix="aggregator-simulated-archive-")
        self._directory = Path(self._made.name) / "archive"
        self._place = Directory(self._directory)
        self._rates = copy(life.conditions)
        self._armed: list[Callable[[], None]] = []
        """What happens in the middle of a month's way out of the ledger."""
        self._damaged: dict[Path, bytes] = {}
        self.begun = False
        """Whether the months have gone by."""

    def close(self) -> None:
        """Remove all files."""
        self._made.cleanup()

    # Months go by.

    def live(self) -> None:
        """Let months go by, with all processes off, and go on."""
        life, scheduler = self._life, self._life.scheduler
        life.watch.months.settle(scheduler.now, life.ledger.tables())
        life.watch.at_the_end(life.ledger.tables())
        life.application.settle()
        life.turn_off()
        assert life.conditions.goes_on_at is not None
        scheduler.run(life.conditions.goes_on_at)
        self._faults_again()
        self.begun = True
        start = scheduler.now
        end = start + DAYS * DAY
        life.trace.tell("months have gone by")
        life.turn_on(start, end)
        self._plan(start, end)
        life.live_until(end)
        self._look_at_the_end()

    def _faults_again(self) -> None:
        conditions = self._life.conditions
        for each in fields(conditions):
            if isinstance(getattr(conditions, each.name), float):
                setattr(conditions, each.name, getattr(self._rates, each.name))
        conditions.new_ids = conditions.spells = 0

    def _plan(self, start: dt.datetime, end: dt.datetime) -> None:
        scheduler, dice = self._life.scheduler, self._random

        def sometime(what: Callable[[], None]) -> None:
            scheduler.at(start + (end - start) * dice.random(), what)

        for _ in range(dice.randint(2, 6)):
            sometime(self._leave_some)
        for _ in range(dice.randint(1, 3)):
            sometime(self._bring_one_back)
        for _ in range(3):
            sometime(self._use_late)
        if dice.random() < 0.5:
            sometime(lambda: self._armed.append(self._damage))
        for _ in range(self._life.conditions.notes):
            sometime(lambda: self._armed.append(self._note_by_hand))
        scheduler.at(end + HOUR, self._leave_all)
        scheduler.at(end + 2 * DAY, self._leave_all)

    # Archiving, as each daemon does it.

    def archive(self, gate: Gate, ledger: Ledger, round_of: Callable[[Callable[[], Archived]], Any]) -> None:
        """Archive what is old, for ever."""
        life, dice = self._life, self._random
        place = self._behind(gate)
        while True:
            seconds = dice.choice([0.02, 5.0, 3600.0])
            archiver = Archiver(
                ledger.archives,
                place,
                LEAST_KEPT,
                ledger.identity.name,
                elapsed=life.elapsed,
                seconds=seconds,
            )
            result = round_of(partial(self._once, archiver, gate))
            if result is not None:
                self._archived(result)
            life.scheduler.wait(HOUR * (6 if life.resting else 1) * (0.2 + dice.random()))

    @staticmethod
    def _once(archiver: Archiver, gate: Gate) -> Archived:
        return archiver.run_once(gate.now())

    def _behind(self, gate: Gate) -> GatedPlace:
        return GatedPlace(gate, self._place, self._life.watch.months)

    def _archived(self, result: Archived) -> None:
        life, marks = self._life, self._life.marks
        marks["a month is written to an archive"] += result.written
        marks["a month is out of the ledger"] += result.removed
        marks["a month waits for a person"] += bool(result.waits)
        for trouble in result.troubles:
            life.trace.tell("archives:", trouble)
            changed, damaged = "has changed since" in trouble, self._damaged or "is away" in trouble
            require(changed or damaged, "months leave without trouble", trouble)
            if changed:
                marks.saw("a day has changed after others were removed")
                life.scheduler.after(HOUR, self._put_right)

    def did(self, name: str) -> None:
        """Take note of a transaction: what is armed happens a little later."""
        often = {"record": 0.5, "verified": 0.5, "remove": 0.1}.get(name, 0.0)
        if self._armed and often and self._random.random() < often:
            what = self._armed.pop()
            self._life.scheduler.after(self._random.randint(1, 20) * MILLISECOND, what)

    # People.

    def _leave_some(self) -> None:
        self._leave(0.7)

    def _leave_all(self) -> None:
        self._leave(1.0)

    def _leave(self, share: float) -> None:
        """Leave at that what waits of old months: no sink takes it any more."""
        life = self._life
        before, tables = closed_before(life.scheduler.now, LEAST_KEPT), life.ledger.tables()
        chosen = [
            event
            for event, row in sorted(tables.parked.items())
            if row.state is not State.IN_DOUBT and row.dismissed_at is None
            and tables.events[event].window_start < before and self._random.random() < share
        ]  # fmt: skip
        if chosen:
            done = life.by_hand.parked.dismiss(chosen, life.scheduler.now)
            life.trace.tell("a person leaves at that:", done)
            life.marks["an old event is left at that"] += len(done)

    def _bring_one_back(self) -> None:
        archives = [row for row in self._listed() if row.removed_until > row.month]
        if archives:
            self._begin_to_bring_back(self._random.choice(archives))

    def _put_right(self) -> None:
        """Bring back what cannot leave as it is, and let it go as it is by then."""
        for archive in self._listed():
            if archive.removed_until > archive.month and archive.removed_at is None:
                self._begin_to_bring_back(archive)

    def _begin_to_bring_back(self, archive: Archive) -> None:
        life, dice = self._life, self._random
        process = Process("restore", uuid.UUID(int=dice.getrandbits(128)))
        life.scheduler.spawn(process, "restore", lambda: self._bring_back(process, archive))

    def _bring_back(self, process: Process, archive: Archive) -> None:
        life = self._life
        gate, parts = life.gate_of(process)
        archives = GatedArchives(gate, parts["archives"], life.did)
        try:
            done = bring_back(self._behind(gate), archives, archive)  # type: ignore[arg-type]
        except AggregatorError as error:
            life.trace.tell("restore:", error)
        else:
            life.marks["a month is brought back"] += done
        life.scheduler.after(HOUR * self._random.choice([1, 6, 24]), self._let_go)

    def _let_go(self) -> None:
        """Let every month go again that was brought back."""
        life = self._life
        for archive in self._listed():
            if archive.restored_at is not None:
                done = life.by_hand.archives.let_go(archive.meter, archive.month)
                life.marks["a month is let go again"] += done
                life.watch.verb(Process("person", uuid.UUID(int=0)), "let_go", (), done)

    def _by_hand(self) -> Ledger:
        """Return the ledger as a command has it, on a host that knows of the last adoption."""
        life = self._life
        if self._ledger is None:
            return life.by_hand
        verbs = (life.ledger.verbs(uuid.UUID(int=0), host.disk) for host in life.hosts.all)
        return next((each for each in verbs if each.identity.check(life.scheduler.now) is None), life.by_hand)

    def _listed(self) -> list[Archive]:
        return list(self._by_hand().archives.listed())

    def _use_late(self) -> None:
        """Let the application write usage of a month that is closed."""
        life = self._life
        for meter, table in sorted(life.application.tables.items()):
            until = life.watch.months.closed_until(meter)
            old = [
                row for row in table.rows.values() if until is not None and row.at < until and row.customer
            ]
            if old:
                like = self._random.choice(old)
                table.put(Use(-10_000_000 - len(table.rows), like.customer, like.at, like.quantity + 1))
                life.marks.saw("usage of a closed month is written")

    def _note_by_hand(self) -> None:
        """Write something beside an event of a closed month, as a person may by SQL."""
        life = self._life
        if self._ledger is None:
            return
        tables = self._ledger.tables
        closed = {feed.id: tables.meters[feed.meter_id].archived_until for feed in tables.feeds.values()}
        events = [
            event
            for event in tables.events.values()
            if event.state in BOOKED and event.id not in tables.parked
            and (until := closed[event.feed_id]) is not None and event.window_start < until
        ]  # fmt: skip
        if events:
            event = self._random.choice(events)
            event.reason = f"looked at by a person at {life.scheduler.now:%d %H:%M:%S.%f}"
            life.trace.tell("a person writes something beside event", event.id)
            life.marks.saw("something is written beside an old event")
            life.watch.months.noted_by_hand(event)

    def _damage(self) -> None:
        """Let a file be damaged where it lies, until a person brings it back from a backup."""
        life, files = self._life, sorted(self._directory.glob("*.parquet"))
        if not files or self._damaged or life.resting:
            return
        path = self._random.choice(files)
        content = self._damaged[path] = path.read_bytes()
        middle = len(content) // 2
        kind = self._random.choice(["gone", "cut off", "another"])
        if kind == "gone":
            path.unlink()
        else:
            path.write_bytes(content[:middle] + (b"" if kind == "cut off" else b"!" + content[middle + 1 :]))
        life.trace.tell("the archive", path.name, "is damaged:", kind)
        life.marks.saw("an archive is damaged")
        life.scheduler.after(self._random.choice([MINUTE, 2 * HOUR, 9 * HOUR]), self._mend)

    def _mend(self) -> None:
        for path, content in self._damaged.items():
            path.write_bytes(content)
        self._damaged.clear()

    # The end.

    def _look_at_the_end(self) -> None:
        """All that is old has left, or waits for a word that nobody gives here; and each file holds what left."""
        life = self._life
        ledger = self._by_hand()
        archives = ledger.archives
        archiver = Archiver(archives, self._place, LEAST_KEPT, ledger.identity.name)
        for _ in range(2):
            result = archiver.run_once(life.scheduler.now)
        require(not result.troubles, "months leave without trouble", result.troubles)
        removed = set(map(called, life.configuring.unconfigured()))
        for said in result.waits:
            if called(said.partition(" of ")[0]) in removed:
                continue  # who was removed is not read to a month's end
            rest = said.partition(" stays open: ")[2]
            for each in MAY_WAIT:
                rest = rest.replace(each, "")
            require(not any(map(str.isalpha, rest)), "what is old leaves", said)
        for archive in self._listed():
            left = archive.removed_at is not None or archive.restored_at is not None
            require(left or result.waits, "what is old leaves", archive)
            trouble = trouble_of(self._place, archives, archive)
            require(trouble is None, "each file holds what left", trouble)
