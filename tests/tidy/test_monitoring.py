"""Whoever watches us finds every figure and every alert explained."""

import re
from pathlib import Path

from aggregator.monitoring.metrics import COUNTER, FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "monitoring.md").read_text()


def test_every_metric_is_documented() -> None:
    """docs/monitoring.md has a row for each metric as it is written, with its kind, labels and words, and no other."""
    told = re.findall(r"^\| `(aggregator_\w+)` \| (\w+) \| (.*?) ?\| (.*?) \|$", PAGE, re.MULTILINE)
    assert told == [
        (
            name + "_total" * (kind is COUNTER),
            "counter" if kind is COUNTER else "gauge",
            ", ".join(f"`{label}`" for label in labels),
            text,
        )
        for name, (kind, text, labels) in FAMILIES.items()
    ]
