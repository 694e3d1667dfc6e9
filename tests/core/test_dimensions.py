"""What keeps usage apart besides its customer: columns become combinations, and those become numbers and identifiers."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aggregator.config.meter import Meter, fingerprint
from aggregator.core import dimensions
from aggregator.core.model import Reading, Span
from aggregator.core.planner import Identifiers
from aggregator.errors import QueryRejected
from aggregator.ledger.passes.spool import Spool
from aggregator.source.rows import Instants, Rows, places

NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
ONE = Span(NOON, NOON + HOUR)
METER = {
    "name": "tokens",
    "source": "app",
    "query": "select 1 as customer, 1 as quantity where now() >= :start and now() < :end",
    "window": "1h",
    "start_at": "2026-11-01T00:00Z",
    "sinks": ["stripe"],
}

TEXTS = st.text(min_size=1, max_size=6)
COMBINATIONS = st.dictionaries(TEXTS, TEXTS, max_size=3).map(dimensions.of_mapping)


def read(names: list[str], *rows: tuple[Any, ...], by: tuple[str, ...] = ("model",)) -> list[Reading]:
    """Return the readings of rows."""
    found = places(names, QueryRejected, by)
    instants = Instants(naive_is_utc=False, from_number="to_timestamp({column})", refuse=QueryRejected)
    return Rows(found, instants, ONE, HOUR, QueryRejected).readings(rows)


def test_a_row_belongs_to_the_combination_of_its_values() -> None:
    """Names stand in alphabetical order, wherever the columns do."""
    (reading,) = read(
        ["TOKEN_TYPE", "quantity", "model", "customer"],
        ("input", 7, "large", "cus_a"),
        by=("token_type", "model"),
    )
    assert reading.dimensions == (("model", "large"), ("token_type", "input"))
    assert (reading.customer, reading.quantity, reading.reason) == ("cus_a", Decimal(7), None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" large ", "large"),
        (7, "7"),
        (True, "true"),
        (False, "false"),
        (Decimal("1.50"), "1.5"),
        (0.1, "0.1"),
        (2.0, "2"),
        (dt.date(2026, 11, 1), "2026-11-01"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_value_is_text_written_plainly(value: object, text: str) -> None:
    """Numbers and booleans are written as people write them, and blanks around a text are none of it."""
    (reading,) = read(["customer", "model", "quantity"], ("cus_a", value, 1))
    assert reading.dimensions == (("model", text),)


def test_values_that_are_equal_as_keys_stay_apart_as_texts() -> None:
    """1, true and 1.0 are one key of a dictionary, and two texts."""
    found = read(["customer", "model", "quantity"], ("a", 1, 1), ("a", True, 1), ("a", 1.0, 1))
    assert [each.dimensions for each in found] == [(("model", "1"),), (("model", "true"),), (("model", "1"),)]


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (None, "dimension `model` is NULL or blank"),
        ("  ", "dimension `model` is NULL or blank"),
        ("x" * 101, "dimension `model` is unusable: 101 characters long ('xxxxxxxxxxxxxxxxxxxx'...)"),
        ("a\x07", "dimension `model` is unusable: holds control characters or broken text ('a\\x07')"),
    ],
)
def test_a_row_without_a_value_is_set_aside_and_keeps_its_customer(value: object, flaw: str) -> None:
    """It belongs to no combination, and says which column lacks a value; every other row goes on."""
    bad, good = read(["customer", "model", "quantity"], ("cus_a", value, 3), ("cus_a", "m", 1))
    assert (bad.customer, bad.quantity, bad.dimensions, bad.reason) == ("cus_a", Decimal(3), None, flaw)
    assert (good.dimensions, good.reason) == ((("model", "m"),), None)


def test_what_is_no_value_at_all_refuses_the_query() -> None:
    """An instant as a dimension is different in every row."""
    with pytest.raises(QueryRejected, match="column `model` holds timestamp: return a dimension as text"):
        read(["customer", "model", "quantity"], ("cus_a", NOON, 1))


def test_a_query_returns_the_columns_that_are_named_and_no_others() -> None:
    """What is missing is named, and so is what nobody has named."""
    with pytest.raises(QueryRejected, match="no column `model`, which `dimensions` of the meter names"):
        places(["customer", "quantity"], QueryRejected, ("model",))
    with pytest.raises(QueryRejected, match="a column it may not, `region`, unless `dimensions`"):
        places(["customer", "quantity", "region"], QueryRejected, ())


@given(COMBINATIONS, COMBINATIONS)
def test_no_two_combinations_share_a_name_a_number_or_an_identifier(
    one: dimensions.Dimensions, other: dimensions.Dimensions
) -> None:
    """Names and values never run together into the same bytes."""
    names = Identifiers("ledger", "stripe", "tokens", HOUR)
    same = one == other
    assert (dimensions.named(one) == dimensions.named(other)) == same
    assert (dimensions.number(one) == dimensions.number(other)) == same
    assert (names.of("cus_a", NOON, 0, one) == names.of("cus_a", NOON, 0, other)) == same
    assert (dimensions.number(one) == 0) == (not one)


def test_the_number_and_the_identifier_of_a_combination_never_change() -> None:
    """Both are made of names and values: a ledger and its copy, and every version, come to the same."""
    large = (("model", "large"),)
    assert dimensions.number(large) == 1831171513678989257
    names = Identifiers("ledger-1", "stripe", "tokens", HOUR)
    assert names.of("cus_a", NOON, 0, large) == "agg_xKcl5CjJAk4uYXaSBUJl"
    assert names.of("cus_a", NOON, 0) == names.of("cus_a", NOON, 0, ())


def test_a_column_that_explodes_is_named_before_it_fills_the_memory() -> None:
    """The spool takes no more combinations than the meter may have."""
    many = [
        Reading(NOON, "a", Decimal(1), None, dimensions=(("id", str(each)), ("model", "m")))
        for each in range(6)
    ]
    with Spool(meter="tokens", most_combinations=5) as spool:
        spool.add(many[:5])
        with pytest.raises(QueryRejected, match="more than 5 combinations; `id` alone has 6 values"):
            spool.add(many)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["customer"], "names `customer`, which says something else already"),
        (["model", "model"], "names the same column twice"),
        ([f"d{number}" for number in range(11)], "names 11 columns"),
        (["Model"], "String should match pattern"),
    ],
)
def test_what_dimensions_may_not_be_called_is_said(names: list[str], said: str) -> None:
    """Each mistake has its sentence."""
    with pytest.raises(ValidationError, match=said):
        Meter.model_validate(METER | {"dimensions": names})


@pytest.mark.parametrize("stripe", [{"event_time_window": "hour"}, {"formula": "last"}])
def test_where_the_newest_event_of_a_customer_counts_there_are_no_dimensions(stripe: dict[str, str]) -> None:
    """The event of one combination would take the place of another's."""
    with pytest.raises(ValidationError, match="is one for each combination"):
        Meter.model_validate(METER | {"dimensions": ["model"], "stripe": stripe})
    Meter.model_validate(METER | {"stripe": stripe})


def test_what_is_taken_back_goes_with_no_dimensions() -> None:
    """The total of a minute would not show which of several events is gone."""
    with pytest.raises(ValidationError, match="does not show which of them was taken back"):
        Meter.model_validate(METER | {"dimensions": ["model"], "decreases": "cancel"})


def test_dimensions_are_a_part_of_the_definition_and_their_order_is_not() -> None:
    """A meter without any has the fingerprint that it always had."""
    plain, one, other, less = (
        fingerprint(Meter.model_validate(METER | {"dimensions": names}))
        for names in ([], ["model", "region"], ["region", "model"], ["model"])
    )
    assert plain == fingerprint(Meter.model_validate(METER))
    assert one == other
    assert len({plain, one, less}) == 3
