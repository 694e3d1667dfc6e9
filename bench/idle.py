"""What a daemon costs that has nothing to do: its CPU, and the ledger's, with many meters of which nothing is due.

    python -m bench.idle [--meters 1000] [--every 5m] [--cycles 1] [--before 2] [--daemons 1] [--against DIR]

The daemon is `aggregator run`, a process of its own, over one source and one sink. Each meter has had usage, which is read
and sent before anything is measured; then so many cycles of alarms pass, since the first rounds after a start wait for each
other's transactions. What is measured is whole cycles in which every alarm rings in vain, and whatever polls. It says by how
many passes and by how many leases the ledger was written meanwhile.

With `--daemons 2`, two of them are on one ledger, and what they cost is added up.

With `--against`, another checkout is measured first, by the same files and for as long.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import psycopg

from aggregator.config.durations import parse_duration
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from bench.checkouts import HOME, Checkout, checkout, python_of
from bench.processor import tree_seconds
from bench.stand import Stand, first_day, stand

KEY = "sk_test_bench"
SETTLE_SECONDS = 10.0
LOOK_SECONDS = 0.5
LONGEST_START_SECONDS = 300.0


class Idle(NamedTuple):
    """Parts of one core, and how often threads of the daemon were woken each second."""

    daemon: float
    ledger: float
    wakes_per_second: float
    leases: int
    """How many rounds of a meter took its lease."""
    looked_at: int
    """Of how many meters the ledger says that they were looked at in the last cycle."""


def measure(side: Checkout, meters: int, every: str, before: int, cycles: int, daemons: int) -> Idle:
    """Start daemons with so many meters, wait until they have nothing to do, and watch them for some cycles of alarms."""
    period = parse_duration(every).total_seconds()
    with stand() as stood:
        prepare(stood.server, meters)
        make_stripe_meters(stood.sandbox, meters)
        path = stood.directory / "aggregator.yaml"
        path.write_text(json.dumps(config(stood, meters, every)))
        url = stood.server.url("ledger")
        with ExitStack() as stack:
            ledger = stack.enter_context(psycopg.connect(url, autocommit=True))
            processes = [stack.enter_context(daemon(side, path, 1))]
            wait_until_idle(processes[0], ledger, meters)
            processes += [stack.enter_context(daemon(side, path, number + 1)) for number in range(1, daemons)]
            time.sleep(before * period)  # noqa: TID251 - a benchmark lets time pass
            pids = [process.pid for process in processes]
            return watch(pids, stood.processes["ledger"], ledger, cycles, period)


def prepare(server: EmbeddedPostgres, meters: int) -> None:
    """Make a ledger to fill, and an application database in which each meter has had usage for three hours."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database ledger")
        connection.execute("create database app")
    with psycopg.connect(server.url("app"), autocommit=True) as connection:
        connection.execute("create table usage (kind int, customer text, used_at timestamptz)")
        connection.execute(
            """
            insert into usage
            select kind, 'cus_' || kind, date_trunc('hour', now()) - back * interval '1 hour' + interval '5 min'
              from generate_series(1, %s) as kind, generate_series(1, 3) as back
            """,
            (meters,),
        )
        connection.execute("create index on usage (kind, used_at)")
        connection.execute("analyze usage")


def make_stripe_meters(sandbox: str, meters: int) -> None:
    """Give the sandbox a Stripe meter for each of ours."""
    for kind in range(1, meters + 1):
        name = f"meter_{kind}"
        form = {"display_name": name, "event_name": name, "default_aggregation[formula]": "sum"}
        asked = Request(
            f"{sandbox}/v1/billing/meters", urlencode(form).encode(), {"Authorization": f"Bearer {KEY}"}
        )
        with urlopen(asked) as answer:
            answer.read()


def config(stood: Stand, meters: int, every: str) -> dict[str, Any]:
    """Return a configuration with that many meters."""
    server = stood.server
    return {
        "ledger": {"url": server.url("ledger")},
        "sources": {"app": {"url": server.url("app")}},
        "sinks": {
            "far": {
                "type": "stripe",
                "api_key": KEY,
                "mode": "test",
                "api_base": stood.sandbox,
                "reports": {"poll": "off"},
            }
        },
        "defaults": {
            "source": "app",
            "sinks": ["far"],
            "window": "1h",
            "start_at": first_day(server),
            "delay": "0s",
            "revisit": "3d",
            "every": every,
        },
        "meters": {
            f"meter_{kind}": {
                "query": "select customer, count(*) as quantity, max(used_at) as at, date_trunc('hour', used_at) as "
                f'"window" from usage where kind = {kind} and used_at >= :start and used_at < :end group by 1, 4'
            }
            for kind in range(1, meters + 1)
        },
    }


