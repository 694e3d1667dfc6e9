"""The state file: one JSON object per line, appended before the answer leaves.

Records of one request are gathered and written with one call to the operating system, so a killed sandbox has lost
nothing that it answered. A half-written last line is a request that was never answered; it is cut off on the next start.
There is no fsync: the file outlives the process, not the machine's power.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from aggregator.sandbox.errors import StateError
from aggregator.sandbox.wire import to_json

Record = dict[str, Any]
Note = Callable[[str, Record], None]


class Journal:
    """Appends records to a file; without a path it does nothing at all."""

    def __init__(self, path: Path | None) -> None:
        self._pending: list[bytes] = []
        self._file = None if path is None else _open(path)
        self._path = path

    def read(self) -> Iterator[Record]:
        """Yield every record, oldest first, and cut off a half-written end. Raise StateError for a broken line."""
        if self._file is None:
            return
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            yield self._decode(line, number)
            whole += len(line)
        self._file.truncate(whole)

    def _decode(self, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise StateError(
                f"Line {number} of {self._path} is not JSON. Mend it, or move the file away to start empty."
            ) from error
        if not isinstance(record, dict) or "kind" not in record:
            raise StateError(
                f"Line {number} of {self._path} is not a record of the sandbox. Use another file."
            )
        return record

    def note(self, kind: str, record: Record) -> None:
        """Remember a record for the next flush."""
        if self._file is not None:
            self._pending.append(to_json({"kind": kind, **record}))

    def flush(self) -> None:
        """Hand everything noted to the operating system, in one write."""
        if self._file is None or not self._pending:
            return
        lines = b"\n".join(self._pending) + b"\n"
        self._pending.clear()
        while lines:
            lines = lines[os.write(self._file.fileno(), lines) :]

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._pending.clear()
        if self._file is not None:
            self._file.truncate(0)

    def close(self) -> None:
        """Write what is pending and let go of the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def _open(path: Path) -> BinaryIO:
    try:
        file = path.open("a+b")
    except OSError as error:
        raise StateError(
            f"The state file {path} cannot be opened: {error.strerror}. Choose another."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StateError(f"Another sandbox holds {path}. Stop it, or use another file.") from error
    return file
