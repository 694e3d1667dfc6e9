"""Figures as Prometheus reads them: the text format, written by us.

Rules
- A number is written as it is, with all its digits: the library writes 20261128 as 2.0261128e+07, which a person who looks
  at the page would take for rounded. Prometheus itself keeps 53 bits of it (prometheus.io/docs/concepts/data_model).
- Most of what is told is as it was a moment ago: a family that has not changed since is not written anew.
- There is one format, the one that every version of Prometheus takes (prometheus.io/docs/instrumenting/exposition_formats).
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from aggregator.core.planner import plain

MOST_LABELS = 100_000
"""How many sets of labels are kept as they are written: a few hundred bytes each."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Labels(dict[str, str]):
    """The labels of a sample, and how they are written."""

    __slots__ = ("text",)

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__(labels)
        self.text = _labels(labels)


@lru_cache(MOST_LABELS)
def labels(names: tuple[str, ...], *values: str) -> Labels:
    """Return labels by their names and values. The same ones are told at each scrape, so they are written down once."""
    return Labels(dict(zip(names, values, strict=True)))


@lru_cache(MOST_LABELS)
def labels_for_each(names: tuple[str, ...], last: tuple[str, ...], *values: str) -> tuple[Labels, ...]:
    """Return several sets of labels that differ in the last one, found in one look."""
    return tuple(labels(names, *values, each) for each in last)


class Family(Metric):
    """A metric of ours, with thousands of samples at times: labels and a value each, until somebody asks for more."""

    def __init__(self, name: str, documentation: str, kind: str) -> None:
        self.of: list[Labels] = []
        self.values: list[Decimal | float] = []
        super().__init__(name, documentation, kind)

    def add(self, of: Iterable[Labels], values: Iterable[Decimal | float]) -> None:
        """Add samples: of thousands, each costs a part of what it costs alone."""
        self.of += of
        self.values += values

    @property
    def written(self) -> str:
        """What its samples are called."""
        return self.name + "_total" if self.type == "counter" else self.name

    @property
    def samples(self) -> list[Sample]:
        """Its samples as the library has them."""
        name = self.written
        samples = zip(self.of, self.values, strict=True)
        return [Sample(name, of, value) for of, value in samples]  # type: ignore[arg-type]  # exact

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        assert not samples, "what is told is added to the columns"


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


class Exposition:
    """Writes metrics again and again. What it remembers is how a family was written, and of what: never a figure."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[list[Labels], list[Decimal | float], bytes]] = {}

    def render(self, metrics: Iterable[Metric]) -> bytes:
        """Write metrics, each with what it is and of which kind."""
        return b"".join(
            [self._family(each) if isinstance(each, Family) else _other(each) for each in metrics]
        )

    def _family(self, family: Family) -> bytes:
        known = self._written.get(family.name)
        if known is not None and known[0] == family.of and known[1] == family.values:
            return known[2]
        name, samples = family.written, zip(family.of, family.values, strict=True)
        lines = [
            f"{name}{of.text} {value if type(value) is int else number(value)}\n" for of, value in samples
        ]
        written = (_head(name, family) + "".join(lines)).encode()
        self._written[family.name] = (family.of, family.values, written)
        return written


def _other(metric: Metric) -> bytes:
    name = metric.name + "_total" if metric.type == "counter" else metric.name
    lines = [f"{each.name}{_labels(each.labels)} {number(each.value)}\n" for each in metric.samples]
    return (_head(name, metric) + "".join(lines)).encode()


def _head(name: str, metric: Metric) -> str:
    return f"# HELP {name} {_help(metric.documentation)}\n# TYPE {name} {metric.type}\n"


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _labels(labels: Mapping[str, str]) -> str:
    text = ",".join([f'{label}="{_label(value)}"' for label, value in labels.items()])
    return f"{{{text}}}" if text else ""


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
