"""What a process of a simulated world has for a ledger, a source and a sink: the real thing behind a gate.

Every call goes through a gate: before it and after it the process may die or stand still, and the call itself may fail
without having done anything, or do its work and seem to have failed. Time passes on the way.
"""

import datetime as dt
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, TypeVar

from aggregator.core.model import (
    Answer,
    Event,
    Fence,
    Limits,
    Reading,
    Span,
    Verdict,
    WriteModel,
)
from aggregator.errors import (
    LedgerUnreachable,
    QueryTimedOut,
    SinkError,
    SinkHalted,
    SinkUnreachable,
    SourceUnreachable,
)
from aggregator.ledger.clock import LedgerClock
from aggregator.source.snapshot import Glimpse
from tests.simulation.apart import shown
from tests.simulation.application import Application
from tests.simulation.conditions import HOUR, MINUTE, SECOND, Conditions
from tests.simulation.invariants import Invariants
from tests.simulation.marks import Marks
from tests.simulation.names import called, outward
from tests.simulation.scheduler import Killed, Process, Scheduler, Unmapped
from tests.simulation.service import Service
from tests.simulation.spells import Spells
from tests.simulation.standbys import Standby, Standbys
from tests.simulation.trace import Trace

T = TypeVar("T")

MILLISECOND = dt.timedelta(milliseconds=1)
SIGN_OF_LIFE = 20 * SECOND
"""How often what runs beside a long read has its turn: a third of a lease."""


CLOCKS_AGREE = frozenset({"claim", "claim_whole", "take_over"})
"""Transactions that are not made while a host's clock differs from the ledger's."""


@dataclass(slots=True)
class Gate:
    """The way out of one process."""

    scheduler: Scheduler
    process: Process
    conditions: Conditions
    random: random.Random
    marks: Marks
    trace: Trace
    clock: LedgerClock

    def step(self, takes: dt.timedelta = MILLISECOND) -> None:
        """Let time pass; the process may die here, or stand still for a while. Raises Killed."""
        if not self.process.alive:
            raise Killed
        conditions, dice = self.conditions, self.random.random()
        if dice < conditions.kill:
            self.trace.tell(self.process.name, "is killed")
            self.marks.saw("killed")
            self.scheduler.kill(self.process)
            raise Killed
        if dice < conditions.kill + conditions.pause:
            length = self.random.choice([MINUTE, 2 * MINUTE, 2 * HOUR, 26 * HOUR])
            self.trace.tell(self.process.name, "stands still for", length)
            self.marks.saw("paused")
            self.process.frozen_until = self.scheduler.now + length
        self.scheduler.wait(takes)
        if not self.process.alive:
            raise Killed

    def hear(self) -> None:
        """Learn the ledger's time, as with every transaction."""
        with self.clock.hearing() as polled:
            polled(self.scheduler.now)

    def now(self) -> dt.datetime:
        """Return the ledger's time, as `Database.now` does. Raises ClocksApart while this host's clock is another."""
        if self.clock.apart() is not None:
            self.marks.saw("a host stands back for its clock")
            self.step()
            self.hear()
            self.clock.check()
        return self.clock()

    def ledger(self, name: str, verb: Callable[[], T]) -> T:
        """Use a verb of the ledger: one transaction. Raises LedgerUnreachable before it, or after it was committed."""
        self.step()
        conditions, dice = self.conditions, self.random.random()
        if dice < conditions.ledger_down:
            self.trace.tell(self.process.name, name, "fails: the ledger is away")
            self.marks.saw("ledger away")
            raise LedgerUnreachable
        self.hear()
        if name in CLOCKS_AGREE:
            self.clock.check()
        done = verb()
        if dice > 1 - conditions.ledger_ack_lost:
            self.trace.tell(self.process.name, name, "is committed, and the answer is lost")
            self.marks.saw(f"{name} committed, answer lost")
            raise LedgerUnreachable
        self.step()
        return done


class Behind:
    """The verbs of a part of the ledger, each behind the gate."""

    def __init__(self, gate: Gate, inner: object, watch: Callable[..., None]) -> None:
        self._gate = gate
        self._inner = inner
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._inner, name)
        if not callable(verb):
            return verb

        def call(*values: Any, **named: Any) -> Any:
            def work() -> Any:
                done = verb(*values, **named)
                self._watch(self._gate.process, name, values, done)
                return done

            return self._gate.ledger(name, work)

        return call


@dataclass(frozen=True)
class Shape:
    """What columns a query gives."""

    returns_window: bool
    returns_at: bool


