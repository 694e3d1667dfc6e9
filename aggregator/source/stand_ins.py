"""Rows that are given instead of what the tables of a query hold, so that the query can be tested where it runs.

Rules
- Nothing is written: the rows are part of the statement, under the table's name, and hide the table for it.
- The text of the query stays as it is, but for the schema in front of such a table.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from aggregator.core import query_text
from aggregator.errors import QueryRejected

Row = Mapping[str, object]
Rows = Mapping[str, Sequence[Row]]
"""The rows of each table, by its name as the query has it; a column that is left out is NULL."""

StandIn = Callable[[sa.Connection, str, Sequence[str], Sequence[Row]], str]
"""Makes the select that gives rows as a table of these columns has them."""

NOT_GIVEN = "the query also reads {table}, of which no rows are given: name it under `rows` as there, with `[]` for none"

NAME_PART = re.compile(r'"[^"]+"|`[^`]+`|[^.]+')


def standing_in(
    connection: sa.Connection,
    query: str,
    rows: Rows,
    stand_in: StandIn,
    refuse: Callable[[str], QueryRejected],
) -> str:
    """Return the query as it reads given rows. Raises QueryRejected for a column that a table does not have."""
    text, parts, taken = query, [], dict[str, str]()
    for table, those in rows.items():
        name = NAME_PART.findall(table)[-1]
        if name.lower() in taken:
            raise refuse(
                f"{taken[name.lower()]} and {table} cannot both be given: they have the same name without their schemas"
            )
        taken[name.lower()] = table
        found = connection.execute(sa.text(f"select * from {table} where 1 = 0"))  # noqa: S608 - a name, of the file
        columns = list(found.keys())
        found.close()
        for row in those:
            for column in row:
                if column not in columns:
                    raise refuse(f"{table} has no column {column}; it has: {', '.join(columns)}")
        parts.append(f"{name} as (\n{_as_it_is(stand_in(connection, table, columns, those))}\n)")
        text = _without_schema(text, table, name)
    return f"with {', '.join(parts)}\nselect * from (\n{text}\n) as tested" if parts else query


def _without_schema(query: str, table: str, name: str) -> str:
    """Name a table by its last part wherever the query names it in full."""
    parts = NAME_PART.findall(table)
    if len(parts) == 1:
        return query
    whole = r"\s*\.\s*".join(map(_however_quoted, parts))
    full = re.compile(rf'(?<![\w"`.]){whole}(?![\w"`])')
    seen, text = 0, ""
    for found in full.finditer(query_text.bare(query)):
        text += query[seen : found.start()] + name
        seen = found.end()
    return text + query[seen:]


def _however_quoted(part: str) -> str:
    bare = re.escape(part.strip('"`'))
    return rf'(?:(?i:{bare})|"{bare}"|`{bare}`)'


def named_beside(connection: sa.Connection, query: str, rows: Rows) -> list[str]:
    """Return tables that the query has the name of and that are not given: for an engine whose plans do not name tables."""
    known = sa.inspect(connection)
    given = {NAME_PART.findall(table)[-1].strip('"`').lower() for table in rows}
    words = {word.lower() for word in re.findall(r"\w+", query_text.bare(query))} - given
    tables = [*known.get_table_names(), *known.get_view_names()]
    return sorted(table for table in tables if table.lower() in words)


def _as_it_is(select: str) -> str:
    """Keep colons from being taken for the names of values."""
    return select.replace(":", r"\:")


def json_rows(rows: Sequence[Row]) -> str:
    """Return rows as a JSON array in an SQL text."""
    return query_text.literal(json.dumps([dict(row) for row in rows]))


def hexadecimal_json(rows: Sequence[Row]) -> str:
    """Return the same for an engine that reads backslashes in a text: as bytes, in hexadecimal digits."""
    return f"x'{json.dumps([dict(row) for row in rows]).encode().hex()}'"


def literal_rows(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a select of the rows as they are written down, for an engine whose values have types of their own."""
    named = [f'"{column}"' for column in columns]
    if not rows:
        return f"select {', '.join(f'null as {column}' for column in named)} where 1 = 0"
    selects = (
        ", ".join(
            f"{_literal(row.get(column))} as {name}" for column, name in zip(columns, named, strict=True)
        )
        for row in rows
    )
    return "\nunion all ".join(f"select {each}" for each in selects)


def _literal(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, int | float) else query_text.literal(value)
