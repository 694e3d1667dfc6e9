"""The kills, and the quiet end: one daemon after the other is started and killed; the last one is left in peace.

Rules
- A daemon that does not reach its point in time is killed where it is, and counted as one that missed it.
- A daemon that ends in any other way, or says that something is wrong with the ledger or the sink, fails the proof.
- Every wait is bounded, is given up when the proof is stopped, and says what it waited for.
"""

import datetime as dt
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from aggregator.core import windows
from aggregator.runtime import log
from aggregator.runtime.clock import monotonic, utcnow
from aggregator.selftest.load import Load
from aggregator.selftest.past import Past
from aggregator.selftest.schedule import ARCHIVING, AtPoint, AtRandom, Kill
from aggregator.selftest.world import MINUTE, Connection, Daemon, World

FAULTS: dict[str, object] = {
    "latency_seconds": [0.0, 0.05],
    "too_many_requests": 0.04,
    "error_before": 0.05,
    "error_after": 0.05,
    "drop_before": 0.05,
    "drop_after": 0.05,
    "late": 0.002,
    "late_seconds": 1.5,
    "deliver_late": 0.01,
    "deliver_twice": 0.01,
    "late_delivery_seconds": [0.0, 5.0],
}
"""About one call in four goes wrong, in every way that leaves open whether an event was booked, and in those that do not."""

REACH_SECONDS = 20.0
"""A daemon starts in a second or two, and waits at most five for the leases of the one before."""

QUIET_SECONDS = 480.0
"""For so long nothing may happen: an event without an answer waits up to five minutes for its next attempt (`retry`), which
goes wrong as often as any other; the rest is for making it."""

QUIET_AT_MOST_SECONDS = 3_600.0
"""How long all of it may take: ten attempts in a row hardly ever go wrong."""

STOP_SECONDS = 25.0
LOOK_SECONDS = 0.1
SHARE_SECONDS = 0.25

FREEZE_BEFORE = 20
"""So many kills before the last, usage for new minutes ends: the last window is over when the last daemon reads it."""

GRAVE = {log.METER_STOPPED, log.LEDGER_STOPPED, log.SINK_HALTED, log.EVENT_REFUSED, log.UNEXPECTED}

REST = """
select (select count(*) from aggregator.outbox), left_behind.events, left_behind.until,
       min(mark), bool_or(reread_from is not null),
       min(coalesce((select max(started_at) from aggregator.pass where meter_id = meter.id and error is null), 'epoch')),
       (select min(due_at) from aggregator.outbox)
  from aggregator.meter,
       (select count(*) as events, max(due_at) as until
          from aggregator.outbox join aggregator.claim on claim.id = claim_id
         where claimed_at < %s) as left_behind
 group by left_behind.events, left_behind.until
"""


class Stopped(Exception):
    """Whoever runs the proof has stopped it."""


