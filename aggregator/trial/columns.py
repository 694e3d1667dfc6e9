"""What the types of columns say of a query, before any row is read. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from aggregator.trial.findings import Finding, Kind, error, warning

FLOATS = {"float4", "float8", "float32", "float64", "real", "double", "double precision", "float"}
WRONG_QUANTITIES = {
    "bool": "a boolean: write `count(*) filter (where ...)`, or `case when ... then 1 else 0 end`",
    "boolean": "a boolean: write `case when ... then 1 else 0 end`",
    "interval": "an interval: write `extract(epoch from ...)` for seconds",
    "money": "money: write `(...)::numeric`",
    "text": "text: write `(...)::numeric`, in MySQL `cast(... as decimal(38, 9))`",
    "varchar": "text: write `(...)::numeric`, in MySQL `cast(... as decimal(38, 9))`",
    "bpchar": "text: write `(...)::numeric`",
    "name": "text: write `(...)::numeric`",
    "json": "JSON: write `(...)::text::numeric`",
    "jsonb": "JSON: write `(...)::numeric`",
    "timestamptz": "an instant: return a number",
    "timestamp": "an instant: return a number",
    "datetime": "an instant: return a number",
    "date": "a date: return a number",
    "uuid": "a UUID: return a number",
    "bytea": "bytes: return a number",
}
_NO_KEYS_OR_INSTANTS = {
    "bool",
    "boolean",
    "float4",
    "float8",
    "numeric",
    "interval",
    "money",
    "json",
    "jsonb",
    "bytea",
}
WITHOUT_ZONE = {"timestamp", "datetime", "date"}
WRONG_CUSTOMERS = _NO_KEYS_OR_INSTANTS | WITHOUT_ZONE | {"timestamptz"}
NO_INSTANTS = _NO_KEYS_OR_INSTANTS | {"int2", "int4", "int8", "uuid", "time", "timetz"}

EXACT = {"duckdb": "::decimal(38, 9)", "clickhouse": "::decimal(76, 9)"}
"""The cast to write where a numeric without digits has few decimals, or none
(duckdb.org/docs/current/sql/data_types/numeric, clickhouse.com/docs/sql-reference/data-types/decimal)."""


class Column(NamedTuple):
    """One column of a query, with the database's name for its type, if it has one without rows."""

    name: str
    kind: str | None


def types(
    columns: Sequence[Column], *, naive_is_utc: bool, zoned: str, dialect: str = "postgresql"
) -> list[Finding]:
    """Judge the types of the columns, of which no row need be read."""
    found = _types(columns, naive_is_utc=naive_is_utc, zoned=zoned)
    exact = EXACT.get(dialect)
    return (
        found
        if exact is None
        else [each._replace(text=each.text.replace("::numeric", exact)) for each in found]
    )


def _types(columns: Sequence[Column], *, naive_is_utc: bool, zoned: str) -> list[Finding]:
    found = []
    for name, kind in columns:
        match name.lower():
            case "quantity" if kind in WRONG_QUANTITIES:
                found.append(error(Kind.TYPE, f"column `{name}` is {WRONG_QUANTITIES[kind]}"))
            case "quantity" if kind in FLOATS:
                found.append(warning(Kind.FLOAT, _float(kind)))
            case "customer" if kind in WRONG_CUSTOMERS:
                found.append(
                    error(Kind.TYPE, f"column `{name}` is {kind}: return the customer's key as text")
                )
            case "at" | "window" if kind in NO_INSTANTS:
                found.append(
                    error(
                        Kind.TYPE, f"column `{name}` is {kind}, which is not an instant: return a timestamptz"
                    )
                )
            case "at" | "window" if kind == "timestamp_ns":
                said = (
                    f"column `{name}` has nanoseconds, which DuckDB may round up into the next window. Cut them off: "
                    f"`make_timestamp(epoch_ns({name}) // 1000)`"
                )
                found.append(error(Kind.TYPE, said))
            case "at" | "window" if kind in WITHOUT_ZONE and not naive_is_utc:
                said = (
                    f"column `{name}` is a {kind}, which has no time zone: return {zoned.format(column=name)}, or set "
                    "`timezone: UTC` on the source if it is UTC"
                )
                found.append(error(Kind.TYPE, said))
            case _:
                pass
    return found


def _float(kind: str) -> str:
    digits = "7 digits" if kind in {"float4", "float32", "real"} else "15 digits"
    return (
        f"column `quantity` is floating point ({kind}, {digits}), so its sum depends on the order of the rows. "
        "Cast each row before it is added up: `sum(x::numeric)`, in MySQL `sum(cast(x as decimal(38, 9)))`"
    )