class SourceGate:
    """The application database. A read sees one instant of it, however long it takes."""

    name = "application"

    def __init__(self, gate: Gate, application: Application, spells: Spells, standbys: Standbys) -> None:
        self._gate = gate
        self._application = application
        self._spells = spells
        self._standbys = standbys

    def read(
        self,
        query: str,
        span: Span,
        window: dt.timedelta,
        *,
        dimensions: Sequence[str] = (),
        step: dt.timedelta | None = None,
        allow: Callable[[Fence | None], dt.datetime] | None = None,
    ) -> Iterator[list[Reading]]:
        """Yield the readings of a span in two batches. Raises SourceUnreachable or QueryTimedOut at any point."""
        gate, conditions = self._gate, self._gate.conditions
        gate.process.complete.discard(query)
        gate.step()
        if allow is not None:
            span = Span(span.start, allow(self._application.fence()))
        standby = self._standbys.any()
        if allow is not None:
            span = Span(span.start, allow(self._fence_of(standby)))
        gate.process.shown[query] = standby.until if standby else gate.scheduler.now
        table = (standby or self._application).tables[query]
        readings = table.readings(span, raw=conditions.raw, names_at=conditions.names_at)
        readings = self._spells.show(
            self._application.tables[query], table, readings, span, gate.scheduler.now
        )
        if gate.random.random() < conditions.empty_read:
            gate.marks.saw("empty read")
            readings = []
        slow = gate.random.random() < conditions.slow_read
        if slow:
            for _ in range(gate.random.randint(1, 20)):
                gate.step(SIGN_OF_LIFE)
                gate.process.pulse()
        if gate.random.random() < conditions.query_fails:
            gate.trace.tell(gate.process.name, "the query over", span, "fails")
            gate.marks.saw("query failed")
            raise QueryTimedOut if slow else SourceUnreachable
        readings, half = shown(readings), len(readings) // 2
        yield readings[:half]
        gate.step()
        yield readings[half:]
        gate.process.complete.add(query)

    @contextmanager
    def glimpse(self, timeout: dt.timedelta) -> Iterator[Glimpse]:
        """Hold one instant open. Raises SourceUnreachable at its beginning, or when it is asked."""
        assert timeout > dt.timedelta(0)
        gate = self._gate
        gate.step()
        if gate.random.random() < gate.conditions.query_fails:
            raise SourceUnreachable
        standby = self._standbys.any()
        now = gate.scheduler.now

        def read(
            query: str, span: Span, _: dt.timedelta, dimensions: Sequence[str] = ()
        ) -> Iterator[list[Reading]]:
            assert gate.scheduler.now == now, "it is one snapshot"
            table = (standby or self._application).tables[query]
            readings = table.readings(span, raw=gate.conditions.raw, names_at=gate.conditions.names_at)
            readings = self._spells.show(self._application.tables[query], table, readings, span, now)
            yield [] if gate.random.random() < gate.conditions.empty_read else shown(readings)
            gate.step()

        yield Glimpse(self._fence_of(standby), read)

    @contextmanager
    def touched(self, query: str) -> Iterator["Touching"]:
        """Hold one instant open. Raises SourceUnreachable at its beginning."""
        gate = self._gate
        gate.step()
        if gate.random.random() < gate.conditions.query_fails:
            gate.marks.saw("query failed")
            raise SourceUnreachable
        yield Touching(gate, list(self._application.tables[query].touched), self._application.fence())

    def reread(self, query: str, span: Span, window: dt.timedelta, dimensions: Sequence[str] = ()) -> None:
        """Say the same again: no query changes by itself."""
        self._gate.step()

    def columns(self, query: str, span: Span, dimensions: Sequence[str] = ()) -> Shape:
        """Say what the query gives."""
        self._gate.step()
        return Shape(self._gate.conditions.at_once, self._gate.conditions.names_at)

    def fence(self) -> Fence:
        """Say what is open."""
        self._gate.step()
        return self._fence_of(self._standbys.any())

    def _fence_of(self, standby: Standby | None) -> Fence:
        """Say what the connection says that is read from."""
        return self._application.fence() if standby is None else self._standbys.fence(standby)


@dataclass(frozen=True)
class Touching:
    """What a trigger had written at one instant, and what was open then."""

    gate: Gate
    touched: list[tuple[dt.datetime, dt.datetime]]
    fence: Fence

    def since(self, instant: dt.datetime) -> Iterator[list[dt.datetime]]:
        """Yield what was stamped since an instant."""
        yield [window for stamp, window in self.touched if stamp >= instant]
        self.gate.step()


