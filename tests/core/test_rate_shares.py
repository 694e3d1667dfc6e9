"""Shares of one rate limit: never more together than the limit, whatever becomes of processes and answers."""

from collections.abc import Mapping
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.rate_shares import LEASE_SECONDS, Asked, Other, Share, fair, granted

LIMIT = 100.0
A_HAIR = 1e-6


class Row(NamedTuple):
    """What the ledger has down."""

    wanted: float
    held: float
    until: float


class Process:
    """One process: its share, and an answer that is on its way to it."""

    def __init__(self) -> None:
        self.share = Share()
        self.coming: tuple[float, float] | None = None


class Processes:
    """Some processes and a ledger, which keeps to the rules of the real one."""

    def __init__(self, count: int) -> None:
        self.now = 1_000.0
        self.rows: dict[int, Row] = {}
        self.all = [Process() for _ in range(count)]

    def ask(self, who: int, wanted: float, delay: float = 0.0) -> None:
        """Let a process ask; the question reaches the ledger after a while. The answer is on its way then."""
        process = self.all[who]
        asked_at, used = self.now, process.share.at(self.now)
        self.now += delay
        self.rows = {key: row for key, row in self.rows.items() if row.until > self.now}
        others = [Other(row.wanted, row.held) for key, row in self.rows.items() if key != who]
        share = granted(Asked("v1", LIMIT, wanted, used), others)
        self.rows[who] = Row(wanted, max(used, share), self.now + LEASE_SECONDS)
        process.coming = asked_at, share

    def hear(self, who: int) -> None:
        """Let the answer arrive, if one is on its way."""
        process = self.all[who]
        if process.coming is not None:
            process.share.answered(*process.coming)
            process.coming = None

    def renew(self, wanted: Mapping[int, float]) -> list[float]:
        """Let all of them ask and hear, once a second for a while; return what each has in the end."""
        for _ in range(5):
            self.now += 1.0
            for who, want in wanted.items():
                self.ask(who, want)
                self.hear(who)
        return [self.all[who].share.at(self.now) for who in wanted]


wants = st.floats(0.01, 2 * LIMIT)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 3), wants, st.floats(0, 1)),
        st.tuples(st.just("hear"), st.integers(0, 3), st.just(0.0), st.just(0.0)),
        st.tuples(st.just("lose"), st.integers(0, 3), st.just(0.0), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(0), st.just(0.0), st.floats(0, 4)),
    ),
    max_size=60,
)


@settings(max_examples=500)
@given(steps=steps)
def test_what_is_used_never_exceeds_the_limit(steps: list[tuple[str, int, float, float]]) -> None:
    """Processes ask, hear late, never hear, or are gone: together they never use more than the limit."""
    world = Processes(4)
    for what, who, wanted, seconds in steps:
        match what:
            case "ask" if world.all[who].coming is None:
                world.ask(who, wanted, seconds)
            case "hear":
                world.hear(who)
            case "lose":
                world.all[who].coming = None
            case "wait":
                world.now += seconds
        assert sum(process.share.at(world.now) for process in world.all) <= LIMIT + A_HAIR


@given(limit=st.floats(0.5, 10_000), wanted=st.lists(st.floats(0, 20_000), min_size=1, max_size=8))
def test_nobody_has_less_than_it_wants_while_another_has_more(limit: float, wanted: list[float]) -> None:
    """The limit is divided up to what is wanted; who does not have all it wants has as much as anybody."""
    parts = fair(limit, wanted)
    assert sum(parts) == pytest.approx(min(limit, sum(wanted)))
    for part, want in zip(parts, wanted, strict=True):
        assert part == pytest.approx(want) or part >= max(parts) - A_HAIR * limit


def test_who_is_alone_has_all() -> None:
    """Also who could use little just now, and at once."""
    world = Processes(1)
    world.ask(0, 1.0)
    world.hear(0)
    assert world.all[0].share.at(world.now) == LIMIT


def test_a_newcomer_soon_has_an_equal_part() -> None:
    """And the limit is used whole."""
    world = Processes(3)
    world.renew({0: LIMIT})
    assert world.renew({0: LIMIT, 1: LIMIT}) == pytest.approx([50, 50])
    assert world.renew({0: LIMIT, 1: LIMIT, 2: LIMIT}) == pytest.approx([100 / 3] * 3)


def test_who_wants_little_takes_little() -> None:
    """The rest is the other's."""
    world = Processes(2)
    assert world.renew({0: LIMIT, 1: 10.0}) == pytest.approx([90, 10])


def test_the_share_of_one_that_is_gone_is_the_others_once_it_is_over() -> None:
    """Not before, and not later."""
    world = Processes(2)
    world.renew({0: LIMIT, 1: LIMIT})
    gone_at = world.now
    while world.all[0].share.at(world.now) < LIMIT:
        world.now += 0.5
        world.ask(0, LIMIT)
        world.hear(0)
    assert gone_at + LEASE_SECONDS <= world.now < gone_at + LEASE_SECONDS + 1


def test_a_share_is_lowered_before_another_may_use_it() -> None:
    """What the ledger has down falls only once a process says that it uses less."""
    world = Processes(2)
    world.renew({0: LIMIT})
    world.ask(1, LIMIT)
    world.hear(1)
    assert world.all[1].share.at(world.now) == 0
    world.ask(0, LIMIT)
    assert world.rows[0].held == LIMIT, "its answer may be lost"
    world.hear(0)
    world.ask(0, LIMIT)
    assert world.rows[0].held == 50
