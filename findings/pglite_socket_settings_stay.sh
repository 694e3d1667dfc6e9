#!/usr/bin/env bash
# PGlite 0.5.14 behind its server (@electric-sql/pglite-socket 0.2.17): what does a client find of what the one before it had
# set, and then closed its connection?
#
# Expected: nothing. In Postgres a connection is a session, and `set` and temporary tables end with it
# (postgresql.org/docs/18/sql-set.html: "SET only affects the value used by the current session").
# Found: everything. All connections are one session of the database's: a time zone that one client sets is the next one's,
# where the literal '2026-11-01 12:00' is 06:15 in UTC, and a temporary table is still there. So what a client reads depends
# on who was there before it, unless it sets all that it relies on.
#
# Fails if a new connection begins in UTC, or without the table.
set -euo pipefail
work=$(mktemp -d)
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
npm init --yes >/dev/null
npm install --silent --no-fund --no-audit @electric-sql/pglite@0.5.14 @electric-sql/pglite-socket@0.2.17 pg@8.23.1
port=$((20000 + $$ % 20000))
node_modules/.bin/pglite-server --port=$port >/dev/null &
server=$!
cat >ask.mjs <<'JS'
import pg from "pg";

const wait = () => new Promise((done) => setTimeout(done, 200));
// Each call is a client of its own, which connects, asks and goes; the server takes one at a time.
const ask = async (...texts) => {
  for (let tries = 0; ; tries++) {
    const client = new pg.Client(`postgresql://postgres@127.0.0.1:${process.argv[2]}/postgres`);
    client.on("error", () => {});
    try {
      await client.connect();
    } catch (error) {
      if (tries > 300) throw error;
      await wait();
      continue;
    }
    let found;
    for (const text of texts) found = await client.query({ text, rowMode: "array" });
    await client.end();
    return String(found.rows[0]?.[0] ?? null);
  }
};
const look = async () => [await ask("show timezone"), await ask("select to_char(timestamptz '2026-11-01 12:00'" +
  " at time zone 'UTC', 'HH24:MI')"), await ask("select to_regclass('kept')::text")];
console.log("at first: ", (await look()).join(", "));
await ask("set timezone = 'Asia/Kathmandu'", "create temporary table kept (a int)", "select 1");
const then = (await look()).join(", ");
console.log("the next client: ", then);
if (then !== "Asia/Kathmandu, 06:15, kept") throw new Error("not as found");
JS
node ask.mjs $port
echo "as found"
# Output seen:
# at first:  UTC, 12:00, null
# the next client:  Asia/Kathmandu, 06:15, kept
# as found
