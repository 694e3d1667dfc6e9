"""Real processes for the system tests: a sandbox, daemons and commands, and one patient way to wait for what they do.

Rules
- Nothing here is faked: Python processes, Postgres, signals, HTTP over loopback.
- Waiting is for a condition, bounded, and in one place: `until`. A wait that fails says what it saw last.
- Every process is ended by its own id when its test ends, whatever happened.
"""

import datetime as dt
import json
import os
import signal
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Self, TypeVar

import psycopg
from sqlalchemy import make_url

from aggregator.core.windows import floor
from aggregator.runtime.clock import monotonic, utcnow
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.sandbox import ControlClient
from tests.system.starter import start

Found = TypeVar("Found")
Totals = dict[str, Decimal]
Connection = psycopg.Connection[tuple[Any, ...]]

PATIENCE_SECONDS = 120.0
"""Longer than anything here takes on two cores that ten others use as well: a wait that comes true costs none of it."""

POLL_SECONDS = 0.1
COMMAND_SECONDS = 240.0

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)

METER, OTHER_METER = "requests", "more"
KEY = "sk_test_sandbox"

QUERY = """
select customer, sum(quantity) as quantity, max(used_at) as at, date_trunc('minute', used_at) as window
  from usage
 where used_at >= :start and used_at < :end
 group by 1, 4
"""

SLOW_QUERY = QUERY.replace("where", "where (select pg_sleep({seconds})) is not null and")
"""The same, but its answer takes a while: time in which something can happen to who asked."""

WHILE_LOCKED = "case when pg_try_advisory_xact_lock_shared(7) then 0 else {seconds} end"
LOCK, UNLOCK = "select pg_advisory_lock(7)", "select pg_advisory_unlock(7)"
"""A while for as long as the test holds a lock in the source."""

CREATE_USAGE = """
create table usage (
    id       bigint generated always as identity primary key,
    customer text,
    quantity numeric not null,
    used_at  timestamptz not null
);
create index on usage (used_at);
do $$ begin create role usage_reader login; exception when duplicate_object or unique_violation then null; end $$;
grant select on usage to usage_reader;
grant pg_read_all_stats to usage_reader;
"""
"""What is billed, and a role that may read it and nothing else."""


def until(
    condition: Callable[[], Found],
    what: str,
    *,
    seconds: float = PATIENCE_SECONDS,
    seen: Callable[[], object] = lambda: "",
) -> Found:
    """Ask again and again until the answer is true, and return it; fail with `what` and what was `seen` last."""
    pause, end = threading.Event(), monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}; {seen()}")
        pause.wait(POLL_SECONDS)


def wait(seconds: float) -> None:
    """Let time pass where the passing of time is the point, as before a kill at a random moment."""
    threading.Event().wait(seconds)


def environment(directory: Path, **more: str) -> dict[str, str]:
    """Return what a process is started with: nothing of whoever runs the tests but where programs are."""
    known = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "TMPDIR") if name in os.environ
    }
    return {**known, "HOME": str(directory), "PYTHONUNBUFFERED": "1", **more}


