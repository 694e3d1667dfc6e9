"""One life of a simulated world: a seed draws it, and it ends with everything equal or with a violation and its story."""

import datetime as dt
import random
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from aggregator.collection import collector as collection_shell
from aggregator.collection.asking import Source
from aggregator.collection.backfill import Backfill, Backfilled, span_of
from aggregator.collection.collector import Collector
from aggregator.collection.glance import Glance
from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.revisits import Revisits
from aggregator.collection.rounds import Collected
from aggregator.core.model import (
    Changed,
    Decreases,
    Meter,
    Report,
    Span,
    State,
    WriteModel,
)
from aggregator.core.renaming import Outlet
from aggregator.core.sampling import definition
from aggregator.delivery import first_use as first_use_shell
from aggregator.delivery.file_writer import FileWriter
from aggregator.delivery.first_use import FirstUse
from aggregator.delivery.sender import Delivered, Sender, Worker
from aggregator.errors import AggregatorError, InvariantBroken, LeaseLost, LedgerStopped, MeterRefused
from aggregator.ledger.archives import Archive, Written
from aggregator.ledger.clock import LedgerClock
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.meters import Registered
from aggregator.ledger.outbox.files import FileClaim
from aggregator.ledger.passes.stats import Tally
from aggregator.ledger.samples import Samples
from aggregator.reconciliation.canceller import Canceller
from aggregator.reconciliation.notification_poller import NotificationPoller
from aggregator.reconciliation.reconciler import Reconciler
from aggregator.sinks import asking as adoption_shell
from tests.simulation.apart import DIMENSION
from tests.simulation.application import Application
from tests.simulation.backfilling import Backfilling
from tests.simulation.beforehand import Beforehand
from tests.simulation.by_cursor import LivedCursorSource, settings
from tests.simulation.by_mapping import ACCOUNTS, EVERY, Accounts, GatedCustomers, mapping_of
from tests.simulation.by_months import GatedArchives, Months
from tests.simulation.by_samples import Account, LivedSampledSource, sampling_of
from tests.simulation.cancel_gate import CancelGate
from tests.simulation.carrying import Carrying
from tests.simulation.conditions import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Conditions,
    drawn,
)
from tests.simulation.configuring import Configuring
from tests.simulation.gates import CLOCKS_AGREE, Behind, Gate, SinkGate, SourceGate, SteppedThreads
from tests.simulation.hosts import SKEW, Host, Hosts
from tests.simulation.invariants import Invariants, Violation
from tests.simulation.mail import Mail, MailGate
from tests.simulation.marks import Marks
from tests.simulation.memory import MemoryLedger, MemoryMeters, Tables
from tests.simulation.memory_adopting import MemoryAdopting
from tests.simulation.memory_archives import MemoryArchives
from tests.simulation.memory_cancelling import MemoryCancellations
from tests.simulation.memory_customers import MemoryCustomers
from tests.simulation.memory_files import MemoryFiles
from tests.simulation.memory_first_use import MemoryFirstUses
from tests.simulation.memory_identity import Disk, MemoryIdentity
from tests.simulation.memory_in_doubt import MemoryInDoubt
from tests.simulation.memory_notifications import MemoryNotifications
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.memory_parked import MemoryParked
from tests.simulation.memory_passes import MemoryPasses
from tests.simulation.memory_samples import MemorySamples
from tests.simulation.memory_totals import MemoryRunningTotals
from tests.simulation.memory_uploads import MemoryPlaces, MemoryUploads
from tests.simulation.names import called
from tests.simulation.new_ids import NewIds
from tests.simulation.place import Place
from tests.simulation.restoring import OneByOne, Restoring
from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.service import Service
from tests.simulation.spells import Spells
from tests.simulation.standbys import Standbys
from tests.simulation.trace import Trace
from tests.simulation.twins import as_ledger

T = TypeVar("T")

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
LEASE = MINUTE
HOLD = MINUTE
ROUNDS_OF_A_BACKFILL = 50
LEAVE, ANSWER = 40 * SECOND, 20 * SECOND
SINK = "service"
REST = 5 * DAY
"""How long a life goes on when nothing goes wrong any more: longer than any stretch is left unread, or any event put off."""


RESTS = 5
"""How often it goes on so long at most, where something is still to be sent again."""


