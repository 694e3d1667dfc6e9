"""`aggregator backfill`: bill a range; doing it again changes nothing."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from aggregator.cli.completion import MeterName
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import (
    config_option,
    first_time_option,
    from_option,
    json_option,
    known_meters,
    load_config,
    somebody,
    to_option,
)
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.cli.samples import refuse_unsampled
from aggregator.core.shown import counted
from aggregator.errors import SourceError

if TYPE_CHECKING:
    from aggregator.collection.backfill import Backfill, Backfilled
    from aggregator.core.model import Span
    from aggregator.delivery.sender import Delivered
    from aggregator.wiring.app import App

MOST_MOVERS = 20
"""Customers that are named where a range is only looked at."""

COLUMNS = (
    "meter from to known>=unchanged new> changed>=corrections held> refused> waiting>=deferred "
    "unmapped>=unmapped_rows"
)

WAIT_SECONDS = 0.2
"""How long to wait before asking again for a meter that the daemon is just reading."""


@click.command()
@click.argument("meters", nargs=-1, type=MeterName(), metavar="[METER]...")
@from_option(required=True)
@to_option("End of the last window. Without it: the last one that is ready.")
@click.option("--dry-run", is_flag=True, help="Show what it would do; write and send nothing.")
@click.option(
    "--no-send",
    is_flag=True,
    help="Only plan the events; let the daemon or `aggregator run --once` send them.",
)
@first_time_option
@config_option
@json_option
def backfill(
    config_path: Path,
    *,
    meters: tuple[str, ...],
    start: dt.datetime,
    end: dt.datetime | None,
    dry_run: bool,
    no_send: bool,
    first_time: bool,
    as_json: bool,
) -> None:
    """Bill a range of each METER, or of all meters; nothing is billed twice, however often you run it.

    If it is interrupted, run it again with the same range: it carries on where it stopped. A source that fails holds up
    only its own meters. It exits with 1 if a source failed. It exits with 3 if events wait for a busy sink, or if a
    source has not proven that it shows the whole range: run it again, or leave the rest to the daemon. It exits with 4
    if a sink holds usage that this ledger never sent.
    """
    from aggregator.cli.movers import forecast_json
    from aggregator.collection.backfill import report_older
    from aggregator.runtime.garbage import seldom_collected
    from aggregator.wiring.app import build

    config = load_config(config_path)
    names = known_meters(config, meters)
    with (
        seldom_collected(),
        build(config, name="aggregator backfill", verify=not dry_run, looks=dry_run) as app,
    ):
        now = app.ledger.instant() if dry_run else app.ledger.now()
        for each in app.moved_files():
            say(str(each), err=True)
        if first_time and not dry_run:
            app.first_time(names, somebody(), now)
        jobs, older = [], {}
        for name in names:
            job, older[name] = _job(app, name, start, end, now, dry_run=dry_run)
            jobs.append(job)
        results, delivered, failed = carry_out(
            app, jobs, now, dry_run=dry_run, send=not no_send and not dry_run, quiet=as_json
        )
    if as_json:
        write_json(
            {
                "dry_run": dry_run,
                "meters": [
                    {
                        **result.figures(),
                        "read_by_an_older_query": [list(each) for each in older[result.meter]],
                    }
                    | (forecast_json(result.forecast, MOST_MOVERS) if dry_run else {})
                    for result in results
                ],
                "sinks": {sink: what.summary() for sink, what in delivered.items()},
            }
        )
    else:
        show_results(results, delivered, dry_run=dry_run)
        for name, parts in older.items():
            if parts:
                say(report_older(name, parts))
    left = any(result.left_from is not None for result in results)
    _end(failed, delivered, left=left, quiet=as_json)


def _job(
    app: "App", name: str, start: dt.datetime, end: dt.datetime | None, now: dt.datetime, *, dry_run: bool
) -> "tuple[Backfill, list[Span]]":
    """Return the range of one meter, and which parts of it an older query reads. Raises UsageError."""
    from aggregator.collection.backfill import (
        Backfill,
        read_by_older,
        refuse_what_a_cursor_passed,
        span_of,
    )

    collection, known = app.collections[name], app.definitions(name)
    doing = "a dry run" if dry_run else "a backfill"
    refuse_what_a_cursor_passed(collection.meter, doing, recounts=not dry_run)
    span = span_of(collection.meter, known, collection.limits, start, end, now)
    refuse_unsampled(app.ledger.samples, app.registered[name], span)
    return Backfill(collection, known, span), read_by_older(known, span)


def _end(failed: list[str], delivered: dict[str, "Delivered"], *, left: bool, quiet: bool) -> None:
    """Say what is left to be done, also by the exit code."""
    unready = [each for what in delivered.values() for each in what.first_uses if each.kind != "cleared"]
    for each in unready:
        say(each.text, err=True)
    for sink, what in delivered.items():
        if what.waiting and not quiet:
            waits = counted(what.waiting, "event still waits", "events still wait")
            say(f"{waits} for {sink}: leave that to the daemon, or run this again.")
    if failed:
        raise SourceError("\n".join(failed))
    if any(each.kind == "stopped" for each in unready):
        raise click.exceptions.Exit(ExitCode.PERSON_NEEDED)
    if left or any(what.leaves_work for what in delivered.values()):
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def report_left(meter: str, since: dt.datetime, why: str | None) -> str:
    """Say from where on nothing was read, since the source has not proven to show everything there."""
    return f"{meter}: nothing from {since:%Y-%m-%dT%H:%MZ} on was read: {why}. Run this again once it has."


class CarriedOut(NamedTuple):
    """What backfills came to, by meter and by sink; and what sources failed at, which is no other meter's trouble."""

    results: list["Backfilled"]
    delivered: dict[str, "Delivered"]
    failed: list[str]


