"""What it costs a daemon that sends when customers ask the API beside it.

    python -m bench.beside [--events 400000] [--customers 10000] [--rate 500] [--turns 6] [--seconds 8] [--inside]
                           [--transport stream] [--limit EVENTS_A_SECOND]

At full speed it takes all of two processors, together with Postgres and the sandbox, so that whoever does anything beside it
makes it slower. With --limit it sends as many events a second as the sink is said to take, and what counts by the clock is
whether it keeps that up.

A ledger with a backlog is sent by `aggregator run` to the sandbox, while `aggregator web` serves the same ledger from a
process of its own; with --inside the daemon serves it itself. In every other turn callers ask for one customer after the
other at that rate. Counted is what was sent in a turn, and what it took of the daemon and of its sessions in Postgres; those
of the API stand apart. By the clock the callers count as well: they are on the same processors.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from aggregator.runtime.clock import utcnow
from bench.callers import Asking, asked
from bench.outage import config
from bench.processor import tree_seconds
from bench.stand import Stand, stand

SECRET = "bench-token-secret-" + "s" * 20
LONGEST_START_SECONDS = 120.0

LISTENS = re.compile(r"""\burl"?[=:] ?"?(http://127\.0\.0\.1:\d+)""")
"""How a log says where a process listens, in either of its forms."""

AGO_HOURS = 4
"""So old is the newest window: the daemon reads none of them again, since its source has nothing."""

# One hour after the other, each with all customers.
FILL = (
    """
    insert into aggregator.slot (id, feed_id, revision, window_start, customer, quantity, total, tail)
    select n, feed.id, 1, date_trunc('hour', now()) - (%(hours)s - (n - 1) / %(customers)s) * interval '1 hour',
           'cus_' || mod(n - 1, %(customers)s), 2, 2, n
      from aggregator.feed, generate_series(1, %(events)s) as n
    """,
    """
    insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at,
                                   due_at, customer, identifier, delta, total)
    select tail, slot.id, 1, feed.sink_id, feed.id, 0, window_start, window_start + interval '5 min', now(), now(), customer,
           'bench_' || tail, 2, 2
      from aggregator.slot join aggregator.feed on feed.id = slot.feed_id order by tail
    """,
    "update aggregator.meter set mark = date_trunc('hour', now())",
    "update aggregator.feed set read_until = date_trunc('hour', now()), cleared_at = now(), cleared_by = 'bench'",
    """
    insert into aggregator.usage_day (feed_id, day, changed_at)
    select distinct feed_id, date_trunc('day', window_start, 'UTC'), now() from aggregator.slot
    """,
    "vacuum (analyze)",
)

SESSIONS = (
    "select pid, application_name from pg_stat_activity where datname = 'ledger' and pid <> pg_backend_pid()"
)

Ledger = psycopg.Connection[tuple[Any, ...]]


class Turn(NamedTuple):
    """What a turn came to: events a second, microseconds per event of the daemon and of its sessions; answers a second."""

    rate: float
    daemon: float
    ledger: float
    answers: float = 0.0
    within: float = 0.0

    @property
    def both(self) -> float:
        """What an event took of both."""
        return self.daemon + self.ledger


def main() -> None:
    """Print what each turn came to, and the ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.beside", description="Measure sending beside the API."
    )
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=500.0, help="Answers a second.")
    parser.add_argument("--turns", type=int, default=6, help="How often there is one of each.")
    parser.add_argument("--seconds", type=float, default=8.0, help="How long each lasts.")
    parser.add_argument("--transport", default="stream")
    parser.add_argument("--limit", type=int, help="The sink's rate_limit; left out: as fast as it goes.")
    parser.add_argument("--inside", action="store_true", help="Let the daemon serve the API.")
    given = parser.parse_args()
    with stand() as stood, ExitStack() as stack:
        path = configured(stood, given.transport, given.limit)
        ledger = stack.enter_context(psycopg.connect(stood.server.url("ledger"), autocommit=True))
        hours = -(-given.events // given.customers) + AGO_HOURS
        for statement in FILL:
            values = {"events": given.events, "customers": given.customers, "hours": hours}
            ledger.execute(statement.encode(), values if "%(" in statement else None)
        daemon, address = served(stack, path, inside=given.inside)
        customers = [f"cus_{number}" for number in range(given.customers)]
        asking = Asking(address, SECRET, utcnow(), customers, given.seconds, given.rate)
        turns = measure(ledger, daemon, asking, given.turns)
    limit = "at full speed" if given.limit is None else f"{given.limit:,} events a second at most"
    report(
        turns,
        f"{given.transport} {limit}, API {'in the daemon' if given.inside else 'in a process of its own'}",
    )


def configured(stood: Stand, transport: str, limit: int | None) -> Path:
    """Make an empty ledger, and return a configuration of a daemon and an API."""
    path = stood.directory / "aggregator.yaml"
    settings = config(stood, transport, limit) | {"web": {"token_secret": SECRET}}
    settings["meters"]["api_requests"]["revisit"] = "1h"
    path.write_text(json.dumps(settings))
    subprocess.run([*command("run"), "--once", "--config", str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


def command(name: str) -> list[str]:
    """Return the call of a command."""
    first = ["--first-time"] if name == "run" else []
    return [sys.executable, "-m", "aggregator", name, *first]


def served(stack: ExitStack, path: Path, *, inside: bool) -> tuple[int, str]:
    """Start the daemon and what serves the API; return the daemon's process and the address."""
    place = ["--config", str(path)]
    if inside:
        daemon, log = started(
            stack, [*command("run"), "--web", "127.0.0.1:0", *place], path.parent / "daemon"
        )
        return daemon, address_in(log)
    daemon, _ = started(stack, [*command("run"), *place], path.parent / "daemon")
    _, log = started(stack, [*command("web"), "--listen", "127.0.0.1:0", *place], path.parent / "web")
    return daemon, address_in(log)


def started(stack: ExitStack, call: Sequence[str], log: Path) -> tuple[int, Path]:
    """Run a process until the end of the stack; return it, and where it writes."""
    to = stack.enter_context(log.open("wb"))
    process = stack.enter_context(subprocess.Popen(call, stdout=to, stderr=to, env=dict(os.environ)))
    stack.callback(process.send_signal, signal.SIGTERM)
    return process.pid, log


def address_in(log: Path) -> str:
    """Wait until a process has said where it listens."""
    until = time.monotonic() + LONGEST_START_SECONDS
    while time.monotonic() < until:
        if found := LISTENS.search(log.read_text()):
            return found[1]
        time.sleep(0.1)  # noqa: TID251 - a benchmark waits
    raise SystemExit(f"nothing listens: {log.read_text()[-2000:]}")


def measure(ledger: Ledger, daemon: int, asking: Asking, turns: int) -> list[tuple[Turn, Turn]]:
    """Let the daemon send, alone and beside callers in turns. The first turn of each does not count."""
    found = []
    for number in range(turns + 1):
        with counting(ledger, daemon) as alone:
            time.sleep(asking.seconds)  # noqa: TID251 - a benchmark lets time pass
        if not waiting(ledger):
            break
        with asked(asking) as result:
            result.begun()
            with counting(ledger, daemon) as beside:
                answered = result.wait()
        if not waiting(ledger):
            break
        print(f"turn {number}: {alone[0].rate:,.0f} and {beside[0].rate:,.0f} events a second", flush=True)
        if number:
            rate = answered.answers / asking.seconds
            found.append((alone[0], beside[0]._replace(answers=rate, within=answered.within)))
    if not found:
        raise SystemExit("all is sent before the second turn is over: give more --events")
    if len(found) < turns:
        print(f"all is sent after {len(found)} turn(s): give more --events for more")
    return found


@contextmanager
def counting(ledger: Ledger, daemon: int) -> Iterator[list[Turn]]:
    """Count what is sent in the block, and what it takes."""
    found: list[Turn] = []
    left, sessions, cpu, began = waiting(ledger), theirs(ledger), tree_seconds(daemon), time.monotonic()
    yield found
    seconds, spent, after = time.monotonic() - began, tree_seconds(daemon) - cpu, theirs(ledger)
    sent = left - waiting(ledger)
    if sent <= 0:
        raise SystemExit("nothing is sent: the daemon's log says why")
    postgres = sum(after[pid] - sessions.get(pid, 0.0) for pid in after)
    found.append(Turn(sent / seconds, 1e6 * spent / sent, 1e6 * postgres / sent))


def waiting(ledger: Ledger) -> int:
    """Return how many events wait."""
    row = ledger.execute("select count(*) from aggregator.outbox").fetchone()
    assert row is not None
    return int(row[0])


def theirs(ledger: Ledger) -> dict[int, float]:
    """Return the seconds of processor time of each of the daemon's sessions."""
    found = {}
    for pid, name in ledger.execute(SESSIONS).fetchall():
        if "web" not in name:
            found[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    return found


def report(turns: Sequence[tuple[Turn, Turn]], what: str) -> None:
    """Print the medians of both, and of the ratios turn by turn."""
    for name, those in (
        ("alone", [alone for alone, _ in turns]),
        ("beside", [beside for _, beside in turns]),
    ):
        rate, daemon, postgres, answers, within = (
            statistics.median(column) for column in zip(*those, strict=True)
        )
        asked_for = f"; {answers:.0f} answers a second, 95 % within {1000 * within:.0f} ms" if answers else ""
        print(
            f"{name:<7} {rate:7,.0f} events a second; processor time per event {daemon:.0f} us daemon, "
            f"{postgres:.0f} us its sessions{asked_for}"
        )
    for name, ratios in (
        ("processor time per event", [beside.both / alone.both for alone, beside in turns]),
        ("seconds per event", [alone.rate / beside.rate for alone, beside in turns]),
    ):
        print(
            f"{what}: {name} beside, as times of alone: median {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} turns)"
        )


if __name__ == "__main__":
    main()
