"""A reader of usage files that knows them from Stripe's pages alone: it shares nothing with what writes them.

    python -m tests.file_validator [--dashboard] [--text] FILE...

Facts it goes by (docs.stripe.com, Recording usage: "Dashboard", "Amazon S3"):
- The Dashboard takes CSV below 5 MB, with the columns timestamp, event_name, payload_<customer key>, payload_<value key>.
- The import takes CSV, JSON and JSON Lines of 1 GB at most, under names shorter than 255 characters that end as their format
  does, and no empty file. A record has an identifier, a timestamp in whole seconds, an event name, and a payload.
- A value has 15 significant digits at most, in plain digits. An identifier has 100 characters at most.
"""

import csv
import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

DASHBOARD_BYTES = 5_000_000
IMPORT_BYTES = 1_000_000_000
IMPORT_RECORDS = 1_000_000

PLAIN = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?", re.ASCII)
SECONDS = re.compile(r"[1-9]\d{9}", re.ASCII)
"""Seconds since 1970, between 2001 and 2286."""


class Keys(NamedTuple):
    """Under which payload keys a meter looks for the customer and the quantity."""

    customer: str = "stripe_customer_id"
    value: str = "value"


class Record(NamedTuple):
    """One record, as it was read."""

    identifier: str | None
    timestamp: int
    event_name: str
    customer: str
    value: Decimal


class Found(NamedTuple):
    """What a file, or several of them, came to."""

    files: int
    records: int
    bytes: int
    totals: dict[tuple[str, str], Decimal]
    """By event name and customer."""
    identifiers: set[str]


class Invalid(AssertionError):
    """The file is not what Stripe takes."""


def validate(
    files: Iterable[tuple[str, BinaryIO]],
    *,
    dashboard: bool = False,
    text: bool = False,
    keys: dict[str, Keys] | None = None,
) -> Found:
    """Read files to their ends. Raises Invalid at the first thing that is wrong, and if an identifier comes twice."""
    totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    identifiers: set[str] = set()
    count = records = size = 0
    for name, file in files:
        own = 0
        for record in _records(name, file, dashboard=dashboard, text=text, keys=keys or {}):
            own += 1
            totals[record.event_name, record.customer] += record.value
            if record.identifier is not None:
                _need(record.identifier not in identifiers, name, f"{record.identifier} comes twice")
                identifiers.add(record.identifier)
        _need(own > 0, name, "is empty")
        _need(dashboard or own <= IMPORT_RECORDS, name, f"has {own} records")
        length = file.seek(0, io.SEEK_END)
        most = DASHBOARD_BYTES if dashboard else IMPORT_BYTES
        _need(length < most, name, f"has {length} bytes")
        count, records, size = count + 1, records + own, size + length
    return Found(count, records, size, dict(totals), identifiers)


def _records(
    name: str, file: BinaryIO, *, dashboard: bool, text: bool, keys: dict[str, Keys]
) -> Iterator[Record]:
    base = name.rpartition("/")[2]
    _need(len(name) < 255, name, "has a name that is too long")
    _need(re.fullmatch(r"[A-Za-z0-9._/-]+", name) is not None, name, "has a name with unusual characters")
    extension = base.rpartition(".")[2]
    _need(file.read(3) != b"\xef\xbb\xbf", name, "begins with a byte order mark")
    file.seek(0)
    lines = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        if extension == "csv":
            yield from _rows(name, lines, dashboard=dashboard)
        elif extension == "jsonl":
            _need(not dashboard, name, "is no CSV")
            yield from (
                _object(name, _parsed(name, line), text=text, keys=keys) for line in _lines(name, lines)
            )
        elif extension == "json":
            _need(not dashboard, name, "is no CSV")
            whole = _parsed(name, lines.read())
            _need(isinstance(whole, list), name, "is no array")
            yield from (_object(name, each, text=text, keys=keys) for each in whole)
        else:
            _need(ok=False, name=name, what=f"ends in .{extension}")
    finally:
        lines.detach()


def _lines(name: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        _need(line.endswith("\n"), name, "does not end with a line end")
        _need(line.strip() != "", name, "has an empty line")
        yield line


class _Number(str):
    """A number as it stood in the file."""


def _parsed(name: str, text: str) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        _need(len(dict(found)) == len(found), name, f"gives a key twice: {found}")
        return dict(found)

    try:
        return json.loads(text, parse_int=_Number, parse_float=_Number, object_pairs_hook=pairs)
    except ValueError as error:
        raise Invalid(f"{name} is no JSON: {error}") from error


def _object(name: str, found: Any, *, text: bool, keys: dict[str, Keys]) -> Record:
    _need(isinstance(found, dict), name, f"has a record that is no object: {found}")
    _need(
        found.keys() == {"identifier", "timestamp", "event_name", "payload"},
        name,
        f"has the fields {list(found)}",
    )
    payload = found["payload"]
    event_name = found["event_name"]
    wanted = keys.get(event_name, Keys())
    _need(isinstance(payload, dict) and payload.keys() == set(wanted), name, f"has the payload {payload}")
    value = payload[wanted.value]
    _need(isinstance(value, _Number) != text, name, f"has the value {value!r}")
    _need(isinstance(found["timestamp"], _Number), name, "has a timestamp that is no number")
    return _record(
        name, found["identifier"], str(found["timestamp"]), event_name, payload[wanted.customer], str(value)
    )


def _rows(name: str, lines: Iterable[str], *, dashboard: bool) -> Iterator[Record]:
    rows = csv.reader(_lines(name, lines), strict=True)
    header = next(rows, [])
    fixed = ["timestamp", "event_name"] if dashboard else ["identifier", "timestamp", "event_name"]
    _need(header[: len(fixed)] == fixed, name, f"has the columns {header}")
    payload = header[len(fixed) :]
    _need(len(payload) == 2 and all(each.startswith("payload_") for each in payload), name, f"has {header}")
    for row in rows:
        _need(len(row) == len(header), name, f"has a row of {len(row)} cells: {row}")
        identifier = None if dashboard else row[0]
        yield _record(name, identifier, *row[len(fixed) - 2 :])


def _record(name: str, identifier: Any, timestamp: str, event_name: Any, customer: Any, value: str) -> Record:
    texts = (event_name, customer) if identifier is None else (identifier, event_name, customer)
    for each in texts:
        _need(type(each) is str and each == each.strip() and each != "", name, f"has the text {each!r}")
    _need(identifier is None or len(identifier) <= 100, name, "has a long identifier")
    _need(len(event_name) <= 100, name, "has a long event name")
    _need(SECONDS.fullmatch(timestamp) is not None, name, f"has the timestamp {timestamp}")
    _need(PLAIN.fullmatch(value) is not None, name, f"has the value {value}")
    digits = value.lstrip("-").replace(".", "").lstrip("0")
    _need(len(digits) <= 15, name, f"has {len(digits)} digits")
    return Record(identifier, int(timestamp), event_name, customer, Decimal(value))


def _need(ok: bool, name: str, what: str) -> None:
    if not ok:
        raise Invalid(f"{name} {what}")


def main(arguments: list[str]) -> None:
    """Validate files from the command line."""
    flags = {each for each in arguments if each.startswith("--")}
    paths = [Path(each) for each in arguments if each not in flags]
    opened = ((path.name, path.open("rb")) for path in paths)
    found = validate(opened, dashboard="--dashboard" in flags, text="--text" in flags)
    print(
        json.dumps({"files": found.files, "records": found.records, "total": str(sum(found.totals.values()))})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