@contextmanager
def daemon(side: Checkout, path: Path, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon of a checkout; if something breaks, show the end of its log."""
    log = path.with_suffix(f".{number}.log")
    call = [str(python_of(side.root)), "-m", "aggregator", "run", "--first-time", "--config", str(path)]
    with (
        log.open("wb") as told,
        subprocess.Popen(call, stdout=told, stderr=told, cwd=side.place, env=side.environment) as process,
    ):
        try:
            yield process
        except BaseException:
            sys.stderr.write(log.read_text()[-3000:])
            raise
        finally:
            process.terminate()


def wait_until_idle(
    process: subprocess.Popen[bytes], ledger: psycopg.Connection[tuple[Any, ...]], meters: int
) -> None:
    """Wait until every meter has been read and nothing is to be sent any more."""
    until = time.monotonic() + LONGEST_START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            row = ledger.execute(
                """
                select (select count(*) from aggregator.meter where mark > start_at and lease_owner is null),
                       (select count(*) from aggregator.outbox)
                """
            ).fetchone()
        except psycopg.errors.UndefinedTable:
            row = None
        if row == (meters, 0):
            time.sleep(SETTLE_SECONDS)  # noqa: TID251 - a benchmark lets time pass
            return
        time.sleep(LOOK_SECONDS)  # noqa: TID251 - a benchmark lets time pass
    raise SystemExit(f"The daemon did not become idle: {row}.")


def watch(
    pids: Sequence[int],
    postmaster: int,
    ledger: psycopg.Connection[tuple[Any, ...]],
    cycles: int,
    period: float,
) -> Idle:
    """Let time pass; return what it cost."""
    leases = "select sum(epoch)::int from aggregator.meter"
    looked_at = (
        "select count(distinct meter_id) from aggregator.pass where started_at > now() - %s * interval '1 s'"
    )
    [(given,)] = ledger.execute(leases)
    began = time.monotonic()
    daemon_before, ledger_before = sum(map(tree_seconds, pids)), tree_seconds(postmaster)
    wakes_before = sum(map(wakes, pids))
    time.sleep(cycles * period)  # noqa: TID251 - a benchmark lets time pass
    took = time.monotonic() - began
    used = sum(map(tree_seconds, pids)) - daemon_before
    ledgers = tree_seconds(postmaster) - ledger_before
    woken = sum(map(wakes, pids)) - wakes_before
    [(given_since,)] = ledger.execute(leases)
    [(looked,)] = ledger.execute(looked_at, [period])
    return Idle(used / took, ledgers / took, woken / took, given_since - given, looked)


def wakes(pid: int) -> int:
    """Return how often threads of a process went to sleep by themselves."""
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        line = next(line for line in status.read_text().splitlines() if line.startswith("voluntary"))
        count += int(line.split()[1])
    return count


def main() -> None:
    """Print what it costs."""
    parser = argparse.ArgumentParser(
        prog="bench.idle", description="What a daemon costs that has nothing to do."
    )
    parser.add_argument("--meters", type=int, default=1_000)
    parser.add_argument("--every", default="5m", help="How often each meter is looked at (default 5m).")
    parser.add_argument("--before", type=int, default=2, help="Cycles that pass before any is measured.")
    parser.add_argument("--cycles", type=int, default=1, help="Cycles that are measured.")
    parser.add_argument("--daemons", type=int, default=1, help="How many there are on one ledger.")
    parser.add_argument("--against", type=Path, help="Another checkout, measured first.")
    given = parser.parse_args()
    for root in filter(None, (given.against, HOME)):
        with checkout(root) as side:
            found = measure(side, given.meters, given.every, given.before, given.cycles, given.daemons)
        print(
            f"{side.root}: {given.meters:,} meters, {given.cycles} cycle(s) of {given.every} with nothing due: "
            f"{given.daemons} daemon(s) {found.daemon:.2%} of a core, ledger and source {found.ledger:.2%}, "
            f"{found.wakes_per_second:.0f} wakes/s; {found.leases:,} leases, {found.looked_at:,} meters looked at in the "
            "last cycle",
            flush=True,
        )


if __name__ == "__main__":
    main()
