"""How `aggregator usage` prints what it found: tables for people, CSV for spreadsheets, JSON for programs."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from aggregator.cli.printing import json_text, plain_value, say, show_rows, write_raw
from aggregator.collection.usage import FeedUsage, Question
from aggregator.core import dimensions as apart_by
from aggregator.core.shown import called
from aggregator.core.usage import By, Line, Usage
from aggregator.sinks.files.formats import unformulated

AT_ONCE = 500
"""How many lines are printed at once. A longer table goes on in the next one, so that memory stays bounded."""

ALWAYS = {"used", "billed"}
"""Figures that a table shows even where they are zero on every line; with --live, `open` is one of them."""

TAKEN = {"meter", "sink", "name", *Usage._fields}
"""Headings that stand beside that of a dimension."""

LABELS = {By.HOUR: "%Y-%m-%d %H:%M", By.DAY: "%Y-%m-%d", By.MONTH: "%Y-%m"}
"""How a table names a stretch of time."""


def show(
    question: Question, found: Sequence[FeedUsage], limit: int, *, live: bool, name: str | None = None
) -> None:
    """Print a table for each feed, or one with a line for each, and what is to be said of them."""
    always = ALWAYS | {"open"} if live else ALWAYS
    whose = f" of {called(question.customer, name)}" if question.customer else ""
    if question.by is None and question.dimension is None:
        figures = always.union(*(each.sum.found for each in found))
        lines = [
            {"meter": each.feed.meter, "sink": each.feed.sink, **each.sum.total._asdict()} for each in found
        ]
        show_rows(f"usage{whose} {question.span}", _columns("meter sink", figures), lines)
    else:
        for each in found:
            title = f"{each.feed.meter} to {each.feed.sink}{whose} {question.span}"
            _show_lines(each, question, title, limit, always)
    for note in dict.fromkeys(note for each in found for note in each.notes):
        say(note)


def _show_lines(found: FeedUsage, question: Question, title: str, limit: int, always: set[str]) -> None:
    """Print the lines of a feed, and their total."""
    by = question.by.value if question.by else _of_dimension(question)
    named = question.by is By.CUSTOMER and any(line.name for line in islice(found.lines.all(), limit or None))
    columns = _columns(f"{by} name" if named else by, always | found.sum.found)
    lines: Iterator[Mapping[str, object]] = (
        {by: _label(line, question), "name": line.name, **line.usage._asdict()} for line in found.lines.all()
    )
    if limit:
        lines = islice(lines, limit)
    if found.sum.adds_up:
        lines = chain(lines, [{by: "total", "name": "", **found.sum.total._asdict()}])
    while some := list(islice(lines, AT_ONCE)):
        show_rows(title, columns, some)
    if limit and found.sum.lines > limit:
        say(f"{found.sum.lines - limit:,} more; see --limit, --csv and --json.")


def _columns(first: str, figures: set[str]) -> str:
    """Return the columns of a table, each with its heading."""
    return " ".join([first, *(f"{name}>" for name in Usage._fields if name in figures)])


def _of_dimension(question: Question) -> str:
    """Return the heading of what lines are by, if that is a dimension."""
    return apart_by.column(question.dimension or "", TAKEN)


def _label(line: Line, question: Question) -> str:
    """Name a line of a table."""
    if question.dimension is not None:
        return line.value or f"(no {question.dimension})"
    if question.by is None or line.start is None:
        return line.customer or "(no customer)"
    return f"{line.start:{LABELS[question.by]}}"


def write_csv(question: Question, found: Iterable[FeedUsage]) -> None:
    """Print every line under one heading; no name in it is a formula to a spreadsheet."""
    write_raw(_row("meter", "sink", *_key(question, Line(None, None, Usage())), *Usage._fields))
    for each in found:
        names = unformulated(each.feed.meter), unformulated(each.feed.sink)
        _write(_row(*names, *_cells(question, line)) for line in _lines(question, each))


def _cells(question: Question, line: Line) -> Iterator[object]:
    for value in _key(question, line).values():
        yield unformulated(value) if isinstance(value, str) else plain_value(value or "")
    yield from map(plain_value, line.usage)


def _row(*cells: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def write_json(question: Question, found: Iterable[FeedUsage], *, live: bool) -> None:
    """Print one object piece by piece, so that a long list never stands in memory."""
    head = {
        "from": question.span.start,
        "to": question.span.end,
        "by": question.by or question.dimension,
        "customer": question.customer,
        "as_of": question.at,
        "live": live,
    }
    write_raw(json_text(head)[:-1] + ', "feeds": [')
    for number, each in enumerate(found):
        feed = {"meter": each.feed.meter, "sink": each.feed.sink, "read_until": each.feed.mark}
        write_raw((",\n" if number else "\n") + json_text(feed)[:-1] + ', "lines": [')
        _write(
            (",\n" if place else "\n") + json_text({**_key(question, line), **line.usage._asdict()})
            for place, line in enumerate(_lines(question, each))
        )
        rest = {"total": each.sum.total._asdict() if each.sum.adds_up else None, "notes": each.notes}
        write_raw("], " + json_text(rest)[1:])
    write_raw("]}\n")


def _write(texts: Iterator[str]) -> None:
    """Print many texts, a few hundred at once: each time what was printed is pushed out."""
    while some := "".join(islice(texts, AT_ONCE)):
        write_raw(some)


def _lines(question: Question, found: FeedUsage) -> Iterator[Line]:
    """Yield the lines of a feed: where nothing tells them apart, the one that there is, be it of nothing."""
    if question.by is None and question.dimension is None:
        return iter([Line(None, None, found.sum.total)])
    return found.lines.all()


def _key(question: Question, line: Line) -> dict[str, object]:
    """Return what tells a line from others, for programs."""
    if question.dimension is not None:
        return {_of_dimension(question): line.value}
    if question.by is None:
        return {}
    if question.over_time:
        return {"from": line.start}
    return {"customer": line.customer, **({"name": line.name} if question.named else {})}
