"""One expression of a semantic layer, as a usage query takes it.

Rules
- What was written for the same engine stays as it was written: only the table that is read is put before its columns.
- A translation takes what means the same on every engine, and refuses the rest. Translators change meanings without an
  error: divisions and casts round differently by engine, weeks begin on other days, zones are dropped
  (github.com/tobymao/sqlglot).
- Columns are looked up in the table, so an expression that names another is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aggregator.core import query_text
from aggregator.core.table_guess import Column
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from sqlglot.expressions import Expr

USED = "used"
"""What a usage query calls the table that it reads."""

EXTRA = "semantic"

ENGINES = {
    **dict.fromkeys(("postgres", "postgresql", "cockroachdb"), "postgres"),
    **dict.fromkeys(("mysql", "mariadb", "singlestore"), "mysql"),
    **dict.fromkeys(("spark", "hive", "databricks"), "databricks"),
    **dict.fromkeys(("clickhouse", "clickhousedb"), "clickhouse"),
    **dict.fromkeys(("mssql", "sqlserver", "fabric"), "tsql"),
    **{name: name for name in ("bigquery", "duckdb", "oracle", "redshift", "snowflake", "sqlite", "trino")},
}
"""What sqlglot calls the engines that dbt has adapters and SQLAlchemy has dialects for."""

NUMERIC = {"number", "float"}
COMPARED = {"number", "float", "text"}
"""Kinds of columns whose comparison and arithmetic mean the same everywhere. Instants and days do not."""

MOST = 2_000
"""Characters of an expression: longer ones are written by programs, and read by nobody."""


def engine_of(name: str) -> str:
    """Return what sqlglot calls an engine. Raises UsageError for one that it is not known to write for."""
    try:
        return ENGINES[name.lower()]
    except KeyError:
        raise UsageError(
            f"Nothing is known of the SQL of {name}: write the query yourself, and begin with `aggregator init`."
        ) from None


def rewritten(
    text: str, columns: Sequence[Column], written_in: str, wanted: str, within: Collection[str] = ()
) -> str:
    """Return an expression with the table before each column, in the dialect that is wanted.

    `written_in` is empty for standard SQL. `within` are the names that may stand before a column, in lower case. Raises
    UsageError, with what stands in the way.
    """
    if len(text) > MOST:
        raise UsageError(
            f"An expression of {len(text):,} characters is no usage query to begin with: write it."
        )
    tree = _parsed(text, written_in)
    _must_be_a_value(tree, text)
    known = {column.name.lower(): column for column in columns}
    named = _columns(tree, text, known, within)
    if written_in == wanted:
        return _with_the_table(text, named)
    _must_mean_the_same(tree, text, known)
    from sqlglot import exp

    for column, found in named:
        column.set("table", exp.to_identifier(USED))
        column.set("this", exp.to_identifier(found, quoted=column.this.args.get("quoted")))
    return tree.sql(dialect=wanted or None)


def aggregated(text: str, written_in: str) -> tuple[str, str]:
    """Split `sum(...)` or `count(...)` in two: the aggregation, and the text of what it takes. Raises UsageError."""
    from sqlglot import exp

    tree = _parsed(text, written_in)
    inner = tree.this
    if isinstance(inner, exp.Distinct):
        return "count_distinct", text
    if not isinstance(tree, exp.Sum | exp.Count) or tree.expressions:
        raise UsageError(f"`{text}` is not one sum or count, so what it comes to per window does not add up.")
    aggregation = "sum" if isinstance(tree, exp.Sum) else "count"
    if isinstance(inner, exp.Star):
        return aggregation, "1"
    return aggregation, text[text.index("(") + 1 : text.rindex(")")].strip()


def plain(text: str) -> str | None:
    """Return the column that an expression is, if it is nothing more."""
    stripped = text.strip().strip('"`')
    return stripped if stripped.isidentifier() else None


def translated(written_in: str, engine: str) -> str:
    """Say that SQL was translated, and what to do about it."""
    said = f"its SQL, {written_in or 'standard'}, was translated for {engine}: compare rows on both sides before it bills"
    if engine == "mysql":
        said += "; MySQL compares text without regard to case, unless the column's collation says otherwise"
    return said


def _parsed(text: str, written_in: str) -> "Expr":
    try:
        import sqlglot
        from sqlglot.errors import SqlglotError
    except ImportError:
        raise UsageError(
            f"To read SQL of a semantic layer, sqlglot is needed: `pip install 'usage-aggregator[{EXTRA}]'`."
        ) from None
    try:
        return sqlglot.parse_one(text, dialect=written_in or None)
    except SqlglotError as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"`{text}` cannot be read as SQL of {written_in or 'the standard'}: {first}."
        ) from None


def _must_be_a_value(tree: "Expr", text: str) -> None:
    """Refuse what is not a value of one row."""
    from sqlglot import exp

    for node in tree.walk():
        if isinstance(node, exp.AggFunc | exp.Window | exp.Query | exp.Subquery):
            raise UsageError(f"`{text}` looks at several rows: a usage query adds up what each row has.")
        if isinstance(node, exp.Placeholder | exp.Parameter):
            raise UsageError(f"`{text}` has a parameter, and a usage query has `:start` and `:end` only.")
        if node.comments:
            raise UsageError(
                f"`{text}` has a comment, behind which the rest of a query would be lost: leave it out."
            )
    if query_text.present(text) is not None:
        raise UsageError(f"`{text}` looks at the present instant, so a window comes to something else later.")


def _columns(
    tree: "Expr", text: str, known: Mapping[str, Column], within: Collection[str]
) -> list[tuple[Any, str]]:
    """Return the columns of an expression, each with its name in the table. Raises UsageError for one that is not there."""
    from sqlglot import exp

    found = []
    for column in tree.find_all(exp.Column):
        prefix = column.table.lower()
        if prefix and prefix not in within:
            raise UsageError(
                f"`{text}` reads another table, {column.table}: a meter reads one, and joins the customer."
            )
        if column.name.lower() not in known:
            raise UsageError(f"`{text}` names a column `{column.name}` that the table does not have.")
        found.append((column, known[column.name.lower()].name))
    return found


def _with_the_table(text: str, columns: Sequence[tuple[Any, str]]) -> str:
    """Put the table before each column; all else stays as it was written."""
    places = []
    for column, _ in columns:
        name, table = column.this.meta, column.args.get("table")
        first = table.meta["start"] if table else name["start"]
        places.append((first, name["start"]))
    for first, start in sorted(places, reverse=True):
        text = f"{text[:first]}{USED}.{text[start:]}"
    return text


def _must_mean_the_same(tree: "Expr", text: str, known: Mapping[str, Column]) -> None:
    """Refuse what another engine might take for something else."""
    from sqlglot import exp

    arithmetic = exp.Add | exp.Sub | exp.Mul
    same = (
        *(
            exp.Column,
            exp.Identifier,
            exp.Literal,
            exp.Boolean,
            exp.Null,
            exp.Paren,
            exp.And,
            exp.Or,
            exp.Not,
        ),
        *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.In, exp.Between, exp.Is, exp.Case, exp.If),
        *(exp.Coalesce, exp.Neg, exp.Add, exp.Sub, exp.Mul),
    )
    for node in tree.walk():
        what = type(node).__name__
        if not isinstance(node, same):
            raise UsageError(
                f"`{text}` is not translated: {what} may come to something else on another engine. Write that part by hand."
            )
        if isinstance(node, exp.Column):
            kind = known[node.name.lower()].kind
            alone = _is_a_truth(node)
            wanted = NUMERIC if isinstance(node.parent, arithmetic | exp.Neg) else COMPARED
            if kind not in wanted and not (kind == "other" and alone):
                no = "no number" if wanted is NUMERIC else "neither number nor text"
                raise UsageError(
                    f"`{text}` is not translated: `{node.name}` is {no}, and another engine may compare or subtract it "
                    "differently. Write that part by hand."
                )


def _is_a_truth(node: "Expr") -> bool:
    """Tell whether a column stands where only true or false can."""
    from sqlglot import exp

    if isinstance(node.parent, exp.If):
        return node.arg_key == "this"
    return isinstance(node.parent, exp.And | exp.Or | exp.Not | exp.Paren | exp.Is) or node.parent is None
