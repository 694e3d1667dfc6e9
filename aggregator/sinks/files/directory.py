"""Files in a directory.

Rules
- A file is made under a hidden name in the same directory, is on disk before it gets its own, and gets it by a hard link:
  whole or not at all, and never in place of another (link(2)).
- Whoever makes a file holds a lock on it. What is left of one whose maker is gone is cleared away.
"""

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from aggregator.core.model import Bounds, Written
from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime import failpoints
from aggregator.runtime.durable import sync_directory
from aggregator.sinks.files.formats import Format
from aggregator.sinks.files.making import make
from aggregator.sinks.files.sink import SinkOfFiles, there_already
from aggregator.sinks.protocol import Batch

UNFINISHED, SUFFIX = ".aggregator-", ".part"

PASSES = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN}
"""What may pass by itself, or once somebody has made room."""

READ_AT_ONCE = 1 << 20
TRIES = 5

READABLE = 0o640
"""Whoever uploads may be somebody else of the same group."""


class DirectorySink(SinkOfFiles):
    """Writes files to a directory. `kind` says what they are for, so that a sink does not become one of another kind."""

    def __init__(
        self, name: str, *, directory: Path, kind: str, by_hand: bool, bounds: Bounds, form: Format
    ) -> None:
        super().__init__(name, place=str(directory), by_hand=by_hand, bounds=bounds, form=form)
        self._directory = directory
        self._kind = kind
        self._cleared = False

    def account(self) -> str | None:
        """Name the kind of files; where they go from here is not known."""
        return self._kind

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        try:
            return self._made(batch, may_go_on)
        except OSError as error:
            raise self._unwritable(error) from error

    def _made(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self._cleared:
            clear(self._directory)
            self._cleared = True
        with unfinished(self._directory) as (path, file):
            failpoints.passing("file_begun")
            written = make(file, batch.events, self._form, may_go_on)
            if written is None:
                return None
            file.flush()
            os.fsync(file.fileno())
            failpoints.passing("file_made")
            if not may_go_on():
                return None
            self._publish(path, written)
            failpoints.passing("file_published")
        return written

    def _publish(self, path: Path, written: Written) -> None:
        final = self._directory / written.name
        try:
            os.link(path, final)
        except FileExistsError:
            if trouble := there_already(written.name, self.place, content_of(final), written):
                raise SinkHalted(trouble) from None
        sync_directory(self._directory)

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Try whether a file can be made there. Raises SinkHalted if not, SinkUnreachable if it may be later."""
        if not list(meters):
            return []
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with unfinished(self._directory):
                return []
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SinkError:
        trouble = f"Sink {self.name} cannot write to {self._directory}: {error.strerror}."
        if error.errno in PASSES:
            return SinkUnreachable(f"{trouble} It is tried again.")
        return SinkHalted(
            f"{trouble} Correct `directory`, or let this user write there, on a file system that has hard links, then "
            "restart or send SIGHUP."
        )


@contextmanager
def unfinished(directory: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a file under a hidden name, locked; it is gone at the end."""
    path, file = _locked(directory)
    try:
        with file:
            path.chmod(READABLE)
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def _locked(directory: Path) -> tuple[Path, BinaryIO]:
    """Make the file; again if somebody cleared it away before it was locked."""
    for _ in range(TRIES):
        number, name = tempfile.mkstemp(SUFFIX, UNFINISHED, directory)
        file = os.fdopen(number, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if Path(name).exists():
            return Path(name), file
        file.close()
    raise OSError(errno.EAGAIN, "others clear it away all the time")


def clear(directory: Path) -> int:
    """Remove what is left of files whose makers are gone; return how many."""
    removed = 0
    for path in directory.glob(f"{UNFINISHED}*{SUFFIX}"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def numbered(directory: Path) -> Iterator[tuple[str, int]]:
    """Yield the names of ours in a directory, each with the number in it; nothing if there is no such directory."""
    for path in directory.glob("usage-*"):
        number = path.name.split("-")[1]
        if number.isdigit():
            yield path.name, int(number)


def content_of(path: Path) -> tuple[int, str]:
    """Return a file's size and the hash of its content."""
    content = sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_AT_ONCE):
            content.update(chunk)
        return file.tell(), content.hexdigest()
