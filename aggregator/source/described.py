"""What a table looks like, as far as a meter over it is concerned."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from aggregator.core.table_guess import Column, Reference, TableShape


def described(connection: sa.Connection, table: str) -> TableShape:
    """Return the shape of a table, named with its schema or without. Raises LookupError if there is none such."""
    schema, _, name = table.rpartition(".")
    known = sa.inspect(connection)
    where = schema or None
    there = [*known.get_table_names(where), *known.get_view_names(where)]
    if name not in there:
        listed = ", ".join(sorted(there)) or "none"
        raise LookupError(f"there is no table {table}; {schema or 'here'} has: {listed}")
    return TableShape(
        table,
        tuple(Column(each["name"], _kind(each["type"])) for each in known.get_columns(name, where)),
        _indexed(known, name, where),
        tuple(
            Reference(
                key["constrained_columns"][0],
                ".".join(filter(None, (key["referred_schema"], key["referred_table"]))),
                key["referred_columns"][0],
                tuple(
                    each["name"] for each in known.get_columns(key["referred_table"], key["referred_schema"])
                ),
            )
            for key in known.get_foreign_keys(name, where)
            if len(key["constrained_columns"]) == 1
        ),
    )


def _indexed(known: sa.Inspector, name: str, schema: str | None) -> frozenset[str] | None:
    """Return which columns an index begins with; None for a database that reads a stretch of time without one."""
    if known.dialect.name in {"duckdb", "spark"}:
        return None
    indexed: list[Sequence[str | None]] = [each["column_names"] for each in known.get_indexes(name, schema)]
    indexed.append(known.get_pk_constraint(name, schema)["constrained_columns"])
    return frozenset(columns[0] for columns in indexed if columns and columns[0] is not None)


def _kind(of: Any) -> str:
    match of:
        case sa.TIMESTAMP() if of.__visit_name__ == "TIMESTAMP" and _is_an_instant(of):
            return "instant"
        case sa.DateTime():
            return "instant" if of.timezone else "local"
        case sa.Date():
            return "date"
        case sa.Float() | sa.Double():
            return "float"
        case sa.Numeric() | sa.Integer():
            return "number"
        case sa.String():
            return "text"
    return "other"


def _is_an_instant(of: Any) -> bool:
    """Tell whether a TIMESTAMP is one by itself, as MySQL's are (dev.mysql.com/doc/refman/8.4/en/datetime.html)."""
    return type(of).__module__.startswith("sqlalchemy.dialects.mysql")
