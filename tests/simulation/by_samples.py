"""Lives in which a meter is sampled: an application that tells what there is now, and what its samples must come to.

What a window comes to is reckoned here once more, from what the application itself knows that it showed at the instants of
the samples in the ledger. Nothing of what the ledger keeps of values, nor of the code that works them out, is used for that.

These lives have dice of their own, and bugs on purpose of their own: `test_by_samples` lives them.
"""

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from aggregator.collection.sampled import SampledSource
from aggregator.core.model import ZERO, EventId, Fence, Meter, Reading, Span, State, WriteModel
from aggregator.core.sampling import (
    Counters,
    FirstValue,
    Gauges,
    Missing,
    Reads,
    Resets,
    Sample,
    Sampled,
    Sampling,
)
from aggregator.core.windows import floor, tile
from aggregator.errors import SourceUnreachable
from aggregator.ledger.samples import Samples
from tests.simulation.application import Application, Row, Table
from tests.simulation.conditions import DAY, MINUTE, Conditions
from tests.simulation.gates import SIGN_OF_LIFE, Gate
from tests.simulation.invariants import require
from tests.simulation.memory import Tables
from tests.simulation.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.simulation.life import Life

KEPT = 60 * DAY
"""Longer than any life: what is dropped is told by tests of the real ledger."""

PLACES = 10**18
"""An average is cut off at the 18th place."""

Key = tuple[str | None, str]
"""A customer, or nobody, and which of several counters."""

Now = dict[Key, tuple[Decimal | None, dt.datetime]]
"""What there is: a value, or one that is unusable, and since when."""


def being_sampled(conditions: Conditions, reads: Reads, every: dt.timedelta) -> Conditions:
    """Let meters be sampled: there is no history to be changed, and nothing else stands for the source."""
    conditions.sampled, conditions.every = reads, every
    conditions.spells = conditions.standbys = conditions.new_ids = conditions.backfills = 0
    conditions.models, conditions.held_before = 0, False
    conditions.days, conditions.meters = min(conditions.days, 2), 1
    conditions.revisit = max(conditions.revisit, 20 * DAY)
    conditions.delay = max(conditions.delay, MINUTE)
    if conditions.write_model is WriteModel.LAST:
        conditions.write_model = WriteModel.DELTA
    conditions.fractions = isinstance(reads, Gauges) and reads.sample is Sample.AVERAGE
    return conditions


def drawn_sampled(seed: int, drawn: Callable[[int, Any, Any], Conditions]) -> Conditions:
    """Draw a life as any other, and let its meters be sampled: by counters and gauges in turns, by any declared policy."""
    conditions = drawn(seed, random.Random(seed), random.Random(f"{seed}: restores"))
    chance = random.Random(f"{seed}: samples")
    every = conditions.window / chance.choice([1, 2, 4])
    reads: Reads = Counters(chance.choice([*Resets]), chance.choice([*FirstValue]))
    if seed % 2:
        reads = Gauges(chance.choice([*Sample]), chance.choice([*Missing]), every)
    return being_sampled(conditions, reads, every)


def sampling_of(conditions: Conditions, table: str) -> Sampling | None:
    """Return how a meter over a table is sampled; None if it is not."""
    reads = conditions.sampled
    return None if reads is None else Sampling(reads, table, conditions.every, KEPT)


class Shown(NamedTuple):
    """One instant of a table, and the gate through which its rows come."""

    at: dt.datetime
    rows: list[Sampled]
    gate: Gate

    def batches(self) -> Iterator[list[Sampled]]:
        """Yield the rows in two batches."""
        half = len(self.rows) // 2
        yield self.rows[:half]
        self.gate.step()
        yield self.rows[half:]