@dataclass
class Struck:
    """What was done to the daemons of a world."""

    died: Counter[str] = field(default_factory=Counter)
    """By point, the daemons that died there."""
    missed: Counter[str] = field(default_factory=Counter)
    """By point, the daemons that did not reach it in time, and were killed elsewhere."""
    at_random: int = 0
    connections_cut: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """What the sandbox has answered, and not answered."""
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many daemons were killed."""
        return self.died.total() + self.missed.total() + self.at_random

    def add(self, other: "Struck") -> None:
        """Take another world into account."""
        for name in vars(other):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Rest(NamedTuple):
    """What there is still to do before all is quiet."""

    waiting: int
    """Events to be sent, or being sent."""
    left_behind: int
    """Those of them that killed daemons had claimed; and when they are due again."""
    due_again_by: dt.datetime | None
    mark: dt.datetime
    deferred: bool
    read_at: dt.datetime
    next_at: dt.datetime | None
    """When an event is due next; each attempt puts one off."""

    @property
    def progress(self) -> tuple[object, ...]:
        """What changes as long as something is done, but for reading the same again."""
        return self.waiting, self.left_behind, self.mark, self.deferred, self.next_at

    def what(self, end: dt.datetime, since: dt.datetime) -> str | None:
        """Say what is waited for: usage ends at `end`, and was all there at `since`; None if there is nothing."""
        if self.mark < end:
            return f"windows up to {end:%H:%M} to be read; they are read up to {self.mark:%H:%M}"
        if self.left_behind and self.due_again_by:
            until = f"{self.due_again_by:%H:%M:%S}Z"
            return f"{self.left_behind:,} events of killed daemons, due again by {until}"
        if self.waiting:
            return f"{self.waiting:,} events to be sent"
        if self.deferred or self.read_at <= since:
            return "every window to be read once more"
        return None


class Killing:
    """Kills the daemons of one world. `tell` is told what is going on; `stopping` ends it, by Stopped."""

    def __init__(
        self, world: World, past: Past, tell: Callable[[str], None], stopping: threading.Event
    ) -> None:
        self._world = world
        self._past = past
        self._tell = tell
        self._stopping = stopping
        self.struck = Struck()

    def kill(self, kills: Sequence[Kill], load: Load) -> None:
        """Start and kill one daemon after the other, while `load` is written."""
        for number, kill in enumerate(kills):
            if len(kills) - number <= FREEZE_BEFORE:
                load.freeze(windows.floor(utcnow(), MINUTE) + MINUTE)
            match kill:
                case AtPoint():
                    self._tell(f"kill {number + 1}: at {kill.name}, passed {kill.nth} times")
                    if kill.name in ARCHIVING:
                        self._past.add_month()
                    self._kill_at(kill)
                case AtRandom():
                    self._tell(f"kill {number + 1}: at random")
                    self._kill_at_random(kill)

    def quiet(self, end: dt.datetime) -> None:
        """Let one daemon finish what there is. Usage ends at `end`, and all of it is there."""
        self._tell("the last daemon finishes what there is")
        since = utcnow()
        with self._daemon() as daemon, psycopg.connect(self._world.ledger_url, autocommit=True) as ledger:
            began = changed = monotonic()
            rest = self._rest(ledger, since)
            while (what := rest.what(end, since)) is not None:
                self._tell(f"waits for {what}")
                now = monotonic()
                if now - changed > QUIET_SECONDS or now - began > QUIET_AT_MOST_SECONDS:
                    self.struck.wrong.append(
                        f"not quiet after {now - began:.0f} s: it waits for {what}{_trouble(daemon)}"
                    )
                    break
                before, rest = rest, self._rest(ledger, since)
                if rest.progress != before.progress:
                    changed = now
                if daemon.ended(SHARE_SECONDS):
                    self.struck.wrong.append(f"the last daemon ended by itself; it waited for {what}")
                    return
                self._look_up()
            self._tell("the last daemon stops")
            ended = daemon.stop(STOP_SECONDS)
            if ended != signal.SIGTERM.name:
                self.struck.wrong.append(f"the last daemon was told to stop, and ended with {ended}")

    def _kill_at(self, kill: AtPoint) -> None:
        with self._daemon(kill.variable) as daemon:
            if self._until(lambda: daemon.ended(SHARE_SECONDS), REACH_SECONDS):
                self.struck.died[kill.name] += daemon.process.returncode == -signal.SIGKILL
            else:
                daemon.kill()
                self.struck.missed[kill.name] += 1

    def _kill_at_random(self, kill: AtRandom) -> None:
        with self._daemon() as daemon:
            if not kill.starting:
                self._until(
                    lambda: daemon.has_said(log.DAEMON_STARTED) or daemon.ended(LOOK_SECONDS), REACH_SECONDS
                )
            self._wait(kill.seconds)
            if kill.cut:
                self.struck.connections_cut += self._world.cut()
                self._wait(kill.seconds)
            if not daemon.ended(0):
                daemon.kill()
                self.struck.at_random += 1

    @contextmanager
    def _daemon(self, kill_at: str | None = None) -> Iterator[Daemon]:
        """Run a daemon for the length of a `with` block, and look at how it ended and at what it said."""
        with self._world.daemon(kill_at) as daemon:
            yield daemon
        code, said = daemon.process.returncode, daemon.said()
        if code not in {-signal.SIGKILL, -signal.SIGTERM}:
            last = said[-1] if said else "nothing"
            self.struck.wrong.append(f"a daemon ended by itself, with code {code}; its last words: {last}")
        self.struck.wrong += [f"a daemon said: {_words(line)}" for line in said if line["event"] in GRAVE]

    def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        until = monotonic() + seconds
        while not holds():
            if monotonic() > until:
                return False
            self._look_up()
        return True

    def _wait(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Stopped

    def _look_up(self) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _rest(self, ledger: Connection, since: dt.datetime) -> Rest:
        row = ledger.execute(REST, [since]).fetchone()
        assert row is not None
        return Rest._make(row)


def faults_seen(stats: dict[str, Any]) -> Counter[str]:
    """Return, by a name for people, what went wrong at a sandbox."""
    return Counter(
        {
            "answered 429": stats["answered_429"],
            "answered 500, before or after booking": stats["answered_500"],
            "connection dropped, before or after booking": stats["dropped"],
            "processed later, or once more": stats["delivered_late"],
            "sent again, and refused as a duplicate": stats["duplicates_refused"],
        }
    )


def _trouble(daemon: Daemon) -> str:
    """Say what a daemon complained of last, if it did."""
    errors = [line for line in daemon.said() if line.get("level") in {"error", "critical"}]
    return f"; the daemon said last: {_words(errors[-1])}" if errors else ""


def _words(line: dict[str, Any]) -> str:
    return " ".join(
        str(line[key]) for key in ("event", "meter", "sink", "reason", "exception") if key in line
    )
