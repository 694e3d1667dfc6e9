#!/usr/bin/env bash
# polars 2.1.0, pyarrow 26.0.1 and DuckDB 2.0.1: what is the sum of an integer column of a Parquet file?
#
# Expected: the same in all three, or an error: where small integers are widened before they are summed, all of them are.
# Found: pyarrow and DuckDB sum 32-bit integers, which is what an `integer` column of Postgres becomes in a file, in 64 bits or
# more. polars widens those of 8 and 16 bits and leaves those of 32 as they are: a customer's sum comes out negative, or as a
# smaller number that looks right, without a word. The same usage in a column of 16 bits is summed correctly, so that the wider
# type is the one that breaks. All of its ways do it: a column, by group, lazy, streaming, SQL.
# (docs.pola.rs/api/python/stable/reference/expressions/api/polars.Expr.sum.html names the types that are widened.)
#
# Fails if polars sums 32 bits correctly or raises, if it no longer sums 16 bits correctly, or if another one is wrong, too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'polars==2.1.0' 'pyarrow==26.0.1' 'duckdb==2.0.1'
venv/bin/python - <<'PY'
import duckdb
import polars
import pyarrow
import pyarrow.parquet

customer = ["negative"] * 2 + ["plausible"] * 3
wide = pyarrow.array([1_500_000_000] * 5, pyarrow.int32())
small = pyarrow.array([30_000] * 5, pyarrow.int16())
pyarrow.parquet.write_table(pyarrow.table({"customer": customer, "wide": wide, "small": small}), "usage.parquet")

SQL = "select customer, sum(wide), sum(small) from usage group by customer"
table = pyarrow.parquet.read_table("usage.parquet").group_by("customer").aggregate([("wide", "sum"), ("small", "sum")])
frame, lazy = polars.read_parquet("usage.parquet"), polars.scan_parquet("usage.parquet")
sums = polars.col("wide", "small").sum()
found = {
    "pyarrow": [tuple(row.values()) for row in table.select(["customer", "wide_sum", "small_sum"]).to_pylist()],
    "DuckDB": duckdb.sql(SQL.replace("usage", "'usage.parquet'")).fetchall(),
    "polars": frame.group_by("customer").agg(sums).rows(),
    "polars, streaming": lazy.group_by("customer").agg(sums).collect(engine="streaming").rows(),
    "polars, SQL": polars.SQLContext(usage=frame).execute(SQL).collect().rows(),
    "polars, a column": [(name, *part.select(sums).row(0)) for (name,), part in frame.group_by("customer")],
}
print(f"polars {polars.__version__}, pyarrow {pyarrow.__version__}, DuckDB {duckdb.__version__}")
right = [("negative", 3_000_000_000, 60_000), ("plausible", 4_500_000_000, 90_000)]
round_again = [("negative", -1_294_967_296, 60_000), ("plausible", 205_032_704, 90_000)]
for who, rows in found.items():
    print(f"{who}: {sorted(rows)}")
    assert sorted(rows) == (round_again if who.startswith("polars") else right), who
print("as found")
PY
