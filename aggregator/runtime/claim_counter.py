"""The claim counter beside the ledger: how many claims this host has seen, kept where no restore of the ledger reaches.

Rules
- Beside the count stands which claim of this host was its last, and whose: counts of several hosts say little of one.
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
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aggregator.errors import LedgerError
from aggregator.runtime.durable import sync_directory

FILE, HOST = "claims.json", "host_id"

MOUNTS = Path("/proc/self/mounts")
PASSING = {"overlay", "aufs", "tmpfs", "ramfs"}
"""File systems that go with a container, or with the machine's memory (man7.org/linux/man-pages/man5/fstab.5.html)."""


class ClaimCount(NamedTuple):
    """One count of claims: of which ledger, in which generation, on which server, and when."""

    ledger_id: str
    generation: int
    claims_made: int
    cluster: int | None
    at: dt.datetime
    claim_id: int | None = None
    """The last claim of this host; None before the first, and after an adoption."""
    owner: str | None = None
    """Which of its processes made it; None where another may take it over."""
    claimed_at: dt.datetime | None = None

    @property
    def order(self) -> tuple[int, int]:
        """What grows as long as a ledger is sound."""
        return self.generation, self.claims_made


class ClaimCounter:
    """The file in a state directory, and the highest count that this process has seen itself."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._seen: ClaimCount | None = None
        self._lock = threading.Lock()

    def host(self) -> str | None:
        """Return by what name this host, as far as it keeps its state directory, is known; None if it keeps none.

        Raises LedgerError if the file is damaged.
        """
        path = self.path.with_name(HOST)
        if self.unusable() is not None:
            return None
        with self._held():
            if not path.exists():
                _replace(path, str(uuid.uuid4()))
            text = path.read_text().strip()
        try:
            return str(uuid.UUID(text))
        except ValueError as error:
            raise LedgerError(f"{path} is damaged; remove it, and this host gets another name.") from error

    def known(self) -> ClaimCount | None:
        """Return the highest count that this host knows of; None before the first. Raises LedgerError if unreadable."""
        written, seen = self._read(), self._seen
        if written is None or (
            seen is not None and seen.ledger_id == written.ledger_id and seen.order > written.order
        ):
            return seen
        return written

    def note(self, count: ClaimCount) -> None:
        """Write a count down, unless a higher one of the same ledger stands there already. Raises LedgerError."""
        with self._held():
            known = self.known()
            behind = known is None or known.ledger_id != count.ledger_id or count.order > known.order
            highest = self._seen = count if known is None or behind else known
            if self._read() != highest:
                self._write(highest)

    def replace(self, count: ClaimCount) -> None:
        """Write a count down, whatever stands there: only an adoption does. Raises LedgerError."""
        with self._held():
            self._seen = count
            self._write(count)

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

    def _read(self) -> ClaimCount | None:
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"{self.path} cannot be read: {error.strerror}.") from error
        try:
            said = json.loads(text)
            at = dt.datetime.fromisoformat(said["at"])
            ledger, generation, claims_made = (
                said["ledger_id"],
                int(said["generation"]),
                int(said["claims_made"]),
            )
            claimed_at = said["claimed_at"]
            return ClaimCount(
                ledger,
                generation,
                claims_made,
                said["cluster"],
                at,
                said["claim_id"],
                said["owner"],
                claimed_at and dt.datetime.fromisoformat(claimed_at),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{self.path} is damaged, so it cannot be told whether the ledger was set back. "
                "If it was not, remove the file."
            ) from error

    def _write(self, count: ClaimCount) -> None:
        _replace(self.path, json.dumps(count._asdict(), default=dt.datetime.isoformat))


def _replace(path: Path, text: str) -> None:
    """Write a file in one step, on disk before anything else happens."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_directory(path.parent)


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
