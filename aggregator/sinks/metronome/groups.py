"""By which group key of a metric one of our meters is told apart from the others that it sums: pure.

A metric sums every event that passes its filters, whichever of our meters sent it. Its usage can be asked for by a group
key, which is one property or several that must be given together, exactly as the metric has them (docs.metronome.com, API
reference, get usage data with paginated groupings). Our meters differ by `properties`, which are the same on each event.

Rules
- A meter that is alone in its metric is asked for by the metric's whole usage: what somebody else sends is seen, too.
- Else the shortest group key counts that this meter's events have, and by which each of the others differs.
- Where there is none, no figure is this meter's, and none is given.
- Combinations of a meter's dimensions are told apart by a group key that has all of them.
"""

from collections.abc import Mapping

from aggregator.sinks.metronome.event import MetronomeMeter
from aggregator.sinks.metronome.fitting import Metric, sums

GroupKey = tuple[str, ...]


def may_share(name: str, meters: Mapping[str, MetronomeMeter]) -> bool:
    """Tell whether another meter could be in the same metric, without knowing any metric."""
    meter = meters[name]
    return any(
        other.quantity_property == meter.quantity_property or (other.metric_id or "") == meter.metric_id
        for each, other in meters.items()
        if each != name
    )


def beside(metric: Metric, name: str, meters: Mapping[str, MetronomeMeter]) -> list[str]:
    """Return the other meters whose events a metric sums."""
    number = str(metric.get("id"))
    return [
        each
        for each, other in meters.items()
        if each != name
        and other.metric_id in (None, number)
        and (sums(metric, other) if not metric.get("sql") else other.metric_id == number)
    ]


def telling_apart(metric: Metric, name: str, meters: Mapping[str, MetronomeMeter]) -> GroupKey | None:
    """Return the group key by which to ask for a meter; an empty one if it is alone there, None if there is none."""
    others = [meters[each].properties for each in beside(metric, name, meters)]
    if not others:
        return ()
    own = meters[name].properties
    fitting = [
        keys
        for keys in _group_keys(metric)
        if keys <= own.keys() and all(any(other.get(key) != own[key] for key in keys) for other in others)
    ]
    return min((tuple(sorted(keys)) for keys in fitting), key=lambda keys: (len(keys), keys), default=None)


def apart(metric: Metric, name: str, meters: Mapping[str, MetronomeMeter]) -> GroupKey | None:
    """Return the group key by which to ask for each combination of a meter's dimensions; None if there is none.

    It has every dimension, and besides only what is the same on each event of the meter; by that others differ, if any.
    """
    meter, others = meters[name], [meters[each].properties for each in beside(metric, name, meters)]
    own, wanted = meter.properties, frozenset(meter.dimensions.values())
    fitting = [
        keys
        for keys in _group_keys(metric)
        if wanted
        and wanted <= keys
        and keys <= own.keys() | wanted
        and all(any(other.get(key) != own[key] for key in keys - wanted) for other in others)
    ]
    return min((tuple(sorted(keys)) for keys in fitting), key=lambda keys: (len(keys), keys), default=None)


def _group_keys(metric: Metric) -> list[frozenset[str]]:
    found = metric.get("group_keys")
    keys = [each for each in found if isinstance(each, list) and each] if isinstance(found, list) else []
    return [frozenset(map(str, each)) for each in keys]