class States:
    """What each table shows now, and what it has shown to whoever asked. It changes until it is told to rest."""

    def __init__(self, life: "Life", application: Application, random: random.Random) -> None:
        self._scheduler: Scheduler = life.scheduler
        self._conditions = life.conditions
        self._random = random
        self._application = application
        self._now: dict[str, Now] = {name: {} for name in application.tables}
        self.said: dict[tuple[str, dt.datetime], Now] = {}
        """By table and instant."""
        self.dated = random.random() < 0.3
        """Whether rows say since when they stand so."""
        pace = life.conditions.window / 4
        for name in application.tables:
            for customer in application.customers():
                for number in range(random.randint(1, 2)):
                    self._now[name][customer, f"device_{number}"] = (
                        Decimal(random.randint(0, 50)),
                        life.scheduler.now,
                    )
            self._later(name, pace)

    def _later(self, name: str, pace: dt.timedelta) -> None:
        self._scheduler.after(pace * (0.2 + 1.6 * self._random.random()), lambda: self._work(name, pace))

    def _work(self, name: str, pace: dt.timedelta) -> None:
        if not self._application.resting:
            self._change(self._now[name])
            self._later(name, pace)

    def _change(self, now: Now) -> None:
        """Let one counter or gauge stand elsewhere: mostly further on, sometimes anywhere, or nowhere."""
        dice, at = self._random, self._scheduler.now
        customers: list[str | None] = [*self._application.customers()]
        key = dice.choice([*now, (dice.choice(customers), f"device_{dice.randint(0, 2)}")])
        value = now.get(key, (None, at))[0] or ZERO
        kind = dice.random()
        if kind < 0.06:
            now.pop(key, None)
        elif kind < 0.09:
            now[key] = (None, at)
        elif kind < 0.13:
            now.pop(key, None)
            now[dice.choice([*customers, None]), key[1]] = (value, at)
        elif kind < 0.22 or isinstance(self._conditions.sampled, Gauges):
            now[key] = (Decimal(dice.randint(0, 30)), at)
        else:
            now[key] = (value + dice.randint(0, 40), at)

    def show(self, name: str) -> tuple[dt.datetime, list[Sampled]]:
        """Return what a table shows now; all it ever shows is on record."""
        at, counters = self._scheduler.now, isinstance(self._conditions.sampled, Counters)
        if self._application.resting and not counters:
            self._now[name].clear()  # or there would be usage for ever
        self.said[name, at] = dict(self._now[name])
        return at, [
            Sampled(
                customer,
                series if counters else "",
                value,
                since if counters and self.dated else None,
                "quantity is NULL" if value is None else "no customer" if customer is None else None,
            )
            for (customer, series), (value, since) in self._now[name].items()
        ]


class Database:
    """The application database, as a process reaches it."""

    name = "application"

    def __init__(self, gate: Gate, states: States) -> None:
        self._gate = gate
        self._states = states

    @contextmanager
    def sampling(self, query: str, now: dt.datetime, *, counters: bool) -> Iterator[Shown]:
        """Show what there is now. Raises SourceUnreachable."""
        gate = self._gate
        gate.step()
        assert counters == isinstance(gate.conditions.sampled, Counters)
        if gate.random.random() < gate.conditions.query_fails:
            gate.marks.saw("query failed")
            raise SourceUnreachable
        at, rows = self._states.show(query)
        yield Shown(at, rows, gate)
        if gate.random.random() < gate.conditions.slow_read:
            for _ in range(gate.random.randint(1, 20)):
                gate.step(SIGN_OF_LIFE)
                gate.process.pulse()


