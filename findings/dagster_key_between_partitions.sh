#!/usr/bin/env bash
# Dagster 1.13.29: what does `materialize` do with a key that lies between two of an asset's hourly partitions?
#
# Expected: an error (DagsterUnknownPartitionError), since `get_partition_keys` does not list it.
# Found: `has_partition_key` says that there is such a key, and the run succeeds. It is about the NEXT partition: for
# `2026-11-20-10:30` the time window is 11:00 to 12:00, and 11:00 is what is recorded as materialized, although
# `context.partition_key` is still 10:30. So whoever names a moment within an hour is given another hour than the one it
# lies in, and nothing says so. A key that is no time, `x`, is refused.
#
# Fails if the key is refused, or stands for the hour in which it lies.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ask.py" <<'PY'
import logging
import sys

import dagster

KEY = "2026-11-20-10:30"
hours = dagster.HourlyPartitionsDefinition(start_date="2026-11-20-00:00")
seen = []


@dagster.asset(partitions_def=hours)
def usage(context: dagster.AssetExecutionContext) -> None:
    seen.append((context.partition_key, context.partition_keys, context.partition_time_window))


logging.disable()
instance = dagster.DagsterInstance.ephemeral()
done = dagster.materialize([usage], partition_key=KEY, instance=instance, raise_on_error=False)
listed, known = KEY in hours.get_partition_keys(), hours.has_partition_key(KEY)
print(f"{KEY} is listed: {listed}; has_partition_key: {known}; the run succeeds: {done.success}")
[(key, keys, window)] = seen
kept = instance.get_materialized_partitions(dagster.AssetKey("usage"))
print(f"partition_key {key}, partition_keys {keys}, from {window.start:%H:%M} to {window.end:%H:%M}, recorded: {kept}")
next_one = "2026-11-20-11:00"
assert known and not listed
as_found = done.success and key == KEY and keys == [next_one] and window.start.hour == 11 and kept == {next_one}
sys.exit(not as_found)
PY
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "dagster==1.13.29"
"$work/venv/bin/python" "$work/ask.py" 2>/dev/null
echo "as found"
# Output seen:
# 2026-11-20-10:30 is listed: False; has_partition_key: True; the run succeeds: True
# partition_key 2026-11-20-10:30, partition_keys ['2026-11-20-11:00'], from 11:00 to 12:00, recorded: {'2026-11-20-11:00'}
# as found
