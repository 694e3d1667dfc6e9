"""Whether a billable metric counts what we send: pure, a description in and sentences out.

For summaries that is a SUM over the property that holds the quantity. A COUNT would count one for each of them, and MAX,
LATEST and UNIQUE would make something else of them (docs.metronome.com, set up billable metrics).
"""

from collections.abc import Iterator, Mapping

from aggregator.sinks.metronome.event import MetronomeMeter

Metric = Mapping[str, object]
"""A billable metric as the API shows it."""


def sums(metric: Metric, meter: MetronomeMeter) -> bool:
    """Say whether a metric sums the meter's quantity over its type of events."""
    return not any(True for _ in _obstacles(metric, meter))


def of_type(metric: Metric, meter: MetronomeMeter) -> bool:
    """Say whether a metric is about the meter's type of events by name."""
    return meter.event_type in _values(metric.get("event_type_filter"), "in_values")


def misfits(name: str, meter: MetronomeMeter, found: list[Metric]) -> list[str]:
    """Say why none of these metrics counts what a meter of ours sends; nothing if one does."""
    if any(sums(metric, meter) for metric in found):
        return []
    whose = f"Meter {name}: no billable metric of Metronome"
    if not found:
        advice = (
            f"Create one that sums the property {meter.quantity_property}, or correct `metronome.event_type`; if a SQL "
            "metric counts them, name it under `metronome.metric_id`."
        )
        return [
            f"{whose} is for event type {meter.event_type}, so its events would be taken and never billed. {advice}"
        ]
    reasons = [
        f"{metric.get('name')} ({metric.get('id')}) {obstacle}"
        for metric in found
        for obstacle in _obstacles(metric, meter)
    ]
    return [f"{whose} sums what is sent as {meter.event_type}: {'; '.join(reasons)}."]


def _obstacles(metric: Metric, meter: MetronomeMeter) -> Iterator[str]:
    if metric.get("archived_at") is not None:
        yield "is archived: name another one"
    if metric.get("sql"):
        return  # what a query makes of an event, only a test event can tell
    kind, key = metric.get("aggregation_type"), metric.get("aggregation_key")
    if kind != "SUM":
        yield f"is a {kind}, which makes something else of a summary: use a SUM"
    elif key != meter.quantity_property:
        yield f"sums {key}, but we send {meter.quantity_property}: set `metronome.quantity_property: {key}`"
    types = metric.get("event_type_filter")
    if not _passes(types, meter.event_type):
        yield f"does not take event type {meter.event_type}"
    filters = metric.get("property_filters")
    for rule in filters if isinstance(filters, list) else []:
        yield from _obstacle_of(rule, meter)


def _obstacle_of(rule: object, meter: MetronomeMeter) -> Iterator[str]:
    """Say what a filter on one property has against our events."""
    if not isinstance(rule, Mapping):
        return
    name, sent = str(rule.get("name")), meter.sent
    if rule.get("exists") is True and name not in sent:
        yield f"wants the property {name}, which we do not send: add it to `metronome.properties`"
    if rule.get("exists") is False and name in sent:
        yield f"wants events without the property {name}, which we send"
    value = sent.get(name)
    if value is not None and not _passes(rule, value):
        yield f"does not take {value} for the property {name}"


def _passes(rule: object, value: str) -> bool:
    wanted, unwanted = _values(rule, "in_values"), _values(rule, "not_in_values")
    return (not wanted or value in wanted) and value not in unwanted


def _values(rule: object, key: str) -> list[str]:
    found = rule.get(key) if isinstance(rule, Mapping) else None
    return [str(each) for each in found] if isinstance(found, list) else []
