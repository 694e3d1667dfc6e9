"""A metric of an Apache Ossie semantic model, in YAML or JSON.

Rules
- A metric has no time, no grain and no filter of its own (github.com/apache/ossie, core-spec): when and by whom usage was is
  chosen among the fields, and said.
- A relationship leads from many rows to one. It is followed that way only, and by a key that the other dataset declares, so
  that no join copies a row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from aggregator.core.semantic_metric import SemanticMetric, why_not_summed
from aggregator.core.table_guess import WHEN, Reference
from aggregator.errors import UsageError
from aggregator.semantic.expressions import aggregated, plain

VERSION = "0.2."
"""Versions of the specification that are read."""

IN_TIME = ("Date", "DateTime", "DateTimeTz")
PREFERRED = {"snowflake": "SNOWFLAKE", "bigquery": "BIGQUERY", "databricks": "DATABRICKS"}
"""What the specification calls the dialects that it knows, and sqlglot too."""

STANDARD = ("ANSI_SQL", "OSSIE_SQL_2026")


def read(path: Path) -> Mapping[str, Any]:
    """Return what stands in a model. Raises UsageError if the file is none."""
    try:
        found = YAML(typ="safe").load(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no Ossie model: its root must be a mapping.")
    if not str(found.get("version", "")).startswith(VERSION):
        of_dbt = "semantic_model" in found
        remedy = "give dbt's manifest.json to `--from-dbt`" if of_dbt else f"version {VERSION}x is read"
        raise UsageError(f"{path} is no Ossie model of a version that is known here: {remedy}.")
    return found


def metric(model: Mapping[str, Any], name: str | None, engine: str, when: str | None) -> SemanticMetric:
    """Return a metric as a sum over rows; without a name, the only one. Raises UsageError if it cannot be one.

    `engine` is what sqlglot calls the engine that is read, and `when` the field that a person chose.
    """
    found = _named(model, name)
    called = str(found["name"])
    written_in, text = _expression(called, found["expression"], engine)
    aggregation, inner = aggregated(text, written_in)
    why = why_not_summed(aggregation)
    if why is not None:
        raise UsageError(f"The metric {called} is no usage query: {why}.")
    datasets = {str(each["name"]): each for each in model["datasets"]}
    dataset = _dataset(called, inner if inner != "1" else text, datasets, written_in)
    fields = _columns(dataset, engine)
    moment = _when(called, dataset, fields, when)
    assumed = [
        f"a metric of an Ossie model has no time of its own: `{moment['name']}` of {dataset['name']} is taken",
        "it has no filter of its own either; windows are half-open",
    ]
    return SemanticMetric(
        name=called,
        table=_table(dataset),
        written_in=written_in,
        aggregation=aggregation,
        expression=inner,
        conditions=(),
        when=fields[moment["name"]],
        daily=moment.get("datatype") == "Date",
        customers=fields,
        references=tuple(_references(model, dataset, datasets, engine)),
        assumed=tuple(assumed),
        within=str(dataset["name"]),
    )


def _named(model: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    metrics = {str(each["name"]): each for each in model.get("metrics") or ()}
    if name is None and len(metrics) == 1:
        return next(iter(metrics.values()))
    if name not in metrics:
        what = f"there is no metric {name}" if name else "say which metric, with `--metric`"
        raise UsageError(f"In the model {what}; it has: {', '.join(sorted(metrics)) or 'none'}.")
    found: Mapping[str, Any] = metrics[name]
    return found


def _expression(called: str, given: Mapping[str, Any], engine: str) -> tuple[str, str]:
    """Return an expression in the dialect of the engine if the model has it, else in standard SQL."""
    texts = {str(each["dialect"]): str(each["expression"]) for each in given["dialects"]}
    preferred = PREFERRED.get(engine)
    if preferred in texts:
        return engine, texts[preferred]
    standard = next((texts[each] for each in STANDARD if each in texts), None)
    if standard is None:
        raise UsageError(f"{called} is written in {', '.join(texts)} only, and not in standard SQL.")
    return "", standard


def _dataset(called: str, text: str, datasets: Mapping[str, Any], written_in: str) -> Mapping[str, Any]:
    """Return the one dataset that an expression reads."""
    import sqlglot
    from sqlglot import exp

    named = {
        column.table for column in sqlglot.parse_one(text, dialect=written_in or None).find_all(exp.Column)
    }
    if not named and len(datasets) == 1:
        named = set(datasets)
    if len(named) != 1 or not named <= set(datasets):
        read = ", ".join(sorted(named)) or "no dataset by name"
        raise UsageError(
            f"The metric {called} reads {read}: a meter reads one table, and joins the customer. Write the query by hand."
        )
    found: Mapping[str, Any] = datasets[named.pop()]
    return found


def _columns(dataset: Mapping[str, Any], engine: str) -> dict[str, str]:
    """Return the fields of a dataset that are columns, by their names."""
    found = {}
    for each in dataset.get("fields") or ():
        column = plain(_expression(str(each["name"]), each["expression"], engine)[1])
        if column is not None:
            found[str(each["name"])] = column
    return found


def _when(
    called: str, dataset: Mapping[str, Any], fields: Mapping[str, str], chosen: str | None
) -> Mapping[str, Any]:
    """Return the field that says when: the one that was chosen, or the one that is no day, or is called like one."""
    temporal = [each for each in dataset.get("fields") or () if each["name"] in fields and _is_time(each)]
    if chosen is not None:
        temporal = [each for each in temporal if chosen in {each["name"], fields[each["name"]]}]
    if not temporal:
        raise UsageError(
            f"The metric {called} has no time: no field of {dataset['name']} that is a column "
            f"{'is called ' + chosen + ' and ' if chosen else ''}says when. Usage is billed by when it was."
        )
    instants = [each for each in temporal if each.get("datatype") != "Date"] or temporal
    if len(instants) > 1:
        called_so = [each for name in WHEN for each in instants if fields[each["name"]].lower() == name]
        instants = called_so[:1] or instants
    if len(instants) > 1:
        listed = ", ".join(each["name"] for each in instants)
        raise UsageError(
            f"{dataset['name']} has several fields that say when ({listed}): name one with `--when`."
        )
    found: Mapping[str, Any] = instants[0]
    return found


def _is_time(field: Mapping[str, Any]) -> bool:
    """Tell whether a field is one of time: as it says of itself, or by its type."""
    dimension = field.get("dimension")
    if dimension is None:
        return False
    said = dimension.get("is_time")
    return bool(said) if said is not None else field.get("datatype") in IN_TIME


def _table(dataset: Mapping[str, Any]) -> str:
    """Return the table of a dataset, with its schema; the database is what the source's URL leads to."""
    parts = [part.strip('"`') for part in str(dataset["source"]).split(".")]
    if not all(part.isidentifier() for part in parts):
        raise UsageError(f"{dataset['name']} is made by a query, `{dataset['source']}`, and is no table.")
    return ".".join(parts[-2:])


def _references(
    model: Mapping[str, Any], dataset: Mapping[str, Any], datasets: Mapping[str, Any], engine: str
) -> Sequence[Reference]:
    """Return where relationships lead, to one row each."""
    found = []
    for each in model.get("relationships") or ():
        if each["from"] != dataset["name"] or each["to"] not in datasets or len(each["to_columns"]) != 1:
            continue
        other = datasets[each["to"]]
        unique = [other.get("primary_key") or [], *(other.get("unique_keys") or ())]
        if list(each["to_columns"]) in [list(key) for key in unique]:
            columns = tuple(_columns(other, engine).values())
            found.append(Reference(each["from_columns"][0], _table(other), each["to_columns"][0], columns))
    return found