def carry_out(
    app: "App", jobs: list["Backfill"], now: dt.datetime, *, dry_run: bool, send: bool, quiet: bool
) -> CarriedOut:
    """Run every job, then deliver, under a progress bar each; return what it came to."""
    import threading
    from functools import partial

    from aggregator.daemon.jobs import Drained, waiting

    pause = threading.Event()
    results, failed = [], []
    delivered: dict[str, Delivered] = {}
    with progress_bar(quiet=quiet) as bar:
        for job in jobs:
            name = job.meter.name
            task = bar.add_task(f"read {name}", total=job.windows_in(job.span), unit="windows")

            def advance(windows: int, task: Any = task) -> None:
                bar.advance(task, windows)

            known = app.ledger.reports.known_events(name, job.span)
            wait = partial(pause.wait, WAIT_SECONDS)
            try:
                result = job.dry_run(now, advance) if dry_run else job.run(now, wait, advance)
            except SourceError as error:
                failed.append(f"{name} was not read to the end: {error}")
                continue
            result.unchanged = known
            bar.update(task, completed=job.windows_in(job.span))
            results.append(result)
        for sink in sorted({sink for job in jobs for sink in job.meter.sinks}) if send else []:
            task = bar.add_task(f"send to {sink}", total=waiting(app, sink)[1], unit="events")

            def sent(part: "Delivered", task: Any = task) -> None:
                bar.advance(task, part.accepted + part.refused + part.in_doubt)

            delivered[sink] = Drained(app, sink, sent).run_once(now)
    return CarriedOut(results, delivered, failed)


def progress_bar(*, quiet: bool) -> Any:
    """Return a progress display with rate and time left; silent where nobody watches."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    from aggregator.runtime.terminal import console

    class Rate(ProgressColumn):
        """How many units a second."""

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        disable=quiet,
    )


def show_results(
    results: list["Backfilled"],
    delivered: dict[str, "Delivered"],
    *,
    dry_run: bool,
    movers: int | None = MOST_MOVERS,
) -> None:
    """Print what it came to, or would come to; of the latter so many customers are named."""
    from aggregator.cli.movers import report_sinks, show_movers

    show_rows(
        "would be planned" if dry_run else "planned",
        COLUMNS,
        ({**each.figures(), "from": each.span.start, "to": each.span.end} for each in results),
    )
    for result in results:
        if result.resumed_at is not None:
            say(
                f"{result.meter}: continued from {result.resumed_at:%Y-%m-%dT%H:%MZ}, where it was "
                "interrupted."
            )
        if result.left_from is not None:
            say(report_left(result.meter, result.left_from, result.left_why))
        if result.shadow:
            say(f"{result.meter}: {result.shadow:,} of these events are in shadow, and never sent.")
        if dry_run:
            show_movers(result.forecast, movers)
            for line in report_sinks(result.meter, result.forecast):
                say(line)
    for sink, what in delivered.items():
        line = f"{sink}: {what.accepted:,} accepted"
        for name in ("duplicates", "refused", "again", "in_doubt"):
            line += f", {getattr(what, name):,} {name.replace('_', ' ')}" if getattr(what, name) else ""
        say(line + (f"; halted: {what.halted}" if what.halted else "."))
    if dry_run:
        say("Nothing was written or sent.")
