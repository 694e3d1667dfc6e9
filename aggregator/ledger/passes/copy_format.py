"""Rows in Postgres's COPY formats, text and binary (postgresql.org/docs/current/sql-copy.html, "File Formats").

Written by hand because it is the one place where a million rows pass through Python twice, and a formatted line costs
half of what a row adapted value by value does. What comes by the million goes in binary: to write and to read instants as
text takes longer than all the rest of a row.
"""

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache

from psycopg.types.numeric import DecimalBinaryDumper

from aggregator.ledger.database import Connection

NULL = "\\N"

BINARY_BEGINS = b"PGCOPY\n\xff\r\n\0" + bytes(8)
BINARY_ENDS = b"\xff\xff"
NULL_FIELD = b"\xff\xff\xff\xff"
TRUE_FIELD, FALSE_FIELD = b"\0\0\0\1\1", b"\0\0\0\1\0"

_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_numbers = DecimalBinaryDumper(Decimal)
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def text(value: str | None) -> str:
    """Write a text, or the mark for none."""
    if value is None:
        return NULL
    # Most customer keys are plain, and looking is ten times cheaper than translating.
    return value if value.isprintable() and "\\" not in value else value.translate(_ESCAPES)


def number(value: object | None) -> str:
    """Write an int or a Decimal, or the mark for none."""
    return NULL if value is None else str(value)


def instant(value: dt.datetime | None) -> str:
    """Write an aware instant, or the mark for none."""
    return NULL if value is None else value.isoformat()


def copy(connection: Connection, table: str, columns: str, lines: Iterable[str]) -> None:
    """Send lines into a table. `table` and `columns` are ours, never a user's."""
    with connection.cursor().copy(f"copy {table} ({columns}) from stdin") as stream:
        stream.write("".join(lines))


def copy_binary(connection: Connection, table: str, columns: str, fields: Iterable[bytes]) -> None:
    """Send the fields of rows into a table, each row begun by its count of fields; names as in `copy`."""
    with connection.cursor().copy(f"copy {table} ({columns}) from stdin with (format binary)") as stream:
        stream.write(b"".join((BINARY_BEGINS, *fields, BINARY_ENDS)))


def microseconds(value: dt.datetime) -> int:
    """Return an aware instant as the number that the server keeps."""
    return (value - _EPOCH) // _MICROSECOND


def text_field(value: str) -> bytes:
    """Write a text as a field."""
    data = value.encode()
    return len(data).to_bytes(4, "big") + data


@lru_cache(maxsize=4_096)
def number_field(digits: str) -> bytes:
    """Write the number that `str` makes these digits of as a field: most customers use what others use, too."""
    data = _numbers.dump(Decimal(digits))
    assert data is not None, "a Decimal is a number"
    return len(data).to_bytes(4, "big") + data
