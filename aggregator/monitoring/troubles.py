"""What people are told of, from the figures of the ledger: the same troubles that the alert rules are about.

Rules
- The same limits as in `config/monitoring/alerts.yml`, so that both raise the alarm at the same time.
- Each trouble says of what it is, and which command to run first.
"""

import datetime as dt
from collections.abc import Iterator

from aggregator.config import Config
from aggregator.core.shown import counted
from aggregator.core.troubles import Trouble
from aggregator.ledger.figures import MeterFigures, Progress, UsageFigures, WaitingFigures
from aggregator.monitoring.metrics import Answers, Context, Page

OVERDUE_SECONDS = 1_800
BACKLOG_SECONDS = 7_200
IN_DOUBT_SECONDS = 172_800
SOON_IN_DOUBT_SECONDS = 14_400
SOON_TOO_OLD_SECONDS = 259_200
RECOUNT_SECONDS = 172_800
"""For how long it is told that a recount found something: it counts once a day."""

MISSED_SECONDS = 172_800
"""For how long it is told that a full reading found what was not named as touched: the next one may be weeks away."""

NO_SAMPLE_SECONDS = 300
STATUS = "aggregator status"


def troubles(config: Config, context: Context, answers: Answers, now: dt.datetime) -> list[Trouble]:
    """Return what is amiss; of a ledger that does not answer, that it does not, and nothing that is old."""
    if answers.progress.trouble is not None or answers.progress.value is None:
        reason = answers.progress.trouble or "it has not answered"
        return [Trouble("ledger", f"The ledger does not answer: {reason}", "aggregator check")]
    page = Page(config, context, now)
    page.add_progress(answers.progress.value)
    if answers.waiting.value is not None:
        page.add_waiting(answers.progress.value.feeds, answers.waiting.value)
    if answers.usage.value is not None:
        page.add_kinds_of_reading(answers.usage.value)
    found = list(_of_ledger(config, context, answers.progress.value))
    for meter in answers.progress.value.meters:
        if meter.meter in config.meters:
            found += _of_meter(meter)
    found += _of_waiting(answers.waiting.value or [], now)
    found += _of_limits(page)
    if answers.usage.value is not None:
        found += _of_kinds_of_reading(page, answers.usage.value)
        found += [
            Trouble(
                f"unmapped {row.meter}",
                f"{counted(row.rows, 'row')} of {row.meter} can be billed to nobody, {row.units} units.",
                STATUS,
            )
            for row in answers.usage.value.unmapped
            if row.meter in config.meters and row.kind == "unusable"
        ]
        found += [
            Trouble(
                f"drift {row.sink}",
                f"The totals of sink {row.sink} differ in {counted(row.places, 'place')} from what was sent.",
                "aggregator reconcile",
            )
            for row in answers.usage.value.coverage
            if row.places
        ]
    return found


def _of_ledger(config: Config, context: Context, progress: Progress) -> Iterator[Trouble]:
    if progress.stopped:
        yield Trouble("stopped", "The ledger is not what it was: nothing is read or sent.", STATUS)
    for source, up in context.source_up().items():
        if not up:
            yield Trouble(f"source {source}", f"Source {source} cannot be reached.", "aggregator check")
    for sink in progress.sinks:
        if sink.sink in config.sinks and sink.halted_at is not None:
            yield Trouble(f"sink {sink.sink}", f"Sink {sink.sink} refuses every call.", STATUS)
    for feed in progress.feeds:
        if feed.stopped:
            yield Trouble(
                f"feed {feed.meter} {feed.sink}",
                f"Sink {feed.sink} holds usage of {feed.meter} that this ledger never sent: nothing is sent there.",
                STATUS,
            )


def _of_meter(figures: MeterFigures) -> Iterator[Trouble]:
    name = figures.meter
    if figures.failing:
        yield Trouble(f"failing {name}", f"The last pass of {name} failed.", f"aggregator runs {name}")
    if figures.silent_since is not None:
        command = f"aggregator usage {name} --by hour"
        yield Trouble(f"silent {name}", f"{name} always had usage, and has none any more.", command)
    if figures.unstable:
        text = f"The query of {name} gives another number each time."
        yield Trouble(f"unstable {name}", text, "aggregator check")
    if figures.unread:
        text = f"The source could not deliver {counted(figures.unread, 'window')} of {name}."
        yield Trouble(f"unread {name}", text, STATUS)


