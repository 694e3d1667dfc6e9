"""The person who carries files: uploads them, says so, changes their place, and looks at them once a ledger was set back.

Rules
- They do what the pages say. What the ledger lists as written is uploaded in the order of the names, once, by their own
  record; and is confirmed.
- After a restore, before they adopt: a file that the ledger knows neither as written nor as begun is put away, and what was
  billed by it is undone.
- After a change of place: where a file lies that was begun there and left, the place is set back until it is finished;
  where none lies, it is moved.
"""

import datetime as dt
import random
from typing import TYPE_CHECKING

from aggregator.errors import UsageError
from tests.simulation.conditions import HOUR, MINUTE
from tests.simulation.file_gate import FileGate
from tests.simulation.gates import MILLISECOND, Gate
from tests.simulation.invariants_files import is_begun, path_of
from tests.simulation.memory import Tables
from tests.simulation.memory_identity import Backup

if TYPE_CHECKING:
    from tests.simulation.life import Life

SINK = "service"
PLACES = ("here", "there")


class Carrying:
    """One person, and where the sink writes."""

    def __init__(self, life: "Life", random: random.Random) -> None:
        self._life = life
        self._random = random
        self.place = PLACES[0]
        self._armed = False
        self._said: set[str] = set()
        """What was confirmed once: a restore may have forgotten it."""

    def writer(self, gate: Gate, meters: list[str]) -> FileGate:
        """Return the sink of files of a process, as it is configured now."""
        life = self._life
        return FileGate(gate, life.service, life.place, life.watch.filed, SINK, self.place, meters)

    def plan(self, start: dt.datetime, end: dt.datetime) -> None:
        """Draw when the place is changed, and begin to upload."""
        life = self._life
        if life.conditions.files:
            life.scheduler.after(HOUR, self._upload if life.conditions.by_hand else life.place.open)
        for _ in range(life.conditions.place_moves):
            life.scheduler.at(start + (end - start) * self._random.random(), self._arm)
        if life.conditions.place_moves:
            life.scheduler.after(HOUR, self._look_elsewhere)

    @property
    def _waits(self) -> bool:
        """Whether a person leaves everything as it is, since the ledger is to be adopted first."""
        return self._life.restoring is not None and self._life.restoring.waits

    # Uploads.

    def _upload(self) -> None:
        life = self._life
        life.scheduler.after(HOUR * (1 + 20 * self._random.random()), self._upload)
        if self._waits:
            return
        written = [row for row in life.ledger.tables().files.values() if row.name is not None]
        written.sort(key=lambda row: row.name or "")
        for row in written:
            path = path_of(row.place, row.name)
            if path in life.place.imported:
                continue
            if not life.resting and self._random.random() < 0.3:
                break
            life.place.upload(path)
        uploads = life.by_hand.uploads
        for row in written:
            name, path = row.name, path_of(row.place, row.name)
            if row.confirmed_at or path not in life.place.imported or self._random.random() < 0.3:
                continue
            assert name is not None, "only what is written has a name, and is listed"
            uploads.confirm([name], life.scheduler.now)
            life.trace.tell("a person confirms", path)
            life.marks.saw("a file is confirmed")
            life.marks["a file is confirmed again after a restore"] += path in self._said
            self._said.add(path)
            self._looked("confirm")

    # A ledger that was set back.

    def restored(self, before: Tables, backup: Backup) -> None:
        """Note what a restore has opened again."""
        begun = [row for row in backup.open_files if before.files.get(row) is None or before.files[row].name]
        self._life.marks["a file is open again after a restore"] += bool(begun)

    def put_away_what_was_forgotten(self) -> None:
        """Take away what the ledger does not know, as a person does who is about to take its word."""
        life, tables = self._life, self._life.ledger.tables()
        known = {path_of(row.place, row.name) for row in tables.files.values() if row.name is not None}
        for path in sorted(life.place.files.keys() - known):
            if is_begun(tables, path, life.place.files[path]):
                continue
            life.marks.saw("a file of a forgotten claim is put away")
            credited = path in life.place.imported
            life.marks["a file of a forgotten claim was imported, and is credited"] += credited
            life.trace.tell("a person puts away", path)
            life.watch.put_away(path, life.place.put_away(path))

    # Another place.

    def _arm(self) -> None:
        """Change the place in the middle of the next file."""
        self._armed = True

    def claimed(self) -> None:
        """Take note that a file was just begun, or taken over."""
        if self._armed:
            self._armed = False
            self._life.scheduler.after(self._random.randint(1, 400) * MILLISECOND, self._change)

    def _change(self) -> None:
        if not self._life.resting:
            self._life.marks.saw("the place of files is changed")
            self._write_to(next(each for each in PLACES if each != self.place))
            self._life.scheduler.after(20 * MINUTE * self._random.random(), self._finish_or_move)

    def _write_to(self, place: str) -> None:
        """Configure another place, and start every daemon again."""
        life, self.place = self._life, place
        life.trace.tell("the sink of files writes to", place, "now")
        for daemon in list(life.daemons):
            if daemon.process.alive:
                life.scheduler.kill(daemon.process)

    def _look_elsewhere(self) -> None:
        self._life.scheduler.after(HOUR * (0.1 + 3 * self._random.random()), self._look_elsewhere)
        self._finish_or_move()

    def _finish_or_move(self) -> None:
        life = self._life
        if self._waits:
            return
        places = life.by_hand.places
        for left in places.moved_files({SINK: self.place}):
            tables = life.ledger.tables()
            there = [
                path
                for path, content in life.place.files.items()
                if path.startswith(f"{left.begun_in}/") and is_begun(tables, path, content)
            ]
            if there:
                life.marks.saw("the place of files is set back")
                self._write_to(left.begun_in)
                return
            try:
                done = places.move(SINK, left.begun_in, life.scheduler.now)
            except UsageError:
                continue
            life.trace.tell("a person moves", done, "from", left.begun_in)
            life.marks.saw("files moved on a person's word")
            self._looked("move")

    def _looked(self, verb: str) -> None:
        self._life.watch.by_person(verb)
        self._life.looked()