class LivedLedger(Protocol):
    """A ledger to live with: as a process has it, and a look at its tables."""

    def verbs(self, owner: uuid.UUID, disk: Disk) -> Ledger:
        """Return the ledger for a process, or for a person."""
        ...

    def tables(self) -> Tables:
        """Return everything in it, as of now."""
        ...


class InMemory:
    """The ledger in memory."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.ledger = MemoryLedger(lambda: scheduler.now)

    def verbs(self, owner: uuid.UUID, disk: Disk) -> Ledger:
        """Return its verbs."""
        identity, in_doubt = MemoryIdentity(self.ledger, disk), MemoryInDoubt(self.ledger)
        outbox = MemoryOutbox(self.ledger, owner, LEAVE, ANSWER, identity)
        return as_ledger(
            meters=MemoryMeters(self.ledger, owner, LEASE),
            passes=MemoryPasses(self.ledger, LEASE, identity),
            running_totals=MemoryRunningTotals(self.ledger, identity),
            samples=MemorySamples(self.ledger, identity),
            outbox=outbox,
            in_doubt=in_doubt,
            identity=identity,
            files=MemoryFiles(self.ledger, owner, HOLD, identity, outbox),
            cancellations=MemoryCancellations(self.ledger, in_doubt),
            notifications=MemoryNotifications(self.ledger, in_doubt),
            first_uses=MemoryFirstUses(self.ledger),
            uploads=MemoryUploads(self.ledger),
            places=MemoryPlaces(self.ledger),
            adoption=MemoryAdopting(self.ledger),
            customers=MemoryCustomers(self.ledger),
            archives=MemoryArchives(self.ledger, identity),
            parked=MemoryParked(self.ledger),
        )

    def tables(self) -> Tables:
        """Return its tables themselves."""
        return self.ledger.tables


@dataclass(slots=True)
class Lived:
    """How a life went."""

    seed: int
    days: float = 0.0
    events: int = 0
    marks: Marks = field(default_factory=Marks)
    rule: str | None = None
    facts: str = ""
    trace: str = ""


class Life:
    """A world and everything in it."""

    def __init__(
        self,
        seed: int,
        ledger: Callable[[Scheduler], LivedLedger] = InMemory,
        conditions: Conditions | None = None,
        kept: int = 60,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        dice = random.Random(f"{seed}: restores")
        self.conditions = conditions or drawn(seed, self.random, dice)
        self.start = START + self.conditions.begins_after
        self.scheduler = Scheduler(self.start)
        self.marks = Marks()
        self.trace = Trace(lambda: self.scheduler.now, kept)
        names = [f"meter_{number}" for number in range(1, self.conditions.meters + 1)]
        self.application = Application(self.scheduler, self.conditions, self.random, names)
        whole = Span(self.start, self.start + self.conditions.days * DAY)
        chance = random.Random(f"{seed}: what is shown")
        self.spells = Spells(self.conditions, chance, self.marks, whole, self.application.customers())
        chance = random.Random(f"{seed}: who answers")
        self.standbys = Standbys(
            self.scheduler, self.conditions, self.application, chance, self.marks, whole.end
        )
        self.ledger = ledger(self.scheduler)
        sampled = self.conditions.sampled is not None
        self.account = Account(self, self.application) if sampled else None
        mapped = self.conditions.mapped is not None
        self.accounts = Accounts(self, random.Random(f"{seed}: accounts")) if mapped else None
        self.watch = Invariants(
            self.scheduler, self.conditions, self.application, self.marks, self.ledger.tables
        )
        self.service = Service(
            self.scheduler, self.conditions, self.random, self.marks.saw, self.watch.booked
        )
        self.watch.service = self.service
        self.mail = Mail(self.scheduler, self.random, self._deliver)
        self.watch.mail = self.mail.messages
        self.service.tell = self.mail.post if self.conditions.poller else self._note
        self.place = self.watch.filed.place = Place(
            self.scheduler, self.random, self.service.book, self.service.credit
        )
        chance = random.Random(f"{seed}: hosts of the life")
        self.hosts = Hosts(self.scheduler, self.conditions, chance, self.marks, self.trace)
        self.daemons: list[Daemon] = []
        self.taken: set[str] = set()
        """Reports that a daemon has taken."""
        meters = [self._meter(name) for name in names]
        self.configuring = Configuring(self, meters, random.Random(f"{seed}: configuration"))
        self.watch.unconfigured = self.configuring.unconfigured
        self._draw_service(self.start)
        self.resting = False
        self.ended = False
        self.off = False
        """Whether no process runs, and none is started."""
        memory = self.ledger.ledger if isinstance(self.ledger, InMemory) else None
        chance = random.Random(f"{seed}: after months")
        self.months = Months(self, memory, chance) if self.conditions.goes_on_at else None
        self.new_ids = NewIds(self, memory, random.Random(f"{seed}: new ids"))
        self.backfilling = Backfilling(self, random.Random(f"{seed}: backfills"))
        self.carrying = Carrying(self, random.Random(f"{seed}: who carries files"))
        self.beforehand = Beforehand(self, random.Random(f"{seed}: what is held beforehand"))
        self.restoring = (
            Restoring(
                self,
                self.ledger.ledger,
                self.hosts,
                dice,
                random.Random(f"{seed}: failovers"),
                random.Random(f"{seed}: backups of files"),
                random.Random(f"{seed}: backups of stops"),
            )
            if isinstance(self.ledger, InMemory)
            else None
        )

    @property
    def meters(self) -> list[Meter]:
        """The meters of the newest configuration."""
        return self.configuring.meters

    def _meter(self, name: str) -> Meter:
        conditions = self.conditions
        sampling = sampling_of(conditions, name)
        return Meter(
            name=name,
            source="application",
            query=name if sampling is None else definition(sampling.reads, name),
            fingerprint="f" * 64,
            sinks=(SINK,),
            window=conditions.window,
            start_at=self.start,
            delay=conditions.delay,
            revisit=conditions.revisit,
            decimals=conditions.decimals,
            decreases=conditions.decreases,
            deltas=settings(name) if conditions.by_cursor else None,
            sampling=sampling,
            customers=None if conditions.mapped is None else ACCOUNTS,
            retained=None if sampling is None else sampling.kept,
            latest=conditions.write_model is WriteModel.LAST,
            outlets=(Outlet(SINK, None, name),),
            dimensions=(DIMENSION,) if conditions.models else (),
            changed=None
            if conditions.asked is None
            else Changed(name, "c", conditions.asked, conditions.fully),
        )

    def _draw_service(self, begin: dt.datetime) -> None:
        conditions, days = self.conditions, self.conditions.days
        for _ in range(conditions.black_holes):
            start = begin + days * DAY * self.random.random()
            self.service.black_holes.append(Span(start, start + conditions.black_hole))
        for _ in range(conditions.halts):
            start = begin + days * DAY * self.random.random()
            self.scheduler.at(start, lambda: self.service.halt(halted=True))
            self.scheduler.at(
                start + 10 * HOUR * self.random.random(), lambda: self.service.halt(halted=False)
            )
        for _ in range(conditions.vanishes):
            start = begin + days * DAY * self.random.random()
            customer = self.random.choice(self.application.customers())
            self.service.gone.append((customer, Span(start, start + 6 * HOUR * self.random.random())))
        self.service.unknown_customers.update(self.application.customers()[: conditions.refuses])

    def run(self) -> None:
        """Live: some days of faults, then rest, then the end. Raises Violation."""
        with stepped_threads(self.scheduler):
            try:
                end = self.start + self.conditions.days * DAY
                if self.conditions.held_before:
                    self.scheduler.run(self.start + self.beforehand.begins_after)
                    self.beforehand.book()
                    self.beforehand.look()
                for number in range(self.conditions.daemons):
                    self._start(f"daemon {number + 1}")
                self._plan_people(self.start, end)
                self.carrying.plan(self.start, end)
                self._plan_trouble(self.start, end)
                self.live_until(end)
                if self.months is not None:
                    self.months.live()
                if self.account is not None:
                    self.account.fill_all()
                self.watch.at_the_end(self.ledger.tables())
            finally:
                self.ended = True
                self.scheduler.close()
                if self.months is not None:
                    self.months.close()

    def _plan_trouble(self, start: dt.datetime, end: dt.datetime) -> None:
        self.hosts.plan(start, end, self.conditions.clock_jumps)
        if self.restoring is not None:
            self.restoring.plan(start, end)

    def live_until(self, end: dt.datetime) -> None:
        """Live until then with all faults, and rest."""
        while self.scheduler.now < end:
            self.scheduler.run(min(self.scheduler.now + DAY / 2, end))
            self.watch.all(self.ledger.tables())
        self._calm()
        self._rest(end)

    def turn_off(self) -> None:
        """End every daemon, and start none."""
        self.off = True
        for daemon in list(self.daemons):
            if daemon.process.alive:
                self.scheduler.kill(daemon.process)

    def turn_on(self, start: dt.datetime, end: dt.datetime) -> None:
        """Start all daemons again, and let everybody go on as before."""
        self.off = self.resting = False
        self.application.go_on()
        self._draw_service(start)
        if self.restoring is not None:
            self.restoring.forget_backups()
        for number in range(self.conditions.daemons):
            self._start(f"daemon {number + 1}")
        self._plan_people(start, end)
        self._plan_trouble(start, end)

    def _rest(self, since: dt.datetime) -> None:
        """Let time pass until all is quiet; what is sent again takes its turns, more where windows are read singly.

        What was held and had to be sent again is held anew by the pass after that.
        """
        quiet, enough = 0, 2 if self.conditions.write_model is WriteModel.LAST else 1
        for number in range(1, RESTS + 1):
            self.scheduler.run(since + number * REST)
            quiet = 0 if self.ledger.tables().reassertions else quiet + 1
            if quiet == enough:
                return

    def _calm(self) -> None:
        self.resting = True
        self.conditions.calm()
        self.application.rest()
        self.spells.end()
        self.standbys.rest()
        self.service.black_holes.clear()
        self.service.gone.clear()
        self.service.halt(halted=False)
        self.trace.tell("from here on, nothing goes wrong")

    def elapsed(self) -> float:
        """Return the seconds since the life began, on a clock that nobody sets."""
        return (self.scheduler.now - self.start).total_seconds()

    # Processes.

    def _start(self, name: str) -> None:
        """Start a daemon, and start another one whenever it dies."""
        if self.ended or self.off:
            return
        if self.hosts.of(name).dead:
            self._restart(name)
            return
        process = Process(name, uuid.UUID(int=self.random.getrandbits(128)))
        try:
            daemon = Daemon(self, process, self.hosts.of(name), self.configuring.of(name))
        except MeterRefused as error:
            self.trace.tell(name, "does not start:", error)
            self.marks.saw("a configuration of before is refused")
            self._restart(name)
            return
        self.daemons = [each for each in self.daemons if each.process.alive] + [daemon]
        self.scheduler.spawn(process, f"{name} reconciling", daemon.reconcile)
        if self.conditions.poller:
            self.scheduler.spawn(process, f"{name} hearing", daemon.hear)
        if self.conditions.decreases is Decreases.CANCEL:
            self.scheduler.spawn(process, f"{name} cancelling", daemon.cancel)
        process.died = lambda: self._restart(name)
        if self.months is not None and self.months.begun:
            self.scheduler.spawn(process, f"{name} archiving", lambda: daemon.archive(self.months))  # type: ignore[arg-type]
        if self.accounts is not None:
            self.scheduler.spawn(process, f"{name} mapping", lambda: daemon.map(self.accounts))  # type: ignore[arg-type]
        for meter in self.configuring.of(name):
            self.scheduler.spawn(process, f"{name} {meter.name}", lambda meter=meter: daemon.collect(meter))  # type: ignore[misc]
        for worker in range(self.conditions.workers):
            self.scheduler.spawn(process, f"{name} lane {worker}", daemon.deliver)

    def _restart(self, name: str) -> None:
        delay = self.random.choice([SECOND, MINUTE, 10 * MINUTE, 3 * HOUR])
        self.scheduler.after(delay, lambda: self._start(name))

    # What the service reports.

    def _note(self, report: Report) -> None:
        """Hand a report to a daemon; try again until one has taken it."""
        alive = [each for each in self.daemons if each.process.alive]
        if alive:
            daemon = self.random.choice(alive)
            self.scheduler.spawn(daemon.process, "report", lambda: daemon.take(report))
        self.scheduler.after(HOUR if alive else 10 * MINUTE, lambda: self._ask_again(report))

    def _deliver(self, body: bytes) -> None:
        """Deliver a message to a daemon, if one lives; nobody does it again."""
        alive = [each for each in self.daemons if each.process.alive]
        if alive:
            daemon = self.random.choice(alive)
            self.scheduler.spawn(daemon.process, "delivery of a message", lambda: daemon.take_message(body))

    def _ask_again(self, report: Report) -> None:
        if report.id not in self.taken:
            self._note(report)

    # People.

    def _plan_people(self, start: dt.datetime, end: dt.datetime) -> None:
        for _ in range(self.conditions.days * 2):
            self.scheduler.at(start + (end - start) * self.random.random(), self._look)
        self.backfilling.plan(start, end)
        self.new_ids.plan(start, end)
        if self.accounts is not None:
            self.accounts.plan(start, end)
        self.configuring.plan(start, end)

    def _look(self) -> None:
        """Let a person look at what is parked."""
        if self.random.random() >= self.conditions.person:
            return
        tables = self.ledger.tables()
        parked = [event for event, row in sorted(tables.parked.items()) if row.state is not State.IN_DOUBT]
        chosen = [event for event in parked if self.random.random() < 0.5]
        released = self.by_hand.outbox.release(chosen, self.scheduler.now)
        self.watch.released(released)
        self.marks["released by a person"] += len(released)
        self.trace.tell("a person releases", released)
        self.looked()

    @property
    def by_hand(self) -> Ledger:
        """The ledger as a person's command has it."""
        return self.ledger.verbs(uuid.UUID(int=0), self.hosts.all[0].disk)

    def gate_of(self, process: Process) -> tuple[Gate, dict[str, object]]:
        """Return the way out of a process that a person has started, on the first host, and the parts of its ledger."""
        clock = LedgerClock(SKEW, lambda: self.scheduler.now, self.elapsed)
        gate = Gate(self.scheduler, process, self.conditions, self.random, self.marks, self.trace, clock)
        gate.hear()
        return gate, vars(self.ledger.verbs(process.owner, self.hosts.all[0].disk))

    def did(self, process: Process, name: str, values: tuple[object, ...], done: object) -> None:
        """Look on after a verb that a person has used."""
        self.trace.tell(process.name, name, "->", _short((done,)))
        self.watch.verb(process, name, values, done)
        self.looked()

    def process(self, process: Process, name: str, meters: Sequence[Meter]) -> "Daemon":
        """Return the parts of a process that a person has started."""
        return Daemon(self, process, self.hosts.of(name), meters)

    def sampled(self, known: Registered, gate: Gate, samples: Samples) -> LivedSampledSource:
        """Return what a meter is read from that is sampled."""
        assert self.account is not None
        assert known.meter.sampling is not None
        return LivedSampledSource(
            known.meter, known.id, gate, self.account, known.meter.sampling.query, samples
        )

    def looked(self) -> None:
        """Let the watch look at what has just changed, if the ledger tells."""
        if isinstance(self.ledger, InMemory):
            touched, self.ledger.ledger.touched = self.ledger.ledger.touched, []
            if touched:
                self.watch.changed(touched, self.ledger.tables())


