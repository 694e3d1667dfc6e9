#!/usr/bin/env bash
# sqlglot 30.30.0: expressions with dates are transpiled to another engine. What it cannot say there: is that an error?
#
# Expected: with the default settings a translation means the same, or something is raised; a bound parameter keeps its name.
# Found: `at time zone` is left out for MySQL, so that the instant is another; weeks become days for MySQL and for SQLite; a
# difference of days over midnight is 0 in SQLite, where DuckDB counts borders; the parameter `:start` becomes `{start: }` for
# ClickHouse and `%(start)s` for Postgres. Nothing is raised. The first, and weeks in MySQL, leave a line in the log, and are errors
# with `unsupported_level=RAISE`; the rest leaves no trace.
# (docs.snowflake.com/en/sql-reference/functions/datediff, github.com/tobymao/sqlglot#unsupported-errors)
#
# Fails if any of these translations is right or refused, or if RAISE finds more or less than those two.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'sqlglot==30.30.0'
venv/bin/python - <<'PY'
import sqlite3

import sqlglot
from sqlglot.errors import ErrorLevel, UnsupportedError

CASES = (
    ("ts at time zone 'Europe/Paris'", "postgres", "mysql", "ts"),
    ("datediff(week, a, b)", "snowflake", "mysql", "DATEDIFF(b, a)"),
    ("datediff(week, a, b)", "snowflake", "sqlite", "CAST((JULIANDAY(b) - JULIANDAY(a)) AS INTEGER)"),
    ("date_diff('day', a, b)", "duckdb", "sqlite", "CAST((JULIANDAY(b) - JULIANDAY(a)) AS INTEGER)"),
    ("ts >= :start", "postgres", "clickhouse", "ts >= {start: }"),
    ("ts >= :start", "postgres", "postgres", "ts >= %(start)s"),
)
print(f"sqlglot {sqlglot.__version__}")
raised = 0
for text, read, write, wrong in CASES:
    [seen] = sqlglot.transpile(text, read=read, write=write)
    try:
        sqlglot.transpile(text, read=read, write=write, unsupported_level=ErrorLevel.RAISE)
    except UnsupportedError:
        raised += 1
    print(f"{read} to {write}: {text} -> {seen}")
    assert seen == wrong, (text, seen)
assert raised == 2, raised
over_midnight = f"select {CASES[3][3]} from (select '2026-11-01 23:00' as a, '2026-11-02 01:00' as b)"
[[days]] = sqlite3.connect(":memory:").execute(over_midnight).fetchall()
print(f"days from 23:00 to 01:00 in SQLite: {days}")
assert days == 0
print("as found")
PY
# Output seen:
# postgres to mysql: ts at time zone 'Europe/Paris' -> ts
# snowflake to mysql: datediff(week, a, b) -> DATEDIFF(b, a)
# snowflake to sqlite: datediff(week, a, b) -> CAST((JULIANDAY(b) - JULIANDAY(a)) AS INTEGER)
# duckdb to sqlite: date_diff('day', a, b) -> CAST((JULIANDAY(b) - JULIANDAY(a)) AS INTEGER)
# postgres to clickhouse: ts >= :start -> ts >= {start: }
# postgres to postgres: ts >= :start -> ts >= %(start)s
# days from 23:00 to 01:00 in SQLite: 0
# as found
