"""`aggregator restate`: read old windows by the present query, on purpose."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.backfill import WAIT_SECONDS, carry_out, show_results
from aggregator.cli.completion import MeterName
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import (
    config_option,
    from_option,
    json_option,
    known_meters,
    limit_option,
    load_config,
    to_option,
)
from aggregator.cli.printing import say, write_json
from aggregator.core.shown import counted, shown
from aggregator.errors import SourceError, UsageError

if TYPE_CHECKING:
    from decimal import Decimal

    from aggregator.core.model import Definition, Span
    from aggregator.wiring.app import App


@click.command()
@click.argument("meter", type=MeterName(), metavar="METER")
@from_option(required=True)
@to_option("End of the last window. Without it: up to where the meter was read.")
@click.option("--yes", is_flag=True, help="Plan the corrections. First look at what would change.")
@limit_option("How many customers to name; 0 for all.", default=20)
@config_option
@json_option
def restate(
    config_path: Path,
    *,
    meter: str,
    start: dt.datetime,
    end: dt.datetime | None,
    yes: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show what the current query gives for windows of METER that an older query billed; with --yes, correct them.

    A changed query applies only to windows after the change. What was billed before stays as it is. Use this command to
    apply the query to older windows. Without --yes, it shows what would change. With --yes, it plans the corrections.
    Decreases follow the meter's `decreases`.

    Without --yes, it exits with 3 if the current query gives something else. So you can use it to block a pull request.
    """
    import threading

    from aggregator.cli.movers import forecast_json
    from aggregator.collection.backfill import Backfill, refuse_what_a_cursor_passed, span_of
    from aggregator.core import windows
    from aggregator.wiring.app import build

    config = load_config(config_path)
    [name] = known_meters(config, [meter])
    with build(config, name="aggregator restate", verify=yes, looks=not yes) as app:
        now = app.ledger.now() if yes else app.ledger.instant()
        collection = app.collections[name]
        refuse_what_a_cursor_passed(collection.meter, "a restatement", recounts=False)
        known = app.definitions(name)
        present = known[-1]
        until = end or max(start, min(now, present.since))
        _check(name, known, start, until)
        span = span_of(collection.meter, known, collection.limits, start, until, now)
        new = Backfill(collection, known, span, restated_by=present)
        if yes:
            pause = threading.Event()
            while not collection.restate(span, present):
                pause.wait(WAIT_SECONDS)
        old = _quantities(app, name, span)
        results, _, failed = carry_out(app, [new], now, dry_run=not yes, send=False, quiet=as_json)
        if failed:
            raise SourceError("\n".join(failed))
        [result] = results
        forecast = result.forecast
        after = (
            _quantities(app, name, span) if yes else {sink: old[sink] + forecast.moved(sink) for sink in old}
        )
    differs = after != old or (forecast.differs and not yes)
    if as_json:
        write_json(
            {
                "done": yes,
                "differs": differs,
                "quantities": {sink: {"old": old[sink], "new": after[sink]} for sink in old},
                "meters": [result.figures() | ({} if yes else forecast_json(forecast, limit or None))],
            }
        )
    else:
        show_results([result], {}, dry_run=not yes, movers=limit or None)
        _show_quantities(name, span, old, after)
        say(
            "The daemon or `aggregator run --once` sends the corrections."
            if yes
            else f"The present query would read {counted(windows.count(span, present.window), 'window')}; --yes does it."
        )
    if differs and not yes:
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _show_quantities(name: str, span: "Span", old: "dict[str, Decimal]", new: "dict[str, Decimal]") -> None:
    for sink, before in old.items():
        change = new[sink] - before
        say(
            f"{name} at {sink} over {span}: {shown(before)} as it was billed, {shown(new[sink])} by the present query "
            f"({'+' if change > 0 else ''}{shown(change)})."
        )


def _quantities(app: "App", meter: str, span: "Span") -> "dict[str, Decimal]":
    """Return what the ledger holds of a meter over a range, for each of its sinks."""
    from aggregator.core.model import ZERO

    return {
        sink: sum((each.quantity for each in app.ledger.reports.totals(meter, sink, span)), ZERO)
        for sink in app.collections[meter].meter.sinks
    }


def _check(name: str, known: "tuple[Definition, ...]", start: dt.datetime, end: dt.datetime) -> None:
    """Raise UsageError unless every window of the range has the length it has now."""
    from aggregator.core import definitions
    from aggregator.core.model import Span

    present = known[-1]
    if {held.fingerprint for held, _ in definitions.pieces(known, Span(start, end))} <= {present.fingerprint}:
        raise UsageError(f"Every window of {name} in that range is read by its present query already.")
    for held, piece in definitions.pieces(known, Span(start, end)):
        if held.window != present.window:
            raise UsageError(
                f"{name} had windows of another length in {piece}; windows that were billed keep theirs. Choose a range "
                f"that begins at {present.since:%Y-%m-%dT%H:%MZ} or later, or lies where the length was the same."
            )
