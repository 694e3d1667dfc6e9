"""The fault that a ledger is set back, and its cure: backups at random times, a restore, the quiet time, and an adoption.

Rules
- A backup is restored in place, in one step, whatever is on its way just then; its sequences are set back too.
- Only a backup is restored since which something was claimed: with another one nothing was forgotten that was sent.
- A backup may be one of a ledger that is stopped already, and may be restored as soon as the adopted ledger sends again.
- A person adopts as `aggregator adopt --yes` does, with the real code, and comes again until it is done.
"""

import datetime as dt
import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aggregator.adoption.adopter import Adopter
from aggregator.collection.cursor_source import Sums
from aggregator.core.freshness import Reads
from aggregator.core.states import CancellationState
from aggregator.errors import AggregatorError, InvariantBroken
from aggregator.ledger.clock import LedgerClock
from aggregator.ledger.meters import Registered
from tests.simulation.conditions import DAY, HOUR, MINUTE
from tests.simulation.gates import MILLISECOND, Behind, Gate, SinkGate, SourceGate
from tests.simulation.hosts import SKEW, Host, Hosts
from tests.simulation.memory import MemoryLedger
from tests.simulation.memory_adopting import MemoryAdopting
from tests.simulation.memory_cancelling import MemoryCancellations
from tests.simulation.memory_identity import Backup, MemoryIdentity, back_up, restore
from tests.simulation.memory_in_doubt import MemoryInDoubt
from tests.simulation.scheduler import Process
from tests.simulation.twins import as_ledger

if TYPE_CHECKING:
    from tests.simulation.life import Life

S = TypeVar("S")
T = TypeVar("T")

BACKUPS = 4
"""How many backups are taken for each restore."""

NOTICED_AFTER = DAY
"""After this a person looks, even if nothing was due that would have stopped the ledger."""


