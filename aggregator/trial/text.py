"""What the text of a query says, as far as a glance can tell: where a clause stands, and which it has. Pure.

What is found here is never proof by itself, but for what can have one meaning only: it names the line to change.
"""

import re
from typing import NamedTuple

from aggregator.core import query_text
from aggregator.core.query_text import bare

_ROUNDED = re.compile(
    r"\b(?:date|date_trunc|trunc|to_char|strftime|to_date|todate|tostartofday|dateadd)\s*\([^()]*:(?:start|end)\b"
    r"|:(?:start|end)\s*::\s*date\b|\bcast\s*\(\s*:(?:start|end)\s+as\s+date\s*\)",
    re.IGNORECASE,
)
_CAST = re.compile(
    r"\bcast\s*\(\s*:(?:start|end)\s+as\s+(?!text\b|varchar\b|char\b|nvarchar\b)[\w ]+\)|:(?:start|end)\s*::\s*\w+",
    re.IGNORECASE,
)
_TYPE = r"\s*(?:::\s*\w+\s*)?"
_WIDENED = re.compile(
    rf":end\b{_TYPE}\+|:start\b{_TYPE}-|\bdate(?:time)?\s*\(\s*(?::end\s*,\s*'\+|:start\s*,\s*'-)",
    re.IGNORECASE,
)
_NARROWED = re.compile(
    rf":end\b{_TYPE}-|:start\b{_TYPE}\+|\bdate(?:time)?\s*\(\s*(?::end\s*,\s*'-|:start\s*,\s*'\+)",
    re.IGNORECASE,
)
_INCLUSIVE = re.compile(
    r"\bbetween\s+\S*:start\b|<=\s*\(?\s*:end\b|(?<![<>=])>\s*\(?\s*:start\b", re.IGNORECASE
)
_LIMIT = re.compile(
    r"\b(?:limit\s+(\d+)|fetch\s+(?:first|next)\s+(\d+)\s+rows?|top\s*\(?\s*(\d+))[^()]*$", re.IGNORECASE
)
_OFFSET = re.compile(r"\boffset\s+[1-9]\d*[^()]*$", re.IGNORECASE)
_NEIGHBOURS = re.compile(
    r"\bover\b|\blag\s*\(|\blead\s*\(|\bmax\s*\([^)]*\)\s*-\s*(?:coalesce\s*\(\s*)?min\s*\(", re.IGNORECASE
)
_NOT_A_SUM = re.compile(
    r"\bdistinct\b|\b(?:max|min|avg|median|mode|last_value|first_value|uniq\w*|approx\w*|percentile\w*|quantile\w*|hll\w*)\s*\("
    r"|\bhaving\b|\bover\b|\bgreatest\s*\(|\bleast\s*\(|\bceil\w*\s*\(|\bround\s*\(|\bfloor\s*\(|\bcase\b",
    re.IGNORECASE,
)
_AT_RANDOM = re.compile(r"\b(?:random|rand|gen_random_uuid|clock_timestamp|tablesample)\b", re.IGNORECASE)
_BOUND_COLUMN = re.compile(r"\b((?:\w+\.)?\w+)\s*(?:>=?|between)\s*\(?\s*:start\b", re.IGNORECASE)
_END_COLUMN = re.compile(r"\b((?:\w+\.)?\w+)\s*<=?\s*\(?\s*:end\b", re.IGNORECASE)
_FROM = re.compile(r"\b(?:from|join)\s+((?:\w+\.)?\w+)(?:\s+(?:as\s+)?(?!on\b|where\b|join\b|left\b|right\b|inner\b|full\b|"
                   r"cross\b|using\b|group\b|order\b|natural\b|window\b|limit\b|union\b)(\w+))?", re.IGNORECASE)  # fmt: skip
_JOIN_ON = re.compile(
    r"\bon\s*\(?\s*(\w+)\.(\w+)\s*=\s*(\w+)\.(\w+)\s*\)?(?=\s*(?:where|left|right|inner|full|join|cross|group|order|$))",
    re.IGNORECASE,
)

_JOIN_USING = re.compile(
    r"\bjoin\s+((?:\w+\.)?\w+)(?:\s+(?:as\s+)?(\w+))?\s+using\s*\(\s*(\w+)\s*\)", re.IGNORECASE
)


class Line(NamedTuple):
    """A clause of a query, by the line that it stands on."""

    number: int
    text: str

    def __str__(self) -> str:
        return f"line {self.number}: `{self.text}`"


class Join(NamedTuple):
    """A join by one column on either side: tables as they are named, or None where that cannot be told."""

    line: Line
    left: tuple[str, str]
    right: tuple[str, str]
    bounded: str | None
    """Which of the two tables is the one that `:start` bounds."""


def _line(query: str, pattern: re.Pattern[str]) -> Line | None:
    found = pattern.search(bare(query))
    if found is None:
        return None
    return _line_at(query, found.start())


def _line_at(query: str, place: int) -> Line:
    number = query.count("\n", 0, place) + 1
    return Line(number, query.splitlines()[number - 1].strip())


def rounded(query: str) -> Line | None:
    """Return where a bound is cut to a day, or made a text."""
    found = _ROUNDED.search(query)  # with its quotes: `date_trunc('day', :start)`
    return None if found is None else _line_at(query, found.start())


def widened(query: str) -> Line | None:
    """Return where more is asked for than the bounds say, as by `:end + interval '1 hour'`."""
    found = _WIDENED.search(query)
    return None if found is None else _line_at(query, found.start())


def narrowed(query: str) -> Line | None:
    """Return where less is asked for than the bounds say, as by `:end - interval '1 second'`."""
    found = _NARROWED.search(query)
    return None if found is None else _line_at(query, found.start())


