"""One application database, one ledger, one sandbox, and the daemons between them.

Rules
- Everything lives in one directory; databases are named for their world, so that worlds share one Postgres.
- The daemon is the real command, in a process of its own, with a role that may only read the application database.
- The application database notes by itself when which usage was committed: a witness that knows nothing of the daemon.
"""

import datetime as dt
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import sql

from aggregator.config import Config, load
from aggregator.core import windows
from aggregator.core.archive import LEAST_KEPT
from aggregator.demo.processes import Background, ending, start
from aggregator.demo.scenes import address
from aggregator.errors import AggregatorError
from aggregator.ledger.database import migrate
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.runtime.failpoints import VARIABLE
from aggregator.sandbox import ControlClient

Connection = psycopg.Connection[tuple[Any, ...]]

METERS = ("requests", "storage", "tokens")
PAST_METER = "calls"
"""A meter of the past: it has no usage any more, and its months are archived."""
SINK = "sandbox"
CUSTOMERS = 40
CALLS_PER_SECOND = 1000

MINUTE = dt.timedelta(minutes=1)
PAST = dt.timedelta(hours=1)
"""How far back usage is written: within what every pass reads again."""

READER = "selftest_reader"

CREATE_READER = f"""
do $$ begin
    if not exists (select from pg_roles where rolname = '{READER}') then
        create role {READER} login;
        grant pg_read_all_stats to {READER};
    end if;
end $$
"""

CREATE_USAGE = """
create table usage (
    id       bigint generated always as identity primary key,
    meter    text not null,
    customer text,
    quantity numeric not null check (quantity > 0),
    used_at  timestamptz not null
);
create index on usage (meter, used_at);
create index on usage (id) where customer is null;

create table growth (meter text, customer text, minute bigint, quantity numeric);
create index on growth (meter, customer, minute);

create function note_growth() returns trigger language plpgsql as $$
begin
    if new.customer is not null then
        insert into growth values (
            new.meter, new.customer, floor(extract(epoch from new.used_at) / 60),
            new.quantity - case when tg_op = 'UPDATE' and old.customer is not null then old.quantity else 0 end);
    end if;
    return null;
end $$;
create trigger note_growth after insert or update on usage for each row execute function note_growth();
"""
"""`growth` says by how much each slot grew; when, its rows know themselves, by their transaction's commit."""

FILL = """
insert into usage (meter, customer, quantity, used_at)
select meter, 'cus_' || lpad(who::text, 2, '0'), 1 + (who * 7 + ago) %% 9,
       %(now)s - ago * interval '1 minute' + interval '20 s'
  from unnest(%(meters)s::text[]) as meter, generate_series(1, %(customers)s) as who, generate_series(1, %(minutes)s) as ago
"""

QUERY = """
select customer, sum(quantity) as quantity, max(used_at) as at, date_trunc('minute', used_at) as window
  from usage
 where meter = '{meter}' and used_at >= :start and used_at < :end
 group by 1, 4
"""

USED = """
select meter, customer, floor(extract(epoch from used_at) / 60)::bigint, sum(quantity) from usage group by 1, 2, 3
"""

CUT = """
select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
"""


class SelftestFailed(AggregatorError):
    """The proof could not go on."""


class Slot(NamedTuple):
    """What is billed on its own: a customer of a meter in a window of a minute, counted from 1970."""

    meter: str
    customer: str
    minute: int


