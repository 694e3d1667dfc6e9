"""The application whose usage is billed: tables that transactions write to, and what a query sees of them.

A row has the instant at which it was used and becomes visible when its transaction commits: mostly at once, often late, and
sometimes never. Rows are changed, deleted, and moved between windows afterwards. `most` remembers the most that was ever
visible, or shown by mistake, of each customer and window: no bill may be higher.
"""

import datetime as dt
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import ZERO, Fence, Reading, Span
from aggregator.core.windows import floor, tile
from tests.simulation.apart import DIMENSION, named
from tests.simulation.conditions import DAY, HOUR, MINUTE, SECOND, Conditions
from tests.simulation.scheduler import Scheduler

Key = tuple[str, dt.datetime]
"""A customer and the start of a window."""


@dataclass(slots=True)
class Row:
    """One use. `flaw` says why nobody can be billed for it."""

    id: int
    customer: str | None
    at: dt.datetime
    quantity: Decimal
    flaw: str | None = None


@dataclass(slots=True)
class Transaction:
    """A transaction that is open. Its id is what fences see."""

    xid: int
    began: dt.datetime
    changes: list[Callable[[], None]]


class Change(NamedTuple):
    """A row that was written, or the number of one that was dropped."""

    at: dt.datetime
    meter: str
    row: Row | int


