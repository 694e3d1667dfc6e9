"""`aggregator files`: the files that were written, and a person's word that they are uploaded."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.common import config_option, json_option, load_config, show_table, shown, write_json
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.ledger.uploads import FileRow

MOST = 10_000

COLUMNS = {
    "file": "left",
    "sink": "left",
    "meters": "left",
    "windows": "left",
    "records": "right",
    "bytes": "right",
    "written": "left",
    "uploaded": "left",
}


@click.group()
def files() -> None:
    """Look at the files that were written, and say which are uploaded."""


@files.command("list")
@click.option("--sink", help="Only files of this sink.")
@click.option("--unconfirmed", is_flag=True, help="Only files that wait for a person to upload them.")
@click.option(
    "--limit", type=click.IntRange(1, MOST), default=50, show_default=True, help="How many to show."
)
@config_option
@json_option
def list_files(config_path: Path, *, sink: str | None, unconfirmed: bool, limit: int, as_json: bool) -> None:
    """List files, the newest first: what each holds, when it was written, and whether it is uploaded."""
    from aggregator.wiring import open_ledger

    config = load_config(config_path)
    if sink is not None and sink not in config.sinks:
        raise UsageError(f"There is no sink {sink}; the sinks are: {', '.join(sorted(config.sinks))}.")
    with open_ledger(config, may_migrate=True, name="aggregator files") as ledger:
        found = ledger.uploads.listed(sink=sink, unconfirmed=unconfirmed, limit=limit + 1)
    rows, more = found[:limit], len(found) > limit
    warnings = raw_meters(config)
    if as_json:
        write_json({"files": [row._asdict() for row in rows], "more": more, "warnings": warnings})
        return
    show_files("files", rows)
    if more:
        click.echo(f"There are more than {limit}; see --limit, --sink and --unconfirmed.")
    for line in warnings:
        click.echo(line)


@files.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@config_option
@json_option
def confirm(config_path: Path, *, names: tuple[str, ...], as_json: bool) -> None:
    """Say that these files are uploaded: the events in them count as confirmed.

    Look first whether the Dashboard took the whole file. What is confirmed once cannot be confirmed again, so that a file
    which somebody is about to upload a second time is noticed.
    """
    from aggregator.clock import utcnow
    from aggregator.wiring import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator files") as ledger:
        done = ledger.uploads.confirm(list(dict.fromkeys(names)), utcnow())
    if as_json:
        write_json({"confirmed": sorted(set(names)), "events": done})
    else:
        click.echo(f"{len(set(names))} file(s) confirmed, with {done:,} event(s).")


def show_files(title: str, rows: "Iterable[FileRow]") -> None:
    """Print a table of files that were written, and what is left to say of those that were not."""
    rows = list(rows)
    written = [row for row in rows if row.name is not None]
    if written:
        show_table(title, COLUMNS, [_row(row) for row in written])
        for place in sorted({row.place for row in written}):
            click.echo(f"They are in {place}.")
    elif not rows:
        click.echo("No file was written yet.")
    for row in rows:
        if row.name is None:
            why = f": {row.reason}" if row.reason else " by somebody, or was left and will be taken over."
            click.echo(f"A file of {row.events:,} event(s) for {row.place} is being written{why}")


def _row(row: "FileRow") -> tuple[object, ...]:
    return (
        row.name,
        row.sink,
        ", ".join(row.meters or ()),
        f"{shown(row.first_window)} .. {shown(row.last_window)}",
        row.records,
        row.bytes,
        row.written_at,
        row.confirmed_at or ("to be uploaded" if row.by_hand else "-"),
    )


def raw_meters(config: "Config") -> list[str]:
    """Warn of every meter whose files, uploaded twice, would bill twice: rows for the Dashboard carry no identifier."""
    from aggregator.config import CsvSink

    return [
        f"Meter {meter.name} adds up at Stripe, and rows for the Dashboard carry no identifier: a file of sink {sink} that "
        "is uploaded twice bills twice. Confirm each file once it is uploaded, or let a pre-aggregated meter "
        "(`stripe.event_time_window`) take it."
        for meter in config.meters.values()
        for sink in meter.sinks
        if isinstance(config.sinks[sink], CsvSink)
        and meter.stripe.formula == "sum"
        and not meter.stripe.event_time_window
    ]
