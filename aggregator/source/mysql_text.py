"""MySQL and MariaDB: what the text of a query says by itself, before the server is sent it. Pure.

Rules
- One statement, which begins like a SELECT. READ ONLY lets more through than reads: CALL, SET GLOBAL, LOCK TABLES, ANALYZE.
- What the server would run of `/*! ... */` counts as text (mariadb.com/kb/en/comment-syntax/).
"""

import re

from aggregator.source.statement_text import not_one_query, words_of

_TOKEN = re.compile(
    r"""
    (?P<skipped>\s+ | --(?=\s|\Z)[^\n]* | \#[^\n]* | /\*M?!\d* | /\*.*?(?:\*/|\Z) | \*/)
  | (?P<quoted>'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`]|``)*`)
  | (?P<word>[\w$]+)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PLAIN_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
"""Quotes in a session with NO_BACKSLASH_ESCAPES, where a backslash is a character like any other."""

BEGINNINGS = {"select", "with", "values", "table"}

LOCKING = (("for", "update"), ("for", "share"), ("lock", "in", "share"))
"""What makes a SELECT hold rows against writers; a read-only transaction allows the last two."""


def casts_to_unsigned(text: str, *, backslashes: bool = True) -> bool:
    """Tell whether a query takes anything for an unsigned number: the word is reserved, and means nothing else."""
    return "unsigned" in _words(text, backslashes=backslashes)


def _words(text: str, *, backslashes: bool) -> list[str]:
    return words_of(text if backslashes else _PLAIN_QUOTED.sub("''", text), _TOKEN, {"quoted": "''"})


def not_a_read(text: str, *, backslashes: bool = True) -> str | None:
    """Say why a text is not one statement that reads; None if nothing of it says so."""
    words = _words(text, backslashes=backslashes)
    refused = not_one_query(words, BEGINNINGS)
    if refused is not None:
        return refused
    if "into" in words:
        return "`into` writes what it finds somewhere"
    for wanted in LOCKING:
        if any(tuple(words[at : at + len(wanted)]) == wanted for at in range(len(words))):
            return f"`{' '.join(wanted)}` keeps others from writing"
    return None


def table_named(text: str, alias: str) -> str:
    """Return the table that a query gives an alias; the alias itself where the text does not say."""
    found = re.search(
        rf"\b(?:from|join)\s+(?P<table>[\w$.`]+)\s+(?:as\s+)?`?{re.escape(alias)}`?(?![\w$.])",
        text,
        re.IGNORECASE,
    )
    return alias if found is None else found["table"].replace("`", "")
