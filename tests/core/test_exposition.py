"""What Prometheus reads: every digit, every label as it is, and one line per sample."""

from decimal import Decimal

import pytest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from aggregator.monitoring.exposition import Exposition, Family, labels, number

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