class Process:
    """One process of ours; what it says goes to files."""

    def __init__(self, module: str, arguments: Sequence[str], directory: Path, name: str, **env: str) -> None:
        self.name = name
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = start(module, arguments, directory, environment(directory, **env), out, err)
        self.pid = self._process.pid

    @property
    def out(self) -> str:
        """What it wrote to standard output so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it wrote to standard error so far."""
        return self._err.read_text()

    @property
    def code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def log(self, event: str | None = None, **values: object) -> list[dict[str, Any]]:
        """Return the complete lines of its log, those of one event if one is named, with these values."""
        whole, _, _ = self.err.rpartition("\n")
        lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines() if line]
        return [
            line
            for line in lines
            if event in (None, line["event"]) and all(line.get(key) == want for key, want in values.items())
        ]

    def logged(self, event: str, *, seconds: float = PATIENCE_SECONDS, **values: object) -> dict[str, Any]:
        """Wait for a line in its log, and return it."""
        return until(
            lambda: self.log(event, **values),
            f"{self.name} logs {event} {values or ''}",
            seconds=seconds,
            seen=lambda: f"code {self.code}, last of the log: {self.err[-2000:]}",
        )[0]

    def tell(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def ended(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until it has ended, and return how."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not within {seconds:g} s: {self.name} ends; {self.err[-2000:]}") from None

    def kill(self) -> None:
        """End it without a chance to do anything more."""
        self.tell(signal.SIGKILL)
        self._process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait until it has."""
        self.tell(number)
        return self.ended()

    def clear_away(self) -> None:
        """End it, if it has not ended by itself."""
        if self.code is None:
            self.kill()


class Ran(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed for programs."""
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """All that it said."""
        return self.out + self.err


class Sandbox(ControlClient):
    """A sandbox process, and its control calls as methods."""

    def __init__(self, process: Process, url: str) -> None:
        super().__init__(url)
        self.process = process


@contextmanager
def sandbox_process(directory: Path, *options: str) -> Iterator[Sandbox]:
    """Run a sandbox on a free port for the length of a `with` block."""
    process = Process("aggregator.sandbox", ["--port", "0", *options], directory, "sandbox")
    try:
        told = until(
            lambda: process.out, "the sandbox says where it is", seen=lambda: process.err
        ).splitlines()[0]
        yield Sandbox(process, next(word for word in told.split() if word.startswith("http")))
    finally:
        process.clear_away()


def as_reader(url: str) -> str:
    """Return the same database's URL for the role that may only read."""
    return make_url(url).set(username="usage_reader").render_as_string(hide_password=False)


class World:
    """One application database, one ledger, one sandbox, and processes of ours between them.

    `config` is the configuration as a dictionary; change it, and `write` it again.
    """

    def __init__(self, directory: Path, source_url: str, ledger_url: str | None, sandbox: Sandbox) -> None:
        self.directory = directory
        self.source_url = source_url
        self.ledger_url = ledger_url
        self.sandbox = sandbox
        self.programs: Path | None = None
        self.start = floor(utcnow(), MINUTE) - 100 * MINUTE
        self._processes = ExitStack()
        self._connections: dict[tuple[str, int], Connection] = {}
        self._daemons: list[Process] = []
        self._count = 0
        self.config: dict[str, Any] = {
            # Other tests' transactions in the shared server would hold windows back: who tests that asks for it.
            "sources": {"app": {"url": as_reader(source_url), "wait_for_writers": "0s"}},
            "sinks": {
                "stripe": {
                    "type": "stripe",
                    "api_key": KEY,
                    "mode": "test",
                    "api_base": sandbox.url,
                    "rate_limit": 1000,
                    "timeout": "1s",
                }
            },
            "meters": {
                METER: {
                    "source": "app",
                    "sinks": ["stripe"],
                    "window": "1m",
                    "start_at": f"{self.start:%Y-%m-%dT%H:%MZ}",
                    "delay": "0s",
                    "revisit": "1d",
                    "every": "1s",
                    "query": QUERY,
                }
            },
        }
        self.config["ledger"] = {"lease": "5s"} | ({} if ledger_url is None else {"url": ledger_url})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()
        for connection in self._connections.values():
            connection.close()

    @property
    def meter(self) -> dict[str, Any]:
        """The configuration of the one meter."""
        return self.config["meters"][METER]  # type: ignore[no-any-return]

    @property
    def sink(self) -> dict[str, Any]:
        """The configuration of the one sink."""
        return self.config["sinks"]["stripe"]  # type: ignore[no-any-return]

    def write(self) -> Path:
        """Write the configuration; JSON is YAML, too."""
        path = self.directory / "aggregator.yaml"
        path.write_text(json.dumps(self.config, indent=2))
        return path

    def create_usage(self) -> None:
        """Give the application database its table."""
        self.source(CREATE_USAGE)

    def use(self, customer: str | None, quantity: int | Decimal, minute: int, second: int = 30) -> None:
        """Let a customer use something in the n-th minute."""
        at = self.start + minute * MINUTE + dt.timedelta(seconds=second)
        self.source(
            "insert into usage (customer, quantity, used_at) values (%s, %s, %s)", customer, quantity, at
        )

    def use_much(self, customers: int, minutes: int) -> None:
        """Let many customers use something in every one of the first minutes."""
        self.source(
            """
            insert into usage (customer, quantity, used_at)
            select 'cus_' || who, 1 + (who * 7 + minute) %% 9, %s + minute * interval '1 minute' + interval '20 s'
              from generate_series(1, %s) as who, generate_series(0, %s - 1) as minute
            """,
            self.start,
            customers,
            minutes,
        )

    # What is in the databases and in the sandbox

    def source(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask or change the application database."""
        return self._rows(self.source_url, statement, values)

    def ledger(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger."""
        assert self.ledger_url is not None
        return self._rows(self.ledger_url, statement, values)

    def one(self, statement: str, *values: Any) -> Any:
        """Ask the ledger for one value."""
        [(value,)] = self.ledger(statement, *values)
        return value

    def used(self) -> Totals:
        """Return what each customer used, as the application database says."""
        return dict(self.source("select customer, sum(quantity) from usage where customer <> '' group by 1"))

    def billed(self) -> Totals:
        """Return what each customer is billed, as the sandbox says."""
        return self.sandbox.totals(METER)

    def sent(self) -> int:
        """Return how many calls brought an event to the sandbox, one that it had already included."""
        stats = self.sandbox.stats()
        return int(stats["accepted"] + stats["duplicates_refused"])

    def waiting(self) -> int:
        """Return how many events are still to be sent, or being sent."""
        return int(self.one("select count(*) from aggregator.outbox"))

    def _rows(self, url: str, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Ask on a connection that each thread keeps to itself: conditions are asked for many times a second."""
        key = url, threading.get_ident()
        if key not in self._connections:
            self._connections[key] = psycopg.connect(url, autocommit=True)
        done = self._connections[key].execute(statement, values or None)
        return done.fetchall() if done.description else []

    # Processes

    def start_process(self, *arguments: str, name: str = "", **env: str) -> Process:
        """Start one of our commands, to be ended with the world."""
        self._count += 1
        name = f"{name or arguments[0]}-{self._count}"
        process = Process("aggregator", arguments, self.directory, name, **env)
        self._processes.callback(process.clear_away)
        return process

    def daemon(self, *, started: bool = True) -> Process:
        """Start a daemon on the configuration as it is now; wait until it says so unless told otherwise."""
        self.write()
        process = self.start_process("run", "--verbose", name="daemon")
        self._daemons.append(process)
        if started:
            process.logged("daemon_started")
        return process

    def run(self, *arguments: str, **env: str) -> Ran:
        """Run one of our commands to its end. Whatever happens, nobody is shown a traceback."""
        process = self.start_process(*arguments, **env)
        code = process.ended(COMMAND_SECONDS)
        ran = Ran(code, process.out, process.err)
        assert "Traceback" not in ran.said, ran.said
        return ran

    def once(self) -> Ran:
        """Make one pass of everything."""
        self.write()
        return self.run("run", "--once", "--json")

    def quiet(self, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until what is billed is what was used, and nothing is left to be sent."""

        def settled() -> bool:
            return self.billed() == self.used() and not self.waiting()

        until(settled, "what is billed is what was used", seconds=seconds, seen=self._difference)

    def quiet_by_passes(self) -> None:
        """The same where no daemon runs: pass after pass, since what was turned away waits a second before it goes again."""
        until(lambda: self.once().code == 0, "a pass leaves nothing to be sent", seen=self._difference)
        self.quiet()

    def _difference(self) -> str:
        logs = "".join(f"\n{each.name}, code {each.code}: {each.err[-3000:]}" for each in self._daemons)
        return f"waiting {self.waiting()}, {differing(self.used(), self.billed())}{logs}"


def differing(used: Mapping[str, Decimal], billed: Mapping[str, Decimal]) -> str:
    """Say for whom two totals differ, and by how much."""
    zero = Decimal(0)
    apart = {
        who: f"used {used.get(who, zero)}, billed {billed.get(who, zero)}"
        for who in sorted(used.keys() | billed.keys())
        if used.get(who, zero) != billed.get(who, zero)
    }
    return f"{len(apart)} customer(s) differ: {dict(list(apart.items())[:5])}"


class PlannedUsage(ABC):
    """Works on a thread of its own, beside what the `with` block does, until that ends or `stop` is called."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=type(self).__name__.lower(), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Do no more, and wait for what is being done."""
        self._stopping.set()
        self._thread.join()

    @abstractmethod
    def _work(self) -> None:
        """Do it, until `_stopping` is set."""


class Load(PlannedUsage):
    """Writes usage on a thread of its own: mostly into windows that were billed already, some into the newest.

    Nothing lands in a minute that begins after `newest`, so that the last window can close while it still writes.
    """

    def __init__(self, world: World, *, customers: int, rows_per_second: int, newest: dt.datetime, seed: int):
        super().__init__()
        self._world = world
        self._customers = customers
        self._rows_per_second = rows_per_second
        self._newest = newest
        self._random = Random(seed)

    def _work(self) -> None:
        share = 0.1
        with psycopg.connect(self._world.source_url, autocommit=True) as connection:
            while not self._stopping.wait(share):
                rows = [self._row() for _ in range(round(self._rows_per_second * share))]
                with connection.transaction():
                    connection.cursor().executemany(
                        "insert into usage (customer, quantity, used_at) values (%s, %s, %s)", rows
                    )

    def _row(self) -> tuple[str, int, dt.datetime]:
        newest = min(utcnow(), self._newest)
        back = (
            newest - self._world.start
            if self._random.random() < 0.8
            else min(2 * MINUTE, newest - self._world.start)
        )
        at = newest - back * self._random.random()
        return f"cus_{self._random.randrange(self._customers)}", self._random.randint(1, 9), at


class Watch(PlannedUsage):
    """Looks at the sandbox all the time: at no moment may it hold more than the source, which only grows, says afterwards.

    Keeps every accepted event, so that it also sees an identifier that comes with two contents.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.slots: dict[tuple[str, int], Decimal] = {}
        self.contents: dict[str, tuple[object, ...]] = {}
        self.seen = 0
        self.looks = 0
        self.wrong: list[str] = []
        self._looking = threading.Lock()

    def look(self) -> None:
        """Take in the events that are new, and compare with the source as it is after that."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        for event in self._world.sandbox.events(offset=self.seen, limit=100_000):
            self.seen += 1
            self._take(event)
        totals = self._world.billed()
        used = {(who, minute): much for who, minute, much in self._world.source(USED_BY_SLOT)}
        for slot, much in self.slots.items():
            if much > used.get(slot, Decimal(0)):
                self.wrong.append(f"slot {slot} is billed {much}, used {used.get(slot)}")
        by_customer: Totals = {}
        for (who, _), much in used.items():
            by_customer[who] = by_customer.get(who, Decimal(0)) + much
        for who, much in totals.items():
            if much > by_customer.get(who, Decimal(0)):
                self.wrong.append(f"customer {who} is billed {much}, used {by_customer.get(who)}")
        self.looks += 1

    def _take(self, event: Mapping[str, Any]) -> None:
        content = tuple(event[key] for key in ("event_name", "customer", "value", "timestamp"))
        if self.contents.setdefault(event["identifier"], content) != content:
            self.wrong.append(
                f"{event['identifier']} came with {self.contents[event['identifier']]} and {content}"
            )
        if not event["counted"]:
            self.wrong.append(f"{event['identifier']} does not count: {event['reason']}")
        slot = event["customer"], event["timestamp"] // 60
        self.slots[slot] = self.slots.get(slot, Decimal(0)) + Decimal(event["value"])

    def _work(self) -> None:
        while not self._stopping.wait(0.3):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would prove nothing
                self.wrong.append(f"could not look: {error!r}")
                return


@contextmanager
def own_world(*meters: str) -> Iterator[World]:
    """Set everything up outside of pytest: a Postgres with two databases, a sandbox, a world between them."""
    with (
        tempfile.TemporaryDirectory(prefix="aggregator-proof-") as name,
        EmbeddedPostgres(Path(name) / "pg") as server,
        sandbox_process(
            Path(name),
            *(f"--meter={meter if ':' in meter else f'{meter}:sum'}" for meter in meters or (METER,)),
        ) as sandbox,
    ):
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("create database application")
            connection.execute("create database ledger")
        with World(Path(name), server.url("application"), server.url("ledger"), sandbox) as world:
            world.programs = server.programs
            yield world


def show(figures: Mapping[str, object]) -> None:
    """Print figures as a table."""
    for name, figure in figures.items():
        print(
            f"{name.replace('_', ' '):<24} {figure:>14,.1f}"
            if isinstance(figure, float)
            else f"{name.replace('_', ' '):<24} {figure!s:>14}"
        )


USED_BY_SLOT = """
select customer, floor(extract(epoch from used_at) / 60)::bigint, sum(quantity) from usage group by 1, 2
"""