class Daemon:
    """The loops of one process, as the daemon runs them."""

    def __init__(self, life: Life, process: Process, host: Host, configured: Sequence[Meter]) -> None:
        self.process = process
        self.host = host
        self._life = life
        self._scheduler = life.scheduler
        self._random = life.random
        clock = LedgerClock(SKEW, lambda: life.scheduler.now + host.ahead, self._life.elapsed)
        self._gate = Gate(
            life.scheduler, process, life.conditions, life.random, life.marks, life.trace, clock
        )
        self._gate.hear()
        parts = vars(life.ledger.verbs(process.owner, host.disk))
        gates = {name: Behind(self._gate, part, self._did) for name, part in parts.items()}
        gates["archives"] = GatedArchives(self._gate, parts["archives"], self._did)
        self._ledger = as_ledger(**(gates | {"identity": parts["identity"]}))
        self._registered: dict[str, Registered] = {
            name: _knowing(known, life.conditions.write_model)
            for name, known in parts["meters"].register(configured).items()
        }
        self._sink = SinkGate(self._gate, life.service, life.watch, SINK, set(self._registered))
        self._writes = life.carrying.writer(self._gate, list(self._registered))
        self._sink_id = next(iter(self._registered.values())).feeds[0].sink_id
        accounts = life.accounts
        self._customers = (
            None if accounts is None else GatedCustomers(self._gate, parts["customers"], accounts)
        )
        names = {feed.id: known.meter.name for known in self._registered.values() for feed in known.feeds}
        self._names: dict[int, str] = names

    def collect(self, meter: Meter) -> None:
        """Collect for ever."""
        shell = self._collection(meter)
        glance = Glance(
            [shell], self._source(), self._ledger.passes, present=self._gate.now, elapsed=self._life.elapsed
        )
        while True:
            self._round(lambda: self._glanced(glance, meter) or shell.run_once(self._gate.now()))
            often = meter.window if meter.sampling is None else meter.sampling.every
            pace = max(meter.window, 5 * HOUR) if self._life.resting else often
            self._scheduler.wait(pace * (0.3 + 0.7 * self._random.random()))

    def _glanced(self, glance: Glance, meter: Meter) -> Collected | None:
        result = glance.unchanged(meter.name)
        self._life.marks["a glance stands for a round"] += result is not None
        return result

    def backfill(self, meter: Meter, start: dt.datetime, end: dt.datetime | None) -> Backfilled:
        """Read a range, as `aggregator backfill` does. Raises UsageError if it cannot be billed."""
        known = self._ledger.meters.definitions(self._registered[meter.name])
        span = span_of(meter, known, {SINK: self._sink.limits}, start, end, self._gate.now())
        shell = self._collection(meter)
        job = Backfill(shell, known, span)
        return job.run(self._gate.now(), self._wait_for_the_meter)

    def _wait_for_the_meter(self) -> None:
        self._life.marks.saw("a backfill waits for the meter")
        self._scheduler.wait(20 * SECOND)

    def send_what_was_backfilled(self, meter: Meter, span: Span) -> None:
        """Send what is due, until nothing is or nothing of it leaves."""
        files = self._life.conditions.files
        worker: Worker = self._filing((meter.name, span)) if files else self._delivery()
        for _ in range(ROUNDS_OF_A_BACKFILL):
            result = self._round(lambda: worker.run_once(self._gate.now()))
            if result is None or result.halted or not result.claimed or result.unsent == result.claimed:
                return
            self._life.marks[f"a backfill {'writes a file' if files else 'sends'}"] += 1
            self._scheduler.wait(MINUTE if files else SECOND)

    def _filing(self, only: tuple[str, Span] | None = None) -> FileWriter:
        return FileWriter(
            self._ledger.files,
            self._ledger.outbox,
            self._writes,
            self._sink_id,
            self._gate.clock,
            only=only,
            elapsed=self._life.elapsed,
        )

    def _round(self, work: Callable[[], T]) -> T | None:
        marks = self._life.marks
        try:
            result = work()
        except LeaseLost as error:
            marks.saw("lease lost in a long read" if "during" in str(error) else "lease lost at commit")
        except InvariantBroken:
            raise
        except AggregatorError as error:
            marks["stopped"] += isinstance(error, LedgerStopped)
            self._life.trace.tell(self._gate.process.name, "round failed:", _why(error))
        else:
            self._mark(result)
            return result
        return None

    def _mark(self, result: object) -> None:
        if not isinstance(result, Collected):
            return
        marks = self._life.marks
        marks["waiting for the barrier"] += result.waits_for is not None
        marks["barrier given up"] += result.unfenced
        marks["window set aside"] += result.unread
        marks["windows named as touched"] += result.touched
        marks["missed by `changed`"] += result.missed_by_changed

    def deliver(self) -> None:
        """Deliver for ever."""
        delivery: Worker = self._filing() if self._life.conditions.files else self._delivery()
        while True:
            try:
                result = delivery.run_once(self._gate.now())
            except InvariantBroken:
                raise
            except AggregatorError as error:
                self._life.marks["stopped"] += isinstance(error, LedgerStopped)
                self._life.trace.tell(self._gate.process.name, "delivery failed:", _why(error))
                self._scheduler.wait(5 * MINUTE * self._random.random())
                continue
            self._note(result)
            if result.halted:
                self._life.marks.saw("sink halted")
                self._scheduler.wait(30 * MINUTE)
            elif result.claimed and result.again == result.claimed:
                self._scheduler.wait(MINUTE)
            elif not result.claimed:
                pace = 3 * HOUR if self._life.resting else 40 * MINUTE
                self._scheduler.wait(pace * (0.1 + 0.9 * self._random.random()))

    def _delivery(self) -> Sender:
        return Sender(
            self._ledger.outbox,
            self._sink,
            self._sink_id,
            self._gate.clock,
            self._life.elapsed,
            FirstUse(self._ledger.first_uses, self._sink, self._sink_id, self._names).run_once,
            feeds=list(self._names),
        )

    def reconcile(self) -> None:
        """Read the service back, for ever."""
        shell = self._reconciliation()
        while True:
            self._round(lambda: shell.run_once(self._gate.now()))
            self._scheduler.wait((1 + 2 * self._random.random()) * HOUR)

    def cancel(self) -> None:
        """Take events back whose decreases are held, for ever."""
        notification_client, lowering = CancelGate(self._gate, self._life.service), list(self._registered)
        shell = Canceller(
            self._ledger.cancellations, notification_client, self._sink, self._sink_id, lowering
        )
        while True:
            self._round(lambda: shell.run_once(self._gate.now()))
            pace = 6 if self._life.resting else 1
            self._scheduler.wait(pace * (5 + 30 * self._random.random()) * MINUTE)

    def map(self, accounts: Accounts) -> None:
        """Read whose keys are, for ever."""
        assert self._customers is not None
        assert self._life.conditions.mapped is not None
        shell = mapping_of(self._gate, self._customers, accounts, self._life.conditions.mapped)
        while True:
            self._round(lambda: shell.run_once(self._gate.now()))
            self._scheduler.wait(EVERY * (8 if self._life.resting else 1) * (0.5 + self._random.random()))

    def archive(self, months: Months) -> None:
        """Archive what is old, for ever."""
        months.archive(self._gate, self._ledger, self._round)

    def hear(self) -> None:
        """Ask for messages, for ever."""
        shell = self._intake()
        while True:
            self._round(lambda: shell.run_once(self._gate.now()))
            self._scheduler.wait((0.2 + 2 * self._random.random()) * HOUR)

    def take_message(self, body: bytes) -> None:
        """Take one message that is delivered."""
        result = self._round(lambda: self._intake().deliver(body, "", self._scheduler.now))
        self._life.marks["a message is delivered first"] += result is not None and result.messages

    def _intake(self) -> NotificationPoller:
        notification_client = MailGate(self._gate, self._life.service, self._life.mail, self._knowing_it)
        return NotificationPoller(
            self._ledger.notifications, notification_client, self._sink.limits_for, self._sink_id
        )

    def _knowing_it(self, report: Report) -> Report:
        """Return a report by what its meter is called in this process; by nothing, if it was removed."""
        mine = next((name for name in self._registered if called(name) == report.meter), "")
        rows = self._life.ledger.tables().meters.values()
        self._life.marks["a report under a former name"] += any(mine in row.formerly for row in rows)
        return report._replace(meter=mine)

    def take(self, report: Report) -> None:
        """Take one report."""
        mine = self._knowing_it(report)
        result = self._round(lambda: self._reconciliation().take(mine, self._scheduler.now))
        if result is not None:
            self._life.taken.add(report.id)
            self._life.marks["read back without a name"] += result.readbacks

    def _reconciliation(self) -> Reconciler:
        return Reconciler(self._ledger.in_doubt, self._sink, self._sink_id)

    def _note(self, result: Delivered) -> None:
        for name, count in (
            ("duplicate after a lost answer", result.duplicates),
            ("in doubt", result.in_doubt),
            ("stale settle", result.stale),
            ("refused for good", result.refused),
        ):
            if count:
                self._life.marks[name] += count

    def _source(self) -> SourceGate:
        return SourceGate(self._gate, self._life.application, self._life.spells, self._life.standbys)

    def _mapped(self, known: Registered) -> Source:
        source = self._source()
        if self._customers is None:
            return source
        # As wired, but that the names of definitions are looked up without a step.
        held = self._life.ledger.verbs(self.process.owner, self.host.disk).meters
        return MappedSource(source, self._customers, lambda: held.definitions(known))  # type: ignore[arg-type]

    def _collection(self, meter: Meter) -> Collector:
        registered, taking_in, sampled = self._registered[meter.name], None, None
        if self._life.account is not None:
            sampled = self._life.sampled(registered, self._gate, self._ledger.samples)
        if registered.meter.deltas is not None:
            totals = self._ledger.running_totals
            taking_in = LivedCursorSource(
                registered.meter, registered.id, self._gate, self._life.application, totals
            )
        patience = self._life.conditions.patience
        asks = registered.meter.changed is not None
        return Collector(
            registered,
            sampled or taking_in or self._mapped(registered),
            self._ledger.meters,
            self._ledger.passes,
            ledger_name=self._ledger.identity.name,
            limits={SINK: self._sink.limits},
            elapsed=self._life.elapsed,
            check_clock=self._gate.now,
            patience=patience,
            by_cursor=taking_in,
            sampler=sampled,
            revisits=Revisits(registered.meter, self._source(), patience) if asks else None,
        )

    def _did(self, process: Process, name: str, values: tuple[object, ...], done: object) -> None:
        """Look on after each verb."""
        life = self._life
        if not _is_dull(name, done):
            life.trace.tell(process.name, name, _short(values), "->", _short((done,)))
        life.watch.verb(process, name, values, done)
        if name == "commit" and life.account is not None:
            life.account.committed()
        if name in CLOCKS_AGREE and done is not None:
            life.watch.claimed(self.host, done, set(self._names))
        life.looked()
        if life.months is not None:
            life.months.did(name)
        if name in CLOCKS_AGREE and done is not None:
            life.carrying.claimed()
            if life.restoring is not None:
                life.restoring.claimed()


