"""What a table of usage most likely means: who, how much and when, by the names and types of its columns. Pure.

Rules
- Nothing is taken for certain: each choice comes with a sentence that says why, for a person to read.
- What a person names is taken, if the table has it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

WHEN = (
    *("used_at", "occurred_at", "event_time", "event_at", "recorded_at", "measured_at", "started_at"),
    *("created_at", "inserted_at", "created", "timestamp", "event_timestamp", "ts", "at", "time"),
)
WHO = (
    *(
        "stripe_customer_id",
        "stripe_customer",
        "billing_customer_id",
        "customer_id",
        "customer",
        "account_id",
    ),
    *("organization_id", "organisation_id", "org_id", "tenant_id", "team_id", "workspace_id", "company_id"),
    *("client_id", "user_id"),
)
HOW_MUCH = (
    *(
        "quantity",
        "units",
        "usage",
        "total_tokens",
        "tokens",
        "credits",
        "bytes",
        "bytes_total",
        "size_bytes",
    ),
    *("duration_seconds", "seconds", "minutes", "hours", "requests", "calls", "count", "value"),
)
"""Columns as people name them, the most telling first."""

AT_STRIPE = ("stripe_customer_id", "stripe_customer", "stripe_id", "billing_customer_id")
"""Columns that hold what a billing system calls a customer."""


class Column(NamedTuple):
    """A column: `kind` is `instant`, `local` (a timestamp without a zone), `date`, `number`, `float`, `text` or `other`."""

    name: str
    kind: str


class Reference(NamedTuple):
    """A column that leads to a row of another table, and what that table has."""

    column: str
    table: str
    key: str
    columns: tuple[str, ...]


class TableShape(NamedTuple):
    """What is known of a table. Names are as the database has them.

    `indexed` are columns that an index begins with; None where none is needed to read a stretch of time.
    """

    name: str
    columns: tuple[Column, ...]
    indexed: frozenset[str] | None
    references: tuple[Reference, ...]


class Guess(NamedTuple):
    """Which columns a meter would go by. `through` leads to the table in which `customer` is found."""

    when: Column
    customer: str
    through: Reference | None
    quantity: Column | None
    """None to count rows."""
    reasons: tuple[str, ...]


def guess(shape: TableShape, named: Mapping[str, str]) -> Guess:
    """Choose columns; `named` are those that a person chose, by `when`, `customer` and `quantity`.

    Raises LookupError, with a sentence, if there is no such column, or none that could be it.
    """
    known = {column.name.lower(): column for column in shape.columns}
    for what, name in named.items():
        if name.lower() not in known:
            raise LookupError(
                f"{shape.name} has no column {name} for `--{what}`; it has: {listed(shape.columns)}"
            )
    reasons: list[str] = []
    when = _when(shape, known, named.get("when"), reasons)
    customer, through = customer_of(shape, named.get("customer"), reasons)
    quantity = _quantity(known, named.get("quantity"), {when.name, customer}, reasons)
    return Guess(when, customer, through, quantity, tuple(reasons))


def _when(shape: TableShape, known: Mapping[str, Column], named: str | None, reasons: list[str]) -> Column:
    instants = [column for column in shape.columns if column.kind in {"instant", "local"}]
    called = [
        known[name] for name in WHEN if name in known and known[name].kind in {"instant", "local", "text"}
    ]
    indexed = [column for column in called if column.name in (shape.indexed or ())]
    found = known[named.lower()] if named else next(iter(indexed or called or instants), None)
    if found is None:
        raise LookupError(
            f"no column of {shape.name} looks like the instant at which something was used; it has: "
            f"{listed(shape.columns)}. Name one with `--when`"
        )
    reasons += about_when(shape, found)
    return found


def about_when(shape: TableShape, when: Column) -> list[str]:
    """Say what follows from the column that says when."""
    reasons = [f"`{when.name}` says when"]
    if when.kind == "local":
        reasons.append(f"`{when.name}` has no time zone, and is taken for UTC (`timezone` of the source)")
    if when.kind == "date":
        reasons.append(f"`{when.name}` is a day, and is taken for a day in UTC")
    if shape.indexed is not None and when.name not in shape.indexed:
        reasons.append(
            f"no index begins with `{when.name}`, so each read goes through the whole table: make one"
        )
    return reasons


def customer_of(shape: TableShape, named: str | None, reasons: list[str]) -> tuple[str, Reference | None]:
    """Choose the column of the customer, there or where a foreign key leads to, and add why. Raises LookupError."""
    known = {column.name.lower(): column for column in shape.columns}
    name = named.lower() if named else next((each for each in WHO if each in known), None)
    if name is None:
        raise LookupError(
            f"no column of {shape.name} looks like a customer; it has: {listed(shape.columns)}. Name one with `--customer`"
        )
    column = known[name].name
    if name in AT_STRIPE:
        reasons.append(f"`{column}` is the customer, as the billing system knows it")
        return column, None
    for reference in () if named else shape.references:
        held = {each.lower(): each for each in reference.columns}
        there = next((held[each] for each in AT_STRIPE if each in held), None)
        if reference.column == column and there is not None:
            reasons.append(f"`{column}` leads to {reference.table}, whose `{there}` is the customer")
            return there, reference
    reasons.append(
        f"`{column}` is the customer: if the billing system knows customers by another id, join the table that has it"
    )
    return column, None


def _quantity(
    known: Mapping[str, Column], named: str | None, taken: set[str], reasons: list[str]
) -> Column | None:
    numbers = [known[name] for name in HOW_MUCH if name in known and known[name].kind in {"number", "float"}]
    found = (
        known[named.lower()] if named else next((each for each in numbers if each.name not in taken), None)
    )
    if found is None:
        reasons.append("each row counts as 1")
    else:
        reasons.append(f"`{found.name}` is summed")
        if found.kind == "float":
            reasons.append(f"`{found.name}` is a floating-point number, and is cast to an exact one")
    return found


def listed(columns: Sequence[Column]) -> str:
    """Name columns, in one line."""
    return ", ".join(column.name for column in columns)
