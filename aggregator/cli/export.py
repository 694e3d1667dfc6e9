"""`aggregator export`: write what a range holds to files, for a person to upload."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.completion import MeterName
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.files import raw_meters, show_files
from aggregator.cli.help import Commands
from aggregator.cli.options import (
    config_option,
    from_option,
    json_option,
    known_meters,
    load_config,
    span_between,
    to_option,
)
from aggregator.cli.printing import say, write_json
from aggregator.core.shown import counted
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.core.model import Span


@click.group(cls=Commands)
def export() -> None:
    """Write the events of a range to files that you upload."""


@export.command("csv")
@click.argument("meter", type=MeterName(), metavar="METER")
@from_option(required=True)
@to_option("End of the last window.", required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write to this directory instead of the sink's own.",
)
@click.option("--exact", is_flag=True, help="Write customers unchanged, even if they look like a formula.")
@click.option("--sink", help="Which sink of type csv, if the meter feeds several.")
@config_option
@json_option
def csv_files(
    config_path: Path,
    *,
    meter: str,
    start: dt.datetime,
    end: dt.datetime,
    out: Path | None,
    exact: bool,
    sink: str | None,
    as_json: bool,
) -> None:
    """Write the events of METER for its csv sink, in a range of windows, to files for the Dashboard.

    Only events that are in no file yet are written: no event is ever in two files, and events for other sinks are left
    out. The ledger records each file, just like a file of the daemon. If a file already holds events of the range, it
    is listed. A customer that a spreadsheet would take for a formula gets an apostrophe in front, unless you give
    --exact. If something could not be written now, it exits with 3: run it again.
    """
    from aggregator.collection.backfill import refuse_parts_of_windows
    from aggregator.delivery.sender import drain
    from aggregator.wiring.app import build
    from aggregator.wiring.sinks import file_places

    config = load_config(config_path)
    known_meters(config, [meter])
    span = span_between(start, end)
    name = _sink(config, meter, sink)
    own = file_places(config).items()
    with build(_changed(config, name, out, exact=exact), name="aggregator export", verify=True) as app:
        refuse_parts_of_windows(meter, app.definitions(meter), span)
        for each in app.moved_files():
            if (each.sink, each.begun_in) not in own:
                say(str(each), err=True)
        sink_id = app.sink_ids[name]
        before = app.ledger.uploads.of_range(sink_id, meter, span)
        delivered = drain([app.delivery(name, only=(meter, span))], app.ledger.now)
        after = app.ledger.uploads.of_range(sink_id, meter, span)
        states = app.ledger.uploads.states(sink_id, meter, span)
    written = [row for row in after if row not in before]
    left_out = {state: count for state, count in states.items() if state not in IN_FILES}
    if as_json:
        write_json(
            {
                "written": [row._asdict() for row in written],
                "already_written": [row._asdict() for row in before],
                "not_included": left_out,
                "waits_for": delivered.halted or delivered.waits_for,
                "warnings": raw_meters(config),
            }
        )
    else:
        _show(config, meter, name, span)
        if written:
            show_files("written now", written)
        else:
            say("Nothing was written: every event of the range is in a file already, or none is due.")
        if before:
            show_files("written before, and not again", before)
        for state, count in left_out.items():
            say(f"Not in a file: {counted(count, 'event')}, {state.replace('_', ' ')}.")
        if delivered.halted or delivered.waits_for:
            say(f"Not written: {delivered.halted or delivered.waits_for}", err=True)
    if delivered.halted or delivered.again:
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


IN_FILES = {"accepted", "confirmed", "void"}


def _show(config: "Config", meter: str, sink: str, span: "Span") -> None:
    """Say what is in the files and what is not, and what must not be done with them."""
    others = [each for each in config.meters[meter].sinks if each != sink]
    say(f"What meter {meter} owes sink {sink} of the windows in {span}, as far as they are read.")
    if others:
        say(f"What {', '.join(others)} gets of it goes there by itself, and besides: both would be billed.")
    for line in raw_meters(config, meter):
        say(line)


def _sink(config: "Config", meter: str, sink: str | None) -> str:
    """Return the sink whose events are meant. Raises UsageError if there is none, or several."""
    from aggregator.config import CsvSink

    fed = config.meters[meter].sinks
    kinds = [name for name in fed if isinstance(config.sinks[name], CsvSink)]
    if sink is not None and sink not in kinds:
        raise UsageError(f"Meter {meter} feeds no sink of type csv named {sink}; it feeds: {', '.join(fed)}.")
    if not kinds:
        raise UsageError(
            f"Meter {meter} feeds no sink of type csv, so nothing of it is owed to a file; what its other sinks get would "
            "be billed twice. Add a sink of type csv to the configuration, and to the meter's `sinks`."
        )
    if sink is None and len(kinds) > 1:
        raise UsageError(f"Meter {meter} feeds {', '.join(kinds)}: choose one with --sink.")
    return sink or kinds[0]


def _changed(config: "Config", sink: str, out: Path | None, *, exact: bool) -> "Config":
    """Return the configuration with the sink as this call wants it."""
    changed = config.sinks[sink]
    if out is not None:
        changed = changed.model_copy(update={"directory": out.resolve()})
    if exact:
        changed = changed.model_copy(update={"exact": True})
    return config.model_copy(update={"sinks": {**config.sinks, sink: changed}})
