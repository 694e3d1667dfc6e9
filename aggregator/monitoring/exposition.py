"""Figures as Prometheus reads them: the text format, written by us.

Rules
- A number is written as it is, with all its digits: the library writes 20261128 as 2.0261128e+07, which a person who looks
  at the page would take for rounded. Prometheus itself keeps 53 bits of it (prometheus.io/docs/concepts/data_model).
- There is one format, the one that every version of Prometheus takes (prometheus.io/docs/instrumenting/exposition_formats).
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal

from prometheus_client.metrics_core import Metric

from aggregator.core.planner import plain

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def number(value: object) -> str:
    """Write a number with all its digits, and without an exponent."""
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float) and "e" not in (text := repr(value)) and "n" not in text:
        return text.removesuffix(".0")
    exact = value if isinstance(value, Decimal) else Decimal(repr(float(str(value))))
    if not exact.is_finite():
        return "NaN" if exact.is_nan() else "+Inf" if exact > 0 else "-Inf"
    return plain(exact)


def render(metrics: Iterable[Metric]) -> bytes:
    """Write metrics, each with what it is and of which kind. Labels that are one object are written down once."""
    metrics = list(metrics)  # as long as all of it lives, no two objects have one id
    lines: list[str] = []
    written: dict[int, str] = {}
    for metric in metrics:
        name = metric.name + "_total" if metric.type == "counter" else metric.name
        lines.append(f"# HELP {name} {_help(metric.documentation)}\n# TYPE {name} {metric.type}\n")
        for sample in metric.samples:
            labels = written.get(id(sample.labels))
            if labels is None:
                labels = written[id(sample.labels)] = _labels(sample.labels)
            lines.append(f"{sample.name}{labels} {number(sample.value)}\n")
    return "".join(lines).encode()


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _labels(labels: Mapping[str, str]) -> str:
    text = ",".join([f'{label}="{_label(value)}"' for label, value in labels.items()])
    return f"{{{text}}}" if text else ""


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
