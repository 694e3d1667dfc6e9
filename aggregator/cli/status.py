"""`aggregator status`: how every meter stands."""

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.cli.archiving import old_months
from aggregator.cli.configuration import ConfigurationShown
from aggregator.cli.cursors import report as report_cursors
from aggregator.cli.feeds import report_feeds
from aggregator.cli.mappings import report_mappings, taken_until
from aggregator.cli.options import config_option, json_option, limit_option, load_config
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.cli.revisits import report as report_touched
from aggregator.cli.samples import report_samples
from aggregator.core.shown import counted, duration, shown

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.core.lateness import Late
    from aggregator.core.renaming import Memory
    from aggregator.ledger.notifications import PollState
    from aggregator.ledger.outbox.uploads import FileRow
    from aggregator.ledger.reports import Backlog, FeedStatus, Unconfigured, UnconfiguredMeter
    from aggregator.ledger.review.cancellations import Wanted
    from aggregator.ledger.review.checks import Coverage

LATENESS_WITHIN = dt.timedelta(days=14)
"""Lateness of longer ago says little about the present."""

MOST_UPLOADS = 1_000

PACE_WITHIN = dt.timedelta(minutes=10)
"""How fast a sink was in this time tells how fast it goes on."""

WORTH_A_WORD_SECONDS = 10.0
"""What is sent within a moment needs no estimate."""

METERS = "meter sink mark lag>=lag_seconds due> sending> refused> held> in_doubt> unmapped>=unmapped_rows last_run>"
UNREAD = "meter window=window_start tries> next=next_at reason"
PARKED = "id#=event meter customer window=window_start rev>=revision delta> state reason"
DRIFT = "meter sink customer from=start cause lacks>=amount reason"
DRIFT_APART = DRIFT.replace("customer", "customer dimensions")
UNMAPPED = "meter reason customer rows> quantity> windows"
SILENT = "meter customer since usual>"


