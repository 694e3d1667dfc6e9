#!/usr/bin/env bash
# DuckDB 1.5.6: what does `sum` of decimals give once it no longer fits in 38 digits?
#
# Expected: "Overflow in SUM of DECIMAL", or a DOUBLE. `+` on the same two values is an error, `sum` of HUGEINT is one, and
# the type that `sum` says it returns, DECIMAL(38, 30), cannot hold more than 99,999,999.
# Found: in 1.5.6, up to 2^127 it goes beyond 38 digits, and further on it wraps around: two rows of 90 million come to minus
# 160 million, without a word. If all rows are one constant (`from range(3)`), it is an error again: that sum is made by a
# multiplication, which is checked. 2.0.1 checks both. 30 places are no rarity where prices are per token.
# (duckdb.org/docs/stable/sql/data_types/numeric, "Fixed-Point Decimals".)
#
# Fails if 1.5.6 ends in an error or gives 180 million, or if 2.0.1 gives a number.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ask.py" <<'PY'
import sys

import duckdb

ROWS = "(select cast(90000000 as decimal(38, 30)) as amount union all select cast(90000000 as decimal(38, 30)))"
QUERIES = {
    "sum of two rows": f"select sum(amount) from {ROWS}",
    "one + one": "select cast(90000000 as decimal(38, 30)) + cast(90000000 as decimal(38, 30))",
    "sum of a constant": "select sum(cast(90000000 as decimal(38, 30))) from range(2)",
}


def answer(query: str) -> str:
    try:
        return str(duckdb.sql(query).fetchall()[0][0])
    except duckdb.Error as error:
        return type(error).__name__


found = {what: answer(query) for what, query in QUERIES.items()}
print(f"DuckDB {duckdb.__version__}: {found}")
wraps = duckdb.__version__ == "1.5.6"
assert found["sum of two rows"].startswith("-160282366.92") if wraps else found["sum of two rows"].endswith("Exception")
assert all(found[each].endswith("Exception") for each in ("one + one", "sum of a constant")), found
PY
for version in 1.5.6 2.0.1; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check "duckdb==$version"
  "$work/$version/bin/python" "$work/ask.py"
done
echo "as found"
# Output seen:
# DuckDB 1.5.6: {'sum of two rows': '-160282366.920938463463374607431768211456', 'one + one': 'OutOfRangeException', 'sum of a constant': 'OutOfRangeException'}
# DuckDB 2.0.1: {'sum of two rows': 'OutOfRangeException', 'one + one': 'OutOfRangeException', 'sum of a constant': 'OutOfRangeException'}
# as found
