"""Spark SQL: what the text of a query says by itself, before the server is sent it. Pure.

Rules
- One statement, which begins like a query. Spark has no session that may only read, so what gets past is parsed by Spark as
  a query (`describe query`, spark.apache.org/docs/latest/sql-ref-syntax-aux-describe-query.html) before it is run. What that
  lets through is looked for here: a query that calls Java, or runs a program.
- What looks like another statement is refused by its word, so that the message can say what it is.
"""

import re

from aggregator.source.statement_text import not_one_query, words_of

_TOKEN = re.compile(
    r"""
    (?P<skipped>\s+ | --(?:\\\n|[^\n])* | /\*.*?(?:\*/|\Z))
  | (?P<quoted>r'[^']*' | r"[^"]*" | '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*")
  | (?P<name>`(?:[^`]|``)*`)
  | (?P<word>[\w$]+)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_CALLS_JAVA = re.compile(
    r"\b(?P<name>(?:try_)?reflect|java_method)`?(?:\s|--[^\n]*\n|/\*.*?\*/)*\(", re.IGNORECASE | re.DOTALL
)
"""Looked for in quotes and comments, too: it is rare enough."""

BEGINNINGS = {"select", "with", "values", "table", "from"}

WRITES = {"insert", "update", "delete", "merge"}
"""What may follow common tables, or a FROM, and is no query."""

TEXT, NAME = "''", "``"


def not_a_read(text: str) -> str | None:
    """Say why a text is not one statement that reads; None if nothing of it says so."""
    words = words_of(text, _TOKEN, {"quoted": TEXT, "name": NAME})
    refused = not_one_query(words, BEGINNINGS)
    if refused is not None:
        return refused
    depth = 0
    for before, word in zip(["", *words], words, strict=False):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word in WRITES and before != ".":
            return f"`{word}` begins a statement that writes; put the name of a column into back quotes"
        if before == "using" and word == TEXT:
            return "`using` and a text runs a program"
    called = _CALLS_JAVA.search(text)
    return None if called is None else f"`{called['name'].lower()}` calls Java, which may do anything"
