"""What is to be said of the terms on which meters feed sinks: by `check` before they hold, by `status` while they do."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from aggregator.core import age_limits
from aggregator.core.shown import minute as at

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.config.meter import FedSink, Meter
    from aggregator.core.feed_terms import Clash
    from aggregator.ledger.reports import FeedStatus

Rows = Mapping[tuple[str, str], "FeedStatus"]

CUTOVERS = "`aggregator cutover list`"


class FeedFinding(NamedTuple):
    """Something about a meter that `check` says: a `note`, or what is `wrong`."""

    meter: str
    verdict: str
    text: str


def report_feeds(config: "Config", statuses: "Iterable[FeedStatus]", now: dt.datetime) -> Iterator[str]:
    """Say of each feed that is configured what it lacks, that it is a shadow, and from when until when it bills."""
    from aggregator.core.feed_terms import report_lost
    from aggregator.core.model import Span

    for row in statuses:
        if row.meter not in config.meters or row.sink not in config.meters[row.meter].sinks:
            continue
        if row.lost_from is not None and row.lost_until is not None:
            yield report_lost(row.meter, row.sink, Span(row.lost_from, row.lost_until), row.until)
        if row.parted:
            yield f"Customers of {row.meter} move to or from {row.sink}, each at a time of their own: {CUTOVERS}."
        elif row.shadow:
            yield f"{row.sink} gets {row.meter} in shadow: its events are planned and recorded, and never sent."
        elif row.shadow_until is not None and now - row.shadow_until < age_limits.FURTHEST:
            yield f"{row.sink} had {row.meter} in shadow until {at(row.shadow_until)}: earlier events stay unsent."
        if row.until is not None:
            yield f"{row.sink} bills {row.meter} from {at(row.since)} until {at(row.until)}, and keeps correcting that time."
        elif row.since > row.mark:
            yield f"{row.sink} bills {row.meter} from {at(row.since)} on."
        yield from _beyond(row)


def findings_of(
    config: "Config", statuses: "Iterable[FeedStatus]", now: dt.datetime
) -> Iterator[FeedFinding]:
    """Say what is billed twice or not at all by the terms that are configured, as far as the ledger knows the meters."""
    rows = {(row.meter, row.sink): row for row in statuses}
    for meter in config.meters.values():
        yield from _clashes(meter, rows)
        for fed in meter.feeds:
            row = rows.get((meter.name, fed.sink))
            if row is not None and row.stopped:
                yield FeedFinding(meter.name, "wrong", row.stopped)
            if row is None or row.mark <= row.start_at:  # nothing of it was ever read
                for text in _too_old(fed, _begin(meter, fed, rows), config.sinks[fed.sink].type, now):
                    yield FeedFinding(meter.name, "note", text)
            for text in (*_shadow(fed, row), *_end(meter, fed, row)):
                yield FeedFinding(meter.name, "note", text)
            if row is not None and row.lost_from is not None:
                for text in report_feeds(
                    config, [row._replace(shadow=False, shadow_until=None, until=None)], now
                ):
                    yield FeedFinding(meter.name, "note", text)


def _clashes(meter: "Meter", rows: Rows) -> Iterator[FeedFinding]:
    from aggregator.core.feed_terms import Stretch, clashes

    billing = [fed for fed in meter.feeds if not fed.shadow]
    if not billing:
        yield FeedFinding(meter.name, "note", "all of its sinks are shadows, so nothing of it is billed")
        return
    stretches = [Stretch(fed.sink, _begin(meter, fed, rows), fed.bill_until) for fed in billing]
    parted = {sink for (name, sink), row in rows.items() if name == meter.name and row.parted}
    for clash in clashes(stretches):
        if clash.sinks and parted.issuperset(clash.sinks):
            continue  # of each customer, one of the two
        yield FeedFinding(meter.name, "note" if clash.sinks else "wrong", _clash(clash))
    ends = [fed.bill_until for fed in billing if fed.bill_until is not None]
    if len(ends) == len(billing):
        yield FeedFinding(
            meter.name,
            "note",
            f"no sink bills it from {at(max(ends))} on: each has a `bill_until` before that",
        )


def _clash(clash: "Clash") -> str:
    until = "on" if clash.end is None else f"until {at(clash.end)}"
    if not clash.sinks:
        return (
            f"no sink bills it from {at(clash.start)} {until}: usage of that time is lost; move `bill_until` of the sink "
            "before or `bill_from` of the one after"
        )
    return (
        f"{' and '.join(clash.sinks)} both bill it from {at(clash.start)} {until}: twice, if both make invoices of it; if "
        "that is not meant, give one of them `bill_until`, and the other the same time as `bill_from`"
    )


def _begin(meter: "Meter", fed: "FedSink", rows: Rows) -> dt.datetime:
    """Return from when on a sink bills a meter, or will once the configuration holds."""
    row = rows.get((meter.name, fed.sink))
    if fed.bill_from is not None:
        return fed.bill_from
    if row is not None:
        return max(row.since, row.mark) if row.shadow else row.since
    return next((other.mark for (name, _), other in rows.items() if name == meter.name), meter.start_at)


def _too_old(fed: "FedSink", begin: dt.datetime, kind: str, now: dt.datetime) -> Iterator[str]:
    """Say what of a meter that begins in the past its sink takes no more."""
    earliest = now - age_limits.most_past(kind)
    if begin < earliest and not fed.shadow:
        yield (
            f"it begins at {at(begin)}, and {fed.sink} takes nothing from before {at(earliest)} any more: what was used "
            "until then will be refused, by name. If it was billed in another way, begin later: by `start_at` or `bill_from`"
        )


def _shadow(fed: "FedSink", row: "FeedStatus | None") -> Iterator[str]:
    if row is not None and row.parted:
        yield f"customers move to or from {fed.sink}, each at a time of their own: {CUTOVERS}"
        return
    if fed.shadow:
        yield f"{fed.sink} gets it in shadow: events are planned and recorded, and never sent"
        return
    until = None if row is None else row.mark if row.shadow else row.shadow_until
    if until is None:
        return
    if fed.bill_from is None:
        if row is not None and row.shadow:
            yield f"{fed.sink} bills it from {at(until)} on: what was planned in shadow before stays unsent"
    elif fed.bill_from < until:
        yield (
            f"{fed.sink} has `bill_from: {at(fed.bill_from)}` and was a shadow until {at(until)}: what was planned so "
            f"stays unsent, so let another sink bill until {at(until)}, and this one from then on"
        )


def _end(meter: "Meter", fed: "FedSink", row: "FeedStatus | None") -> Iterator[str]:
    if row is None or fed.shadow or row.shadow or fed.bill_until is None:
        return
    if row.until == fed.bill_until:
        yield from _beyond(row)
    elif fed.bill_until < row.mark and (row.until is None or row.until > fed.bill_until):
        yield (
            f"{fed.sink} has `bill_until: {at(fed.bill_until)}`, and {meter.name} was read up to {at(row.mark)}: what was "
            f"planned for it in between stays billed there. End it at {at(row.mark)} or later"
        )


def _beyond(row: "FeedStatus") -> Iterator[str]:
    """Say up to where a sink was given windows before it had the end that it has."""
    if row.last_beyond is not None and row.until is not None:
        after = row.last_beyond + dt.timedelta(seconds=row.window_seconds)
        yield (
            f"{row.sink} was given windows of {row.meter} up to {at(after)} before it had `bill_until: {at(row.until)}`: "
            "they stay billed there, and what comes late for them is billed nowhere. Set that to "
            f"`bill_until: {at(after)}`, and `bill_from` of a sink that follows to the same"
        )
