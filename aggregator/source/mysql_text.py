"""MySQL and MariaDB: what the text of a query says by itself, before the server is sent it. Pure.

Rules
- One statement, which begins like a SELECT. READ ONLY lets more through than reads: CALL, SET GLOBAL, LOCK TABLES, ANALYZE.
- What the server would run of `/*! ... */` counts as text (mariadb.com/kb/en/comment-syntax/).
"""

import re

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


def not_a_read(text: str, *, backslashes: bool = True) -> str | None:
    """Say why a text is not one statement that reads; None if nothing of it says so."""
    words = _words(text, backslashes=backslashes)
    first = next((word for word in words if word != "("), None)
    if first is None:
        return "it is empty"
    if first not in BEGINNINGS:
        return f"it begins with `{first}`"
    if ";" in words and any(word != ";" for word in words[words.index(";") :]):
        return "another statement follows its `;`"
    if "into" in words:
        return "`into` writes what it finds somewhere"
    for wanted in LOCKING:
        if any(tuple(words[at : at + len(wanted)]) == wanted for at in range(len(words))):
            return f"`{' '.join(wanted)}` keeps others from writing"
    return None


def _words(text: str, *, backslashes: bool) -> list[str]:
    """Return words in small letters and marks one by one; what stands in quotes becomes a mark that is none."""
    if not backslashes:
        text = _PLAIN_QUOTED.sub("''", text)
    found = []
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "word" | "mark":
                found.append(token[0].lower())
            case "quoted":
                found.append("''")
            case _:
                pass
    return found


def table_named(text: str, alias: str) -> str:
    """Return the table that a query gives an alias; the alias itself where the text does not say."""
    found = re.search(
        rf"\b(?:from|join)\s+(?P<table>[\w$.`]+)\s+(?:as\s+)?`?{re.escape(alias)}`?(?![\w$.])",
        text,
        re.IGNORECASE,
    )
    return alias if found is None else found["table"].replace("`", "")
