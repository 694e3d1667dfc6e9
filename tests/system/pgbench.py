"""The proof by pgbench: its clients write, the daemon bills each minute of it, and in the end both sides agree.

    python -m tests.system.pgbench --seconds 60 --clients 4

uses the meters of config/pgbench.yaml as they are shipped; prints what it came to and exits 1 on any difference.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aggregator.core.windows import floor
from aggregator.runtime.clock import monotonic, utcnow
from tests.system.harness import KEY, MINUTE, Totals, World, differing, environment, own_world, show, until

SHIPPED = Path(__file__).parents[2] / "config" / "pgbench.yaml"

METERS = {
    "branch_turnover": "select 'cus_' || bid, sum(abs(delta)) from pgbench_history group by bid",
    "account_transactions": "select 'cus_' || aid, count(*)::numeric from pgbench_history group by aid",
}
"""The meters, and what a person would ask the table to check them: no windows, no times."""

SETTLE = "2s"
CALLS_PER_SECOND = 1_000


@dataclass
class Benched:
    """What a run came to."""

    clients: int
    pgbench_seconds: float = 0.0
    transactions: int = 0
    transactions_per_second: float = 0.0
    live_events: int = 0
    """Events that had been sent when pgbench ended: the daemon ran while it wrote."""
    events: int = 0
    corrections: int = 0
    customers_compared: int = 0
    turnover_used: Decimal = Decimal(0)
    turnover_billed: Decimal = Decimal(0)
    differences: str = ""
    double_counted: int = 0
    answered_429: int = 0
    seconds_until_equal: float = 0.0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Both sides agree about every customer of every meter."""
        return not self.differences and not self.double_counted and self.transactions > 0


def bench(
    world: World, length: tuple[str, int], clients: int, *, rate: int | None = None, patience_seconds: float
) -> Benched:
    """Let pgbench write while the daemon runs, wait until its last window is billed, and compare.

    `length` is an option of pgbench: so many seconds, or so many transactions of each client, however long they take.
    """
    assert world.programs is not None
    began, result = monotonic(), Benched(clients)
    run_program(world, "pgbench", "-i", "-q", "-s", "1", world.source_url)
    world.config = configuration(world)
    daemon = world.daemon()
    options = [
        "-n",
        "-c",
        str(clients),
        "-j",
        str(clients),
        length[0],
        str(length[1]),
        *(["-R", str(rate)] if rate else []),
    ]
    begun = monotonic()
    run_program(world, "pgbench", *options, world.source_url)
    result.live_events = world.sandbox.stats()["accepted"]
    written = monotonic()
    result.pgbench_seconds = written - begun
    until(
        lambda: settled(world),
        "the last window is billed",
        seconds=patience_seconds,
        seen=lambda: f"{differences(world)}; {daemon.err[-1000:]}",
    )
    result.seconds_until_equal = monotonic() - written
    daemon.stop()
    take_stock(world, result)
    result.seconds = monotonic() - began
    return result


def configuration(world: World) -> dict[str, Any]:
    """Return the shipped configuration, pointed at this world, at a pace that ends today."""
    text = SHIPPED.read_text()
    known = {
        "APP_DATABASE_URL": world.source_url,
        "SANDBOX_URL": world.sandbox.url,
        "START_AT": f"{floor(utcnow(), MINUTE):%Y-%m-%dT%H:%MZ}",
    }
    for name, value in known.items():
        assert f"${{{name}}}" in text, f"{SHIPPED.name} asks for {name}"
        text = text.replace(f"${{{name}}}", value)
    config = json.loads(json.dumps(YAML(typ="safe").load(text), default=str))
    assert set(config["meters"]) == set(METERS)
    assert config["sinks"]["sandbox"]["api_key"] == KEY
    config["sinks"]["sandbox"]["rate_limit"] = CALLS_PER_SECOND
    config["defaults"] |= {"delay": SETTLE, "every": "1s"}
    config["ledger"] = {"url": world.ledger_url, "lease": "5s"}
    return config  # type: ignore[no-any-return]


def run_program(world: World, program: str, *arguments: str) -> None:
    """Run one of Postgres's own programs; its session is in UTC, as config/pgbench.yaml asks."""
    assert world.programs is not None
    subprocess.run(
        [world.programs / program, *arguments],
        check=True,
        capture_output=True,
        env=environment(world.directory, PGTZ="UTC"),
    )


def sums(world: World, meter: str) -> Totals:
    """Return what the table says."""
    return {who: Decimal(much) for who, much in world.source(METERS[meter]) if much}


def differences(world: World) -> str:
    """Say in what the sandbox and the table differ; nothing if they agree."""
    apart = []
    for meter in METERS:
        used, billed = sums(world, meter), world.sandbox.totals(meter)
        if used != billed:
            apart.append(f"{meter}: {differing(used, billed)}")
    return "; ".join(apart)


def settled(world: World) -> bool:
    """Say whether every window with a row in it was read, and everything that was planned is settled."""
    [(newest,)] = world.source("select max(mtime) at time zone 'UTC' from pgbench_history")
    [(mark,)] = world.ledger(
        "select min(mark) from aggregator.meter where reread_from is null having count(*) = 2"
    ) or [(newest,)]
    return bool(mark > newest) and not world.waiting() and not differences(world)


def take_stock(world: World, result: Benched) -> None:
    """Compare the two sides to the unit, and count what it took."""
    result.differences = differences(world)
    used = {meter: sums(world, meter) for meter in METERS}
    result.customers_compared = sum(map(len, used.values()))
    result.turnover_used = sum(used["branch_turnover"].values(), Decimal(0))
    result.turnover_billed = sum(world.sandbox.totals("branch_turnover").values(), Decimal(0))
    [(result.transactions,)] = world.source("select count(*) from pgbench_history")
    result.transactions_per_second = result.transactions / result.pgbench_seconds
    [(result.events, result.corrections)] = world.ledger(
        "select count(*), count(*) filter (where revision > 0) from aggregator.event where state = 'accepted'"
    )
    stats = world.sandbox.stats()
    result.double_counted, result.answered_429 = stats["double_counted"], stats["answered_429"]


def main() -> int:
    """Run it by itself, on a Postgres of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=int, help="Transactions per second; left out: as many as it can.")
    given = parser.parse_args()
    with own_world(*METERS) as world:
        result = bench(world, ("-T", given.seconds), given.clients, rate=given.rate, patience_seconds=600)
    show(vars(result))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
