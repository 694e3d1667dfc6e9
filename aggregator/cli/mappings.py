"""What `status` says of mappings from keys to billing customers: whether they are read, and what waits for a customer."""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from aggregator.core.age_limits import FURTHEST, most_past
from aggregator.core.shown import counted, duration, shown

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.ledger.customers import MappingState, WaitingUsage


def taken_until(config: "Config", meter: str, oldest: dt.datetime) -> dt.datetime:
    """Return until when the usage of a window is taken by all sinks of its meter."""
    sinks = config.meters[meter].sinks if meter in config.meters else ()
    return oldest + min((most_past(config.sinks[sink].type) for sink in sinks), default=FURTHEST)


def tried_mappings(
    config: "Config", found: dict[str, dict[str, str | None]]
) -> Iterator[tuple[str, str, str]]:
    """Read each mapping once, and put what it lists into `found`; yield what is to be said: of what, how grave, and what."""
    from aggregator.errors import SourceError
    from aggregator.wiring.customers import listing
    from aggregator.wiring.sources import build_source

    for name, configured in config.customers.items():
        what = f"customers {name}"
        several: dict[str, tuple[str, str | None]] = {}
        known: dict[str, str | None] = {}
        rows = 0
        source = None
        try:
            if configured.source is not None:
                source = build_source(config, configured.source, "aggregator check")
            for each in (each for batch in listing(config, name, source) for each in batch):
                rows += 1
                before = known.get(each.key)
                if before is not None and each.customer not in (None, before):
                    several[each.key] = (before, each.customer)
                known[each.key] = each.customer or before
        except SourceError as error:
            yield what, "wrong", str(error)
            continue
        finally:
            if source is not None:
                source.close()
        found[name] = known
        customers = {each for each in known.values() if each is not None}
        without = sum(each is None for each in known.values())
        said = f"{counted(len(known), 'key')}, {counted(len(customers), 'customer')}, {without:,} without one"
        for key, (one, other) in list(several.items())[:3]:
            text = f"gives key {key!r} two customers, {one!r} and {other!r}: let it give one for each key"
            yield what, "wrong", text
        if not customers:
            yield what, "warning", f"{said}: nobody would be billed by it"
        elif not several:
            doubled = rows - len(known)
            yield what, "ok", said + (f"; {counted(doubled, 'row')} twice" if doubled else "")


def report_mappings(
    config: "Config", states: "Iterable[MappingState]", waiting: "Iterable[WaitingUsage]", now: dt.datetime
) -> Iterator[str]:
    """Yield what there is to say, one line each: what waits, until when it can be billed, and what is wrong."""
    for state in states:
        if state.failure is not None:
            yield (
                f"Mapping {state.mapping} cannot be taken over since {shown(state.failed_at)}, and "
                f"{counted(state.keys, 'key')} go on as they were known: {state.failure}"
            )
        if state.doubted is not None:
            yield (
                f"Mapping {state.mapping} is not believed yet, as it was read at {shown(state.doubted_at)}: "
                f"{state.doubted}. It is once another read says the same; {counted(state.keys, 'key')} go on as they were "
                "known."
            )
    for row in waiting:
        until = taken_until(config, row.meter, row.first_window)
        left = f"in {duration(until - now)}" if until > now else f"since {shown(until)}"
        yield (
            f"{row.meter}: {shown(row.quantity)} of {counted(row.keys, 'key')} without a customer id wait since "
            f"{shown(row.first_window)}, and are billed once the mapping gives one. The oldest "
            f"{'gets' if until > now else 'is'} too old for its sinks {left}."
        )
