"""Stands in for `aggregator`: each call ends with the next of the codes that a folder holds, negative for a signal.

It writes what the command writes: a log as JSON lines to standard error, and its answer to standard output.
"""

import json
import os
import signal
import sys
from pathlib import Path

WAITS = 255
"""In place of a code: wait for a signal."""

OUTCOMES = {0: "done", 1: "failed", 3: "work_left", 4: "person_needed"}


def main() -> None:
    """Take the folder as the first argument, and note all the others there, a line for each call."""
    folder = Path(sys.argv[1])
    calls = folder / "calls"
    with calls.open("a") as noted:
        noted.write(json.dumps(sys.argv[2:]) + "\n")
    codes = json.loads((folder / "codes").read_text())
    code = codes[min(len(calls.read_text().splitlines()), len(codes)) - 1]
    print(json.dumps({"event": "started", "level": "info", "process": os.getpid()}), file=sys.stderr)
    print(json.dumps({"event": "rows_unmapped", "level": "warning"}), file=sys.stderr, flush=True)
    if code < 0:
        os.kill(os.getpid(), -code)
    if code == WAITS:
        signal.pause()
    if code == 2:
        print("aggregator: there is no such file", file=sys.stderr)
    elif "backfill" in sys.argv:
        chosen = sys.argv[sys.argv.index("backfill") + 1 : sys.argv.index("--from")]
        print(
            json.dumps(
                {"dry_run": False, "meters": [{"meter": each, "planned": 5} for each in chosen], "sinks": {}},
                indent=2,
            )
        )
    else:
        failing = {"error": "its source is away"} if code == 1 else {"meter": "stored_gb", "planned": 2}
        meters = {
            "api_requests": {"meter": "api_requests", "planned": 18, "mark": None},
            "stored_gb": failing,
        }
        print(json.dumps({"outcome": OUTCOMES.get(code), "meters": meters, "sinks": {}}))
    sys.exit(code)


if __name__ == "__main__":
    main()
