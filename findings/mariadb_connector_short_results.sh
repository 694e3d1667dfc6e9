#!/usr/bin/env bash
# MariaDB Connector/Python 1.1.14 with MariaDB 10.11: does a fetch raise when the server ends a result with an error?
#
# Expected: yes. `cursor(buffered=False)` fetches rows as they come (mariadb.com/docs/connectors/mariadb-connector-python/api/
# connection), and PEP 249 has errors raised. PyMySQL and mysqlclient raise OperationalError (1969) from the fetch.
# Found: the connector returns the rows that came before, and then no more, as at the end of a whole result; `cursor.warnings` is
# 0. That max_statement_time was exceeded stands in `show warnings` alone. A buffered cursor raises. So a sum that is made by
# fetching row after row comes out too low without a word, whenever a query is stopped or a row of it cannot be computed.
# Needs mariadbd and what the connector is built with: apt-get install mariadb-server-core libmariadb-dev gcc.
# Fails if the unbuffered cursor raises, if it gives all rows, or if the buffered one does not raise.
set -euo pipefail
PATH="$PATH:/usr/sbin" command -v mariadbd >/dev/null
work=$(mktemp -d)
server=
trap 'test -z "$server" || { kill "$server"; wait "$server" || true; }; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mariadb==1.1.14
mkdir "$work/data" && as=()
if test "$(id -u)" = 0; then
  chown nobody "$work" "$work/data"
  as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
own=(/usr/sbin/mariadbd --no-defaults --datadir="$work/data" --innodb-buffer-pool-size=32M)
cd /
{ printf 'create database mysql;\nuse mysql;\n'; cat /usr/share/mysql/mysql_{system_tables,performance_tables,system_tables_data}.sql; } \
  | "${as[@]}" "${own[@]}" --bootstrap --enforce-storage-engine= 2>"$work/log"
"${as[@]}" "${own[@]}" --socket="$work/s" --skip-networking 2>>"$work/log" &
server=$!
for _ in $(seq 100); do test -S "$work/s" && break; sleep 0.1; done
"$work/venv/bin/python" - "$work/s" <<'PY'
import sys

import mariadb

ASKED = 100_000
QUERY = f"select seq, sleep(0.01) from seq_1_to_{ASKED}"
connection = mariadb.connect(unix_socket=sys.argv[1], user="root", database="mysql")
cursor = connection.cursor(buffered=False)
cursor.execute("select version()")
print(f"mariadb {mariadb.__version__}, server {cursor.fetchone()[0]}")
cursor.execute("set session max_statement_time = 0.5")
cursor.execute(QUERY)
rows = sum(1 for _ in cursor)
print(f"unbuffered: {rows} rows of {ASKED}, nothing raised, cursor.warnings = {cursor.warnings}")
cursor.execute("show warnings")
warned = cursor.fetchall()
print(f"show warnings: {warned}")
cursor.close()
try:
    raised = connection.cursor(buffered=True).execute(QUERY)
except mariadb.OperationalError as error:
    raised = error
print(f"buffered: {raised}")
assert 0 < rows < ASKED
assert [code for _, code, _ in warned] == [1969], warned
assert raised is not None
print("as found")
PY
# Output seen: mariadb 1.1.14, server 10.11.19-MariaDB-0+deb12u1; unbuffered: 43 rows of 100000, nothing raised,
# cursor.warnings = 0; show warnings: [('Error', 1969, ...)]; buffered: Query execution was interrupted (...); as found
