"""Tests of a meter's query, as the file describes them: rows that its tables hold, and the usage that they are to give."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from aggregator.config.block import Block
from aggregator.config.values import Instant, check_boundary, plain_number, refuse

NAME = r'(?:"[^"]+"|`[^`]+`|[A-Za-z_]\w*)'
TABLE = rf"{NAME}(?:\.{NAME}){{0,2}}"
"""A table as a query names it: with its schema or without, quoted or not."""


def _quantity(value: object) -> object:
    quantity = plain_number(value, r"-?\d{1,30}(\.\d{1,30})?")
    if quantity is None:
        raise refuse("must be a number in plain digits, such as `12.5`")
    return quantity


Quantity = Annotated[
    Decimal,
    BeforeValidator(_quantity),
    PlainSerializer(lambda quantity: f"{quantity:f}", return_type=str),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[\d_]{1,40}(\.\d{1,30})?$"}]}
    ),
]


def _cell(value: object) -> object:
    if isinstance(value, bool | int | float | str):
        return value
    raise refuse("must be text, a number, `true` or `false`; a column that is left out is NULL")


Cell = Annotated[
    bool | int | float | str,
    BeforeValidator(_cell),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}),
]

Rows = Annotated[tuple[dict[str, Cell], ...], Field(strict=False)]


def _named_as_in_a_query(rows: dict[str, Rows]) -> dict[str, Rows]:
    for table in rows:
        if not re.fullmatch(TABLE, table):
            raise refuse(
                "is not how a query names a table: write it as there, such as `usage` or `app.usage`", table
            )
    return rows


class ExpectedUsage(Block):
    """What one customer is to have used in one window."""

    customer: str | None = Field(
        default=None,
        min_length=1,
        description="The customer, as the query returns it. Left out: rows that no customer can be billed for.",
        examples=["cus_1"],
    )
    window: Instant = Field(description="The start of the window.", examples=["2026-11-01T10:00Z"])
    quantity: Quantity = Field(description="How much was used.", examples=[3])
    dimensions: dict[str, str] = Field(
        default={},
        description="The value of each of the meter's dimensions. Left out: rows that lack one, if the meter has any.",
        examples=[{"model": "large"}],
    )


Expected = Annotated[tuple[ExpectedUsage, ...], Field(strict=False)]


def _both_or_neither(test: "QueryTest") -> "QueryTest":
    if (test.start is None) != (test.end is None):
        given, missing = ("from", "to") if test.end is None else ("to", "from")
        raise refuse(f"is missing: `{given}` goes with it", missing)
    if test.start is None and not test.usage:
        raise refuse("is empty: say `from` and `to`, so that it is known what is to be read", "usage")
    if test.start is not None and test.end is not None and test.start >= test.end:
        raise refuse("is not after `from`", "to")
    return test


class QueryTest(Block):
    """Rows, and the usage that the query is to make of them."""

    name: str = Field(
        min_length=1,
        max_length=200,
        description="What the test shows, for people.",
        examples=["failed requests are not billed"],
    )
    rows: Annotated[dict[str, Rows], AfterValidator(_named_as_in_a_query)] = Field(
        description=(
            "The rows of each table that the query reads, under the table's name as the query "
            "writes it; `[]` for none. Columns that you leave out are NULL."
        ),
        examples=[{"usage": [{"customer": "cus_1", "at": "2026-11-01T10:20Z", "quantity": 3}]}],
    )
    usage: Expected = Field(
        description="All usage that the query should return, and nothing else.",
        examples=[[{"customer": "cus_1", "window": "2026-11-01T10:00Z", "quantity": 3}]],
    )
    start: Instant | None = Field(
        default=None,
        alias="from",
        description="The start of the range that is read. Left out: one window before the first in `usage`.",
        examples=["2026-11-01T00:00Z"],
    )
    end: Instant | None = Field(
        default=None,
        alias="to",
        description="The end of the range that is read. Left out: one window after the last in `usage`.",
        examples=["2026-11-02T00:00Z"],
    )


def _on_boundaries(test: QueryTest, info: ValidationInfo) -> QueryTest:
    """Compare with the meter's windows, if their length is known."""
    window = info.data.get("window")
    if window is not None:
        for key, instant in (
            ("from", test.start),
            ("to", test.end),
            *(("usage", each.window) for each in test.usage),
        ):
            if instant is not None:
                check_boundary(instant, window, key)
    dimensions = info.data.get("dimensions")
    for each in test.usage:
        if dimensions is not None and each.dimensions and each.dimensions.keys() != set(dimensions):
            named = ", ".join(f"`{name}`" for name in dimensions) or "none"
            raise refuse(
                f"has other `dimensions` than the meter, which has {named}: say a value for each", "usage"
            )
    return test


def _one_name_each(tests: tuple[QueryTest, ...]) -> tuple[QueryTest, ...]:
    names = [test.name for test in tests]
    for name in names:
        if names.count(name) > 1:
            raise refuse(f"has two tests named `{name}`: give each a name of its own")
    return tests


QueryTests = Annotated[
    tuple[Annotated[QueryTest, AfterValidator(_both_or_neither), AfterValidator(_on_boundaries)], ...],
    Field(strict=False),
    AfterValidator(_one_name_each),
]