@click.command()
@config_option
@json_option
@limit_option("How many waiting events and unmapped customers to list.", default=10)
def status(config_path: Path, *, as_json: bool, limit: int) -> None:
    """Show how far each meter has been read, what is due, and what waits for a person."""
    from aggregator.ledger.review.parked import Choice
    from aggregator.wiring.opening import STILL_BILLABLE, feeding, not_sent, open_ledger
    from aggregator.wiring.sinks import file_places

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator status") as ledger:
        now, apart, waits = ledger.instant(), ledger.database.clocks_apart(), ledger.database.waiting()
        stopped, unguarded = ledger.identity.check(now), ledger.identity.unguarded
        statuses = ledger.reports.status()
        memory = ledger.meters.memory()
        parked = ledger.parked.waiting(Choice(), limit, newest_first=True)
        moved = ledger.parked.moved(limit)
        by_guards = ledger.parked.held_by_guards(limit)
        silent = ledger.reports.silent_customers(limit)
        unmapped = ledger.reports.unmapped(limit)
        mappings, without_id = ledger.customers.states(), ledger.customers.waiting()
        unread = ledger.reports.unread(limit)
        unconfigured_meters = ledger.reports.unconfigured_meters(config.meters, now - STILL_BILLABLE, now)
        lateness = ledger.reports.lateness(now - LATENESS_WITHIN)
        polled = ledger.notifications.poll_states()
        wanted = ledger.cancellations.wanted(limit=limit)
        uploads = ledger.uploads.listed(sink=None, unconfirmed=True, limit=MOST_UPLOADS)
        elsewhere = ledger.places.moved_files(file_places(config))
        unconfigured = ledger.reports.unconfigured(feeding(config), now)
        backlogs = ledger.reports.backlogs(now - PACE_WITHIN, now)
        in_force, before = ledger.configurations.latest()
        defined = ledger.configurations.defined_since()
        cursors, sampled = ledger.running_totals.of_all(), list(report_samples(config, ledger.samples, now))
        coverage, drift, touched, old = (
            ledger.checks.coverage(),
            ledger.checks.drift(limit),
            ledger.figures.touched(),
            list(old_months(config, ledger, now)),
        )
    configuration = ConfigurationShown.of(config, in_force, before, defined)
    suggestions = _suggestions(config, lateness)
    notes = [
        *_renamed(memory),
        *report_feeds(config, statuses, now),
        *report_cursors(cursors),
        *sampled,
        *report_touched(touched, config.meters),
        *(each.describe() for each in old),
    ]
    report: dict[str, Any] = {
        "meters": [{**row._asdict(), "lag_seconds": now - row.mark} for row in statuses],
        "parked": [row._asdict() for row in parked],
        "moves": [row._asdict() for row in moved],
        "held_by_guards": [{**row._asdict(), "release": row.release} for row in by_guards],
        "silent_customers": [row._asdict() for row in silent],
        "unmapped": [row._asdict() for row in unmapped],
        "mappings": [row._asdict() for row in mappings],
        "waiting_for_customers": [
            {**row._asdict(), "taken_until": taken_until(config, row.meter, row.first_window)}
            for row in without_id
        ],
        "unread": [row._asdict() for row in unread],
        "cursors": [{"meter": each.meter, **each.state.figures()} for each in cursors],
        "removed": [row._asdict() for row in unconfigured_meters],
        "notes": notes,
        "suggestions": suggestions,
        "polled": [row._asdict() for row in polled],
        "cancellations": [row._asdict() for row in wanted],
        "to_be_uploaded": [row.name for row in uploads if row.name],
        "unconfigured": [{**row._asdict(), "what_to_do": not_sent(config, row)} for row in unconfigured],
        "backlogs": [_backlog(config, row) for row in backlogs],
        "begun_elsewhere": [row.figures() for row in elsewhere],
        "checked": [row._asdict() for row in coverage],
        "old_months": [each._asdict() for each in old],
        "drift": [{**row._asdict(), "dimensions": row.combination} for row in drift],
        "configuration": configuration.figures(),
        "stopped": stopped,
        "unguarded": unguarded,
        "clocks_apart": apart,
        "waits_in_ledger": [each._asdict() for each in waits],
    }
    if as_json:
        write_json(report)
        return
    for trouble in filter(None, [apart, *map(str, waits)]):
        say(trouble)
    if not statuses:
        say("The ledger knows no meter yet. `aggregator run` registers the meters of the configuration.")
        return
    if stopped:
        say(f"STOPPED: {stopped}")
        say()
    if unguarded:
        say(f"A ledger that is set back would not be noticed here: {unguarded}")
        say()
    since = [{**row, "last_run": (at := row["last_run_at"]) and now - at} for row in report["meters"]]
    show_rows("meters", METERS, since)
    for row in {row.meter: row for row in statuses if row.error}.values():
        say(f"Last error of {row.meter}, at {shown(row.error_at)}: {row.error}")
    for row in {row.sink: row for row in statuses if row.halted}.values():
        say(f"Sink {row.sink} is halted: {row.halted}")
    for line in (
        *_stopped(statuses),
        *_waiting(statuses, {each.meter for each in cursors}, now),
        *report_mappings(config, mappings, without_id, now),
        *(move.describe() for move in moved),
        *(row.describe() for row in by_guards),
        *notes,
        *_removed(unconfigured_meters),
        *_unconfigured(config, unconfigured, now),
        *_backlogs(config, backlogs),
        *_unsubscribed(polled),
        *_wanted(wanted),
        *_checked(coverage, now),
        *_uploads(uploads),
        *map(str, elsewhere),
        *suggestions,
        *configuration.lines(),
    ):
        say(line)
    _show_waiting(report)


