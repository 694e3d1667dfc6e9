"""Figures as Prometheus reads them: the text format, written by us.

Rules
- A number is written as it is, with all its digits: the library writes 20261128 as 2.0261128e+07, which a person who looks
  at the page would take for rounded. Prometheus itself keeps 53 bits of it (prometheus.io/docs/concepts/data_model).
- Most of what is told is as it was a moment ago: rows and families that have not changed since are not written anew.
- There is one format, the one that every version of Prometheus takes (prometheus.io/docs/instrumenting/exposition_formats).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import islice, zip_longest
from typing import Generic, TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from aggregator.core.planner import plain

Row = TypeVar("Row")
Made = TypeVar("Made")

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


class Part:
    """Some samples of one family, labels and a value each; and how they are written, once they were."""

    __slots__ = ("_text", "of", "values")

    def __init__(self, of: Sequence[Labels], values: Sequence[Decimal | float]) -> None:
        self.of = of
        self.values = values
        self._text: str | None = None

    def text(self, name: str) -> str:
        """Return its lines. A part is of one family, so `name` is the same each time."""
        if self._text is None:
            self._text = _lines(name, self.of, self.values)
        return self._text


class Family(Metric):
    """A metric of ours, with thousands of samples at times: labels and a value each, until somebody asks for more."""

    def __init__(self, name: str, documentation: str, kind: str) -> None:
        self.parts: list[Part] = []
        """What may be told again at a later scrape, and is not written anew then: a part is never changed."""
        self.of: list[Labels] = []
        self.values: list[Decimal | float] = []
        super().__init__(name, documentation, kind)

    def __bool__(self) -> bool:
        """Tell whether there is anything to tell."""
        return bool(self.parts or self.of)

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
        columns = [*((part.of, part.values) for part in self.parts), (self.of, self.values)]
        return [
            Sample(self.written, of, value)  # type: ignore[arg-type]  # exact
            for column in columns
            for of, value in zip(*column, strict=True)
        ]

    @samples.setter
    def samples(self, samples: list[Sample]) -> None:
        assert not samples, "what is told is added to the columns"


class RowCache(Generic[Row, Made]):
    """What rows came to when they were last told: of a row that is the same as then, nothing is made anew.

    A row says all that what is made of it depends on. Several may ask at once.
    """

    def __init__(self) -> None:
        self._last: tuple[Sequence[Row], list[Made]] = ((), [])

    def made(self, rows: Sequence[Row], make: Callable[[Row], Made]) -> list[Made]:
        """Return what is made of each row. Where one more or less comes in their order, those after it are made anew."""
        before, made = self._last
        if rows != before:
            by_row = islice(zip_longest(rows, before, made), len(rows))
            made = [old if old is not None and row == known else make(row) for row, known, old in by_row]
            self._last = (rows, made)
        return made


def number(value: object) -> str:
    """Write a number with all its digits, and without an exponent."""
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float) and (text := _float(value)):
        return text
    exact = value if isinstance(value, Decimal) else Decimal(repr(float(str(value))))
    if not exact.is_finite():
        return "NaN" if exact.is_nan() else "+Inf" if exact > 0 else "-Inf"
    return plain(exact)


@lru_cache(1_000)
def _float(value: float) -> str:
    """Write a float, if that takes no exponent. Many meters stand at one instant, so many ages of a scrape are the same."""
    text = repr(value)
    return "" if "e" in text or "n" in text else text.removesuffix(".0")


class Exposition:
    """Writes metrics again and again. What it remembers is how a family was written, and of what: never a figure."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[Family, bytes]] = {}

    def render(self, metrics: Iterable[Metric]) -> bytes:
        """Write metrics, each with what it is and of which kind."""
        return b"".join(
            [self._family(each) if isinstance(each, Family) else _other(each) for each in metrics]
        )

    def _family(self, family: Family) -> bytes:
        if family.name in self._written:
            known, written = self._written[family.name]
            if known.parts == family.parts and known.of == family.of and known.values == family.values:
                return written
        name = family.written
        parts = "".join([part.text(name) for part in family.parts])
        written = (_head(name, family) + parts + _lines(name, family.of, family.values)).encode()
        self._written[family.name] = (family, written)
        return written


def _lines(name: str, of: Sequence[Labels], values: Sequence[Decimal | float]) -> str:
    lines = [
        f"{name}{each.text} {value if type(value) is int else number(value)}\n"
        for each, value in zip(of, values, strict=True)
    ]
    return "".join(lines)


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