class Reckoning:
    """What the samples of one table come to, by a second and simple account."""

    def __init__(
        self,
        reads: Reads,
        window: dt.timedelta,
        table: str,
        said: Mapping[tuple[str, dt.datetime], Now],
        *,
        dated: bool,
    ) -> None:
        self._reads = reads
        self._window = window
        self._table = table
        self._said = said
        self._dated = dated
        self._taken: list[tuple[dt.datetime, int]] = []
        self._forget()

    def _forget(self) -> None:
        self._taken = []
        self._rises: dict[dt.datetime, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        self._stood: dict[Key, tuple[Decimal, dt.datetime, int]] = {}
        """Of each counter: its last value, when it stood there, and which generation saw it."""
        self.doubtful: set[tuple[str | None, dt.datetime]] = set()
        """Customers and windows that a person is to see; None stands for everybody."""
        self.oldest: dict[tuple[str | None, dt.datetime], int] = {}
        """The first generation that saw a counter of a customer rise in a window: after an adoption it is not believed."""

    def follow(self, taken: list[tuple[dt.datetime, int]]) -> None:
        """Take in which samples the ledger has, with the generation that took each; it may have lost some."""
        if taken[: len(self._taken)] != self._taken:
            self._forget()
        before = self._taken[-1][1] if self._taken else 0
        for at, generation in taken[len(self._taken) :]:
            if isinstance(self._reads, Counters):
                self._risen(self._reads, at, generation, anew=generation != before)
            before = generation
        self._taken = list(taken)

    def _risen(self, how: Counters, at: dt.datetime, generation: int, *, anew: bool) -> None:
        """Take in one sample; `anew` says that it is the first one after an adoption."""
        for (customer, series), (value, since) in self._said[self._table, at].items():
            if value is None:
                continue
            when = since if self._dated else at
            before = self._stood.get((customer, series))
            if before is not None and when <= before[1]:
                continue
            self._stood[customer, series] = (value, when, generation)
            if customer is None:
                continue  # nobody's is on record as such, and bills nothing
            start = floor(when, self._window)
            if before is None:
                amount = value if how.first_value is FirstValue.WHOLE else ZERO
            elif value >= before[0]:
                amount = value - before[0]
            else:
                amount = ZERO if how.resets is Resets.IGNORE else value
                if how.resets is Resets.HOLD:
                    self.doubtful.add((customer, start))
            if amount and (anew if before is None else before[2] != generation):
                self.doubtful.add((customer, start))
            if amount:
                self.oldest[customer, start] = min(generation, self.oldest.get((customer, start), generation))
            self._rises[start][customer] += amount

    def of(self, window: Span) -> tuple[dict[str, Decimal], set[str]]:
        """Return what each customer used in a window that is over, and whose number there is unusable."""
        if isinstance(self._reads, Counters):
            return {who: much for who, much in self._rises[window.start].items() if much}, set()
        return self._stands(self._reads, window)

    def _stands(self, how: Gauges, window: Span) -> tuple[dict[str, Decimal], set[str]]:
        instants = [at for at, _ in self._taken if at < window.end]
        pieces = list(_pieces(instants, window, how))
        gap = any(at is None for at, _ in pieces)
        if how.sample is Sample.LAST:
            gap = gap and not any(at >= window.start for at in instants)
        if gap and how.missing is Missing.HOLD:
            self.doubtful.add((None, window.start))
        zero = gap and how.missing is Missing.NOTHING
        shown = [(self._sums(at), span) for at, span in pieces if at is not None]
        used, spoilt = dict[str, Decimal](), set[str]()
        for who in {who for sums, _ in shown for who in sums}:
            values = [(sums.get(who, ZERO), span) for sums, span in shown]
            known = [(value, span) for value, span in values if value is not None]
            if len(known) < len(values):
                spoilt.add(who)
            else:
                used[who] = _comes_to(known, window, how.sample, zero=zero)
        return used, spoilt

    def _sums(self, at: dt.datetime) -> dict[str, Decimal | None]:
        sums: dict[str, Decimal | None] = {}
        for (customer, _), (value, _) in self._said[self._table, at].items():
            if customer is not None:
                before = sums.get(customer, ZERO)
                sums[customer] = None if value is None or before is None else before + value
        return sums


def _pieces(
    instants: list[dt.datetime], window: Span, how: Gauges
) -> Iterator[tuple[dt.datetime | None, Span]]:
    """Yield the parts of a window since the first sample of all, each with the sample that counts there; None: no sample."""
    for number, at in enumerate(instants):
        follows = instants[number + 1] if number + 1 < len(instants) else window.end
        stands = at + 2 * how.every
        for piece, late in ((Span(at, min(follows, stands)), False), (Span(stands, follows), True)):
            inside = Span(max(piece.start, window.start), min(piece.end, window.end))
            if inside.start < inside.end:
                if late:
                    yield None, inside
                if not late or how.missing is not Missing.NOTHING:
                    yield at, inside


def _comes_to(values: list[tuple[Decimal, Span]], window: Span, sample: Sample, *, zero: bool) -> Decimal:
    if sample is Sample.LAST:
        return ZERO if zero else values[-1][0]
    if sample is Sample.MAX:
        return max(value for value, _ in values)
    area = sum((Fraction(value) * _microseconds(span) for value, span in values), Fraction(0))
    average = area / _microseconds(window)
    return Decimal(average.numerator * PLACES // average.denominator).scaleb(-18)


def _microseconds(span: Span) -> int:
    return (span.end - span.start) // dt.timedelta(microseconds=1)


class Account:
    """Puts what samples come to into the application's tables, as what was used: so all that is held of usage is of this."""

    def __init__(self, life: "Life", application: Application) -> None:
        reads = life.conditions.sampled
        assert reads is not None
        self._life = life
        self._window = life.conditions.window
        self._application = application
        self._begins = life.scheduler.now
        self.states = States(life, application, random.Random(f"{life.seed}: states"))
        self._reckoned = {
            name: Reckoning(reads, self._window, name, self.states.said, dated=self.states.dated)
            for name in application.tables
        }
        self._numbers: dict[tuple[str, str, dt.datetime], int] = {}
        self._planned: set[EventId] = set()

    def fill(self, table: str, span: Span) -> None:
        """Let what was used in the windows of a span be what the samples in the ledger come to."""
        tables, reckoned = self._life.ledger.tables(), self._reckoned[table]
        reckoned.follow(sorted((each.at, each.generation) for each in tables.samplings.values()))
        target = self._application.tables[table]
        for window in tile(span, self._window):
            used, spoilt = reckoned.of(window)
            self._put(target, table, window, used, spoilt)

    def fill_all(self) -> None:
        """Do so for all windows that were read."""
        for row in self._life.ledger.tables().meters.values():
            for table in self._application.tables:
                self.fill(table, Span(self._begins, row.mark))

    def _put(
        self, target: Table, table: str, window: Span, used: dict[str, Decimal], spoilt: set[str]
    ) -> None:
        wanted = {
            self._number(table, who, window.start): Row(
                0, who, window.start, used.get(who, ZERO), "quantity is NULL" if who in spoilt else None
            )
            for who in [*used, *spoilt]
        }
        there = target.by_window[window.start]
        for number in [number for number in there if number not in wanted]:
            target.drop(number)
        for number, row in wanted.items():
            row.id = number
            if there.get(number) != row:
                target.put(row)

    def _number(self, table: str, who: str, start: dt.datetime) -> int:
        return self._numbers.setdefault((table, who, start), len(self._numbers) + 1)

    def restored(self) -> None:
        """Begin anew with the events that a restore has left."""
        self._planned = set(self._life.ledger.tables().events)

    def committed(self) -> None:
        """Look at what was just planned: what a person is to see is not billed before."""
        tables = self._life.ledger.tables()
        for event in [each for each in tables.events if each not in self._planned]:
            self._planned.add(event)
            self._look(tables, event)

    def _look(self, tables: Tables, number: EventId) -> None:
        event = tables.events[number]
        reckoned = next(iter(self._reckoned.values()))
        of_old = {each for each, seen in reckoned.oldest.items() if seen != tables.identity.generation}
        doubtful = {(event.customer, event.window_start), (None, event.window_start)} & (
            reckoned.doubtful | of_old
        )
        if doubtful and event.delta > 0 and not event.taken_over:
            self._life.marks.saw("what samples came to is held")
            require(
                event.state is not State.DUE,
                "what is doubtful waits for a person",
                event,
                "comes of",
                doubtful,
            )


class LivedSampledSource(SampledSource):
    """The real one, which has what was used reckoned beside it."""

    def __init__(
        self, meter: Meter, meter_id: int, gate: Gate, account: Account, table: str, samples: Samples
    ) -> None:
        super().__init__(meter, meter_id, Database(gate, account.states), samples, lambda: gate.scheduler.now)
        self._gate = gate
        self._account = account
        self._table = table

    def read(self, query: str, span: Span, window: dt.timedelta, **named: Any) -> Iterator[list[Reading]]:
        """Yield what samples come to."""
        process = self._gate.process
        process.complete.discard(query)
        process.shown[query] = self._gate.scheduler.now
        yield from super().read(query, span, window, **named)
        self._account.fill(self._table, span)
        process.complete.add(query)

    def fence(self) -> Fence | None:
        """Say nothing, and let time pass."""
        self._gate.step()
        return super().fence()
