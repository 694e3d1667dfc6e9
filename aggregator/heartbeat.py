"""The heartbeat beside the ledger: how many claims this host has seen, kept where a restore of the ledger does not reach.

Rules
- The file only ever counts up, except when a ledger is adopted. It may be behind the ledger, as after a crash between a
  commit and the writing of it; it is never ahead of one that is sound.
- It is replaced in one step and is on disk before anything is sent. Any number of processes of a host share it.
- Without a file there is nothing to compare: a host that starts for the first time believes its ledger.
"""

import datetime as dt
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aggregator.errors import LedgerError

FILE = "heartbeat.json"

MOUNTS = Path("/proc/self/mounts")
PASSING = {"overlay", "aufs", "tmpfs", "ramfs"}
"""File systems that go with a container, or with the machine's memory (man7.org/linux/man-pages/man5/fstab.5.html)."""


class Beat(NamedTuple):
    """One count of claims: of which ledger, in which generation, on which server, and when."""

    ledger_id: str
    generation: int
    beat: int
    cluster: int | None
    at: dt.datetime

    @property
    def order(self) -> tuple[int, int]:
        """What grows as long as a ledger is sound."""
        return self.generation, self.beat


class Heartbeat:
    """The file in a state directory, and the highest count that this process has seen itself."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._seen: Beat | None = None
        self._lock = threading.Lock()

    def known(self) -> Beat | None:
        """Return the highest count that this host knows of; None before the first. Raises LedgerError if unreadable."""
        written, seen = self._read(), self._seen
        if written is None or (
            seen is not None and seen.ledger_id == written.ledger_id and seen.order > written.order
        ):
            return seen
        return written

    def note(self, beat: Beat) -> None:
        """Write a count down, unless a higher one of the same ledger stands there already. Raises LedgerError."""
        with self._held():
            known = self.known()
            behind = known is None or known.ledger_id != beat.ledger_id or beat.order > known.order
            highest = self._seen = beat if known is None or behind else known
            if self._read() != highest:
                self._write(highest)

    def replace(self, beat: Beat) -> None:
        """Write a count down, whatever stands there: only an adoption does. Raises LedgerError."""
        with self._held():
            self._seen = beat
            self._write(beat)

    def unusable(self) -> str | None:
        """Say why the file cannot be kept here, as in a read-only container; None if it can."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked_file():
                return None
        except OSError as error:
            return f"{self.path} cannot be written ({error.strerror}): give `state_dir` a volume of its own"

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self._locked_file():
                    yield
            except OSError as error:
                raise LedgerError(
                    f"{self.path} cannot be written ({error.strerror}), so nothing is sent: it is what tells a ledger that "
                    "was set back. Make room, or give `state_dir` a directory that can be written."
                ) from error

    @contextmanager
    def _locked_file(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> Beat | None:
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"{self.path} cannot be read: {error.strerror}.") from error
        try:
            said = json.loads(text)
            at = dt.datetime.fromisoformat(said["at"])
            return Beat(said["ledger_id"], int(said["generation"]), int(said["beat"]), said["cluster"], at)
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{self.path} is damaged, so it cannot be told whether the ledger was set back. "
                "If it was not, remove the file."
            ) from error

    def _write(self, beat: Beat) -> None:
        beside = self.path.with_suffix(".new")
        with beside.open("w") as file:
            json.dump({**beat._asdict(), "at": beat.at.isoformat()}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)


def passing_filesystem(directory: Path) -> str | None:
    """Return of what kind the file system of a directory is, if it does not last; None if it does, or nobody can tell."""
    try:
        lines = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:  # not Linux
        return None
    known = {fields[1].replace("\\040", " "): fields[2] for fields in lines if len(fields) > 2}
    place = directory.resolve()
    kind = next((known[str(each)] for each in (place, *place.parents) if str(each) in known), "")
    return kind if kind in PASSING else None