def _knowing(known: Registered, model: WriteModel) -> Registered:
    """Return a meter with what the service books of its events."""
    return known._replace(feeds=tuple(feed._replace(model=model) for feed in known.feeds))


def _why(error: AggregatorError) -> object:
    """Say why something failed; why a ledger is stopped takes many words."""
    return "the ledger is stopped" if isinstance(error, LedgerStopped) else error


def _is_dull(name: str, done: object) -> bool:
    """Tell whether nothing came of it."""
    changed = getattr(done, "changed", 1) or getattr(done, "deferred", 1)
    return (
        (name == "claim" and done is None)
        or (name == "commit" and not changed)
        or name in {"acquire", "release"}
    )


def _short(values: tuple[object, ...]) -> str:
    """Write what a verb was given or gave, as far as it helps to follow the story."""
    parts: list[str] = []
    for value in values:
        span = getattr(value, "span", None)
        events = getattr(value, "events", None)
        if isinstance(value, Archive | Written):
            parts.append(value.name)
        elif span is not None:
            parts.append(str(span))
        elif isinstance(value, FileClaim):
            parts.append(f"file {value.id} of {value.events}, try {value.tries}")
        elif events is not None:
            parts.append(f"claim {getattr(value, 'id', '')} of {[int(event.id) for event in events]}")
        elif isinstance(value, int | bool | None):
            parts.append(str(value))
        elif isinstance(value, Tally):
            parts.append(
                f"{value.rows} rows, {value.changed} changed, {value.planned} planned, {value.deferred} deferred"
            )
        elif isinstance(value, list):
            parts.append(", ".join(f"{each.event}: {each.state}" for each in value if hasattr(each, "state")))
    return " ".join(parts)


