"""How cutovers stand with a change of the configuration: customers who move between sinks go by the ledger. Pure."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence

from aggregator.config.durations import parse_duration
from aggregator.core.shown import minute
from aggregator.core.windows import is_boundary
from aggregator.ledger.cutovers import KnownCutover
from aggregator.plan.changes import METER, Change, Kind

TAKE_CARE = "withdraw it (`aggregator cutover withdraw`), or leave that as it is"


def cutover_notes(
    known: Iterable[KnownCutover], changes: Iterable[Change], renamed: Mapping[str, str]
) -> Iterator[str]:
    """Yield a sentence for each cutover and meter whose name, windows or sinks change; `renamed` has new names by old."""
    of_meter: dict[str, list[Change]] = {}
    for change in changes:
        if change.what == METER:
            of_meter.setdefault(change.name, []).append(change)
    for each in known:
        for meter in each.meters:
            name = renamed.get(meter, meter)
            for said in dict.fromkeys(_said(each, of_meter.get(name, ()))):
                yield f"{name}: {_named(each)} {said}"


def _named(each: KnownCutover) -> str:
    who = each.customer or "everybody else"
    verb = "moved" if each.passed else "is to move"
    return f"{who} {verb} from {each.from_sink} to {each.to_sink} at {minute(each.at)} (`aggregator cutover list`)."


def _said(each: KnownCutover, changes: Sequence[Change]) -> Iterator[str]:
    for change in changes:
        if change.kind is Kind.RENAMED:
            yield "That holds under the new name as well."
        elif change.kind is Kind.REMOVED:
            yield "Once the meter is taken away, nothing more of it is sent to either sink."
        elif change.kind is Kind.SINKS:
            yield from _of_sink(each, change)
        elif change.key == "window" and not each.passed:
            yield from _of_window(each.at, change)


def _of_sink(each: KnownCutover, change: Change) -> Iterator[str]:
    """Say what becomes of windows on either side of the cutover."""
    sink = change.sink
    if sink not in (each.from_sink, each.to_sink):
        return
    if change.new is not None:
        yield f"Other terms of {sink} leave that as it is: those that bill a window twice, or to nobody, are refused."
    elif sink == each.to_sink:
        yield f"With {sink} taken off, what they use from then on is billed by nobody: {TAKE_CARE}."
    elif each.passed:
        yield f"With {sink} taken off, corrections of windows before that are sent to nobody: keep it for 35 days."
    else:
        yield f"With {sink} taken off, what they use up to then is billed by nobody: {TAKE_CARE}."


def _of_window(at: dt.datetime, change: Change) -> Iterator[str]:
    if change.new is not None and not is_boundary(at, parse_duration(change.new)):
        yield f"No window of {change.new} begins then: {TAKE_CARE}."
