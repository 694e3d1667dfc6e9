"""The arithmetic of an adoption: the sink's totals are believed, the balance holds, and the next pass finds what is owed."""

import datetime as dt
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.core.model import SlotId
from aggregator.core.rebase import (
    Moved,
    SlotComparison,
    fits,
    rebase,
    shares,
)

START = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
ONE = Decimal(1)
D = Decimal


def comparison(number: int = 0, **said: object) -> SlotComparison:
    """Return a slot of which the ledger knows nothing but what is said."""
    given: dict[str, object] = {
        "customer": "cus_1",
        "window_start": START + number * HOUR,
        "slot": SlotId(number + 1),
        "revision": 1,
        "quantity": D(0),
        "total": D(0),
        "waiting": D(0),
        "withdrawn": 0,
        "carry": D(0),
        "truth": D(0),
        "counted": None,
    }
    return SlotComparison(**{**given, **said})  # type: ignore[arg-type]


def numbers(moved: Sequence[Moved]) -> list[tuple[Decimal, Decimal, Decimal]]:
    return [(each.quantity, each.total, each.delta) for each in moved]


def test_nothing_moves_where_nothing_differs() -> None:
    """A customer whose windows agree is left alone, fractions and late rows and all."""
    assert rebase([comparison(quantity=D("2.5"), total=D(2), carry=D("0.5"), truth=D(9))], ONE) is None


def test_what_the_sink_has_more_is_taken_over() -> None:
    """A slot stands at what the sink has counted; what the source has beyond that is left for the next pass."""
    found = rebase([comparison(quantity=D(5), total=D(5), truth=D(9), counted=D(8))], ONE)
    assert found is not None
    assert (numbers(found[0]), found[1]) == ([(8, 8, 3)], 0)


def test_what_was_not_settled_is_taken_back() -> None:
    """An event that never arrived is planned again: the slot is where it was before it."""
    found = rebase([comparison(quantity=D(5), total=D(5), waiting=D(5), withdrawn=1, truth=D(5))], ONE)
    assert found is not None
    assert numbers(found[0]) == [(0, 0, 0)]


def test_a_window_of_unknown_truth_keeps_what_it_lacked() -> None:
    """Where the source cannot be asked, total and quantity move by the same."""
    found = rebase([comparison(quantity=D(7), total=D(5), carry=D(2), truth=None, counted=D(9))], ONE)
    assert found is not None
    assert (numbers(found[0]), found[1]) == ([(11, 9, 4)], 2)


@pytest.mark.parametrize(
    ("errors", "whole", "expected"),
    [
        (["3", "0", "-2"], "1", ["3", "0", "-2"]),
        (["1.1", "-0.1", "-0.1"], "0", ["0", "0", "0"]),
        (["-1.3", "0.8", "1.6"], "1", ["0", "0", "1"]),
        (["0.5", "0.6"], "1", ["0", "1"]),
        (["-0.6", "-0.6"], "-2", ["-1", "-1"]),
        (["-3.5", "-0.1"], "-4", ["-4", "0"]),
    ],
)
def test_shares(errors: list[str], whole: str, expected: list[str]) -> None:
    """Whole units go where they lack; with fractions, no window is lowered for what others are owed."""
    assert shares([D(each) for each in errors], D(whole), ONE) == [D(each) for each in expected]


def test_a_sum_that_agrees_is_believed_only_where_nothing_would_be_planned() -> None:
    """Two windows that cancel out are looked into as soon as the source wants either of them changed."""
    booked = [comparison(0, total=D(5), truth=D(5)), comparison(1, total=D(5), truth=D(5))]
    assert fits(booked, D(10), ONE)
    assert not fits(booked, D(9), ONE)
    assert not fits([booked[0], comparison(1, total=D(5), truth=D(6))], D(10), ONE)
    assert fits([booked[0], comparison(1, total=D(5), truth=D("5.9"))], D(10), ONE)
    assert fits([booked[0], comparison(1, total=D(5), truth=None)], D(10), ONE)
    assert fits([comparison(0, truth=D(6))], D(0), ONE), "the sink has nothing, and nothing is booked"


tenths = st.integers(0, 80).map(lambda number: D(number) / 10)
units = st.integers(0, 8).map(D)


@st.composite
def customers(draw: st.DrawFn) -> list[SlotComparison]:
    """A customer's slots, as far as they may be apart: quantities, totals, what waits, the source and the sink."""
    drawn = []
    for number in range(draw(st.integers(1, 6))):
        total = draw(units)
        waiting = draw(st.sampled_from([D(0), total]))
        drawn.append(
            comparison(
                number,
                quantity=draw(tenths),
                total=total,
                waiting=waiting,
                withdrawn=int(waiting != 0),
                truth=draw(st.one_of(tenths, tenths, tenths, st.none())),
                counted=draw(st.one_of(st.none(), units)),
            )
        )
    carry = draw(st.integers(0, 9).map(lambda number: D(number) / 10))
    return [each._replace(carry=carry) for each in drawn]


@given(customers())
def test_the_balance_holds_and_the_next_pass_finds_what_is_owed(comparisons: list[SlotComparison]) -> None:
    """Whatever differs: totals are the sink's, the balance is kept, and only whole units are left to plan."""
    found = rebase(comparisons, ONE)
    if found is None:
        assert all(each.stands_at == each.booked and not each.withdrawn for each in comparisons)
        return
    moved, carry = found
    before = sum((each.quantity - each.total for each in comparisons), D(0)) - comparisons[0].carry
    after = sum((each.quantity - each.total for each in moved), D(0)) - carry
    assert after == before
    assert all(each.total == each.comparison.stands_at for each in moved)
    assert all(each.delta == each.total - each.comparison.booked for each in moved)
    known = [each for each in moved if each.comparison.truth is not None]
    if not known:
        return
    assert 0 <= carry < 1
    owed = [(each.comparison.truth or D(0)) - each.quantity for each in known]
    assert all(each == each.to_integral_value() for each in owed)
    fractional = any(((each.comparison.truth or D(0)) - each.total) % 1 for each in known)
    if fractional and sum(owed) >= 0:
        assert min(owed) >= 0, "nothing is lowered while the customer is owed something"


@given(st.lists(st.integers(-90, 90).map(lambda number: D(number) / 10), min_size=1, max_size=9))
def test_shares_add_up(errors: list[Decimal]) -> None:
    """What is divided is what was owed, to the unit."""
    whole = sum(errors, D(0)).quantize(ONE, ROUND_FLOOR)
    assert sum(shares(errors, whole, ONE)) == whole
