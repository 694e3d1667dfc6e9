#!/usr/bin/env bash
# DuckDB 2.0.1: what does `read_csv` give of a folder in which some files end their lines with \n and others with \r\n?
#
# Expected: the rows of all files, as it reads either of them alone, or an error that names the file it cannot make sense of.
# Found: all rows, as long as nothing is said of the columns. Once they are given by `columns`, the rows of the files that end lines
# as the first file of the list does: all rows of the other files are left out, without an error or a warning. So whoever names
# the types, lest they be guessed, gets a sum that is too small, and which part is missing depends on whose file comes first by
# name. With `auto_detect = false` all rows come, and so they do with `strict_mode = false`, which lets other mistakes pass.
# (duckdb.org/docs/current/data/csv/overview has `new_line` as a parameter that is detected; it does not say that the first file
# decides for all.)
#
# Fails if all rows come where some are missing today, if an error is raised, or if one of the ways around it loses rows, too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'duckdb==2.0.1'
venv/bin/python - <<'PY'
from pathlib import Path

import duckdb

Path("a.csv").write_bytes(b"customer,quantity\nada,1\nbob,2\n")
Path("b.csv").write_bytes(b"customer,quantity\r\nada,3\r\nbob,4\r\n")
GIVEN = "header = true, delim = ',', columns = {'customer': 'VARCHAR', 'quantity': 'INTEGER'}"
LOSES = {"columns given": GIVEN}
WHOLE = {
    "nothing given": "",
    "auto_detect = false": f"{GIVEN}, auto_detect = false",
    "strict_mode = false": f"{GIVEN}, strict_mode = false",
}


def total(files, options):
    """Return how many rows there are, and their sum."""
    listed = ", ".join([repr(files), *filter(None, [options])])
    return duckdb.execute(f"select count(*), sum(quantity)::int from read_csv({listed})").fetchone()


print(f"DuckDB {duckdb.__version__}")
for name, options in (LOSES | WHOLE).items():
    seen = [total(files, options) for files in (["a.csv"], ["b.csv"], ["a.csv", "b.csv"], ["b.csv", "a.csv"])]
    print(f"{name}: a {seen[0]}, b {seen[1]}, a and b {seen[2]}, b and a {seen[3]}")
    both = [(4, 10), (4, 10)] if name in WHOLE else [(2, 3), (2, 7)]
    assert seen == [(2, 3), (2, 7), *both], name
print("as found")
PY
# Output seen:
# DuckDB 2.0.1
# columns given: a (2, 3), b (2, 7), a and b (2, 3), b and a (2, 7)
# nothing given: a (2, 3), b (2, 7), a and b (4, 10), b and a (4, 10)
# auto_detect = false: a (2, 3), b (2, 7), a and b (4, 10), b and a (4, 10)
# strict_mode = false: a (2, 3), b (2, 7), a and b (4, 10), b and a (4, 10)
# as found