class World:
    """Where the daemons of one world live and die. `began` is the first minute with usage."""

    def __init__(
        self, directory: Path, postgres: EmbeddedPostgres, number: int, sandbox: ControlClient
    ) -> None:
        self.directory = directory
        self.sandbox = sandbox
        self.source_url = postgres.url(f"application_{number}")
        self.ledger_url = postgres.url(f"ledger_{number}")
        self.began = dt.datetime.min.replace(tzinfo=dt.UTC)
        self.config_path = directory / "aggregator.yaml"
        self.log = directory / "daemon.log"
        self.archives = find_spec("pyarrow") is not None
        """Whether months are archived, which takes the extra `archive`."""

    def prepare(self, now: dt.datetime) -> None:
        """Give the application database an hour of usage, the ledger its tables, the daemon its configuration."""
        minute = windows.floor(now, MINUTE)
        self.began = minute - PAST
        with psycopg.connect(self.source_url) as connection:
            connection.execute(CREATE_USAGE)
            connection.execute(f"grant select on usage to {READER}")
            values = {
                "now": minute,
                "meters": list(METERS),
                "customers": CUSTOMERS,
                "minutes": PAST // MINUTE,
            }
            connection.execute(FILL, values)
        self.config_path.write_text(json.dumps(self._settings(), indent=2), encoding="utf-8")
        migrate(self.ledger_url)

    def _settings(self) -> dict[str, Any]:
        from sqlalchemy import make_url

        reader = make_url(self.source_url).set(username=READER).render_as_string(hide_password=False)
        return {
            "state_dir": "state",
            # The shortest that there is: a meter is free again so soon after its holder was killed.
            "ledger": {"url": self.ledger_url, "lease": "5s", "migrate": False, **self._archives()},
            "sources": {"app": {"url": reader}},
            "sinks": {
                SINK: {
                    "type": "stripe",
                    "api_key": "sk_test_selftest",
                    "mode": "test",
                    "api_base": self.sandbox.url,
                    "rate_limit": CALLS_PER_SECOND,
                    "reads_per_second": CALLS_PER_SECOND,
                    "timeout": "1s",
                }
            },
            "defaults": {
                "source": "app",
                "sinks": [SINK],
                "window": "1m",
                "start_at": f"{self.began:%Y-%m-%dT%H:%MZ}",
                "delay": "0s",
                "every": "1s",
            },
            "meters": {meter: {"query": QUERY.format(meter=meter)} for meter in (*METERS, PAST_METER)},
        }

    def _archives(self) -> dict[str, str]:
        return {"archive": "archive", "keep": f"{LEAST_KEPT}mo"} if self.archives else {}

    def config(self) -> Config:
        """Load the configuration."""
        return load(self.config_path, environment())

    def used(self) -> tuple[dict[Slot, Decimal], dict[str, Decimal]]:
        """Return what was used by slot, and by meter what was used by nobody that can be billed."""
        slots: dict[Slot, Decimal] = {}
        nobody: dict[str, Decimal] = {}
        with psycopg.connect(self.source_url) as connection:
            for meter, customer, minute, quantity in connection.execute(USED):
                if customer is None:
                    nobody[meter] = nobody.get(meter, Decimal(0)) + quantity
                else:
                    slots[Slot(meter, customer, minute)] = quantity
        return slots, nobody

    def rows(self) -> int:
        """Return how many rows the application database holds."""
        with psycopg.connect(self.source_url) as connection:
            return int(_one(connection, "select count(*) from usage"))

    def cut(self) -> int:
        """Cut every connection to the ledger; return how many there were."""
        with psycopg.connect(self.ledger_url, autocommit=True) as connection:
            return int(_one(connection, CUT))

    def asked(self, name: str, *arguments: str) -> tuple[int, str, str]:
        """Run one of our commands to its end; return how it ended, and what it printed to both of its outputs."""
        with start(
            name,
            [*arguments, "--config", str(self.config_path)],
            self.directory,
            environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            said, why = process.communicate()
        return process.returncode, str(said), str(why)

    def answer(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run one of our commands that answers in JSON; return how it ended, and its answer.

        Raises SelftestFailed if there is none.
        """
        code, said, why = self.asked(*arguments)
        try:
            answer = json.loads(said)
        except ValueError as error:
            words = f"`aggregator {' '.join(arguments)}` ended with {ending(code)}: {why.strip()[-500:]}"
            raise SelftestFailed(words) from error
        assert isinstance(answer, dict), f"{arguments} answers with an object"
        return code, answer

    def daemon(self, kill_at: str | None = None) -> "Daemon":
        """Start the daemon; `kill_at` names the point at which it kills itself."""
        return Daemon(self, {VARIABLE: kill_at} if kill_at else {})


class Daemon:
    """One `aggregator run`. Its log goes on where the one before it ended; leaving the `with` block ends it."""

    def __init__(self, world: World, variables: dict[str, str]) -> None:
        self._log = world.log
        with self._log.open("ab") as log:
            self._began_at = log.tell()
            self.process = start(
                "run",
                ["--config", str(world.config_path)],
                world.directory,
                environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def ended(self, within_seconds: float) -> bool:
        """Wait so long for it to end; tell whether it has."""
        try:
            self.process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it without a chance to do anything more."""
        self.process.kill()
        self.process.wait()

    def stop(self, within_seconds: float) -> str:
        """Ask it to end, and say how it did."""
        self.process.send_signal(signal.SIGTERM)
        if not self.ended(within_seconds):
            self.kill()
        return ending(self.process.returncode)

    def has_said(self, event: str) -> bool:
        """Tell whether it has logged an event."""
        return any(line["event"] == event for line in self.said())

    def said(self) -> list[dict[str, Any]]:
        """Return what it logged, as far as its lines are complete."""
        with self._log.open("rb") as log:
            log.seek(self._began_at)
            whole, _, _ = log.read().rpartition(b"\n")
        return [_line(text) for text in whole.decode(errors="replace").splitlines() if text]


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return {"event": "", **found} if isinstance(found, dict) else {"event": "", "text": text}


def environment(**more: str) -> dict[str, str]:
    """Return what our processes are run with: nothing of ours that whoever runs the proof has set for himself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGGREGATOR_")}
    return {**kept, **more}


@contextmanager
def postgres_with_times(directory: Path) -> Iterator[EmbeddedPostgres]:
    """Run a Postgres that remembers when each transaction was committed (`track_commit_timestamp`), which a start sets."""
    with EmbeddedPostgres(directory) as server, psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("alter system set track_commit_timestamp = on")
        connection.execute(CREATE_READER)
    with EmbeddedPostgres(directory) as server:
        yield server


@contextmanager
def world(directory: Path, postgres: EmbeddedPostgres, number: int) -> Iterator[World]:
    """Set up one world, its sandbox running; nothing else runs yet."""
    directory.mkdir()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in ("application", "ledger"):
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(f"{name}_{number}")))
    meters = [part for meter in (*METERS, PAST_METER) for part in ("--meter", f"{meter}:sum")]
    with Background("sandbox", ["--port", "0", *meters], directory, environment()) as sandbox:
        yield World(directory, postgres, number, ControlClient(address(sandbox)))


def _one(connection: Connection, statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row[0]
