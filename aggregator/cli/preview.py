"""`aggregator preview`: what would be sent. Writes nothing."""

import datetime as dt
import itertools
from pathlib import Path

import click

from aggregator.cli.common import (
    Instant,
    config_option,
    json_option,
    known_meters,
    load_config,
    show_table,
    write_json,
)


@click.command()
@click.argument("meter")
@click.option(
    "--from", "start", type=Instant(), required=True, help="Begin of the first window (UTC if no zone)."
)
@click.option(
    "--to", "end", type=Instant(), help="End of the last window; left out: the last one that is ready."
)
@click.option("--limit", default=50, show_default=True, help="How many events to show; 0 for all.")
@config_option
@json_option
def preview(
    config_path: Path, *, meter: str, start: dt.datetime, end: dt.datetime | None, limit: int, as_json: bool
) -> None:
    """Show the events that a range would give for METER; nothing is written or sent."""
    from aggregator.backfill import span_of
    from aggregator.clock import utcnow
    from aggregator.ledger.tally import Tally
    from aggregator.wiring import build

    config = load_config(config_path)
    [name] = known_meters(config, [meter])
    with build(config, name="aggregator preview", looks=True) as app:
        collection = app.collections[name]
        limits = {sink: app.sinks[sink].limits_for(collection.meter.name) for sink in collection.meter.sinks}
        now = utcnow()
        known = app.definitions(name)
        span = span_of(collection.meter, known, limits, start, end, now)
        tally = Tally()
        events = (
            (feed.sink, decision.change.customer, decision.change.window_start, decision.event)
            for feed, decision in collection.preview(span, now, tally, known)
            if decision.event is not None
        )
        shown = [
            {
                "sink": sink,
                "customer": customer,
                "window_start": window_start,
                "revision": event.revision,
                "delta": event.delta,
                "total": event.total,
                "at": event.at,
                "state": event.state.value,
                "reason": event.reason,
                "identifier": event.identifier,
            }
            for sink, customer, window_start, event in itertools.islice(events, limit or None)
        ]
        for _ in events:
            pass
    if as_json:
        write_json(
            {
                "meter": name,
                "from": span.start,
                "to": span.end,
                "planned": tally.planned,
                "set_aside_rows": tally.aside,
                "events": shown,
            }
        )
        return
    columns = ("customer", "window_start", "revision", "delta", "total", "at", "state", "reason")
    right = {"revision", "delta", "total"}
    show_table(
        f"{name} {span}",
        {column.replace("_start", ""): "right" if column in right else "left" for column in columns},
        ([event[column] for column in columns] for event in shown),
    )
    click.echo(
        f"{tally.planned:,} event(s) would be planned ({len(shown):,} shown): {tally.planned - tally.corrections:,} new, "
        f"{tally.corrections:,} correction(s), {tally.held:,} held, {tally.refused:,} refused. Nothing was written."
    )
    if tally.aside:
        click.echo(f"{tally.aside:,} row(s) can be billed to nobody: no customer, or no usable number.")
