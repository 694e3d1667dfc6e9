"""What guards would have held of past usage: the same as a pass, and which of them are below normal use."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from aggregator.core.model import Guards, Span
from aggregator.trial import Severity
from aggregator.trial.past_guards import Stretch, Usage, judged

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
D = Decimal


def usage(start: dt.datetime, **used: int) -> Usage:
    """Return what customers used in one window."""
    return {start: {who: D(much) for who, much in used.items()}} if used else {}


def stretch(number: int, used: dict[str, int], *weeks: dict[str, int]) -> Stretch:
    """Return the hour that ended so many hours before noon, and the same hour of some weeks."""
    start = NOON - (number + 1) * HOUR
    before = [usage(start - week * dt.timedelta(days=7), **each) for week, each in enumerate(weeks, 1)]
    return Stretch(Span(start, start + HOUR), usage(start, **used), before)


def said(stretches: list[Stretch], **guards: int) -> list[tuple[Severity, str]]:
    """Return what is said, and how grave it is."""
    limits: dict[str, Any] = {name: D(limit) for name, limit in guards.items()}
    return [(each.severity, each.text) for each in judged(stretches, Guards(**limits))]


STEADY = [stretch(number, {"a": 10, "b": 5}, *[{"a": 9, "b": 5}] * 4) for number in range(10)]


@pytest.mark.parametrize(
    ("guard", "limit", "written"),
    [("max_per_customer_window", 10, "10"), ("max_change", 2, "2x"), ("max_total_change", 2, "2x")],
)
def test_a_guard_that_holds_nothing_says_so(guard: str, limit: int, written: str) -> None:
    """With how far it was looked back: up to the limit nothing is held."""
    [(severity, text)] = said(STEADY, **{guard: limit})
    assert severity is Severity.NOTE
    assert text.startswith(f"`{guard}: {written}` would have held nothing in the last 10h of usage")


def test_what_is_beyond_is_counted_by_events_and_customers() -> None:
    """An increase of one customer, in one window, is an event."""
    runaway = stretch(3, {"a": 1_000, "b": 5, "c": 700}, *[{"a": 9, "b": 5}] * 4)
    found = said([*STEADY[:3], runaway, *STEADY[4:]], max_per_customer_window=500)
    [(severity, text)] = found
    assert severity is Severity.NOTE
    assert "`max_per_customer_window: 500` would have held 2 events of 2 customers in the last 10h" in text
    assert "in 1 of 10 windows: 1000 units at most" in text


def test_change_is_against_the_same_hour_of_past_weeks() -> None:
    """Who is new has no history, nor has who used something in one of the weeks only; and the most of them is usual."""
    weeks = [{"a": 10, "old": 1}, {"a": 40}, {}, {"a": 10}]
    used = {"a": 100, "new": 100, "old": 100}
    rest = [stretch(number, {"a": 1}, {"a": 1}, {"a": 1}) for number in range(1, 5)]
    [(_, text)] = said([stretch(0, used, *weeks), *rest], max_change=2)
    assert "would have held 1 event of 1 customer" in text
    [(_, text)] = said([stretch(0, used, *weeks), *rest], max_change=3)
    assert "would have held nothing" in text
    [(_, text)] = said([stretch(0, used, *weeks), *rest], max_change=2, unusual_from=100)
    assert "would have held nothing" in text


def test_what_one_guard_holds_is_nobody_elses() -> None:
    """A customer beyond a guard of his own is not in the window's total; what was beyond it in a past week was not usual."""
    weeks = [{"a": 10, "b": 10}] * 4
    rest = [stretch(number, {"a": 1}, {"a": 1}, {"a": 1}) for number in range(1, 5)]
    runaway = stretch(0, {"a": 5_000, "b": 12}, *weeks)
    customer, total = said([runaway, *rest], max_per_customer_window=1_000, max_total_change=2)
    assert "would have held 1 event" in customer[1]
    assert "would have held nothing" in total[1]
    [_, (_, text)] = said(
        [stretch(0, {"a": 900}, {"a": 5_000}, {"a": 5_000}, {"a": 1}, {"a": 1}), *rest],
        max_per_customer_window=1_000,
        max_change=2,
    )
    assert "would have held 1 event" in text


def test_a_window_that_is_swollen_is_held_whole() -> None:
    """Every increase in it, of whoever."""
    weeks = [{"a": 10, "b": 10}] * 4
    swollen = stretch(0, dict.fromkeys("abcdefgh", 9), *weeks)
    [(_, text)] = said([swollen, *STEADY[1:]], max_total_change=3)
    assert "would have held 8 events of 8 customers" in text
    assert "in 1 of 10 windows: 72 units at most" in text


