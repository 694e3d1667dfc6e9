"""What Prometheus reads: every digit, every label as it is, and one line per sample."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from aggregator.monitoring.exposition import Exposition, Family, Part, RowCache, labels, number

Samples = list[tuple[str, Decimal | float]]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (20261128, "20261128"),
        (Decimal("1795886400.25"), "1795886400.25"),
        (Decimal("12345678901234567890.123456789"), "12345678901234567890.123456789"),
        (Decimal("1E+20"), "100000000000000000000"),
        (Decimal("1E-10"), "0.0000000001"),
        (Decimal("-3.50"), "-3.5"),
        (Decimal(100), "100"),
        (1795886400.0, "1795886400"),
        (1e22, "10000000000000000000000"),
        (0.1, "0.1"),
        (True, "1"),
        (float("inf"), "+Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_a_number_has_all_its_digits(value: object, written: str) -> None:
    """Whatever its size, and without an exponent."""
    assert number(value) == written


def test_labels_are_read_as_they_were_written() -> None:
    """Quotes, backslashes and new lines too: the library's own parser reads them back."""
    family = GaugeMetricFamily("aggregator_x", 'of "a"\\b\nc', labels=["meter"])
    family.add_metric(['m"1\\\n'], 7.5)
    [found] = text_string_to_metric_families(Exposition().render([family]).decode())
    [sample] = found.samples
    assert (sample.labels, sample.value) == ({"meter": 'm"1\\\n'}, 7.5)
    assert found.documentation == 'of "a"\\b\nc'


def test_a_counter_is_written_as_one() -> None:
    """Under `_total`, its type too, and without the moment of its creation."""
    family = CounterMetricFamily("aggregator_passes", "Passes.", labels=["meter"])
    family.add_metric(["m"], 3)
    assert Exposition().render([family]).decode().splitlines() == [
        "# HELP aggregator_passes_total Passes.",
        "# TYPE aggregator_passes_total counter",
        'aggregator_passes_total{meter="m"} 3',
    ]


@pytest.mark.parametrize(
    ("after", "written"),
    [
        ([("a", 1), ("b", Decimal("0.50"))], ['x{meter="a"} 1', 'x{meter="b"} 0.5']),
        ([("a", 2), ("b", Decimal("0.5"))], ['x{meter="a"} 2', 'x{meter="b"} 0.5']),
        ([("a", 1), ("c", Decimal("0.5"))], ['x{meter="a"} 1', 'x{meter="c"} 0.5']),
        ([("a", 1)], ['x{meter="a"} 1']),
    ],
)
def test_a_family_is_written_as_it_is_by_now(after: Samples, written: list[str]) -> None:
    """However it was written before, and however often: what is remembered is never a figure that has changed."""
    exposition = Exposition()
    before: Samples = [("a", 1), ("b", Decimal("0.5"))]
    for samples in (before, after, after):
        family = Family("x", "Some.", "gauge")
        family.add([labels(("meter",), name) for name, _ in samples], [value for _, value in samples])
        lines = exposition.render([family]).decode().splitlines()
    assert lines[2:] == written


def test_parts_are_told_before_what_is_added() -> None:
    """Each under its own labels, and a part of an earlier scrape once more."""
    exposition = Exposition()
    kept = Part((labels(("meter",), "a"),), (1,))
    for value in (2, 3):
        family = Family("x", "Some.", "gauge")
        family.parts.append(kept)
        family.add((labels(("meter",), "b"),), (value,))
        written = exposition.render([family]).decode().splitlines()
        assert written[2:] == ['x{meter="a"} 1', f'x{{meter="b"}} {value}']
        assert [(each.labels["meter"], each.value) for each in family.samples] == [("a", 1), ("b", value)]
    other = Family("x", "Some.", "gauge")
    other.parts.append(Part(kept.of, (7,)))
    assert exposition.render([other]).decode().splitlines()[2:] == ['x{meter="a"} 7']


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=6))
def test_what_was_made_of_a_row_is_of_that_row(scrapes: list[list[int]]) -> None:
    """Whatever rows came, went or changed places since."""
    kept: RowCache[int, str] = RowCache()
    for rows in scrapes:
        assert kept.made(rows, str) == [str(row) for row in rows]


def test_what_was_made_of_a_row_that_is_the_same_is_made_once() -> None:
    """Only what changed, or came after one more, is made anew."""
    kept: RowCache[str, str] = RowCache()
    made = []

    def make(row: str) -> str:
        made.append(row)
        return row

    for rows in (["a", "b", "c"], ["a", "B", "c"], ["a", "B", "c"]):
        kept.made(rows, make)
    assert made == ["a", "b", "c", "B"]