def _of_waiting(waiting: list[WaitingFigures], now: dt.datetime) -> Iterator[Trouble]:
    for figures in waiting:
        where = f"{figures.meter} to {figures.sink}"
        key, seconds = f"{figures.state} {where}", (now - figures.oldest_at).total_seconds()
        command = f"aggregator events list --state {figures.state}"
        if figures.state in {"held", "refused"}:
            are = f"{counted(figures.events, 'event')} of {where} {'is' if figures.events == 1 else 'are'}"
            text = f"{are} {figures.state}, {figures.units} units."
            yield Trouble(key, text, command)
        elif figures.state == "in_doubt" and seconds > IN_DOUBT_SECONDS:
            yield Trouble(key, f"In doubt for days: {counted(figures.events, 'event')} of {where}.", command)
        elif figures.state in {"due", "sending"} and seconds > BACKLOG_SECONDS:
            yield Trouble(f"backlog {where}", f"Events of {where} wait for hours to be sent.", STATUS)


def _of_kinds_of_reading(page: Page, usage: UsageFigures) -> Iterator[Trouble]:
    """Yield what is amiss with a mapping, a cursor or samples."""
    units = {row.meter: row.units for row in usage.without_id}
    for sample in page.families["aggregator_until_too_old_seconds"].samples:
        if sample.labels["state"] == "without_id" and sample.value < SOON_TOO_OLD_SECONDS:
            meter, sink = sample.labels["meter"], sample.labels["sink"]
            text = (
                f"{units[meter]} units of {meter} have no customer yet, and will soon be too old for {sink}."
            )
            yield Trouble(f"without id {meter} {sink}", text, STATUS)
    for sample in page.families["aggregator_recount_differed_age_seconds"].samples:
        if sample.value < RECOUNT_SECONDS:
            meter = sample.labels["meter"]
            text = f"A recount of {meter} found what its cursor had missed, or did not find what it had read."
            yield Trouble(f"recount {meter}", text, STATUS)
    for sample in page.families["aggregator_changed_missed_age_seconds"].samples:
        if sample.value < MISSED_SECONDS:
            meter = sample.labels["meter"]
            text = f"A full reading of {meter} found windows that the query of `changed` had not named."
            yield Trouble(f"missed {meter}", text, STATUS)
    for sample in page.families["aggregator_sample_overdue_seconds"].samples:
        if sample.value > NO_SAMPLE_SECONDS:
            meter = sample.labels["meter"]
            text = f"{meter} is not sampled any more: what is not sampled cannot be read later."
            yield Trouble(f"not sampled {meter}", text, f"aggregator runs {meter}")
    for sample in page.families["aggregator_sample_gap_seconds"].samples:
        if sample.value > 0:
            meter = sample.labels["meter"]
            text = f"{meter} was not sampled for {sample.value:.0f} seconds of the last day."
            yield Trouble(f"gap {meter}", text, STATUS)


def _of_limits(page: Page) -> Iterator[Trouble]:
    for sample in page.families["aggregator_mark_overdue_seconds"].samples:
        if sample.value > OVERDUE_SECONDS:
            name = sample.labels["meter"]
            text = f"{name} should have been read half an hour ago."
            yield Trouble(f"overdue {name}", text, f"aggregator runs {name}")
    for sample in page.families["aggregator_until_in_doubt_seconds"].samples:
        if sample.value < SOON_IN_DOUBT_SECONDS:
            where = f"{sample.labels['meter']} to {sample.labels['sink']}"
            text = f"Events of {where} that had no answer can soon no longer be sent again."
            yield Trouble(f"doubt soon {where}", text, STATUS)
    for sample in page.families["aggregator_until_too_old_seconds"].samples:
        state = sample.labels["state"]
        if sample.value < SOON_TOO_OLD_SECONDS and state in {"unread", "due", "sending", "held"}:
            where = f"{sample.labels['meter']} to {sample.labels['sink']}"
            text = f"Usage of {where} that is {state} will soon be too old for the sink."
            yield Trouble(f"old {state} {where}", text, STATUS)
