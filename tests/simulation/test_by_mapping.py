"""Usage that is billed by the application's own keys, which lists give to customers, by kills, pauses and two daemons."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aggregator.collection import mapped_source
from aggregator.core import customers
from aggregator.core.customers import Held, Moved
from tests.simulation import memory_customers
from tests.simulation.by_mapping import drawn_by_mapping
from tests.simulation.conditions import drawn
from tests.simulation.life import Life, Lived, outcome
from tests.simulation.memory import MappingRow
from tests.simulation.memory_customers import MemoryCustomers
from tests.simulation.mutation import Made, made

SEEDS = range(1, 31)

real_begins, real_take_over = MemoryCustomers._begins, MemoryCustomers.take_over


def lived(seed: int) -> Lived:
    return outcome(Life(seed, conditions=drawn_by_mapping(seed, drawn)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_by_keys_ends_with_everything_billed_to_whom_it_belongs(seed: int) -> None:
    """Whoever got a customer late, lost it or has another one by now, and whatever of it was declared to move."""
    life = lived(seed)
    assert life.rule is None, f"{life.trace}\n\n{life.rule}: {life.facts}"


def test_these_lives_have_what_they_are_about() -> None:
    """Customers who come late, change, go, and are shared."""
    sought = {
        "a key gets a customer",
        "a key gets another customer",
        "a key loses its customer",
        "a key gets a customer that another one has",
        "a list is not believed",
        "take over a list committed, answer lost",
    }
    for seed in SEEDS:
        sought -= {mark for mark, times in lived(seed).marks.items() if times}
        if not sought:
            break
    assert sought == set()


def waits_for_ever() -> Made:
    """A key that gets a customer has it from now on; what waited goes on waiting."""

    def begins(self: MemoryCustomers, row: MappingRow, key: str, *others: Any) -> dt.datetime:
        *_, unread, _ = others
        return unread if key in row.keys else real_begins(self, row, key, *others)

    return [(MemoryCustomers, "_begins", begins)]


def nobody_is_told() -> Made:
    """What waited is read again by nobody, neither at once nor by the next pass."""
    return [
        (MemoryCustomers, "_bill_what_waited", lambda *_: None),
        (memory_customers, "ready", lambda *_: None),
    ]


def all_moves() -> Made:
    """Whatever was declared, all usage moves to the new customer."""

    def take_over(
        self: MemoryCustomers, name: str, listed: Any, moved: Moved, *others: Any, **bounds: Any
    ) -> Any:
        return real_take_over(self, name, listed, Moved.ALL, *others, **bounds)

    return [(MemoryCustomers, "take_over", take_over)]


def nothing_moves() -> Made:
    """Whatever was declared, usage stays with the old customer."""

    def take_over(
        self: MemoryCustomers, name: str, listed: Any, moved: Moved, *others: Any, **bounds: Any
    ) -> Any:
        return real_take_over(self, name, listed, Moved.FUTURE, *others, **bounds)

    return [(MemoryCustomers, "take_over", take_over)]


def moved_and_not_read_again() -> Made:
    """What moves is moved when it happens to be read again: what is older stays with the old customer."""
    return [(MemoryCustomers, "_move_what_was_billed", lambda *_: None)]


def whoever_reads_goes_on() -> Made:
    """A pass that looked keys up before they moved commits all the same, and nobody reads again what it read."""
    return [(MemoryCustomers, "_let_nobody_go_on", lambda *_: None)]


def goes_by_its_instant() -> Made:
    """A change holds from the instant at which the list began to be read, whatever was read and billed meanwhile."""

    def take_over(
        self: MemoryCustomers, name: str, listed: Any, moved: Moved, now: Any, **bounds: Any
    ) -> Any:
        self.stamp = now  # type: ignore[attr-defined]
        return real_take_over(self, name, listed, moved, now, **bounds)

    def begins(self: MemoryCustomers, row: MappingRow, key: str, *others: Any) -> dt.datetime:
        after, moved, _, oldest = others
        stamp = self.stamp  # type: ignore[attr-defined]
        return real_begins(self, row, key, after, moved, stamp, oldest)

    return [(MemoryCustomers, "take_over", take_over), (MemoryCustomers, "_begins", begins)]


def newest_has_all() -> Made:
    """A window is whoever's the key is now."""

    def customer_of(held: Sequence[Held], start: dt.datetime) -> str | None:
        return held[-1].customer if held else None

    return [(customers, "customer_of", customer_of)]


def lost_for_all_time() -> Made:
    """Who is not listed any more never was: what was billed is nobody's."""

    def begins(
        self: MemoryCustomers, row: MappingRow, key: str, after: str | None, *others: Any
    ) -> dt.datetime:
        return memory_customers.EVER if after is None else real_begins(self, row, key, after, *others)

    return [(MemoryCustomers, "_begins", begins)]


def shared_by_nobody() -> Made:
    """Of two keys with one customer, the one that is read later is all that the customer used."""
    real = customers.resolved

    def resolved(readings: Any, known: Any) -> Any:
        last = {(each.customer, each.window_start): each for each in real(readings, known) if not each.reason}
        return [*last.values(), *(each for each in real(readings, known) if each.reason)]

    return [(mapped_source, "resolved", resolved)]


BUGS = {
    waits_for_ever: 1,
    nobody_is_told: 4,
    all_moves: 2,
    nothing_moves: 1,
    moved_and_not_read_again: 1,
    whoever_reads_goes_on: 41,
    goes_by_its_instant: 14,
    newest_has_all: 1,
    lost_for_all_time: 2,
    shared_by_nobody: 1,
}
"""What goes wrong, and a life that shows it, which is lived first."""


@pytest.mark.parametrize(("bug", "shown_by"), BUGS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_bug_made_on_purpose_is_found(bug: Callable[[], Made], shown_by: int) -> None:
    """What these lives cannot find, they do not prove."""
    with made(bug()):
        found = any(lived(seed).rule for seed in (shown_by, *SEEDS))
    assert found, f"{bug.__doc__} Nobody noticed."