@dataclass
class Table:
    """The usage of one meter."""

    window: dt.timedelta
    rows: dict[int, Row] = field(default_factory=dict)
    by_window: dict[dt.datetime, dict[int, Row]] = field(default_factory=lambda: defaultdict(dict))
    most: dict[Key, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    most_of: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """The sum of these by customer."""
    changed: Callable[[Row | int], None] = lambda _: None
    """Hears of every change."""
    stamp: dt.datetime | None = None
    """When the transaction began that writes just now: what `now()` gives in it."""
    touched: list[tuple[dt.datetime, dt.datetime]] = field(default_factory=list)
    """What a trigger writes of every change: the stamp of its transaction, and the window."""
    whose: Callable[[str, dt.datetime], str | None] = lambda name, _: name
    """Whose a window is that a row names somebody for: themselves, unless a list says so."""
    _readings: dict[dt.datetime, list[Reading]] = field(default_factory=dict)

    def put(self, row: Row) -> None:
        """Write a row, in place of the one with its id."""
        self.drop(row.id)
        start = floor(row.at, self.window)
        self.rows[row.id] = row
        self.by_window[start][row.id] = row
        self.changed(row)
        self._changed(start)

    def drop(self, number: int) -> None:
        """Delete a row."""
        row = self.rows.pop(number, None)
        if row is not None:
            start = floor(row.at, self.window)
            del self.by_window[start][number]
            self.changed(number)
            self._changed(start)

    def _changed(self, start: dt.datetime) -> None:
        if self.stamp is not None:
            self.touched.append((self.stamp, start))
        self._readings.pop(start, None)
        self.say(start)

    def say(self, start: dt.datetime) -> None:
        """Note what a window shows by now."""
        for customer, quantity in self.truth_of(start).items():
            self._said(customer, start, quantity)

    def shown(self, span: Span, times: int, by: "Table") -> None:
        """Note that every row of a span was shown so many times, as this table or a copy has them: so much was said."""
        for window in tile(span, self.window):
            for customer, quantity in by.truth_of(window.start).items():
                self._said(customer, window.start, times * quantity)

    def _said(self, customer: str, start: dt.datetime, quantity: Decimal) -> None:
        more = quantity - self.most[customer, start]
        if more > 0:
            self.most[customer, start] += more
            self.most_of[customer] += more

    def truth_of(self, start: dt.datetime) -> dict[str, Decimal]:
        """Return what each customer used in a window, without what nobody can be billed for."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for row in self.by_window[start].values():
            if row.customer is not None and row.flaw is None:
                customer = self.whose(row.customer, start)
                if customer is not None:
                    sums[customer] += row.quantity
        return sums

    def truth(self) -> dict[Key, Decimal]:
        """Return what each customer used in each window."""
        return {
            (customer, start): quantity
            for start in list(self.by_window)
            for customer, quantity in self.truth_of(start).items()
        }

    def spoilt(self) -> set[Key]:
        """Return the slots with a row that nobody can be billed for."""
        return {
            (customer, start)
            for row in self.rows.values()
            if row.customer is not None and row.flaw is not None
            for start in (floor(row.at, self.window),)
            if (customer := self.whose(row.customer, start)) is not None
        }

    def readings(self, span: Span, *, raw: bool, names_at: bool) -> list[Reading]:
        """Return what a query over a span gives, as of now."""
        found: list[Reading] = []
        for window in tile(span, self.window):
            known = self._readings.get(window.start)
            if known is None:
                known = self._readings[window.start] = list(self._read(window.start, raw, names_at))
            found.extend(known)
        return found

    def _read(self, start: dt.datetime, raw: bool, names_at: bool) -> Iterator[Reading]:
        grouped: dict[tuple[str | None, str | None], tuple[Decimal, dt.datetime]] = {}
        for row in self.by_window.get(start, {}).values():
            if row.flaw is not None:
                yield Reading(start, row.customer, None, None, row.flaw)
                continue
            reason = None if row.customer is not None else "no customer"
            if raw:
                yield Reading(start, row.customer, row.quantity, row.at if names_at else None, reason)
                continue
            before, last = grouped.get((row.customer, reason), (ZERO, row.at))
            grouped[row.customer, reason] = (before + row.quantity, max(last, row.at))
        for (customer, reason), (quantity, at) in grouped.items():
            yield Reading(start, customer, quantity, at if names_at else None, reason)


class Application:
    """The application at work, until it is told to rest."""

    def __init__(
        self, scheduler: Scheduler, conditions: Conditions, random: random.Random, meters: list[str]
    ) -> None:
        self.start = scheduler.now
        self.tables = {meter: Table(conditions.window) for meter in meters}
        self.resting = False
        self.log: list[Change] = []
        """What was committed, in its order, if somebody replays it."""
        self.fences: list[Fence] = []
        """What was open, whenever that changed."""
        self._is_replicated = False
        self._scheduler = scheduler
        self._conditions = conditions
        self._random = random
        self._ids = itertools.count(1)
        self._xids = itertools.count(1_000)
        self._next_xid = 1_000
        self._open: dict[int, Transaction] = {}
        self._called: dict[str, str] = {}
        """The ids that customers have now, by those that they had at first or later."""
        self._pace = conditions.window / 3
        self._settled_until: dt.datetime | None = None
        if conditions.sampled is None:
            self._begin_work()

    def _begin_work(self) -> None:
        for meter in self.tables:
            delay = self._pace * self._random.random()
            self._scheduler.after(delay, lambda meter=meter: self._work(meter))  # type: ignore[misc]

    def customers(self) -> list[str]:
        """Name the customers, each with every model where usage is kept apart by those."""
        customers = [f"cus_{number}" for number in range(1, self._conditions.customers + 1)]
        models = range(1, self._conditions.models + 1)
        customers = [
            named(each, ((DIMENSION, f"m{model}"),)) for each in customers for model in models
        ] or customers
        return [self._now_called(each) for each in customers]

    def rename(self, customer: str) -> str:
        """Give a customer another id; all that they used is shown under it from now on. Return it."""
        first, _, number = customer.partition("_again_")
        after = self._called[customer] = f"{first}_again_{int(number or 0) + 1}"
        for table in self.tables.values():
            table.stamp = self._scheduler.now
            for row in [row for row in table.rows.values() if row.customer == customer]:
                table.put(replace(row, customer=after))
        return after

    def _now_called(self, customer: str) -> str:
        while customer in self._called:
            customer = self._called[customer]
        return customer

    def rest(self) -> None:
        """End all traffic; what is open commits."""
        self.resting = True
        for xid in list(self._open):
            self._commit(xid)

    def settle(self) -> None:
        """Change nothing any more of what there is by now."""
        self._settled_until = self._scheduler.now

    def go_on(self) -> None:
        """Go on with all traffic."""
        self.resting = False
        self._begin_work()

    def replicate(self) -> None:
        """Keep a log of what is committed from now on."""
        self._is_replicated = True
        self.fences.append(self.fence())
        for name, table in self.tables.items():
            table.changed = lambda row, name=name: self.log.append(Change(self._scheduler.now, name, row))  # type: ignore[misc]

    def _opened_or_ended(self) -> None:
        if self._is_replicated:
            self.fences.append(self.fence())

    def fence(self) -> Fence:
        """Say what is open just now, as Postgres says it."""
        began = [each.began for each in self._open.values()]
        seen = self._conditions.sees_starts
        return Fence(
            at=self._scheduler.now,
            xmin=min(self._open, default=self._next_xid),
            xmax=self._next_xid,
            oldest_start=min(began, default=None) if seen else None,
            sees_starts=seen,
            standby=False,
            fresh_until=None,
            holder=f"transaction {min(self._open)}" if self._open else None,
        )

    def writers(self) -> frozenset[str]:
        """Name the transactions that are open."""
        return frozenset(map(str, self._open))

    def _work(self, meter: str) -> None:
        """Do one transaction, and come again."""
        if self.resting:
            return
        self._transact(self.tables[meter])
        self._scheduler.after(self._pace * (0.2 + 1.6 * self._random.random()), lambda: self._work(meter))

    def _transact(self, table: Table) -> None:
        random, conditions, now = self._random, self._conditions, self._scheduler.now
        xid = self._next_xid = next(self._xids)
        self._next_xid += 1
        changes = [self._insert(table, now) for _ in range(random.randint(1, 4))]
        for rate, change in (
            (conditions.updates, self._update),
            (conditions.deletes, self._delete),
            (conditions.moves, self._move),
        ):
            if random.random() < rate * 3:
                changes.append(change(table))
        if random.random() < conditions.aborted:
            return
        self._open[xid] = Transaction(xid, now, changes)
        self._opened_or_ended()
        late = random.random() < conditions.late
        delay = 6 * HOUR * random.random() ** 3 + MINUTE if late else SECOND * random.random()
        self._scheduler.after(delay, lambda: self._commit(xid))

    def _commit(self, xid: int) -> None:
        transaction = self._open.pop(xid, None)
        if transaction is not None:
            for table in self.tables.values():
                table.stamp = transaction.began
            for change in transaction.changes:
                change()
            self._opened_or_ended()

    def _insert(self, table: Table, now: dt.datetime) -> Callable[[], None]:
        random, conditions = self._random, self._conditions
        at = now
        if random.random() < conditions.backdated:
            at = max(self.start, now - DAY * random.random())
        customer = random.choice(self.customers())
        flaw = "quantity is not a number" if random.random() < conditions.poison else None
        unmapped = random.random() < conditions.unmapped
        number = next(self._ids)
        if conditions.astray and random.random() < conditions.astray:
            number = -number
        row = Row(number, None if unmapped else customer, at, self._quantity(), flaw)
        return lambda: table.put(
            row if row.customer is None else replace(row, customer=self._now_called(row.customer))
        )

    def _quantity(self) -> Decimal:
        if self._conditions.zeros and self._random.random() < self._conditions.zeros:
            return ZERO
        places = self._conditions.decimals + (2 if self._conditions.fractions else 0)
        return Decimal(self._random.randint(1, 10 ** (1 + places))).scaleb(-places)

    def _any(self, table: Table) -> Row | None:
        settled = self._settled_until
        ids = [number for number, row in table.rows.items() if settled is None or row.at >= settled]
        return table.rows[self._random.choice(ids)] if ids else None

    def _update(self, table: Table) -> Callable[[], None]:
        row, quantity = self._any(table), self._quantity()
        return lambda: self._change(table, row, quantity=quantity)

    def _delete(self, table: Table) -> Callable[[], None]:
        row = self._any(table)
        return lambda: table.drop(row.id) if row is not None else None

    def _move(self, table: Table) -> Callable[[], None]:
        row = self._any(table)
        shift = self._conditions.window * self._random.choice([-2, -1, 1])
        return lambda: self._change(table, row, shift=shift)

    def _change(
        self,
        table: Table,
        row: Row | None,
        *,
        quantity: Decimal | None = None,
        shift: dt.timedelta = dt.timedelta(0),
    ) -> None:
        current = table.rows.get(row.id) if row is not None else None
        if current is None:
            return
        at = min(max(current.at + shift, self.start), self._scheduler.now)
        table.put(
            Row(
                current.id,
                current.customer,
                at,
                current.quantity if quantity is None else quantity,
                current.flaw,
            )
        )