def _show_waiting(report: Mapping[str, Any]) -> None:
    """Print what waits for its source, or for a person."""
    if rows := report["unread"]:
        show_rows(
            "windows that the source could not deliver (they are tried again automatically)", UNREAD, rows
        )
    if rows := report["parked"]:
        show_rows(
            "events that wait for a person (`aggregator events release ID` sends one; see `aggregator events --help`)",
            PARKED,
            rows,
        )
    if rows := report["silent_customers"]:
        show_rows(
            "customers without usage that had some at this hour in every week before (`unusual_zero`)",
            SILENT,
            rows,
        )
    if rows := report["drift"]:
        columns = DRIFT_APART if any(row["dimensions"] for row in rows) else DRIFT
        show_rows("differences from what sinks accepted (`aggregator reconcile`)", columns, rows)
    if rows := report["unmapped"]:
        spans = [f"{shown(row['first_window'])} .. {shown(row['last_window'])}" for row in rows]
        named = [{**row, "windows": span} for row, span in zip(rows, spans, strict=True)]
        show_rows("usage that can be billed to nobody", UNMAPPED, named)


def _renamed(memory: "Memory") -> Iterator[str]:
    """Say what meters were called before."""
    for meter in memory.meters.values():
        if meter.formerly:
            names = ", ".join(meter.formerly)
            yield f"{meter.name} was called {names} before; its identifiers go on under {meter.formerly[0]}."


def _stopped(statuses: "Iterable[FeedStatus]") -> Iterator[str]:
    """Say of which meters a sink gets nothing, because it holds usage that this ledger never sent."""
    for row in statuses:
        if row.stopped:
            yield f"{row.meter} sends nothing to {row.sink} since {shown(row.stopped_at)}: {row.stopped}"


def _waiting(statuses: "Iterable[FeedStatus]", by_cursor: Collection[str], now: dt.datetime) -> Iterator[str]:
    """Say which meters wait for their source's transactions, or did not, and which shrank."""
    for row in {row.meter: row for row in statuses}.values():
        if row.waits_for:
            since = f"{duration(now - row.waits_since)} long" if row.waits_since else "just now"
            bound = "" if row.meter in by_cursor else " (`wait_for_writers` bounds it)"
            yield f"{row.meter} waits for {row.waits_for} in its source, {since} by now{bound}."
        if row.unfenced_at:
            yield (
                f"{row.meter} was read at {shown(row.unfenced_at)} without waiting any longer; rows "
                "that were written late are found when it is read again."
            )
        if row.silent_since:
            yield (
                f"{row.meter} has had no usage since {shown(row.silent_since)}, and always had some "
                "before: check whether its rows are hidden from the role, renamed, or no longer "
                "written."
            )
        if row.guarded:
            yield (
                f"{row.meter}: {counted(row.guarded, 'window')} shrank by more than `shrink_guard`; decreases are held "
                "until another read, an hour later, confirms them."
            )
        if row.unstable:
            yield (
                f"{row.meter}: its query gives another number each time it runs, although no row has "
                "changed; corrections wait "
                "for a person. Fix the query (`aggregator check` tries it), or release them."
            )


def _removed(unconfigured_meters: "Iterable[UnconfiguredMeter]") -> Iterator[str]:
    for row in unconfigured_meters:
        yield (
            f"{row.meter} is in the ledger and not in the configuration: read up to {shown(row.mark)}, "
            f"{counted(row.waiting, 'event')} to be sent, {row.parked} parked. Nobody reads its "
            "windows again. Put it back into the configuration, or leave it until its windows are "
            "too old."
        )


def _unconfigured(config: "Config", waits: "Iterable[Unconfigured]", now: dt.datetime) -> Iterator[str]:
    from aggregator.wiring.opening import not_sent

    for row in waits:
        yield (
            f"{counted(row.events, 'event')} of {row.meter} to sink {row.sink}, {row.units} units, waiting since "
            f"{shown(row.since)} ({duration(now - row.since)}). {not_sent(config, row)}"
        )


def _backlog(config: "Config", row: "Backlog") -> dict[str, object]:
    """Estimate how long a sink takes for what waits there: at the pace of late, else, at least, at the declared rate."""
    from aggregator.wiring.sinks import declared_rate

    declared = None if row.per_second else declared_rate(config, row.sink, row.events)
    pace = row.per_second or declared
    return {
        **row._asdict(),
        "declared_per_second": declared,
        "seconds_left": row.events / pace if pace else None,
    }


