"""What a metric of a semantic layer says of usage: a sum over rows of one table, or a sentence that it is none. Pure.

Rules
- Only a sum that adds up over time is usage: what is averaged, distinct, a maximum, cumulative or made of other metrics is
  refused.
- A semantic layer knows no customer and no first instant, and has other bounds than a meter. Whatever is put in is said.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aggregator.core import table_guess
from aggregator.core.table_guess import Column, Reference, TableShape

WITHIN_A_DAY = ("nanosecond", "microsecond", "millisecond", "second", "minute", "hour")
"""Grains of time that are finer than a day."""


class SemanticMetric(NamedTuple):
    """A metric that is a sum over the rows of one table.

    `written_in` is the dialect of its SQL as sqlglot calls it, empty for standard SQL. `expression` is what is added up for
    each row, or counted where `aggregation` is `count`. `daily` says that its time goes to the day only. `customers` are
    columns that may name the customer, by what the semantic layer calls them. `within` may stand before columns.
    """

    name: str
    table: str
    written_in: str
    aggregation: str
    expression: str
    conditions: tuple[str, ...]
    when: str
    daily: bool
    customers: Mapping[str, str]
    references: tuple[Reference, ...]
    assumed: tuple[str, ...]
    within: str = ""


class Rows(NamedTuple):
    """Which rows of a table a metric takes, when each was used and by whom, and why it is taken so."""

    when: Column
    customer: str
    through: Reference | None
    reasons: tuple[str, ...]


def why_not_summed(aggregation: str) -> str | None:
    """Say why the results of an aggregation are no usage that is billed window by window; None if they are."""
    match aggregation:
        case "sum" | "count" | "sum_boolean":
            return None
        case "count_distinct":
            return "it counts what is distinct, and who is counted in two windows would be billed twice"
        case _:
            return f"its aggregation is `{aggregation}`, and results of several windows cannot be added up"


def rows(metric: SemanticMetric, shape: TableShape, customer: str | None) -> Rows:
    """Find the columns of a metric in its table; `customer` is what a person named.

    Raises LookupError, with a sentence, if one of them is not there, or none looks like a customer.
    """
    known = {column.name.lower(): column for column in shape.columns}
    when = known.get(metric.when.lower())
    if when is None:
        raise LookupError(
            f"{metric.name} goes by `{metric.when}`, and {shape.name} has no such column; it has: "
            f"{table_guess.listed(shape.columns)}"
        )
    reasons = list(table_guess.about_when(shape, when))
    for reference in metric.references:
        if customer is not None and customer in reference.columns:
            reasons.append(
                f"`{reference.column}` leads to {reference.table}, whose `{customer}` is the customer"
            )
            return Rows(when, customer, reference, tuple(reasons))
    of_metric = _of_metric(metric, shape, known)
    named = None if customer is None else metric.customers.get(customer, customer)
    if named is not None and named.lower() not in known:
        raise LookupError(
            f"{metric.name} knows no {customer} for `--customer`: it has {_listed(metric)}, and {shape.name} has "
            f"{table_guess.listed(shape.columns)}"
        )
    found, through = table_guess.customer_of(of_metric if named is None else shape, named, reasons)
    return Rows(when, found, through, tuple(reasons))


def _of_metric(metric: SemanticMetric, shape: TableShape, known: Mapping[str, Column]) -> TableShape:
    """Return the table with those columns only that the semantic layer has a name for."""
    named: Sequence[Column] = [
        known[column.lower()] for column in metric.customers.values() if column.lower() in known
    ]
    references = (*metric.references, *shape.references)
    return shape._replace(columns=tuple(dict.fromkeys(named)), references=references)


def _listed(metric: SemanticMetric) -> str:
    found = [*metric.customers, *(column for each in metric.references for column in each.columns)]
    return ", ".join(found) or "none"
