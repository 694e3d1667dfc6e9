#!/usr/bin/env bash
# pyarrow 26.0.1: how does it write a decimal(38, 18) as text, for example into a CSV of usage?
#
# Expected: in plain digits, as Postgres and DuckDB write a number of such a type, whatever it is.
# Found: zero is `0E-18`, and what is smaller than a millionth has an exponent, too; anything larger has all of its 18
# decimals. So within one column zero is written unlike its neighbours. Whoever compares texts, cuts zeros off their ends, or
# hands the file to an importer that takes digits only, meets it at the first customer without usage. (arrow.apache.org/docs/cpp/api/utilities.html: Decimal128::ToString names scientific notation "if
# the adjusted exponent is less than -6", for C++; the Python pages on casting and on CSV do not say so.) DuckDB 2.0.1 writes
# the same Parquet file's values in plain digits.
#
# Fails if pyarrow writes zero in plain digits, or DuckDB does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 duckdb==2.0.1
cd "$work"
"$work/env/bin/python" - <<'PY'
from decimal import Decimal

import duckdb
import pyarrow as pa
from pyarrow import csv, parquet

usage = [Decimal(text) for text in ("0", "2.5", "0.000001", "0.0000001", "1E-18")]
table = pa.table({"quantity": pa.array(usage, pa.decimal128(38, 18))})
csv.write_csv(table, "usage.csv")
parquet.write_table(table, "usage.parquet")
with open("usage.csv") as file:
    by_arrow = file.read().split()[1:]
by_duckdb = [row[0] for row in duckdb.sql("select quantity::varchar from 'usage.parquet'").fetchall()]
for number, one, other in zip(usage, by_arrow, by_duckdb, strict=True):
    print(f"{number}: {one}  {other}")
assert by_arrow[0] == "0E-18" and "E" in by_arrow[3] and by_arrow[4] == "1E-18"
assert by_arrow[1:3] == ["2.500000000000000000", "0.000001000000000000"]
assert not any("E" in text for text in by_duckdb)
print("as found")
PY
# Output seen (the number, pyarrow's CSV, DuckDB):
# 0: 0E-18  0.000000000000000000
# 2.5: 2.500000000000000000  2.500000000000000000
# 0.000001: 0.000001000000000000  0.000001000000000000
# 1E-7: 1.00000000000E-7  0.000000100000000000
# 1E-18: 1E-18  0.000000000000000001
# as found