@contextmanager
def stepped_threads(scheduler: Scheduler) -> Iterator[None]:
    """Let the shells' signs of life have their turns in simulated time."""
    shell, asking = vars(collection_shell), (vars(adoption_shell), vars(first_use_shell))
    before, pool = shell["threading"], asking[0]["ThreadPoolExecutor"]
    shell["threading"] = SteppedThreads(scheduler)
    for each in asking:
        each["ThreadPoolExecutor"] = OneByOne
    try:
        yield
    finally:
        shell["threading"] = before
        for each in asking:
            each["ThreadPoolExecutor"] = pool


def live(seed: int, kept: int = 60) -> Lived:
    """Live the life of a seed over the ledger in memory, and say how it went."""
    return outcome(Life(seed, kept=kept))


def outcome(life: Life) -> Lived:
    """Live a life, and say how it went."""
    lived = Lived(life.seed, marks=life.marks)
    try:
        life.run()
    except Violation as broken:
        lived.rule, lived.facts = broken.rule, broken.facts
    except (AssertionError, InvariantBroken) as broken:
        lived.rule, lived.facts = "an assertion of the code itself", f"{type(broken).__name__}: {broken}"
    except Exception:  # noqa: BLE001 - whatever it is, it is said with its seed, and other lives go on
        lived.rule, lived.facts = "nothing breaks", traceback.format_exc()
    lived.days = (life.scheduler.now - life.start) / DAY
    lived.events = life.service.received
    if lived.rule:
        lived.trace = str(life.trace)
    return lived
