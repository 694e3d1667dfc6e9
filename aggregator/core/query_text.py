"""What the text of a query says by itself, as far as a glance can tell. Pure."""

import datetime as dt
import re
from collections.abc import Mapping

_SKIPPED = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
"""Comments, and text in quotes."""

_PRESENT = re.compile(
    r"\b(?:now|today|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|sysdate|sysdatetime\w*"
    r"|sysutcdatetime|getdate|getutcdate|curdate|curtime|utc_timestamp|utc_date|utc_time|now64)\s*\("
    r"|\b(?:unixepoch|unix_timestamp)\s*\(\s*\)|\bage\s*\([^,()]*\)"
    r"|\b(?:current_timestamp|current_date|current_time|current_datetime|localtimestamp|localtime|sysdate|systimestamp)\b",
    re.IGNORECASE,
)
_PRESENT_IN_QUOTES = re.compile(r"'now'", re.IGNORECASE)
"""As SQLite has it, and Postgres too: `datetime('now')`, `'now'::timestamptz`."""


def bare(query: str) -> str:
    """Return the query without comments and quoted text; every character stays in its place."""
    return _SKIPPED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), query)


def present(query: str) -> int | None:
    """Return where the query names the present instant; None if it does not."""
    found = _PRESENT.search(bare(query)) or _PRESENT_IN_QUOTES.search(query)
    return None if found is None else found.start()


_COLON = re.compile(r"\\:|(?<![:\w\\]):([A-Za-z_]\w*)")
"""A colon that stands for itself, and one that begins the name of a value."""


def filled(query: str, values: Mapping[str, object]) -> str:
    """Return the query with values in place of their names, where a source fills them in: ready to be pasted."""

    def fill(found: "re.Match[str]") -> str:
        name = found[1]
        if name is None:
            return ":"
        return literal(values[name]) if name in values else found[0]

    return _COLON.sub(fill, query)


class Written(str):
    """A value that is SQL already."""

    __slots__ = ()


def literal(value: object) -> str:
    """Return a value as SQL has it."""
    if isinstance(value, Written):
        return value
    if isinstance(value, dt.datetime):
        kind = "timestamp" if value.tzinfo is None else "timestamptz"
        return f"{kind} '{value.isoformat(sep=' ')}'"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def of_customer(query: str, *keys: str) -> str:
    """Return a statement that gives what a filled query says of one customer, by each of its keys."""
    whose = f"= {literal(keys[0])}" if len(keys) == 1 else f"in ({', '.join(map(literal, keys))})"
    return f"select * from (\n{query}\n) as usage\nwhere customer {whose};"  # noqa: S608 - to be shown
