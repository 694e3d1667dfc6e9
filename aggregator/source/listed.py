"""The rows of a mapping from keys to billing customers, as a query or a CSV file gives them: text, or refused with a reason.

Rules
- A row without a key says nothing, and is left out. A customer that is NULL, or empty, is none yet.
- What is no key or customer of any billing system stops the whole: half a mapping would bill the wrong ones.
- A CSV file is read as UTF-8, with or without a mark at its beginning.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from aggregator.core.customers import Listed
from aggregator.errors import QueryRejected, SourceUnreachable
from aggregator.source.rows import LONGEST_KEY, Refuse
from aggregator.source.snapshot import BATCH, Snapshot, names_of

COLUMNS = ("key", "customer", "name")
LONGEST_NAME = 200

Batches = Iterator[list[Listed]]


class Columns(NamedTuple):
    """Where the known columns stand in a row."""

    key: int
    customer: int
    name: int | None


def columns(names: Sequence[str], refuse: Refuse) -> Columns:
    """Find the known columns, in any order and letter case; any other set of columns is refused."""
    lower = [name.strip().lower() for name in names]
    found = f"; found: {', '.join(names) or 'no columns'}; known: {', '.join(COLUMNS)}"
    for name in lower:
        if name not in COLUMNS:
            raise refuse(f"the customers have a column that is not known, `{name}`{found}")
        if lower.count(name) > 1:
            raise refuse(f"the customers have `{name}` more than once{found}")
    for name in COLUMNS[:2]:
        if name not in lower:
            raise refuse(f"the customers have no column `{name}`{found}")
    place = {name: index for index, name in enumerate(lower)}
    return Columns(place["key"], place["customer"], place.get("name"))


def listed(rows: Iterable[Sequence[object]], at: Columns, refuse: Refuse) -> list[Listed]:
    """Return rows as what they list."""
    found = []
    for row in rows:
        key = _text(row[at.key], "key", refuse)
        if key is None:
            continue
        name = None if at.name is None or row[at.name] is None else str(row[at.name])
        name = name and "".join(each for each in name if each.isprintable())[:LONGEST_NAME].strip()
        found.append(Listed(key, _text(row[at.customer], "customer", refuse), name or None))
    return found


def _text(value: object, column: str, refuse: Refuse) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool | float | bytes):
        kind = type(value).__name__
        raise refuse(f"column `{column}` of the customers holds a value of type {kind}: return it as text")
    written = str(value)
    if len(written) > LONGEST_KEY or not written.isprintable() or written != written.strip():
        raise refuse(
            f"column `{column}` of the customers holds {written[:20]!a}, which no system has for a customer: longer "
            f"than {LONGEST_KEY} characters, with blanks around it, or with characters that do not show"
        )
    return written


def from_snapshot(snapshot: Snapshot, statement: sa.TextClause, refuse: Refuse) -> Batches:
    """Yield what a query lists, in batches. Raises QueryRejected for one that gives no such list."""
    snapshot.renew()
    asked = snapshot.connection.execute(statement, execution_options={"yield_per": BATCH})
    with closing(asked) as result:
        at = columns(names_of(result, refuse, "a query of customers"), refuse)
        for batch in snapshot.batches(result):
            yield listed(batch, at, refuse)


def from_csv(name: str, path: Path) -> Batches:
    """Yield what a CSV file lists, in batches. Raises SourceUnreachable; QueryRejected for a file that is no such list."""

    def refuse(reason: str) -> QueryRejected:
        return QueryRejected(f"Mapping {name}, file {path}: {reason}")

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            at = columns(next(rows, []), refuse)
            width = max(place for place in at if place is not None) + 1
            batch: list[list[str]] = []
            for row in rows:
                if not row:
                    continue
                if len(row) < width:
                    raise refuse(f"line {rows.line_num} has {len(row)} fields and needs {width}")
                batch.append(row)
                if len(batch) == BATCH:
                    yield listed(batch, at, refuse)
                    batch = []
            yield listed(batch, at, refuse)
    except OSError as error:
        raise SourceUnreachable(f"Mapping {name}: file {path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise refuse(f"it is no CSV file in UTF-8 ({error})") from None
