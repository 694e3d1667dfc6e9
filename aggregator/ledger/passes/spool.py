"""Readings on their way from a source to the ledger, on disk: the source's transaction ends before the ledger's begins.

A spool holds the readings of one span as lines for COPY, in a file without a name that vanishes with the process. So memory
stays bounded whatever the number of customers, and a slow ledger never keeps a snapshot open in a source.
"""

import datetime as dt
import tempfile
from collections.abc import Iterable, Iterator
from typing import Self

from aggregator.core.model import ZERO, Reading
from aggregator.ledger.passes.copy_format import instant, number, text

IN_MEMORY_BYTES = 1 << 20
BLOCK_BYTES = 1 << 18


class Spool:
    """Takes readings once, gives them back as blocks of bytes for COPY. A context manager."""

    COLUMNS = "window_start, customer, quantity, at, reason"

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - closed in __exit__
        self.rows = 0
        self.unmapped_rows = 0
        """How many of the rows can be billed to nobody."""
        self.unmapped_quantity = ZERO
        """What those come to, as far as they have a usable number."""
        self.noise = ZERO
        """By what share of it any quantity may come out differently from the same rows: not at all, but for floats."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, readings: Iterable[Reading]) -> None:
        """Take in readings, in any order and number."""
        starts: dict[dt.datetime, str] = {}
        lines = []
        for start, customer, quantity, at, reason, noise in readings:
            self.noise = max(self.noise, noise)
            if reason is not None:
                self.unmapped_rows += 1
                self.unmapped_quantity += quantity or ZERO
            begins = starts.get(start) or starts.setdefault(start, start.isoformat())
            lines.append(f"{begins}\t{text(customer)}\t{number(quantity)}\t{instant(at)}\t{text(reason)}\n")
        self._file.write("".join(lines).encode())
        self.rows += len(lines)

    def blocks(self) -> Iterator[bytes]:
        """Yield all that was taken in, from the beginning."""
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            yield block
