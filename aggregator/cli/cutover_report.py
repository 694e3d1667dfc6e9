"""How the report of two sinks is shown: as a table to be signed, as CSV, or as JSON."""

import csv
import datetime as dt
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from aggregator.cli import printing
from aggregator.cli.printing import say, show_table, write_raw
from aggregator.core.model import Span
from aggregator.core.parity_report import HEADINGS, Finding, ReportLine, cells, digest
from aggregator.core.shown import counted
from aggregator.sinks.files.formats import unformulated

NUMBERS = ("{old}", "{old} shadow", "{new}", "{new} shadow", "source", "difference")


@dataclass(frozen=True)
class Report:
    """All lines of a period, and what is said about them."""

    lines: Sequence[ReportLine]
    sinks: tuple[str, str]
    span: Span
    made_at: dt.datetime
    read_until: dt.datetime
    """Up to where every meter was read."""

    @cached_property
    def digest(self) -> str:
        """Return the digest of the lines."""
        return digest(self.lines, self.sinks)

    @property
    def is_over(self) -> bool:
        """Whether all of the period was read."""
        return self.read_until >= self.span.end

    @property
    def can_be_signed(self) -> bool:
        """Whether the period is over, and every line equal."""
        return self.is_over and all(line.verdict is Finding.EQUAL for line in self.lines)

    @property
    def verdicts(self) -> dict[str, int]:
        """Return how often there is each verdict."""
        return dict(Counter(line.verdict.value for line in self.lines))


def show(found: Report) -> None:
    """Print it for a person who signs it."""
    old, new = found.sinks
    say(
        f"Usage from {found.span.start:%Y-%m-%d %H:%M} to {found.span.end:%Y-%m-%d %H:%M} UTC: {old}, {new} and the source"
    )
    numbers = [each.format(old=old, new=new) for each in NUMBERS]
    columns = {"meter": "left", "customer": "left", **dict.fromkeys(numbers, "right"), "verdict": "left"}
    if found.lines:
        show_table("usage", columns, map(_row, found.lines))
    for line in _closing(found):
        say(line)


def _row(line: ReportLine) -> list[object]:
    """Return a line of the table."""
    sides = (line.old.total, line.old.shadow, line.new.total, line.new.shadow)
    return [line.meter, line.customer, *sides, line.source, line.difference, line.verdict.value]


def _closing(found: Report) -> list[str]:
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(found.verdicts.items())) or "none"
    until = (
        ""
        if found.is_over
        else f" Read up to {found.read_until:%Y-%m-%d %H:%M} UTC only: the period is not over."
    )
    said = [f"{counted(len(found.lines), 'line')}: {counts}.{until}"]
    said += [
        f"Digest  sha256:{found.digest}",
        f"Date    {found.made_at:%Y-%m-%d %H:%M:%S} UTC",
    ]
    if found.can_be_signed:
        said += ["", "Signed  ______________________________"]
    else:
        said.append("Not to be signed yet.")
    return said


def write_csv(found: Report) -> None:
    """Print each line with the names of the sinks, the digest of all lines, and the date; no name is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*HEADINGS, "old_sink", "new_sink", "digest", "date"))
    made = f"{found.made_at:%Y-%m-%dT%H:%M:%SZ}"
    for line in found.lines:
        meter, customer, *rest = cells(line)
        named = unformulated(meter), unformulated(customer)
        writer.writerow((*named, *rest, *found.sinks, f"sha256:{found.digest}", made))
    write_raw(text.getvalue())


def write_json(found: Report) -> None:
    """Print all of it for programs."""
    lines = [dict(zip(HEADINGS, cells(line), strict=True)) for line in found.lines]
    printing.write_json(
        {
            "from": found.span.start,
            "to": found.span.end,
            "old_sink": found.sinks[0],
            "new_sink": found.sinks[1],
            "read_until": found.read_until,
            "lines": lines,
            "verdicts": found.verdicts,
            "can_be_signed": found.can_be_signed,
            "digest": f"sha256:{found.digest}",
            "date": found.made_at,
        }
    )
