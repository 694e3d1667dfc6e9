"""`aggregator statement`: what a customer was billed over a time, of all meters, with each correction by itself."""

import csv
import datetime as dt
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.completion import CustomerName
from aggregator.cli.options import (
    config_option,
    json_option,
    limit_option,
    load_config,
    period_options,
    span_of_period,
)
from aggregator.cli.printing import json_text, plain_value, say, show_rows, write_raw
from aggregator.core.shown import called, shown
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.collection.statement import FeedStatement
    from aggregator.core.dimensions import Dimensions
    from aggregator.core.model import Span
    from aggregator.core.statement import Entry

AT_ONCE = 500
"""How many lines are printed at once."""

DAYS = "day windows> usage> corrections> billed> not_billed>=waiting"
LAST_DAYS = "day windows> last_number>=newest not_billed>=waiting"
SUMS = "usage> corrections> billed> not_billed>=waiting"
ENTRIES = "window made=at event# entry {dimensions}change>=delta from>=before to>=total state reason"

COLUMNS = (
    "meter", "sink", "customer", "from", "to", "entry", "revision", "quantity", "total", "source_said", "state",
    "planned_at", "settled_at", "event", "identifier", "request_id", "reason",
)  # fmt: skip
"""Of the CSV: `quantity` of all entries that are accepted or confirmed add up to what was billed. A column for each
dimension of any meter follows."""

TAKEN = {*COLUMNS, "window", "made", "change", "usage", "corrections", "billed", "not_billed"}
"""Headings that stand beside those of dimensions."""


