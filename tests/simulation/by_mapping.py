"""Lives in which usage is billed by the application's own keys: a list says whose they are, and changes.

Keys get a customer late, lose it, get another one, and share one. Whose a window is, is reckoned here once more from the
lists that were believed, in their order. Nothing of what the ledger keeps of them, nor of the code that looks keys up, is
used for that.

These lives have dice of their own, and bugs on purpose of their own: `test_by_mapping` lives them.
"""

import datetime as dt
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aggregator.collection.mapping import Mapping as CustomerMapping
from aggregator.core.customers import Held, Listed, Moved
from aggregator.core.model import WriteModel
from aggregator.errors import SourceUnreachable
from aggregator.ledger.customers import Adopted, Customers
from tests.simulation.conditions import DAY, HOUR, MINUTE, SECOND, Conditions
from tests.simulation.gates import Gate
from tests.simulation.memory import MeterRow

if TYPE_CHECKING:
    from tests.simulation.life import Life

ACCOUNTS = "accounts"

EVERY = 30 * MINUTE
"""How often the list is read."""

PAST = 34 * DAY
"""Longer than any life: all of it can move."""


def going_by_keys(conditions: Conditions, moved: Moved) -> Conditions:
    """Let usage be billed by keys. Nobody adopts, and nothing else changes whose usage is whose."""
    conditions.mapped = moved
    conditions.standbys = conditions.new_ids = conditions.backfills = conditions.restores = (
        conditions.models
    ) = 0
    conditions.vanishes = conditions.refuses = conditions.removals = conditions.renames = 0
    conditions.held_before = conditions.files = False
    conditions.customers = max(conditions.customers, 3)
    if conditions.write_model is WriteModel.LAST:
        conditions.write_model = WriteModel.DELTA
    return conditions


def drawn_by_mapping(seed: int, drawn: Callable[[int, Any, Any], Conditions]) -> Conditions:
    """Draw a life as any other, and let its usage be billed by keys: of what changes, all moves, or what is used later."""
    conditions = drawn(seed, random.Random(seed), random.Random(f"{seed}: restores"))
    going_by_keys(conditions, Moved.ALL if seed % 2 else Moved.FUTURE)
    if seed % 4 < 2:
        # Nothing is read twice but for the list's sake: no revisit mends what it left undone.
        conditions.trust_the_barrier()
    conditions.slow_read = 0.5
    return conditions


class Accounts:
    """The application's list of whose a key is, and every version of it that the ledger has believed."""

    def __init__(self, life: "Life", random: random.Random) -> None:
        self._life = life
        self._random = random
        self._ids = iter(range(1, 1_000_000))
        keys = life.application.customers()
        self.now: dict[str, str | None] = {
            key: None if random.random() < 0.4 else self._new() for key in keys
        }
        self.believed: list[tuple[dt.datetime, dict[str, str | None]]] = []
        for table in life.application.tables.values():
            table.whose = self.whose

    def _new(self) -> str:
        return f"bill_{next(self._ids)}"

    def plan(self, start: dt.datetime, end: dt.datetime) -> None:
        """Draw when the list changes."""
        for _ in range(self._random.randint(4, 10)):
            self._life.scheduler.at(start + (end - start) * self._random.random(), self._change)

    def _change(self) -> None:
        key, marks = self._random.choice(sorted(self.now)), self._life.marks
        before, others = self.now[key], sorted({each for each in self.now.values() if each is not None})
        if before is not None and self._random.random() < 0.2:
            after = None
            marks.saw("a key loses its customer")
        elif others and self._random.random() < 0.2:
            after = self._random.choice(others)
            marks.saw("a key gets a customer that another one has")
        else:
            after = self._new()
            marks.saw("a key gets a customer" if before is None else "a key gets another customer")
        self.now[key] = after
        self._life.trace.tell(key, "is", after, "from now on, and was", before)

    def listed(self, gate: Gate) -> Iterator[list[Listed]]:
        """Yield the list as it is at one instant, in two batches. Raises SourceUnreachable."""
        gate.step()
        rows = [Listed(key, customer, None) for key, customer in self.now.items()]
        if gate.random.random() < gate.conditions.query_fails:
            gate.marks.saw("query failed")
            raise SourceUnreachable
        yield rows[:1]
        gate.step(3 * HOUR if gate.random.random() < gate.conditions.slow_read else SECOND)
        yield rows[1:]

    def meters(self) -> list[MeterRow]:
        """Return the meters as the ledger has them: a change holds from the first window that none of them has read."""
        return list(self._life.ledger.tables().meters.values())

    def believe(self, now: dt.datetime, said: dict[str, str | None]) -> None:
        """Take note that the ledger goes by a list from now on."""
        self.believed.append((now, said))
        for table in self._life.application.tables.values():
            for start in list(table.by_window):
                table.say(start)

    def whose(self, key: str, start: dt.datetime) -> str | None:
        """Return whose a window of a key is, by every list that was believed, in order."""
        found: str | None = None
        held: str | None = None
        for read, said in self.believed:
            after = said.get(key)
            if held is None:
                # What waited until now waits no more.
                found = found or after
            elif after is None:
                found = None if start >= read else found
            elif after != held:
                moves = self._life.conditions.mapped is Moved.ALL or start >= read
                found = after if moves else found
            held = after
        return found


class GatedCustomers:
    """What the ledger knows of mappings, as a process reaches it. Looking keys up takes no time."""

    def __init__(self, gate: Gate, inner: Customers, accounts: Accounts) -> None:
        self._gate = gate
        self._inner = inner
        self._accounts = accounts

    def looked_at(self, name: str) -> dt.datetime | None:
        """Return when it was last read."""
        return self._gate.ledger("looked_at", lambda: self._inner.looked_at(name))

    def is_known(self, name: str) -> bool:
        """Tell whether it was ever believed."""
        return self._inner.is_known(name)

    def look_up(self, name: str, keys: Iterable[str]) -> Mapping[str, Sequence[Held]]:
        """Return which customers keys had and have."""
        return self._inner.look_up(name, keys)

    def keys(self, name: str, customer: str, start: dt.datetime) -> list[str]:
        """Return nothing: nobody asks."""
        return []

    def note_failure(self, name: str, reason: str, now: dt.datetime) -> None:
        """Note that it cannot be read."""
        self._gate.ledger("note_failure", lambda: self._inner.note_failure(name, reason, now))

    def take_over(
        self, name: str, listed: Iterable[Sequence[Listed]], moved: Moved, now: dt.datetime, **bounds: Any
    ) -> Adopted:
        """Let what it lists hold; whatever becomes of the answer, it does from then on."""
        rows = [each for batch in listed for each in batch]

        def work() -> Adopted:
            marks = [each.mark for each in self._accounts.meters()]
            done = self._inner.take_over(name, [rows], moved, now, **bounds)
            self._gate.marks["a list is not believed"] += done.doubt is not None
            if done.doubt is None:
                self._accounts.believe(max([now, *marks]), {each.key: each.customer for each in rows})
            return done

        return self._gate.ledger("take over a list", work)


def mapping_of(gate: Gate, customers: GatedCustomers, accounts: Accounts, moved: Moved) -> CustomerMapping:
    """Return what reads the list for a process."""
    return CustomerMapping(
        ACCOUNTS,
        lambda: accounts.listed(gate),
        customers,  # type: ignore[arg-type]  # the verbs that it uses
        moved=moved,
        every=EVERY,
        past=PAST,
    )
