"""What the text of a query says by itself, as far as a glance can tell. Pure."""

import re

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
