"""ClickHouse: what the text of a query says by itself, before the server is sent it. Pure.

Rules
- One statement, which begins like a SELECT, as `mysql_text` has it: what is quoted and left out there is so here.
- What a read relies on, no query sets otherwise: a session that may read only may still be told other settings, by the
  `settings` of a query (clickhouse.com/docs/operations/settings/permissions-for-queries).
"""

import re
from collections.abc import Collection

from aggregator.core import query_text

SUM = re.compile(r"\bsum\w*\s*\(", re.IGNORECASE)
NARROW = re.compile(r"U?Int(?:8|16|32|64)|Decimal\((?:[1-9]|[12]\d|3[0-8]), (?P<places>\d+)\)")
"""Types in which a sum goes round without an error: one of integers has 64 bits, one of decimals 38 digits
(clickhouse.com/docs/sql-reference/aggregate-functions/reference/sum)."""


def without_end(text: str) -> str:
    """Return a statement without the `;` behind it: what is sent goes on."""
    return re.sub(r"[;\s]+\Z", "", text)


def setting_named(text: str, ours: Collection[str]) -> str | None:
    """Return a setting of ours that a query names; None if it leaves all of them alone."""
    words = set(re.findall(r"\w+", query_text.bare(text).lower()))
    return next((name for name in ours if name in words), None)


def sum_that_goes_round(text: str, kind: str) -> str | None:
    """Say why a quantity may be the rest of a sum that did not fit; None if its type has room, or it is no sum."""
    narrow = NARROW.fullmatch(kind)
    if narrow is None or SUM.search(query_text.bare(text)) is None:
        return None
    wider = "toInt128(x)" if narrow["places"] is None else f"toDecimal256(x, {narrow['places']})"
    return (
        f"`quantity` is a sum of type {kind}, which ClickHouse lets go round without an error where it does not fit: cast "
        f"what is added up, `sum({wider})`"
    )


def line_of_the_user(words: str) -> str:
    """Return an error's words with lines counted as the user does: what is sent begins with a line of ours."""
    return re.sub(r"\(line (\d+)", lambda found: f"(line {int(found[1]) - 1}", words)
