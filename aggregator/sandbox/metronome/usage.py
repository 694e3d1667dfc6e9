"""`POST /v1/usage`: what customers have used of metrics between two UTC midnights, whole or by hour or day.

From the API reference: both bounds lie on UTC midnight, at least a day apart; without ids all customers and all metrics
are meant; the answer comes in pages. A window without usage is shown with a null here.

`POST /v1/usage/groups`: the same of one customer and one metric, by a group key of the metric, all properties of which must
be given; filters name values of them, two hundred in all. A page of compound groups holds a hundred rows at most. A group's
property is null where events lack it. Groups and windows without usage have no row here: Metronome does not say.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from aggregator.sandbox.metronome.customers import Customer, Customers
from aggregator.sandbox.metronome.events import Log, Usage
from aggregator.sandbox.metronome.metrics import Metric, Metrics
from aggregator.sandbox.metronome.settings import MetronomeRules
from aggregator.sandbox.metronome.wire import bad_request, instant, read_instant

DAY_SECONDS = 86400
MOST_FILTERED = 200
STEPS = {"HOUR": 3600, "DAY": DAY_SECONDS, "NONE": None}


class Query(NamedTuple):
    """What a call asks for."""

    start: int
    end: int
    step: int
    customers: list[Customer]
    metrics: list[Metric]


def read_query(body: Mapping[str, object], customers: Customers, metrics: Metrics) -> Query:
    """Read a call. Raise ApiError for what Metronome refuses."""
    start, end = (_midnight(body.get(name), name) for name in ("starting_on", "ending_before"))
    if end < start + DAY_SECONDS:
        raise bad_request("ending_before must be at least a day after starting_on.")
    size = str(body.get("window_size", "")).upper()
    if size not in STEPS:
        raise bad_request("window_size must be HOUR, DAY or NONE.")
    ids, asked = body.get("customer_ids"), body.get("billable_metrics")
    if ids is not None and not isinstance(ids, list):
        raise bad_request("customer_ids must be a list.")
    if asked is not None and not (isinstance(asked, list) and all(isinstance(each, dict) for each in asked)):
        raise bad_request("billable_metrics must be a list of objects with an id each.")
    return Query(
        start,
        end,
        STEPS[size] or end - start,
        customers.listed(None) if ids is None else [customers.get(str(each)) for each in ids],
        metrics.listed() if asked is None else [metrics.get(str(each.get("id"))) for each in asked],
    )


def rows(query: Query, log: Log, seen_by: float, rules: MetronomeRules) -> Iterator[dict[str, object]]:
    """Yield a row for each metric, customer and window."""
    for metric in query.metrics:
        for customer in query.customers:
            names = [customer.id, *customer.aliases]
            matching = [each for each in log.of(names, seen_by) if metric.matches(each)]
            for start in range(query.start, query.end, query.step):
                within = [each for each in matching if start <= each.timestamp < start + query.step]
                yield {
                    "billable_metric_id": metric.id,
                    "billable_metric_name": metric.name,
                    "customer_id": customer.id,
                    "start_timestamp": instant(start),
                    "end_timestamp": instant(start + query.step),
                    "value": metric.aggregate(within, rules),
                }


class GroupQuery(NamedTuple):
    """What a call for groups asks for."""

    query: Query
    keys: tuple[str, ...]
    filters: Mapping[str, list[str]]


def read_group_query(body: Mapping[str, object], customers: Customers, metrics: Metrics) -> GroupQuery:
    """Read a call for groups. Raise ApiError for what Metronome refuses."""
    whom = {
        "customer_ids": [body.get("customer_id")],
        "billable_metrics": [{"id": body.get("billable_metric_id")}],
    }
    query = read_query({**body, **whom}, customers, metrics)
    keys, filters = body.get("group_key"), body.get("group_filters", {})
    [metric] = query.metrics
    if not isinstance(keys, list) or sorted(map(str, keys)) not in [
        sorted(each) for each in metric.group_keys
    ]:
        raise bad_request(
            "group_key must be a group key of the metric, with all of its properties.", reason="group_key"
        )
    if not isinstance(filters, dict) or not all(
        isinstance(each, list) and name in keys for name, each in filters.items()
    ):
        raise bad_request("group_filters must map properties of the group key to lists of values.")
    if sum(map(len, filters.values())) > MOST_FILTERED:
        raise bad_request(f"group_filters may hold {MOST_FILTERED} values.", reason="group_filters")
    return GroupQuery(query, tuple(map(str, keys)), filters)


def group_rows(
    asked: GroupQuery, log: Log, seen_by: float, rules: MetronomeRules
) -> Iterator[dict[str, object]]:
    """Yield a row for each window and group with usage."""
    query, keys, filters = asked
    [metric], [customer] = query.metrics, query.customers
    matching = [each for each in log.of([customer.id, *customer.aliases], seen_by) if metric.matches(each)]
    for start in range(query.start, query.end, query.step):
        groups: dict[tuple[object, ...], list[Usage]] = defaultdict(list)
        for each in matching:
            if start <= each.timestamp < start + query.step:
                groups[tuple(each.properties.get(key) for key in keys)].append(each)
        for values, within in groups.items():
            group = dict(zip(keys, values, strict=True))
            if all(not wanted or group[name] in wanted for name, wanted in filters.items()):
                alone = {"group_key": keys[0], "group_value": values[0]} if len(keys) == 1 else {}
                yield {
                    "starting_on": instant(start),
                    "ending_before": instant(start + query.step),
                    "group": group,
                    "value": metric.aggregate(within, rules),
                    **alone,
                }


def _midnight(text: object, name: str) -> int:
    seconds = read_instant(text, name)
    if seconds % DAY_SECONDS:
        raise bad_request(f"{name} must lie on UTC midnight.", reason="misaligned")
    return int(seconds)