class SinkGate:
    """The service, over a network that loses, delays and doubles."""

    def __init__(
        self,
        gate: Gate,
        service: Service,
        watch: Invariants,
        name: str,
        meters: Collection[str] | None = None,
    ) -> None:
        conditions, self._meters = gate.conditions, meters
        self.name = name
        self.limits = Limits(
            write_model=conditions.write_model,
            memory=20 * HOUR,
            proof=26 * HOUR,
            past=35 * 24 * HOUR,
            significant_digits=15,
            identifier_length=100,
            batch=conditions.batch,
            rate=1_000.0,
            newest_of=HOUR if conditions.write_model is WriteModel.OVERWRITE else None,
        )
        self._gate = gate
        self._service = service
        self._watch = watch

    def limits_for(self, meter: str) -> Limits:
        """Say the same for every meter."""
        return self.limits

    def resume(self) -> None:
        """Nothing is kept of having been halted."""

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Send events one by one."""
        gate, service = self._gate, self._service
        for event in events:
            gate.step()
            if service.halted:
                raise SinkHalted
            if self._meters is not None and event.meter not in self._meters:
                gate.marks.saw("a name that this process does not know")
                yield Verdict(
                    event.id,
                    Answer.BUSY,
                    f"meter {event.meter} no longer feeds sink {self.name}: put it back",
                )
                continue
            if not may_leave():
                gate.marks.saw("never left: the claim may have run out")
                yield Verdict(event.id, Answer.UNSENT)
                continue
            self._watch.leaving(event)
            answer, reason = self._send(event)
            self._watch.answered(event, answer)
            gate.trace.tell(gate.process.name, "sends", event, "->", answer)
            gate.step(gate.random.randint(50, 150) * MILLISECOND)
            yield Verdict(event.id, answer, reason, request_id=f"req_{service.received}")

    def _send(self, event: Event) -> tuple[Answer, str | None]:
        """Let one request leave: what the network and the service do with it."""
        gate, service, conditions = self._gate, self._service, self._gate.conditions
        dice = gate.random.random
        lost = Answer.UNKNOWN, "no answer"
        if dice() < conditions.busy:
            return Answer.BUSY, "429"
        if service.in_black_hole():
            gate.marks.saw("black hole")
            if dice() < conditions.swallows:
                service.process(outward(event))
            return lost
        if dice() < conditions.lost_before:
            return lost
        if dice() < conditions.delayed:
            gate.marks.saw("request delivered late")
            gate.scheduler.after(30 * MINUTE * dice(), lambda: self._arrive(event))
            return lost
        answer = service.process(outward(event))
        if answer[0] is not Answer.REFUSED and dice() < conditions.doubled:
            gate.marks.saw("request delivered twice")
            gate.scheduler.after(30 * MINUTE * dice(), lambda: self._arrive(event))
        return lost if dice() < conditions.lost_after else answer

    def _arrive(self, event: Event) -> None:
        self._service.process(outward(event))

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Read the service's own total. Raises SinkUnreachable."""
        gate = self._gate
        gate.step()
        if self._service.in_black_hole() or gate.random.random() < gate.conditions.lost_before:
            raise SinkUnreachable
        if gate.random.random() < gate.conditions.no_figure:
            raise SinkError
        return self._service.total(self._called(meter), customer, span)

    def _called(self, meter: str) -> str:
        """Return what the service calls a meter. Raises SinkError for one that is not in the configuration."""
        if self._meters is not None and meter not in self._meters:
            self._gate.marks.saw("a removed meter cannot be looked up")
            raise SinkError(
                f"Meter {meter} no longer feeds sink {self.name}, so it cannot be looked up there: put it back."
            )
        return called(meter)

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Read it step by step."""
        self._gate.step()
        return self._service.breakdown(self._called(meter), customer, span, step)

    def preflight(self, meters: object) -> list[str]:
        """Fit every meter."""
        return []

    def account(self) -> str | None:
        """Belong to one account."""
        return "acct_simulated test"

    def stop(self) -> None:
        """Nothing is ever in the air beside a task."""

    def close(self) -> None:
        """There is nothing to give back."""


class SteppedThreads(SimpleNamespace):
    """Stands in for `threading` where a shell gives signs of life beside a long read: one turn whenever the read says so."""

    def __init__(self, scheduler: Scheduler) -> None:
        turns = _Turns(scheduler)
        super().__init__(Thread=turns.thread, Event=turns.event)


class _Turns:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._left = 0

    def thread(self, *, target: Callable[[], None], name: str, daemon: bool) -> "_Thread":
        task = self._scheduler.current
        assert task is not None
        return _Thread(task.process, lambda: self._turn(target))

    def event(self) -> "_Event":
        return _Event(self)

    def _turn(self, target: Callable[[], None]) -> None:
        self._left = 1
        target()
        self._left = 0

    def spend(self) -> bool:
        """Tell whether the one who repeats has a turn left."""
        self._left -= 1
        return self._left >= 0


class _Thread:
    def __init__(self, process: Process, turn: Callable[[], None]) -> None:
        self._process = process
        self._aside = Unmapped(turn)

    def start(self) -> None:
        self._process.unmapped_rows.append(self._aside)

    def join(self) -> None:
        if self._aside in self._process.unmapped_rows:
            self._process.unmapped_rows.remove(self._aside)


class _Event:
    def __init__(self, turns: _Turns) -> None:
        self._turns = turns
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float) -> bool:
        return self._set or not self._turns.spend()