@click.command()
@click.argument("customer", type=CustomerName(), metavar="CUSTOMER")
@period_options
@limit_option(
    "How many corrections and unbilled entries to show for each meter; 0 for all. CSV and JSON have "
    "all of them."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV for spreadsheets, with a line for each entry.")
@config_option
@json_option
def statement(
    config_path: Path,
    *,
    customer: str,
    period: "Span | None",
    start: dt.datetime | None,
    end: dt.datetime | None,
    limit: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what CUSTOMER was billed in a month by all meters, correction by correction.

    It prints a line for each day, then each correction and everything that is not billed, with date, state and reason.
    The sums are the same as in `aggregator usage`. It uses the ledger alone, and writes nothing.
    """
    from aggregator.collection.statement import state
    from aggregator.wiring.opening import open_ledger

    if as_csv and as_json:
        raise UsageError("Give either --csv or --json, not both.")
    config = load_config(config_path)
    with ExitStack() as stack:
        with open_ledger(config, may_migrate=True, name="aggregator statement") as ledger:
            now = ledger.instant()
            span = span_of_period(start, end, period, now)
            found = list(state(ledger.facts, ledger.usage, customer, span, stack))
            name = ledger.customers.names([customer]).get(customer)
        if as_csv:
            _write_csv(customer, found)
        elif as_json:
            _write_json(customer, name, span, now, found)
        else:
            for line in _head(called(customer, name), span, now, found):
                say(line)
            for each in found:
                _show(each, limit)


def _head(customer: str, span: "Span", now: dt.datetime, found: "Sequence[FeedStatement]") -> Iterator[str]:
    """Yield what a statement begins with: whose it is, and what each meter came to."""
    until = span.end - dt.timedelta(days=1) if span.end.time() == dt.time() else span.end
    yield f"Statement for {customer}, {span.start:%Y-%m-%d} to {until:%Y-%m-%d} (UTC), as of {now:%Y-%m-%d %H:%M}Z"
    if not found:
        yield f"Nothing of {customer} is on record in that time."
    for each in found:
        parts = [
            f"{shown(amount)} {name.replace('_', ' ')}"
            for name, amount in each.total._asdict().items()
            if amount or name in ("used", "billed")
        ]
        read = f"; read up to {each.mark:%Y-%m-%dT%H:%MZ}" if each.mark < span.end else ""
        yield f"{each.meter} to {each.sink}: {', '.join(parts)}{read}."
    yield ""


def _show(found: "FeedStatement", limit: int) -> None:
    """Print the days of a meter, and what is to be seen one by one."""
    from aggregator.core.statement import by_combination

    days = [{**day._asdict(), "day": day.day.isoformat(), "billed": day.billed} for day in found.days.found]
    name = f"{found.meter} to {found.sink}"
    _show_some(f"{name}, by day", LAST_DAYS if found.last else DAYS, iter(days))
    headings = "".join(f"{_column(name)} " for name in found.dimensions)
    if found.dimensions and not found.last:
        sums = (
            {**_values(each.dimensions, found.dimensions), **each._asdict(), "billed": each.billed}
            for each in by_combination(found.entries.all())
        )
        _show_some(f"{name}, by {', '.join(found.dimensions)}", f"{headings}{SUMS}", sums)
    entries = (
        _row(entry, found.dimensions) for entry in found.entries.all() if entry.revision or not entry.billed
    )
    shown_ones = islice(entries, limit) if limit else entries
    _show_some(
        f"{name}: corrections, and what is not billed", ENTRIES.format(dimensions=headings), shown_ones
    )
    more = sum(1 for _ in entries)
    if more:
        say(f"{more:,} more; see --limit, --csv and --json.")


def _show_some(title: str, columns: str, rows: "Iterator[dict[str, object]]") -> None:
    while some := list(islice(rows, AT_ONCE)):
        show_rows(title, columns, some)


def _column(dimension: str) -> str:
    """Name the column of a dimension, beside those that are always there."""
    from aggregator.core.dimensions import column

    return column(dimension, TAKEN)


def _values(dimensions: "Dimensions", names: Sequence[str]) -> dict[str, str | None]:
    """Return the value of each dimension under its heading, and None where there is none."""
    values = dict(dimensions)
    return {_column(name): values.get(name) for name in names}


def _row(entry: "Entry", names: Sequence[str]) -> dict[str, object]:
    """Return an entry for a table."""
    return {
        **entry._asdict(),
        **_values(entry.dimensions, names),
        "window": f"{entry.window.start:%Y-%m-%d %H:%M}",
        "at": entry.settled_at if entry.billed else entry.planned_at,
        "entry": entry.kind,
        "before": entry.before,
        "state": entry.stands,
    }


def _write_csv(customer: str, found: "Iterable[FeedStatement]") -> None:
    """Print every entry under one heading; no name in it is a formula to a spreadsheet."""
    from aggregator.sinks.files.formats import unformulated

    found = list(found)
    dimensions = sorted({name for each in found for name in each.dimensions})
    write_raw(_line([*COLUMNS, *(_column(name) for name in dimensions)]))
    for each in found:
        names = [unformulated(name) for name in (each.meter, each.sink, customer)]
        lines = (_line([*names, *_cells(entry, dimensions)]) for entry in each.entries.all())
        while some := "".join(islice(lines, AT_ONCE)):
            write_raw(some)


def _cells(entry: "Entry", dimensions: Sequence[str]) -> Iterator[object]:
    from aggregator.sinks.files.formats import unformulated

    for value in (*_entry(entry).values(), *_values(entry.dimensions, dimensions).values()):
        yield unformulated(value) if isinstance(value, str) else "" if value is None else plain_value(value)


def _entry(entry: "Entry") -> dict[str, object]:
    """Return an entry for programs."""
    return {
        "from": entry.window.start,
        "to": entry.window.end,
        "entry": entry.kind,
        "revision": entry.revision,
        "quantity": entry.delta,
        "total": entry.total,
        "source_said": entry.quantity,
        "state": entry.stands,
        "planned_at": entry.planned_at,
        "settled_at": entry.settled_at,
        "event": entry.event,
        "identifier": entry.identifier,
        "request_id": entry.request_id,
        "reason": entry.reason,
    }


def _line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _write_json(
    customer: str, name: str | None, span: "Span", now: dt.datetime, found: "Iterable[FeedStatement]"
) -> None:
    """Print one object piece by piece, so that a long list never stands in memory."""
    from aggregator.core.statement import by_combination

    head = {"customer": customer, "name": name, "from": span.start, "to": span.end, "as_of": now}
    write_raw(json_text(head)[:-1] + ', "feeds": [')
    for number, each in enumerate(found):
        days = [{**day._asdict(), "billed": day.billed} for day in each.days.found]
        feed = {
            "meter": each.meter,
            "sink": each.sink,
            "read_until": each.mark,
            "total": each.total._asdict(),
            "days": days,
            "combinations": [
                {**one._asdict(), "dimensions": dict(one.dimensions), "billed": one.billed}
                for one in by_combination(each.entries.all())
                if one.dimensions and not each.last
            ],
        }
        write_raw((",\n" if number else "\n") + json_text(feed)[:-1] + ', "entries": [')
        lines = (
            (",\n" if place else "\n") + json_text({**_entry(entry), "dimensions": dict(entry.dimensions)})
            for place, entry in enumerate(each.entries.all())
        )
        while some := "".join(islice(lines, AT_ONCE)):
            write_raw(some)
        write_raw("]}")
    write_raw("]}\n")
