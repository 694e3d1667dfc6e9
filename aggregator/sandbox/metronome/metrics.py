"""Billable metrics: which events match one, and what those add up to.

From the API reference: COUNT, LATEST, MAX, SUM or UNIQUE over the property `aggregation_key`, for events that pass the event
type's filter and the filters of properties; or a `sql` metric, whose query is not run here. A metric is not retroactive: it
counts what is received from its creation on (docs.metronome.com, create billable metrics).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import reduce
from uuid import uuid4

from aggregator.sandbox.metronome.events import Usage
from aggregator.sandbox.metronome.settings import MetronomeRules
from aggregator.sandbox.metronome.wire import bad_request, instant, not_found
from aggregator.sandbox.values import EXACT

TYPES = ("COUNT", "LATEST", "MAX", "SUM", "UNIQUE")
FIELDS = (
    "name",
    "aggregation_type",
    "aggregation_key",
    "event_type_filter",
    "property_filters",
    "group_keys",
    "sql",
    "custom_fields",
)


@dataclass
class Metric:
    """One billable metric."""

    id: str
    name: str
    created_at: float
    given: Mapping[str, object]
    """The fields as they were given."""
    archived_at: float | None = None
    filters: list[Mapping[str, object]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Return the property that is aggregated; empty for a COUNT."""
        return str(self.given.get("aggregation_key", ""))

    @property
    def group_keys(self) -> list[list[str]]:
        """Return by which properties, alone or together, usage can be asked for."""
        given = self.given.get("group_keys")
        return [[str(name) for name in each] for each in given] if isinstance(given, list) else []

    def json(self) -> dict[str, object]:
        """Return the object that calls answer with."""
        archived = {"archived_at": instant(self.archived_at)} if self.archived_at is not None else {}
        return {"id": self.id, **self.given, **archived}

    def matches(self, event: Usage) -> bool:
        """Say whether an event counts."""
        if "sql" in self.given or event.received_at < self.created_at:
            return False
        types = self.given.get("event_type_filter")
        return _passes(types, event.event_type) and all(_holds(each, event) for each in self.filters)

    def aggregate(self, events: Sequence[Usage], rules: MetronomeRules) -> Decimal | None:
        """Return what matching events add up to; None for no events."""
        if not events:
            return None
        values = [number(each.properties.get(self.key), rules) for each in events]
        match self.given["aggregation_type"]:
            case "COUNT":
                return Decimal(len(events))
            case "MAX":
                return max(values)
            case "LATEST":
                return number(max(events, key=lambda each: each.timestamp).properties.get(self.key), rules)
            case "UNIQUE":
                return Decimal(len({str(each.properties.get(self.key)) for each in events}))
            case _:
                return reduce(EXACT.add, values, Decimal(0))


class Metrics:
    """All metrics, in the order made."""

    def __init__(self) -> None:
        self._by_id: dict[str, Metric] = {}

    def create(self, given: Mapping[str, object], now: float) -> Metric:
        """Make a metric. Raise ApiError for a field that is missing, unknown or at odds with another."""
        unknown = sorted(given.keys() - set(FIELDS))
        if unknown:
            raise bad_request(f"There is no field {unknown[0]}.")
        name = given.get("name")
        if not isinstance(name, str) or not name:
            raise bad_request("name is required, as text.")
        if "sql" in given:
            if given.keys() - {"name", "sql", "custom_fields"}:
                raise bad_request("sql excludes every other field but name.")
        elif given.get("aggregation_type") not in TYPES:
            raise bad_request(f"aggregation_type must be one of {', '.join(TYPES)}.")
        filters = _filters(given.get("property_filters", []))
        metric = Metric(str(uuid4()), name, now, dict(given), filters=filters)
        needs_key = given.get("aggregation_type") not in (None, "COUNT")
        if needs_key and metric.key not in {each["name"] for each in filters}:
            raise bad_request("aggregation_key is required and must be among the property_filters.")
        grouped = {name for each in metric.group_keys for name in each}
        if not grouped <= {each["name"] for each in filters}:
            raise bad_request("Every property of group_keys must be among the property_filters.")
        self._by_id[metric.id] = metric
        return metric

    def archive(self, metric: str, now: float) -> Metric:
        """Take a metric out of use."""
        found = self.get(metric)
        found.archived_at = now
        return found

    def get(self, metric: str) -> Metric:
        """Return a metric. Raise ApiError if there is none."""
        if metric not in self._by_id:
            raise not_found(f"There is no billable metric {metric}.")
        return self._by_id[metric]

    def listed(self, *, archived: bool = False) -> list[Metric]:
        """Return the metrics in use, or the archived ones with them."""
        return [each for each in self._by_id.values() if archived or each.archived_at is None]


def number(value: object, rules: MetronomeRules) -> Decimal:
    """Return what a property counts for: a number as it is, a text by the rule, anything else nothing."""
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str) or rules.text_quantities == "zero":
        return Decimal(0)
    try:
        read = Decimal(value)
    except InvalidOperation:
        return Decimal(0)
    return read if read.is_finite() else Decimal(0)


def _filters(filters: object) -> list[Mapping[str, object]]:
    if not isinstance(filters, list) or not all(
        isinstance(each, dict) and "name" in each for each in filters
    ):
        raise bad_request("property_filters must be a list of objects with a name each.")
    return filters


def _holds(rule: Mapping[str, object], event: Usage) -> bool:
    name = str(rule["name"])
    there = name in event.properties
    if rule.get("exists") not in (None, there):
        return False
    return not there or _passes(rule, str(event.properties[name]))


def _passes(rule: object, value: str) -> bool:
    if not isinstance(rule, dict):
        return True
    wanted, unwanted = rule.get("in_values"), rule.get("not_in_values")
    return not (isinstance(wanted, list) and value not in wanted) and not (
        isinstance(unwanted, list) and value in unwanted
    )
