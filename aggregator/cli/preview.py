"""`aggregator preview`: what would be sent. Writes nothing."""

import datetime as dt
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.backfill import report_left
from aggregator.cli.completion import MeterName
from aggregator.cli.options import (
    config_option,
    from_option,
    json_option,
    known_meters,
    limit_option,
    load_config,
    to_option,
)
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.core.shown import counted
from aggregator.core.shown import shown as quantity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.core.model import Decision
    from aggregator.ledger.meters import Feed

COLUMNS = "sink customer window=window_start revision> delta> total> at state reason"


@click.command()
@click.argument("meter", type=MeterName(), metavar="METER")
@from_option(required=True)
@to_option("End of the last window. Without it: the last one that is ready.")
@limit_option("How many events and customers to show; 0 for all.")
@config_option
@json_option
def preview(
    config_path: Path, *, meter: str, start: dt.datetime, end: dt.datetime | None, limit: int, as_json: bool
) -> None:
    """Show the events that a range of METER would produce, without writing or sending anything."""
    from aggregator.cli.movers import forecast_json, report_sinks, show_movers
    from aggregator.collection.backfill import read_by_older, report_older, span_of
    from aggregator.core.forecast import Forecast
    from aggregator.ledger.passes.stats import Tally
    from aggregator.wiring.app import build

    config = load_config(config_path)
    [name] = known_meters(config, [meter])
    with build(config, name="aggregator preview", looks=True) as app:
        collection = app.collections[name]
        now = app.ledger.instant()
        known = app.definitions(name)
        span = span_of(collection.meter, known, collection.limits, start, end, now)
        tally, forecast, older = Tally(), Forecast(), read_by_older(known, span)
        shown = _events(collection.preview(span, now, tally, known, forecast), limit)
    if as_json:
        write_json(
            {
                "meter": name,
                "from": span.start,
                "to": span.end,
                "planned": tally.planned,
                "unmapped_rows": tally.unmapped_rows,
                "left_from": tally.left_from,
                "left_why": tally.left_why,
                "unmapped_quantity": tally.unmapped_quantity,
                "read_by_an_older_query": [list(each) for each in older],
                **forecast_json(forecast, limit or None),
                "events": shown,
            }
        )
        return
    show_rows(f"{name} {span}", COLUMNS, shown)
    show_movers(forecast, limit or None)
    for line in report_sinks(name, forecast):
        say(line)
    say(
        f"{counted(tally.planned, 'event')} would be planned ({len(shown):,} shown): "
        f"{tally.planned - tally.corrections:,} new, {counted(tally.corrections, 'correction')}, "
        f"{tally.held:,} held, {tally.refused:,} refused. Nothing was written."
    )
    if tally.left_from is not None:
        say(report_left(name, tally.left_from, tally.left_why))
    if tally.unmapped_rows:
        say(
            f"{counted(tally.unmapped_rows, 'row')} with a quantity of {quantity(tally.unmapped_quantity)} can be billed to "
            "nobody: no customer, or no usable number. `aggregator status` names them once they are read."
        )
    if older:
        say(report_older(name, older))


def _events(decided: "Iterator[tuple[Feed, Decision]]", limit: int) -> list[dict[str, object]]:
    """Return the first events that are decided, and let all of them go by."""
    events = ((feed.sink, decision) for feed, decision in decided if decision.event is not None)
    shown: list[dict[str, object]] = [
        {
            "sink": sink,
            "customer": decision.change.customer,
            "window_start": decision.change.window_start,
            "revision": decision.event.revision,
            "delta": decision.event.delta,
            "total": decision.event.total,
            "at": decision.event.at,
            "state": decision.event.state.value,
            "reason": decision.event.reason,
            "identifier": decision.event.identifier,
        }
        for sink, decision in itertools.islice(events, limit or None)
        if decision.event is not None
    ]
    for _ in events:
        pass
    return shown