@pytest.mark.parametrize(
    "guards", [{"max_per_customer_window": 7}, {"max_change": 1}, {"max_total_change": 1}]
)
def test_a_guard_below_normal_use_is_named(guards: dict[str, int]) -> None:
    """It would hold usage all the time: a warning, with the figure to set it above."""
    [(severity, text)] = said(STEADY, **guards)
    assert severity is Severity.WARNING
    assert "is below normal use" in text
    assert "in 10 of 10 windows" in text


def test_of_little_usage_nothing_is_called_normal() -> None:
    """Two windows show what would be held, and no more; without usage there is nothing to say."""
    [(severity, _)] = said(STEADY[:2], max_per_customer_window=7)
    assert severity is Severity.NOTE
    assert said([stretch(0, {})], max_per_customer_window=7) == []
    assert said([], max_per_customer_window=7) == []


@pytest.mark.parametrize(
    ("guard", "what", "before"),
    [
        ("max_change", "customer", []),
        ("max_change", "customer", [{"a": 1}, {"b": 1}]),
        ("max_total_change", "window", [{"a": 1}]),
    ],
)
def test_without_a_history_nothing_was_tried(guard: str, what: str, before: list[dict[str, int]]) -> None:
    """Then a guard is not said to have held nothing: what it will hold shows once there is something to compare with."""
    [(severity, text)] = said([stretch(n, {"a": 9, "b": 9}, *before) for n in range(4)], **{guard: 2})
    assert severity is Severity.NOTE
    assert "has nothing to compare with yet in the last 4h of usage" in text
    assert text.endswith(f"no {what} had usage at the same hour in 2 of the 4 weeks before that")
    assert "would have held" not in text


def test_who_could_not_be_compared_is_counted() -> None:
    """Whoever is known at one hour is known; the others are as new as their hours."""
    known, new = {"a": 10, "b": 10}, {"a": 10, "b": 10, "c": 1}
    [(_, text)] = said([stretch(0, new, *[known] * 4), stretch(1, new, *[{"a": 10}] * 4)], max_change=2)
    assert text.endswith("; 1 of 3 customers had no history to compare with")
    [(_, text)] = said([stretch(0, known, *[known] * 4), stretch(1, known)], max_total_change=2)
    assert text.endswith("; 1 of 2 windows had no history to compare with")


ALWAYS = {"a": 10, "b": 5}


def silent(
    used: dict[str, int], *weeks: dict[str, int], whole: bool = True, **guards: int
) -> tuple[Severity, str]:
    """Return what is said of `unusual_zero`, of that hour before nine steady ones."""
    first = stretch(0, used, *weeks)._replace(whole=whole)
    [found] = said(
        [first, *[stretch(n, ALWAYS, *[ALWAYS] * 4) for n in range(1, 10)]], unusual_zero=1, **guards
    )
    return found


def test_who_always_had_usage_and_has_none_would_be_told_of() -> None:
    """In each of the four weeks, and up to `unusual_from` it is nothing unusual."""
    severity, text = silent({"a": 1}, *[ALWAYS] * 4)
    assert severity is Severity.NOTE
    assert "would have reported 1 customer, such as 'b', in the last 10h of usage" in text
    assert text.endswith("in 1 of 10 stretches")
    for few in (
        silent({"a": 1}, *[ALWAYS] * 3, {"a": 1}),
        silent({"a": 1}, *[ALWAYS] * 3),
        silent({"a": 1}, *[ALWAYS] * 4, unusual_from=6),
        silent({"a": 1}, *[ALWAYS] * 4, whole=False),
        silent(ALWAYS, *[ALWAYS] * 4),
    ):
        assert few[1].startswith("`unusual_zero: true` would have reported nobody in the last 10h")


def test_silence_that_is_normal_is_named() -> None:
    """Who rests every other hour is no news; without four weeks there is nothing to compare with."""
    [(severity, text)] = said([stretch(n, {"a": 1}, *[ALWAYS] * 4) for n in range(4)], unusual_zero=1)
    assert severity is Severity.WARNING
    assert "set `unusual_from` higher" in text
    [(severity, text)] = said([stretch(n, {"a": 1}, *[ALWAYS] * 3) for n in range(4)], unusual_zero=1)
    assert severity is Severity.NOTE
    assert "has nothing to compare with yet" in text