class OneByOne:
    """Stands in for the threads of an adoption: simulated time has one task at a time."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, work: Callable[[S], T], values: Iterable[S]) -> Iterator[T]:
        """Do one after the other."""
        return map(work, values)


class Restoring:
    """Sets the ledger of a life back, and has it adopted."""

    def __init__(
        self,
        life: "Life",
        ledger: MemoryLedger,
        hosts: Hosts,
        random: random.Random,
        failovers: random.Random,
        files: random.Random,
        stops: random.Random,
    ) -> None:
        self._life = life
        self._ledger = ledger
        self._hosts = hosts
        self._failovers = failovers
        if life.conditions.fails_over:
            ledger.timeline = ledger.tables.identity.timeline = 1
            ledger.failover = life.conditions.failover
        self._random = random
        self._of_files = files
        self._of_stops = stops
        self._of_a_stop = False
        """Whether the latest backup is one of a stopped ledger, to be restored once the ledger goes on."""
        self._backups: list[Backup] = []
        self._armed = False
        self._set_back_at: dt.datetime | None = None
        self._stops_daemons = random.random() < 0.5
        """Whether people stop every daemon before they adopt, as they are told to."""

    @property
    def waits(self) -> bool:
        """Whether the ledger was set back, and is not adopted yet."""
        return self._set_back_at is not None

    @property
    def _host(self) -> Host:
        """Return a host that lives: there a person adopts."""
        return next(host for host in self._hosts.all if not host.dead)

    def plan(self, start: dt.datetime, end: dt.datetime) -> None:
        """Draw when backups are taken, and when one is restored."""
        scheduler, dice = self._life.scheduler, self._random.random
        for _ in range(self._life.conditions.restores):
            for _ in range(BACKUPS):
                scheduler.at(start + HOUR + (end - start - HOUR) * dice(), self._back_up)
            scheduler.at(start + (end - start) * (0.2 + 0.8 * dice()), self._arm)

    def forget_backups(self) -> None:
        """Keep no backup of months ago."""
        self._backups.clear()

    def _back_up(self) -> None:
        self._backups.append(back_up(self._ledger))

    def _arm(self) -> None:
        """Restore now, or in the middle of the next batch that is sent."""
        if self._life.conditions.fails_over:
            self._back_up()  # a standby has all but what was committed last
            self._armed = True
        elif self._random.random() < 0.5:
            self._set_back()
        else:
            self._armed = True
            self._life.scheduler.after(12 * HOUR, self._set_back_at_last)

    def claimed(self) -> None:
        """Take note that events were just claimed."""
        if self._life.conditions.files and self._of_files.random() < 0.1:
            self._life.scheduler.after(self._of_files.randint(1, 200) * MILLISECOND, self._back_up)
        if self._armed:
            self._armed = False
            self._life.scheduler.after(self._random.randint(1, 500) * MILLISECOND, self._set_back)

    def _set_back_at_last(self) -> None:
        if self._armed:
            self._armed = False
            self._set_back()

    def _set_back(self) -> None:
        life, tables = self._life, self._ledger.tables
        if self._set_back_at is not None or life.resting or tables.identity.claims_made == 0:
            return
        if life.conditions.failover == "lossless":
            self._lose_nothing()
            return
        fit = [each for each in self._backups if each.claims_made < tables.identity.claims_made]
        if life.conditions.failover == "one_host":
            # Where it is not true, a ledger that has lost the first claim of another host cannot know of it.
            known = min(len(tables.hosts), 2) if life.conditions.hosts > 1 else 0
            fit = [each for each in fit if each.hosts >= known]
        if not fit:
            return
        if life.conditions.failover == "one_host":
            several = "several are known" if len(tables.hosts) > 1 else "there is one"
            life.marks.saw(f"one host is declared, and {several}")
        latest = life.conditions.fails_over or self._of_a_stop
        backup = fit[-1] if latest else self._random.choice(fit)
        now = life.scheduler.now
        life.looked()
        if any(row.settled_at is None and now - row.claimed_at < MINUTE for row in tables.claims.values()):
            life.marks.saw("restored with requests in flight")
        life.trace.tell("the ledger is restored as it was at", backup.at)
        life.carrying.restored(tables, backup)
        life.marks.saw("ledger wound back")
        life.marks["messages forgotten by a restore"] += len(tables.notifications) > backup.notifications
        life.marks["cancellations forgotten by a restore"] += len(tables.cancellations) > backup.cancellations
        restore(self._ledger, backup)
        if self._ledger.tables.identity.stopped_at is not None:
            life.marks.saw("set back to when it was stopped already")
        self._set_back_at = now
        life.watch.restored(tables, self._ledger.tables)
        if life.account is not None:
            life.account.restored()
        self._die_with_it()
        life.scheduler.after(MINUTE if self._of_a_stop else 10 * MINUTE, self._person)
        self._of_a_stop = False

    def _lose_nothing(self) -> None:
        """Let a standby take over that has every commit, as was declared: nobody has to do anything."""
        life, tables = self._life, self._ledger.tables
        life.looked()
        life.trace.tell("the ledger fails over, and loses nothing")
        life.marks.saw("a failover loses nothing, as declared")
        restore(self._ledger, back_up(self._ledger))
        life.watch.failed_over(tables, self._ledger.tables)
        self._die_with_it()

    def _die_with_it(self) -> None:
        """Let a host die with the server that the ledger was on, unless it is the last one.

        If the ledger is as it was before an adoption, that is the host which remembers the adoption.
        """
        life, dice = self._life, self._failovers
        alive = [host for host in self._hosts.all if not host.dead]
        if not life.conditions.fails_over or len(alive) == 1 or dice.random() < 0.3:
            return
        dead = self._host if self._of_a_stop else dice.choice(alive)
        self._hosts.kill(dead, HOUR * dice.choice([1, 12, 48]))
        for daemon in life.daemons:
            if daemon.host is dead and daemon.process.alive:
                life.scheduler.kill(daemon.process)

    def stop_by_hand(self) -> None:
        """Stop a ledger in which a feed stands still for what its sink holds, to adopt that."""
        if self._set_back_at is not None:
            return
        life, tables = self._life, self._ledger.tables
        life.looked()
        MemoryIdentity(self._ledger, self._host.disk).stop(
            "Stopped by a person, to be adopted.", life.scheduler.now
        )
        life.trace.tell("a person stops the ledger")
        self._set_back_at = life.scheduler.now
        life.watch.restored(tables, tables)
        life.scheduler.after(10 * MINUTE, self._person)

    # The cure.

    def _person(self) -> None:
        """Look at a ledger that was set back; adopt it once it is stopped."""
        life, now = self._life, self._life.scheduler.now
        assert self._set_back_at is not None
        if self._ledger.tables.identity.stopped_at is None and now - self._set_back_at < NOTICED_AFTER:
            life.scheduler.after(10 * MINUTE, self._person)
            return
        if self._stops_daemons:
            for daemon in list(life.daemons):
                if daemon.process.alive:
                    life.scheduler.kill(daemon.process)
        process = Process("adoption", uuid.UUID(int=self._random.getrandbits(128)))
        process.died = lambda: life.scheduler.after(HOUR, self._again)
        life.scheduler.spawn(process, "adoption", lambda: self._adopt(process))

    def _again(self) -> None:
        if self._set_back_at is not None and not self._life.ended:
            self._person()

    def _adopt(self, process: Process) -> None:
        """Try until it is done."""
        life = self._life
        while self._set_back_at is not None:
            try:
                self._try(process)
            except InvariantBroken:
                raise
            except AggregatorError as error:
                life.trace.tell("adoption:", error)
                life.scheduler.wait(HOUR * (0.2 + self._random.random()))

    def _try(self, process: Process) -> None:
        life, scheduler = self._life, self._life.scheduler
        clock = LedgerClock(SKEW, lambda: scheduler.now, life.elapsed)
        gate = Gate(scheduler, process, life.conditions, life.random, life.marks, life.trace, clock)
        parts = vars(life.ledger.verbs(process.owner, self._host.disk))
        ledger = as_ledger(**(parts | {"adoption": Behind(gate, parts["adoption"], self._did)}))
        registered = list(ledger.meters.register(life.meters).values())
        without = ["service"] if life.conditions.files else []
        sink: Any = SinkGate(gate, life.service, life.watch, "service")
        if without:
            sink = life.carrying.writer(gate, [known.meter.name for known in registered])
        adoption = Adopter(
            ledger,
            registered,
            {known.meter.name: self._reads(known, gate, parts) for known in registered},
            {"service": sink},
            without_readback=without,
        )
        looked = scheduler.now
        if self._quiet(adoption, looked):
            self._decide_cancellations()
            life.carrying.put_away_what_was_forgotten()
        adoption.ready(looked)
        if self._of_stops.random() < 0.8:
            self._back_up()
            self._of_a_stop = True
        with adoption.survey(scheduler.now) as survey:
            for compared in survey.compared:
                life.trace.tell("compared:", compared)
                life.marks["taken over"] += bool(compared.taken_over or compared.missing)
            adoption.adopt(survey, scheduler.now)

    def _reads(self, known: Registered, gate: Gate, parts: dict[str, Any]) -> Reads:
        life = self._life
        if known.meter.deltas is not None:
            return Sums(known.id, parts["running_totals"])
        if known.meter.sampling is not None:
            return life.sampled(known, gate, parts["samples"])
        return SourceGate(gate, life.application, life.spells, life.standbys)

    @staticmethod
    def _quiet(adoption: Adopter, now: dt.datetime) -> bool:
        until = adoption.situation(now).quiet_until
        return until is not None and until <= now

    def _decide_cancellations(self) -> None:
        """Look at the service what it has taken back, as a person does whom the adoption asks."""
        life = self._life
        cancelling = MemoryCancellations(self._ledger, MemoryInDoubt(self._ledger))
        for wanted in cancelling.wanted(events=MemoryAdopting(self._ledger).being_cancelled(), limit=100):
            gone = wanted.identifier in life.service.cancelled
            life.marks.saw("cancellation decided by a person")
            if gone:
                cancelling.settle(wanted, "gone, on a person's word", life.scheduler.now)
            else:
                now, word = life.scheduler.now, "still there, on a person's word"
                cancelling.answered(wanted, CancellationState.REFUSED, word, now, now, unsure=False)
            life.looked()

    def _did(self, process: Process, name: str, values: tuple[object, ...], done: object) -> None:
        if name == "adopt":
            self._set_back_at = None
            self._armed = self._armed or self._of_a_stop
            self._life.trace.tell("the ledger is adopted")
            self._life.marks.saw("adopted")
            self._life.watch.adopted(self._ledger.tables)
            self._life.looked()
