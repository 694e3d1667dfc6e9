"""Readings on their way from a source to the ledger, on disk: the source's transaction ends before the ledger's begins.

A spool holds the readings of one span as lines for COPY, in a file without a name that vanishes with the process. So memory
stays bounded whatever the number of customers, and a slow ledger never keeps a snapshot open in a source.

What keeps usage apart stands in a line as the number of its combination; which combinations those are is kept beside the
lines, and is bounded: a column that is different in every row is refused before it fills the memory.

It can be told to digest the lines of its newest windows, so that another reading of the same windows is known for the same.
"""

import datetime as dt
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from aggregator.core import dimensions as apart_by
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import ZERO, Reading
from aggregator.errors import QueryRejected
from aggregator.ledger.passes.copy_format import NULL, instant, number, text

IN_MEMORY_BYTES = 1 << 20
BLOCK_BYTES = 1 << 18

MOST_DIGESTED = 5_000
"""Lines that are digested at most. They are held until all are there, since a source gives its rows in any order."""

DIGEST_BYTES = 16

Digests = Mapping[dt.datetime, bytes]
"""By the start of a window, what its lines come to, in whatever order they came. A window without lines has none."""


class LinesOnDisk:
    """Lines for COPY, written once and given back as blocks of bytes. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, lines: Iterable[str]) -> None:
        """Put lines behind what is there."""
        self._file.write("".join(lines).encode())

    def blocks(self) -> Iterator[bytes]:
        """Yield all that was written, from the beginning."""
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            yield block


class Spool(LinesOnDisk):
    """Takes readings once, gives them back as blocks of bytes for COPY. A context manager.

    The lines of windows that start at `digest_from` or later are digested, unless there are too many of them.
    `most_combinations` is how many the readings of `meter` may have; left out, nobody asks.
    """

    COLUMNS = "window_start, customer, combination, quantity, at, reason"

    def __init__(
        self,
        digest_from: dt.datetime | None = None,
        *,
        meter: str = "",
        most_combinations: int | None = None,
    ) -> None:
        super().__init__()
        self._meter = meter
        self._most_combinations = most_combinations
        self._numbers: dict[Dimensions | None, str] = {(): "0", None: NULL}
        """How combinations stand in lines."""
        self._digest_from = digest_from
        self._lines: dict[dt.datetime, list[str]] | None = None if digest_from is None else {}
        self.rows = 0
        self.unmapped_rows = 0
        """How many of the rows can be billed to nobody."""
        self.unmapped_quantity = ZERO
        """What those come to, as far as they have a usable number."""
        self.noise = ZERO
        """By what share of it any quantity may come out differently from the same rows: not at all, but for floats."""

    def add(self, readings: Iterable[Reading]) -> None:
        """Take in readings, in any order and number. Raises QueryRejected for too many combinations."""
        starts: dict[dt.datetime, str] = {}
        lines = []
        numbers = self._numbers
        for start, customer, quantity, at, reason, noise, dimensions in readings:
            self.noise = max(self.noise, noise)
            if reason is not None:
                self.unmapped_rows += 1
                self.unmapped_quantity += quantity or ZERO
            begins = starts.get(start) or starts.setdefault(start, start.isoformat())
            apart = numbers.get(dimensions) or self._number(dimensions)
            lines.append(
                f"{begins}\t{text(customer)}\t{apart}\t{number(quantity)}\t{instant(at)}\t{text(reason)}\n"
            )
        self.write(lines)
        self.rows += len(lines)
        if self._lines is not None:
            self._keep(starts, lines)

    def _number(self, dimensions: Dimensions | None) -> str:
        """Take in a combination that is new; return how it stands in lines."""
        assert dimensions, "no combination, and an unusable one, are known from the beginning"
        number = self._numbers[dimensions] = str(apart_by.number(dimensions))
        if self._most_combinations is not None and len(self.combinations) > self._most_combinations:
            raise QueryRejected(apart_by.too_many(self._meter, self.combinations, self._most_combinations))
        return number

    @property
    def combinations(self) -> dict[Dimensions, int]:
        """The combinations of what was taken in, and their numbers; the empty one is none of them."""
        return {each: int(number) for each, number in self._numbers.items() if each}

    def _keep(self, starts: Mapping[dt.datetime, str], lines: Iterable[str]) -> None:
        """Hold lines to be digested; once there are too many, none."""
        assert self._lines is not None
        assert self._digest_from is not None
        wanted = {
            begins: self._lines.setdefault(start, [])
            for start, begins in starts.items()
            if start >= self._digest_from
        }
        if not wanted:
            return
        for line in lines:
            held = wanted.get(line[: line.index("\t")])
            if held is not None:
                held.append(line)
        if sum(map(len, self._lines.values())) > MOST_DIGESTED:
            self._lines = None

    def digests(self) -> Digests | None:
        """Return what the lines come to, window by window; None if there were too many, or nobody asked for it."""
        if self._lines is None:
            return None
        return {
            start: hashlib.blake2b("".join(sorted(lines)).encode(), digest_size=DIGEST_BYTES).digest()
            for start, lines in self._lines.items()
        }
