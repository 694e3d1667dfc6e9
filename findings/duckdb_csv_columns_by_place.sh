#!/usr/bin/env bash
# DuckDB 2.0.1: `read_csv` is given `columns` with names and types, and `header = true`. Whose names count?
#
# Expected: a column goes by its name: the header says where it is, or a header that has other names in its place is refused.
# Found: the header is skipped and never compared. The second file of the folder has its columns in another order, and its numbers are
# read as the customers and its customers as the numbers, wherever the text allows it: no error, and the file is right by itself if
# nothing is said of its types. `union_by_name = true` changes nothing, although each file's header is there. With `types` instead
# of `columns`, of which the documentation says that they may be named, and `union_by_name`, columns go by their names.
# (duckdb.org/docs/current/data/csv/overview: `columns` gives "column names and types"; nothing is said of the header's.)
#
# Fails if columns go by their names, if an error is raised, or if `types` no longer does what it does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'duckdb==2.0.1'
venv/bin/python - <<'PY'
from pathlib import Path

import duckdb

Path("a.csv").write_text("customer,quantity\n7001,1\n7002,2\n")
Path("b.csv").write_text("quantity,customer\n3,7001\n4,7002\n")
TYPES = "{'customer': 'VARCHAR', 'quantity': 'INTEGER'}"
WAYS = {
    "columns": f"columns = {TYPES}, header = true",
    "columns, union_by_name": f"columns = {TYPES}, header = true, union_by_name = true",
    "types, union_by_name": f"types = {TYPES}, header = true, union_by_name = true",
}
print(f"DuckDB {duckdb.__version__}")
for name, options in WAYS.items():
    asked = f"select customer, sum(quantity)::int from read_csv(['a.csv', 'b.csv'], {options}) group by 1 order by 1"
    seen = duckdb.sql(asked).fetchall()
    print(f"{name}: {seen}")
    by_place = [("3", 7001), ("4", 7002), ("7001", 1), ("7002", 2)]
    assert seen == ([("7001", 4), ("7002", 6)] if name.startswith("types") else by_place), name
print("as found")
PY
# Output seen:
# DuckDB 2.0.1
# columns: [('3', 7001), ('4', 7002), ('7001', 1), ('7002', 2)]
# columns, union_by_name: [('3', 7001), ('4', 7002), ('7001', 1), ('7002', 2)]
# types, union_by_name: [('7001', 4), ('7002', 6)]
# as found
