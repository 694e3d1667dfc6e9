#!/usr/bin/env bash
# PGlite 0.5.14: what becomes of a statement that takes longer than `statement_timeout`?
#
# Expected: as in the Postgres 18 that it says it is, `set statement_timeout` ends the statement with the error 57014, or,
# where WebAssembly has no signals to end it by, the setting is refused or shows as 0.
# Found: the setting is taken, `show` gives it back, and the statement runs to its end and returns its rows; `set local` in a
# transaction does the same. So whoever reads the setting back is told that a bound is kept that is not.
# (pglite.dev/docs/api names no setting without effect; postgresql.org/docs/18/runtime-config-client.html says "Abort any
# statement that takes more than the specified amount of time".)
#
# Fails if the statement is ended, or the setting is refused or shown as another.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init --yes >/dev/null
npm install --silent --no-fund --no-audit @electric-sql/pglite@0.5.14
cat >ask.mjs <<'JS'
import { PGlite } from "@electric-sql/pglite";

const db = await PGlite.create();
const value = async (text) => Object.values((await db.query(text)).rows[0])[0];
console.log((await value("select version()")).split(" on ")[0]);
const asked = async (how) => {
  await db.exec(`${how} statement_timeout = '200ms'`);
  const shown = await value("show statement_timeout");
  const began = Date.now();
  const rows = await value("select count(*) from generate_series(1, 5000000)");
  const seconds = (Date.now() - began) / 1000;
  console.log(`${how}: statement_timeout shows as ${shown}, ${rows} rows counted in ${seconds.toFixed(1)} s`);
  if (shown !== "200ms" || Number(rows) !== 5000000 || seconds < 0.3) throw new Error("not as found");
};
await asked("set");
await db.exec("reset statement_timeout; begin");
await asked("set local");
await db.exec("rollback");
console.log("as found");
JS
node ask.mjs
# Output seen:
# PostgreSQL 18.6 (PGlite 0.5.14)
# set: statement_timeout shows as 200ms, 5000000 rows counted in 4.9 s
# set local: statement_timeout shows as 200ms, 5000000 rows counted in 6.8 s
# as found
