"""What goes into the ledger by COPY arrives as it was, in either format."""

import datetime as dt
from decimal import Decimal

import pytest

from aggregator.ledger.database import Database
from aggregator.ledger.passes import copy_format

NUMBERS = (
    *map(Decimal, (0, 1, -1, 7, 9_999, 10_000, 100_000_000, -(10**27))),
    *map(
        Decimal, ("0.1", "1.50", "-0.0001", "0.00001", "12345678901234567.25", "1E+6", "3E-12", "9999.9999")
    ),
)
TEXTS = ("cus_ada", "", "tab\tline\nback\\slash\r", "Zoë 東京", "\\N", "x" * 10_000)
INSTANTS = tuple(
    dt.datetime.fromisoformat(text)
    for text in (
        "2026-11-30T05:13:07+00:00",
        "2026-11-30T05:13:07.000001+02:00",
        "1999-12-31T23:59:59.999999+00:00",
        "9999-12-31T00:00:00+00:00",
    )
)


@pytest.mark.parametrize("binary", [True, False])
def test_what_is_copied_is_what_there_is(database: Database, *, binary: bool) -> None:
    """Numbers keep their digits, texts their characters and instants their microseconds; null is null."""
    rows = [
        (number, TEXTS[place % len(TEXTS)], INSTANTS[place % len(INSTANTS)])
        for place, number in enumerate(NUMBERS)
    ]
    with database.transaction() as connection:
        connection.execute(
            "create temporary table arrived (number numeric, word text, at timestamptz, nothing text, yes boolean)"
        )
        if binary:
            fields = [
                field
                for number, word, at in rows
                for field in (
                    (5).to_bytes(2, "big"),
                    copy_format.number_field(str(number)),
                    copy_format.text_field(word),
                    (8).to_bytes(4, "big"),
                    copy_format.microseconds(at).to_bytes(8, "big", signed=True),
                    copy_format.NULL_FIELD,
                    copy_format.TRUE_FIELD,
                )
            ]
            copy_format.copy_binary(connection, "arrived", "number, word, at, nothing, yes", fields)
        else:
            lines = [
                f"{number}\t{copy_format.text(word)}\t{copy_format.instant(at)}\t{copy_format.NULL}\tt\n"
                for number, word, at in rows
            ]
            copy_format.copy(connection, "arrived", "number, word, at, nothing, yes", lines)
        found = connection.execute("select number, word, at, nothing, yes from arrived").fetchall()
        digits = [row[0] for row in connection.execute("select number::text from arrived")]
    assert found == [(*row, None, True) for row in rows]
    assert digits == [format(number, "f") for number, _, _ in rows]
