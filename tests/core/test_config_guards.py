"""The guards of a meter in the file: what a value means, and what is said of one that means nothing."""

from decimal import Decimal
from pathlib import Path

import pytest

from aggregator.wiring.app import meter_of
from tests.core.test_config import complaints, line_of, loaded, written

ALL = {
    "meters.calls.guards.max_per_customer_window": "100000",
    "meters.calls.guards.max_change": "10x",
    "meters.calls.guards.max_total_change": "2.5x",
    "meters.calls.guards.unusual_zero": "true",
    "meters.calls.guards.unusual_from": "1_000.5",
}


def test_the_guards_of_a_meter(tmp_path: Path) -> None:
    """Units and factors come through exactly; without any, nothing is held or told."""
    guards = meter_of(loaded(tmp_path, dict(ALL)).meter("calls")).guards
    assert (guards.max_per_customer_window, guards.max_change) == (100_000, 10)
    assert (guards.max_total_change, guards.unusual_from) == (Decimal("2.5"), Decimal("1000.5"))
    assert guards.unusual_zero
    assert guards.holds
    none = meter_of(loaded(tmp_path).meter("calls")).guards
    assert (none.holds, none.unusual_zero) == (False, False)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_per_customer_window", "0", "must be a number of units above 0"),
        ("max_per_customer_window", "-5", "must be a number of units above 0"),
        ("max_per_customer_window", "true", "must be a number of units above 0"),
        ("max_per_customer_window", "many", "must be a number of units above 0"),
        ("max_per_customer_window", "1e3x", "must be a number of units above 0"),
        ("max_change", "10", "must say how many times what was usual, above `1x`"),
        ("max_change", "1x", "must say how many times what was usual, above `1x`"),
        ("max_change", "0.5x", "must say how many times what was usual, above `1x`"),
        ("max_total_change", "50%", "must say how many times what was usual, above `1x`"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(tmp_path: Path, key: str, value: str, message: str) -> None:
    """One complaint, at its line, that says what to write."""
    path = f"meters.calls.guards.{key}"
    text = written({"meters.calls.guards.unusual_from": "5", **ALL, path: value})
    [said] = complaints(tmp_path, text)
    assert said.startswith(f"{line_of(text, path)}: {path}: {message}")


@pytest.mark.parametrize("key", ["max_change", "max_total_change", "unusual_zero"])
def test_what_compares_needs_to_know_what_is_little(tmp_path: Path, key: str) -> None:
    """It has no default: five after one is nothing in one unit, and a disaster in another."""
    path = f"meters.calls.guards.{key}"
    [said] = complaints(tmp_path, written({path: ALL[path]}))
    assert f"meters.calls.guards.unusual_from: is missing, and `{key}` needs it" in said


def test_what_is_little_alone_does_nothing(tmp_path: Path) -> None:
    """Whoever writes it alone thinks that something is guarded."""
    [said] = complaints(tmp_path, written({"meters.calls.guards.unusual_from": "1000"}))
    assert "does nothing alone: it goes with `max_change`" in said
