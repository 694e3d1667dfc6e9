"""Backups of a ledger in place, and a world in which restoring one shows what it costs.

A backup is every row and every sequence as they were at one instant, put back over what came later: the same server, the
same database, the same ledger, which only forgets.
"""

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from aggregator.adoption.adopter import Adopter
from aggregator.adoption.survey import Compared
from aggregator.collection.rounds import Collected
from aggregator.core.model import (
    Answer,
    Event,
    Limits,
    Meter,
    Span,
    Verdict,
)
from aggregator.core.windows import floor
from aggregator.ledger.database import Database
from aggregator.ledger.identity import Failover
from aggregator.ledger.ledger import Ledger
from aggregator.runtime.claim_counter import ClaimCounter
from tests.fakes import LIMITS, FakeSink, FakeSource
from tests.postgres.world import HOUR, METER, MINUTE, START, World

DAY = dt.timedelta(days=1)
LAG = dt.timedelta(minutes=30)
"""How long the sink takes to count what it has booked."""

TABLES = """
select tablename from pg_tables where schemaname = 'aggregator' and tablename <> 'alembic_version' order by 1
"""

SEQUENCES = "select sequencename, last_value from pg_sequences where schemaname = 'aggregator' order by 1"


class Backup(NamedTuple):
    """Every row of every table, and how far every sequence was."""

    rows: dict[str, bytes]
    sequences: list[tuple[Any, ...]]


def back_up(database: Database) -> Backup:
    """Copy everything out."""
    with database.transaction() as connection:
        rows = {}
        for (table,) in connection.execute(TABLES).fetchall():
            with connection.cursor().copy(f"copy aggregator.{table} to stdout") as stream:
                rows[table] = b"".join(bytes(block) for block in stream)
        return Backup(rows, connection.execute(SEQUENCES).fetchall())


def restore(database: Database, backup: Backup) -> None:
    """Put everything back. What came after the backup is gone, and its numbers are given out again."""
    with database.transaction() as connection:
        connection.execute("set local session_replication_role = replica")
        connection.execute("truncate " + ", ".join(f"aggregator.{table}" for table in backup.rows))
        for table, rows in backup.rows.items():
            with connection.cursor().copy(f"copy aggregator.{table} from stdin") as stream:
                stream.write(rows)
        for name, value in backup.sequences:
            connection.execute(
                "select setval(%s, %s, %s)", [f"aggregator.{name}", value or 1, value is not None]
            )