def cast_of_bound(query: str) -> Line | None:
    """Return where a bound is cast to something that is no text."""
    return _line(query, _CAST)


def inclusive(query: str) -> Line | None:
    """Return where a bound takes in its end, or leaves out its start."""
    return _line(query, _INCLUSIVE)


def bounds(query: str) -> Line | None:
    """Return where the bounds stand."""
    return _line(query, re.compile(r":start\b"))


def limit(query: str) -> tuple[Line, int] | None:
    """Return how many rows the whole query returns at most, by its own word."""
    found = _LIMIT.search(bare(query))
    line = _line(query, _LIMIT)
    if found is None or line is None:
        return None
    return line, int(next(filter(None, found.groups())))


def offset(query: str) -> Line | None:
    """Return where the whole query leaves out its first rows."""
    return _line(query, _OFFSET)


def looks_at_neighbours(query: str) -> Line | None:
    """Return where a row is compared with the rows before it."""
    return _line(query, _NEIGHBOURS)


def may_not_add_up(query: str) -> bool:
    """Tell whether the query may be one whose windows need not add up: a maximum, or a count of different ones."""
    return _NOT_A_SUM.search(bare(query)) is not None


def makes_rows(query: str) -> bool:
    """Tell whether the query makes rows of its own, one for each step of time."""
    return re.search(r"\bgenerate_series\b|\brecursive\b", bare(query), re.IGNORECASE) is not None


def at_random(query: str) -> Line | None:
    """Return where chance comes in."""
    return _line(query, _AT_RANDOM)


def present(query: str) -> Line | None:
    """Return where the present instant is named."""
    place = query_text.present(query)
    return None if place is None else _line_at(query, place)


def counts_up_to_the_present(query: str) -> bool:
    """Tell whether the quantity itself is made of the present instant, and of no bound."""
    quantity = column(query, "quantity") or ""
    return query_text.present(quantity) is not None and ":end" not in quantity


def is_grouped(query: str) -> bool:
    """Tell whether rows are summed by the query."""
    return re.search(r"\bgroup\s+by\b", bare(query), re.IGNORECASE) is not None


def names_what_is_gone(query: str) -> bool:
    """Tell whether the query asks for what is not over yet, as of an instant: `ended_at is null or ended_at > :start`."""
    return (
        re.search(
            r"\bis\s+null\b[^()]*\bor\b|\bor\b[^()]*\bis\s+null\b|\bcoalesce\s*\(", bare(query), re.IGNORECASE
        )
        is not None
    )


def tables(query: str) -> dict[str, str]:
    """Return the tables that are named, by their aliases in lower case; a query within brackets has none."""
    named: dict[str, str] = {}
    for table, alias in _FROM.findall(bare(query)):
        named[(alias or table.rpartition(".")[2]).lower()] = table
    return named


def bound_column(query: str) -> tuple[str, str] | None:
    """Return the table and the column that are compared with `:start`, if that can be told."""
    text = bare(query)
    found = _BOUND_COLUMN.search(text) or _END_COLUMN.search(text)
    if found is None:
        return None
    alias, _, column = found[1].rpartition(".")
    named = tables(query)
    table = named.get(alias.lower()) if alias else next(iter(named.values())) if len(named) == 1 else None
    return None if table is None else (table, column)


def joins(query: str) -> list[Join]:
    """Return the joins by one column whose rows nothing else chooses from."""
    text, named, bounded = bare(query), tables(query), bound_column(query)
    if bounded is None or _chosen(text, named) - {bounded[0]}:
        return []
    found = []
    for match in _JOIN_ON.finditer(text):
        left_alias, left, right_alias, right = (each.lower() for each in match.groups())
        left_table, right_table = named.get(left_alias), named.get(right_alias)
        if left_table is not None and right_table is not None and left_table != right_table:
            line = _line_at(query, match.start())
            found.append(Join(line, (left_table, left), (right_table, right), bounded[0]))
    for match in _JOIN_USING.finditer(text):
        table, column = match[1], match[3].lower()
        if table != bounded[0] and len(set(named.values())) == 2:
            line = _line_at(query, match.start())
            found.append(Join(line, (bounded[0], column), (table, column), bounded[0]))
    return found


def column(query: str, name: str) -> str | None:
    """Return the expression that is selected under a name; None where that cannot be told, as if there are several."""
    text = bare(query)
    found = list(re.finditer(rf'(?<=[\s)."])"?{name}"?(?=\s*(?:,|\bfrom\b))', text, re.IGNORECASE))
    if len(found) != 1:
        return None
    depth, place = 0, found[0].start()
    while place > 0:
        place -= 1
        depth += {")": 1, "(": -1}.get(text[place], 0)
        if depth < 0 or (depth == 0 and (text[place] == "," or re.match(r"(?i)select\b", text[place:]))):
            break
    return text[place : found[0].end()]


def tables_of(query: str, expression: str) -> set[str]:
    """Return the tables whose columns an expression names by the table or its alias."""
    return {
        table
        for alias, table in tables(query).items()
        if re.search(rf"\b{alias}\.", expression, re.IGNORECASE)
    }


def _chosen(text: str, named: dict[str, str]) -> set[str]:
    """Return the tables of which conditions choose rows."""
    where = re.search(r"\bwhere\b.*?(?=\bgroup\s+by\b|\border\s+by\b|$)", text, re.IGNORECASE | re.DOTALL)
    conditions = where[0] if where else ""
    return {table for alias, table in named.items() if re.search(rf"\b{alias}\.", conditions, re.IGNORECASE)}
