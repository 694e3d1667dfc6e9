"""A metric of dbt's semantic layer, out of `target/manifest.json`.

Rules
- A metric has its aggregation in a measure of a semantic model, or in itself, under `metric_aggregation_params`: both are
  read (docs.getdbt.com/docs/build/metrics-overview, docs.getdbt.com/docs/build/measures).
- Cumulative, derived, ratio and conversion metrics are no sums over rows, and neither are measures that are not additive
  over time.
- `target/osi_document.json` is another file of dbt's, and never read: it gives offsets as `SUM - SUM`, and the last value
  of a period as a plain sum.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aggregator.core.semantic_metric import WITHIN_A_DAY, SemanticMetric, why_not_summed
from aggregator.core.table_guess import Reference
from aggregator.errors import UsageError
from aggregator.semantic.expressions import engine_of, plain

DIMENSION = re.compile(r"\{\{\s*(Dimension|Entity)\(\s*(['\"])([\w.]+)\2\s*\)\s*\}\}")
"""What a filter names, as in `{{ Dimension('call__status') }}` (docs.getdbt.com/docs/build/metrics-overview#filters)."""

KINDS = {
    "cumulative": "it adds up over more than a window, and dbt takes the first value of a period by default",
    "derived": "it is made of other metrics: give each a meter of its own, or write the query",
    "ratio": "it divides one metric by another, and quotients of windows do not add up",
    "conversion": "it joins events over time, and is no sum over rows",
}
"""Why a type of metric is no usage."""

REBUILT = {"table", "incremental"}
"""How dbt makes a model that has rows only as of its last run."""


class _Measured(NamedTuple):
    """What one metric adds up, wherever that is said."""

    model: Mapping[str, Any]
    aggregation: str
    expression: str
    when: str | None
    not_additive: bool
    filters: Sequence[str]
    fills: bool


def read(path: Path) -> Mapping[str, Any]:
    """Return what stands in a manifest. Raises UsageError if the file is none."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise UsageError(f"{path} is not JSON: give dbt's `target/manifest.json`.") from None
    if not isinstance(found, dict) or not isinstance(found.get("metrics"), dict) or "metadata" not in found:
        raise UsageError(
            f"{path} is no manifest of dbt: give `target/manifest.json`, which `dbt parse` writes. Its other files, "
            "osi_document.json above all, do not say everything of a metric."
        )
    return found


def metric(manifest: Mapping[str, Any], name: str | None) -> SemanticMetric:
    """Return a metric as a sum over rows; without a name, the only one. Raises UsageError if it cannot be one."""
    found = _named(manifest, name)
    called = str(found["name"])
    if found["type"] != "simple":
        why = KINDS.get(found["type"], f"its type is `{found['type']}`")
        raise UsageError(f"The metric {called} is no usage query: {why}.")
    measured = _measured(manifest, found)
    reason = why_not_summed(measured.aggregation)
    if measured.not_additive:
        reason = "its measure is not additive over time, as a stock or a balance is not"
    if reason is not None:
        raise UsageError(f"The metric {called} is no usage query: {reason}.")
    dimensions = {each["name"]: each for each in measured.model["dimensions"]}
    entities = {each["name"]: each["expr"] or each["name"] for each in measured.model["entities"]}
    when, daily = _when(called, dimensions, measured.when)
    relation = measured.model["node_relation"]
    columns = entities | {
        each["name"]: each["expr"] or each["name"] for each in dimensions.values() if each["type"] != "time"
    }
    expression = measured.expression
    if measured.aggregation == "sum_boolean":
        expression = f"case when {expression} then 1 else 0 end"
    return SemanticMetric(
        name=called,
        table=".".join(filter(None, (relation["schema_name"], relation["alias"]))),
        written_in=engine_of(manifest["metadata"]["adapter_type"]),
        aggregation="count" if measured.aggregation == "count" else "sum",
        expression=expression,
        conditions=tuple(_condition(called, each, measured.model, columns) for each in measured.filters),
        when=when,
        daily=daily,
        customers={each: column for each, expr in columns.items() if (column := plain(expr)) is not None},
        references=tuple(_references(manifest, measured.model)),
        assumed=tuple(_assumed(manifest, measured, when, relation)),
    )


def _named(manifest: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    metrics = {str(each["name"]): each for each in manifest["metrics"].values()}
    if name is None and len(metrics) == 1:
        return next(iter(metrics.values()))
    if name not in metrics:
        what = f"there is no metric {name}" if name else "say which metric, with `--metric`"
        raise UsageError(f"In the manifest {what}; it has: {', '.join(sorted(metrics)) or 'none'}.")
    found: Mapping[str, Any] = metrics[name]
    return found


def _measured(manifest: Mapping[str, Any], found: Mapping[str, Any]) -> _Measured:
    """Return what a simple metric adds up, from its measure or from itself."""
    given = found["type_params"]
    filters = _filters(found)
    models = {str(each["name"]): each for each in manifest["semantic_models"].values()}
    own = given.get("metric_aggregation_params")
    if own:
        model = models[own["semantic_model"]]
        when = own.get("agg_time_dimension") or (model["defaults"] or {}).get("agg_time_dimension")
        return _Measured(
            model,
            own["agg"],
            given.get("expr") or found["name"],
            when,
            bool(own.get("non_additive_dimension")),
            filters,
            bool(given.get("join_to_timespine") or given.get("fill_nulls_with") is not None),
        )
    asked = given["measure"]
    for model in models.values():
        for each in model["measures"]:
            if each["name"] == asked["name"]:
                when = each.get("agg_time_dimension") or (model["defaults"] or {}).get("agg_time_dimension")
                fills = asked.get("join_to_timespine") or asked.get("fill_nulls_with") is not None
                return _Measured(
                    model,
                    each["agg"],
                    each["expr"] or each["name"],
                    when,
                    bool(each.get("non_additive_dimension")),
                    [*filters, *_filters(asked)],
                    bool(fills),
                )
    raise UsageError(f"No semantic model of the manifest has the measure {asked['name']} of {found['name']}.")


def _filters(of: Mapping[str, Any]) -> list[str]:
    found = of.get("filter") or {}
    return [each["where_sql_template"] for each in found.get("where_filters") or ()]


def _when(called: str, dimensions: Mapping[str, Any], name: str | None) -> tuple[str, bool]:
    """Return the column that says when, and whether it goes to the day only."""
    if name is None or name not in dimensions:
        raise UsageError(f"The metric {called} has no time dimension, and usage is billed by when it was.")
    found = dimensions[name]
    grain = (found.get("type_params") or {}).get("time_granularity") or "day"
    column = plain(found["expr"] or name)
    if column is None:
        raise UsageError(
            f"The metric {called} goes by `{found['expr']}`, which is computed: it may be cut off in another zone, and no "
            "index helps. Give it an `agg_time_dimension` that is a column."
        )
    if grain not in (*WITHIN_A_DAY, "day"):
        raise UsageError(
            f"The metric {called} knows its time by the {grain}, and a window is a day long at most."
        )
    return column, grain == "day"


def _condition(called: str, template: str, model: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Return a filter with the columns it means. Raises UsageError for what it may not name."""
    primary = model.get("primary_entity") or next(
        (each["name"] for each in model["entities"] if each["type"] == "primary"), None
    )

    def meant(found: "re.Match[str]") -> str:
        before, _, name = found[3].rpartition("__")
        if (before and before != primary) or name not in columns:
            raise UsageError(
                f"The metric {called} is filtered by `{found[3]}`, which is not of {model['name']}: a meter reads one "
                "table. Write the join by hand."
            )
        return columns[name] if plain(columns[name]) else f"({columns[name]})"

    text = DIMENSION.sub(meant, template)
    if "{{" in text or "{%" in text:
        raise UsageError(
            f"The metric {called} is filtered by `{template}`: only `Dimension` and `Entity` are read there. What a time "
            "dimension would bound, `start_at` and `stop_at` of the meter do."
        )
    return text


def _references(manifest: Mapping[str, Any], model: Mapping[str, Any]) -> list[Reference]:
    """Return where the foreign entities of a model lead, by a key that no two rows there have."""
    found = []
    for each in model["entities"]:
        here = plain(each["expr"] or each["name"])
        if each["type"] != "foreign" or here is None:
            continue
        for other in manifest["semantic_models"].values():
            for entity in other["entities"]:
                key = plain(entity["expr"] or entity["name"])
                if (
                    entity["name"] != each["name"]
                    or entity["type"] not in {"primary", "unique"}
                    or key is None
                ):
                    continue
                relation = other["node_relation"]
                columns = [plain(one["expr"] or one["name"]) for one in other["dimensions"]]
                table = ".".join(filter(None, (relation["schema_name"], relation["alias"])))
                found.append(Reference(here, table, key, tuple(filter(None, columns))))
    return found


def _assumed(
    manifest: Mapping[str, Any], measured: _Measured, when: str, relation: Mapping[str, Any]
) -> list[str]:
    """Say what is put in, and what is left out."""
    assumed = [
        f"`{measured.when}` of the semantic model {measured.model['name']} is `{when}`",
        "windows are half-open, where dbt counts the last instant of a range in",
    ]
    if measured.filters:
        assumed.append(f"its filter is kept: {' and '.join(measured.filters)}")
    if measured.fills:
        assumed.append("what the time spine fills in for days without rows is left out: no usage is no event")
    if relation.get("database"):
        assumed.append(f"the table is in the database that is set; dbt has it in {relation['database']}")
    for node in measured.model["depends_on"]["nodes"]:
        made = (manifest.get("nodes", {}).get(node, {}).get("config") or {}).get("materialized")
        if made == "ephemeral":
            raise UsageError(
                f"{relation['alias']} is an ephemeral model of dbt, so there is no table to read."
            )
        if made in REBUILT:
            assumed.append(
                f"`{relation['alias']}` has the rows of the last `dbt run` ({made}): set `freshness` of the source to what "
                "that run has seen, or read the table it is made from"
            )
    return assumed