class StripeLike(FakeSink):
    """A sink that forgets identifiers after a day, counts with a delay, and holds requests in the air.

    `fate` decides about each event: `book` it, book it and lose the `answer`, drop the `request`, or let it arrive `late`.
    `most` is what a customer may have booked at any moment; more is a failure there and then.
    """

    def __init__(self, clock: Callable[[], dt.datetime], name: str = "fake", limits: Limits = LIMITS) -> None:
        super().__init__(name, limits)
        self.clock = clock
        self.fate: Callable[[Event], str] = lambda event: "book"
        self.most: Callable[[str], Decimal] = lambda customer: Decimal("Infinity")
        self.bookings: list[tuple[dt.datetime, Event]] = []
        self.in_the_air: list[tuple[dt.datetime, Event]] = []
        self.seen: dict[str, tuple[dt.datetime, Event]] = {}
        self.calls = 0

    def _take(self, event: Event) -> Verdict:
        self.land()
        self.received.append(event)
        fate = self.fate(event)
        if fate == "late":
            self.in_the_air.append((self.clock() + dt.timedelta(minutes=20), event))
        if fate in {"late", "request"}:
            return Verdict(event.id, Answer.UNKNOWN, "no answer")
        answer = self._book(event, self.clock())
        return Verdict(event.id, Answer.UNKNOWN if fate == "answer" else answer)

    def land(self) -> None:
        """Let what was in the air arrive, once its time has come."""
        now = self.clock()
        for each in [each for each in self.in_the_air if each[0] <= now]:
            self.in_the_air.remove(each)
            self._book(each[1], each[0])

    def _book(self, event: Event, now: dt.datetime) -> Answer:
        known = self.seen.get(event.identifier)
        if known is not None and now - known[0] < DAY:
            assert known[1][1:9] == event[1:9], "one identifier, one content, for ever"
            return Answer.DUPLICATE
        assert known is None, f"{event.identifier} is sent again after a day"
        self.seen[event.identifier] = now, event
        self.bookings.append((now, event))
        self.booked[event.meter, event.customer] += event.delta
        self.slots[event.meter, event.customer, event.window_start] += event.delta
        booked, most = self.booked[event.meter, event.customer], self.most(event.customer)
        assert booked <= most, f"{event.customer} is billed {booked} of {most}"
        return Answer.ACCEPTED

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return what was counted of the span so far, step by step; days and hours lie on days and hours."""
        self.calls += 1
        assert floor(span.start, step) == span.start, f"{span} is not made of {step}"
        assert floor(span.end, step) == span.end, f"{span} is not made of {step}"
        steps: dict[dt.datetime, Decimal] = defaultdict(Decimal)
        for at, event in self.bookings:
            if (event.meter, event.customer) == (meter, customer) and event.at in span:
                steps[floor(event.at, step)] += event.delta if at <= self.clock() - LAG else 0
        return {start: much for start, much in steps.items() if much}


class PinnedWorld(World):
    """A daemon that keeps a heartbeat in a state directory."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        meter: Meter = METER,
        source: FakeSource | None = None,
        sinks: Sequence[FakeSink] | None = None,
        failover: Failover = "may_lose",
    ) -> None:
        sinks = sinks or [StripeLike(lambda: self.now)]
        super().__init__(database, meter=meter, source=source, sinks=sinks)
        self.directory = directory
        self.claim_counter = ClaimCounter(directory)
        leave, answer = dt.timedelta(seconds=40), dt.timedelta(seconds=20)
        self.ledger = Ledger(
            database, self.claim_counter, failover, lease=self.lease, leave=leave, answer=answer, hold=leave
        )
        self.identity, self.outbox = self.ledger.identity, self.ledger.outbox

    @property
    def like(self) -> StripeLike:
        """The one sink."""
        assert isinstance(self.sink, StripeLike)
        return self.sink

    def on(
        self, directory: Path, database: Database | None = None, failover: Failover = "may_lose"
    ) -> "PinnedWorld":
        """Return a daemon on another host, or on another copy of the ledger."""
        other = PinnedWorld(
            database or self.database,
            directory,
            meter=self.meter,
            source=self.source,
            sinks=list(self.sinks.values()),
            failover=failover,
        )
        other.now = self.now
        return other

    def again(self) -> "PinnedWorld":
        """Return a process that is started after this one, on the same host."""
        return self.on(self.directory)

    def collect(self) -> Collected:
        """Let one round of collection run, under the present generation's names."""
        with self.database.transaction() as connection:
            assert self.identity.stopped(connection) is None
        self.collection._ledger_name = self.identity.name
        return super().collect()

    def adoption(self, *, without_readback: Sequence[str] = (), leave: Sequence[str] = ()) -> Adopter:
        """Return what adopts this ledger."""
        return Adopter(
            self.ledger,
            [self.registered],
            {self.meter.name: self.source},
            self.sinks,
            without_readback=without_readback,
            leave=leave,
        )

    def adopt(self, *, leave: Sequence[str] = ()) -> list[Compared]:
        """Wait until it is quiet, and adopt."""
        adoption = self.adoption(leave=leave)
        situation = adoption.situation(self.now)
        assert situation.quiet_until is not None, situation
        self.now = max(self.now, situation.quiet_until)
        self.like.land()
        with adoption.survey(self.now) as survey:
            adoption.adopt(survey, self.now)
            return survey.compared


FATES = ("book", "book", "book", "answer", "request", "late")
"""What a restored ledger's sink does with an event, by chance."""


def any_use(now: dt.datetime, chance: random.Random, *, whole: bool) -> tuple[dt.datetime, Decimal]:
    """Return when something was used, and how much: most of it just now, some of it late."""
    age = chance.choice([0, 0, 0, 1, 5, 20]) * HOUR + chance.random() * HOUR
    return max(START, now - age), Decimal(chance.randrange(1, 30)) / (1 if whole else 10)


def half_hours(
    world: PinnedWorld, chance: random.Random, steps: int, use: Callable[[], None]
) -> Iterator[None]:
    """Let a daemon live through so many half hours of usage; stop before each."""
    for _ in range(steps):
        yield
        world.now += 30 * MINUTE
        world.like.land()
        use()
        if chance.random() < 0.8:
            world.collect()
        if chance.random() < 0.8:
            world.deliver()