def _backlogs(config: "Config", backlogs: "Iterable[Backlog]") -> Iterator[str]:
    for row in backlogs:
        figures = _backlog(config, row)
        seconds, declared = figures["seconds_left"], figures["declared_per_second"]
        if not isinstance(seconds, float) or seconds < WORTH_A_WORD_SECONDS:
            continue
        takes = duration(dt.timedelta(seconds=seconds))
        yield (
            f"Sink {row.sink}: {counted(row.events, 'event waits', 'events wait')}, {row.backfill} of them from a backfill; "
            + (
                f"at {row.per_second:,.0f} a second, as lately, that takes {takes}."
                if row.per_second
                else f"nothing was sent lately; at the declared rate of {declared:,.0f}/s that takes at least {takes}."
            )
        )


def _unsubscribed(polled: "Iterable[PollState]") -> Iterator[str]:
    for row in polled:
        if row.refused_reason:
            yield (
                f"Sink {row.sink} does not report what it finds invalid{f' ({row.whose})' if row.whose else ''}, since "
                f"{shown(row.refused_at)}: {row.refused_reason} Everything else goes on. See docs/errors.md."
            )


def _wanted(wanted: "Iterable[Wanted]") -> Iterator[str]:
    from aggregator.core.states import CancellationState

    for row in wanted:
        whose = f"Event {row.event} ({row.delta} for {row.customer} of {row.meter})"
        if row.state is CancellationState.LAPSED:
            yield (
                f"{whose}: nobody can tell whether it is cancelled: {row.answer}. Look at the sink, then "
                f"`aggregator events cancel {row.event} --gone` or `--still-there`."
            )
        else:
            yield f"{whose} is being cancelled since {shown(row.asked_at)}: {row.answer or 'not asked yet'}."


def _checked(coverage: "Iterable[Coverage]", now: dt.datetime) -> Iterator[str]:
    """Say how much of what each sink accepted was compared with its totals, and what differs."""
    for row in coverage:
        if row.listed:
            oldest = (
                f"; the oldest unchecked event was sent {duration(now - row.oldest)} ago"
                if row.oldest
                else ""
            )
            share = row.checked / row.listed
            checked = f"{row.checked:,} of {counted(row.listed, 'accepted event')} checked"
            yield f"Sink {row.sink}: {checked} ({share:.1%}){oldest}."
        if row.places:
            yield (
                f"Sink {row.sink} differs from what it accepted in {counted(row.places, 'place')}: it lacks "
                f"{shown(row.lacks)} and has {shown(row.beyond)} too much. `aggregator reconcile` says why, and what to do."
            )


def _uploads(rows: "Iterable[FileRow]") -> Iterator[str]:
    names = [row.name for row in rows if row.name]
    if names:
        files = f"{len(names)} files or more" if len(names) == MOST_UPLOADS else counted(len(names), "file")
        yield (
            f"To be uploaded by hand and confirmed: {files}, the oldest is {names[-1]} "
            "(`aggregator files list --unconfirmed`)."
        )


def _suggestions(config: "Config", lateness: "Mapping[str, Mapping[int, Late]]") -> list[str]:
    """Suggest a longer `delay` where much usage comes after it."""
    from aggregator.config import format_duration
    from aggregator.core.lateness import in_time, suggest

    lines = []
    for name, histogram in lateness.items():
        meter = config.meters.get(name)
        longer = suggest(histogram, meter.delay) if meter else None
        share = in_time(histogram)
        if meter and longer and share is not None:
            lines.append(
                f"{name}: {1 - share:.1%} of its usage came after `delay: {format_duration(meter.delay)}`; "
                f"`delay: {format_duration(longer)}` would have waited for nearly all of it (`aggregator lateness`)."
            )
    return lines
