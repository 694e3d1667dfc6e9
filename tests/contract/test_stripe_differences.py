"""What differs between a meter of ours and Stripe's, case by case: how it stands, what is said, and what follows."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from aggregator.sinks.stripe import StripeMeter
from aggregator.sinks.stripe.differences import Known, MeterState, compare, next_midnight

OURS = StripeMeter(event_name="api_requests")
THEIRS = Known(
    id="mtr_1",
    event_name="api_requests",
    display_name="API requests",
    formula="sum",
    event_time_window=None,
    customer_key="stripe_customer_id",
    value_key="value",
    active=True,
    livemode=False,
)
NOW = dt.datetime(2026, 11, 24, 17, 30, tzinfo=dt.UTC)

CASES: list[tuple[dict[str, Any], dict[str, Any], MeterState, list[str], str]] = [
    ({}, {}, MeterState.EQUAL, [], ""),
    ({"display_name": "API requests"}, {}, MeterState.EQUAL, [], ""),
    (
        {"display_name": "Calls"},
        {},
        MeterState.RENAMED,
        ["display_name"],
        "displayed as 'API requests', not as 'Calls'",
    ),
    ({}, {"active": False}, MeterState.INACTIVE, ["status"], "is not active and takes no events"),
    (
        {},
        {"livemode": True},
        MeterState.WRONG_MODE,
        ["mode"],
        "is in live mode, but the sink is set to test mode",
    ),
    ({"formula": "last"}, {}, MeterState.FIXED, ["formula"], "Set `stripe.formula: sum` if that is meant"),
    ({}, {"formula": "last"}, MeterState.FIXED, ["formula"], "Set `stripe.formula: last` if that is meant"),
    ({}, {"formula": "count"}, MeterState.FIXED, ["formula"], "Use a meter that sums"),
    ({}, {"formula": "max"}, MeterState.FIXED, ["formula"], "unknown here"),
    (
        {},
        {"event_time_window": "day"},
        MeterState.FIXED,
        ["event_time_window"],
        "Set `stripe.event_time_window: day`",
    ),
    (
        {"event_time_window": "hour"},
        {},
        MeterState.FIXED,
        ["event_time_window"],
        "Remove `stripe.event_time_window`",
    ),
    ({}, {"customer_key": "who"}, MeterState.FIXED, ["customer_key"], "Set `stripe.customer_key: who`"),
    ({"value_key": "tokens"}, {}, MeterState.FIXED, ["value_key"], "Set `stripe.value_key: value`"),
    # Several at once: the gravest decides, and all are said.
    (
        {"display_name": "Calls", "formula": "last"},
        {"active": False, "value_key": "n"},
        MeterState.FIXED,
        ["status", "formula", "value_key", "display_name"],
        "is not active",
    ),
    (
        {"display_name": "Calls"},
        {"active": False},
        MeterState.INACTIVE,
        ["status", "display_name"],
        "displayed as",
    ),
    ({"formula": "last"}, {"livemode": True}, MeterState.WRONG_MODE, ["mode"], "Correct `mode` or `api_key`"),
]


@pytest.mark.parametrize(("ours", "theirs", "meter_state", "whats", "words"), CASES)
def test_what_differs_is_named_with_its_remedy(
    ours: dict[str, Any], theirs: dict[str, Any], meter_state: MeterState, whats: list[str], words: str
) -> None:
    """Each field that differs is one difference, and the gravest says how the meter stands."""
    found = compare("api", replace(OURS, **ours), THEIRS._replace(**theirs), livemode=False)
    assert found.meter_state is meter_state
    assert [each.what for each in found.differences] == whats
    assert words in " ".join(each.text for each in found.differences)


def test_a_difference_has_both_sides() -> None:
    """What the configuration says and what Stripe has stand beside each other, for programs."""
    found = compare("api", replace(OURS, customer_key="who"), THEIRS, livemode=False)
    [difference] = found.differences
    assert (difference.here, difference.stripe) == ("who", "stripe_customer_id")


def test_what_is_not_there_can_be_made() -> None:
    """A meter that is missing is for `apply`, and says so."""
    found = compare("api", OURS, None, livemode=False)
    assert (found.meter_state, found.meter_state.can_be_applied) == (MeterState.MISSING, True)
    [sentence] = found.misfits
    assert sentence.startswith("Meter api: the Stripe meter with event name api_requests does not exist.")


def test_only_missing_and_renamed_can_be_applied() -> None:
    """Everything else is for a person."""
    assert [each for each in MeterState if each.can_be_applied] == [MeterState.MISSING, MeterState.RENAMED]


def test_a_display_name_is_no_misfit() -> None:
    """Events are booked right whatever people read."""
    assert compare("api", replace(OURS, display_name="Calls"), THEIRS, livemode=False).misfits == []


def test_what_cannot_be_changed_comes_with_a_way_out() -> None:
    """Correct the configuration, or another event name from a boundary of windows on; for nothing else is that said."""
    advice = compare("api", replace(OURS, formula="last"), THEIRS, livemode=False).advice(NOW)
    assert advice is not None
    for words in (
        "cannot be changed",
        "correct the configuration",
        "another `stripe.event_name`",
        "2026-11-25T00:00Z",
    ):
        assert words in advice
    assert compare("api", OURS, THEIRS, livemode=False).advice(NOW) is None
    assert compare("api", OURS, None, livemode=False).advice(NOW) is None


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (NOW, dt.datetime(2026, 11, 25, tzinfo=dt.UTC)),
        (
            dt.datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
            dt.datetime(2027, 1, 1, tzinfo=dt.UTC),
        ),
        (dt.datetime(2026, 11, 25, tzinfo=dt.UTC), dt.datetime(2026, 11, 26, tzinfo=dt.UTC)),
    ],
)
def test_the_boundary_lies_ahead(now: dt.datetime, then: dt.datetime) -> None:
    """The next midnight, never the moment itself."""
    assert next_midnight(now) == then
