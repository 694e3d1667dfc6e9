"""`aggregator files`: the files that were written, and a person's word that they are uploaded, or not taken."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.help import Commands
from aggregator.cli.options import (
    config_option,
    deciding_option,
    json_option,
    limit_option,
    load_config,
    somebody,
)
from aggregator.cli.printing import answer, say, show_rows, write_json
from aggregator.core.shown import counted, shown
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.ledger.outbox.uploads import FileRow, Rejected

MOST = 10_000

COLUMNS = "file=name sink meters windows records> bytes> written=written_at uploaded"


@click.group(cls=Commands)
def files() -> None:
    """List the files that were written, and record which ones you have uploaded."""


@files.command("list")
@click.option("--sink", help="Only files of this sink.")
@click.option("--unconfirmed", is_flag=True, help="Only files that you still have to upload.")
@limit_option("How many to show.", least=1, most=MOST)
@config_option
@json_option
def list_files(config_path: Path, *, sink: str | None, unconfirmed: bool, limit: int, as_json: bool) -> None:
    """List files, the newest first: what each holds, when it was written, and whether it is uploaded."""
    from aggregator.wiring.opening import open_ledger
    from aggregator.wiring.sinks import file_places

    config = load_config(config_path)
    if sink is not None:
        _known(config, sink)
    with open_ledger(config, may_migrate=True, name="aggregator files") as ledger:
        found = ledger.uploads.listed(sink=sink, unconfirmed=unconfirmed, limit=limit + 1)
        moved_files = ledger.places.moved_files(file_places(config))
    rows, more = found[:limit], len(found) > limit
    warnings = [*map(str, moved_files), *raw_meters(config)]
    if as_json:
        write_json({"files": [row._asdict() for row in rows], "more": more, "warnings": warnings})
        return
    show_files("files", rows)
    if more:
        say(f"There are more than {limit}; see --limit, --sink and --unconfirmed.")
    for line in warnings:
        say(line)


@files.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@deciding_option
@config_option
@json_option
def confirm(config_path: Path, *, names: tuple[str, ...], reason: str | None, as_json: bool) -> None:
    """Record that you have uploaded these files: the events in them count as confirmed.

    First check that the Dashboard took the whole file. You can confirm a file only once. So somebody who is about to
    upload it again notices.
    """
    from aggregator.ledger.review.decisions import Decider
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    bare = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    with open_ledger(config, may_migrate=True, name="aggregator files") as ledger:
        done = ledger.uploads.confirm(bare, ledger.now(), Decider(somebody(), reason))
    said = f"{counted(len(bare), 'file')} confirmed, with {counted(done, 'event')}."
    answer({"confirmed": sorted(bare), "events": done}, said, as_json=as_json)


@files.command()
@click.argument("name")
@click.option(
    "--reason",
    required=True,
    help=(
        "Why, in your words or Stripe's. It is kept with each event, and goes on record together "
        "with your name."
    ),
)
@click.option(
    "--rows",
    "rows_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=(
        "Reject only the rows in this file of failed records, which Stripe offers as CSV, JSON or JSON Lines."
    ),
)
@config_option
@json_option
def reject(config_path: Path, *, name: str, reason: str, rows_path: Path | None, as_json: bool) -> None:
    """Record that Stripe did not take this file or, with --rows, some of its rows; their events become refused.

    First look up at Stripe what it took. If you release the events later, they are written to a new file under new
    identifiers, and billed in addition. You cannot reject a confirmed file.
    """
    from aggregator.cli.failed_rows import failed_rows
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    name = name.rpartition("/")[2]
    keys = {meter.stripe.customer_key for meter in config.meters.values()}
    rows = None if rows_path is None else failed_rows(rows_path, keys)
    with open_ledger(config, may_migrate=True, name="aggregator files") as ledger:
        done = ledger.uploads.reject(name, reason, ledger.now(), rows, somebody())
    found = {"rejected": name, "events": done.events, "already_at": done.already_at}
    answer(found, *_rejected(name, done, whole=rows is None), as_json=as_json)


def _rejected(name: str, done: "Rejected", *, whole: bool) -> Iterator[str]:
    if done.already_at is not None:
        yield f"{name} was rejected at {shown(done.already_at)} already; nothing was changed."
        return
    yield f"{'' if whole else 'Rows of '}{name} rejected: {counted(done.events, 'event')} refused."
    if done.events:
        yield f"Fix what the reason says, then `aggregator events release --file {name}` lets them go."
    if done.by_hand and whole:
        yield "Move the file away, so that nobody uploads it again."


@files.command()
@click.argument("sink")
@click.option(
    "--from",
    "begun_in",
    required=True,
    metavar="PLACE",
    help="The old place, where the files were begun and where you have looked.",
)
@deciding_option
@config_option
@json_option
def move(config_path: Path, *, sink: str, begun_in: str, reason: str | None, as_json: bool) -> None:
    """Record that files which SINK began in another place are not there, so that they are written to its current place.

    Use this for files that were begun before you changed the sink's directory, bucket or prefix. First look in the old
    place: if one of the files is there after all, its contents are billed twice.
    """
    from aggregator.ledger.review.decisions import Decider
    from aggregator.wiring.opening import open_ledger
    from aggregator.wiring.sinks import file_places, lying_in

    config = load_config(config_path)
    _known(config, sink)
    if begun_in == file_places(config).get(sink):
        raise UsageError(f"Sink {sink} writes to {begun_in} now: what was begun there is finished by itself.")
    with open_ledger(config, may_migrate=True, name="aggregator files") as ledger:
        there = lying_in(config, sink, begun_in, ledger.places.events_in(sink, begun_in))
        if there:
            raise UsageError(
                f"Nothing was moved: {', '.join(there)} lies in {begun_in}. Set the place back until "
                "`aggregator files list` shows none that waits."
            )
        decider = Decider(somebody(), reason)
        moved, events = ledger.places.move(sink, begun_in, ledger.now(), decider)
    then = "the daemon or `aggregator run --once` writes them anew"
    said = f"{counted(moved, 'file')} given up, with {counted(events, 'event')}; {then}."
    answer({"files": moved, "events": events}, said, as_json=as_json)


def _known(config: "Config", sink: str) -> None:
    if sink not in config.sinks:
        raise UsageError(f"There is no sink {sink}; the sinks are: {', '.join(sorted(config.sinks))}.")


def show_files(title: str, rows: "Iterable[FileRow]") -> None:
    """Print a table of files that were written, and what is left to say of those that were not."""
    rows = list(rows)
    written = [row for row in rows if row.name is not None]
    if written:
        show_rows(title, COLUMNS, map(_row, written))
        for place in sorted({row.place for row in written}):
            say(f"They are in {place}.")
    elif not rows:
        say("No file was written yet.")
    for row in rows:
        if row.name is None:
            why = f": {row.reason}" if row.reason else " by somebody, or was left and will be taken over."
            say(f"A file of {counted(row.events, 'event')} for {row.place} is being written{why}")


def _row(row: "FileRow") -> dict[str, object]:
    return {
        **row._asdict(),
        "meters": ", ".join(row.meters or ()),
        "windows": f"{shown(row.first_window)} .. {shown(row.last_window)}",
        "uploaded": "rejected"
        if row.rejected_at
        else row.confirmed_at or ("to be uploaded" if row.by_hand else "-"),
    }


def raw_meters(config: "Config", only: str | None = None) -> list[str]:
    """Warn of every meter whose files, uploaded twice, would bill twice: rows for the Dashboard carry no identifier."""
    from aggregator.config import CsvSink

    return [
        f"Meter {meter.name} adds up at Stripe, and rows for the Dashboard carry no identifier: a file of sink {sink} that "
        "is uploaded twice bills twice. Confirm each file once it is uploaded, or let a pre-aggregated meter "
        "(`stripe.event_time_window`) take it."
        for meter in config.meters.values()
        for sink in meter.sinks
        if only in (None, meter.name)
        and isinstance(config.sinks[sink], CsvSink)
        and meter.stripe.formula == "sum"
        and not meter.stripe.event_time_window
    ]
