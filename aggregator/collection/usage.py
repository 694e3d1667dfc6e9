"""What became of usage, asked of the ledger and, for what is not read yet, of the sources. Nothing is written.

Rules
- A source is asked only if that is wanted, once for all sinks of a meter, and before the ledger is.
- Lines are kept on disk: the ledger's transactions are over before anybody looks at them, however slowly.
- What is not in the figures is said: how far a meter is read, which windows are missing, and what may still change.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from itertools import groupby, islice
from typing import NamedTuple

from aggregator.collection.backfill import refuse_parts_of_windows
from aggregator.collection.open_windows import read_open
from aggregator.core.freshness import Reads
from aggregator.core.model import Definition, Span
from aggregator.core.shown import counted, minute
from aggregator.core.usage import By, Line, Sum
from aggregator.errors import UsageError
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.usage import OpenWindows, UsageFeed, UsageReport
from aggregator.runtime.disk_list import DiskList


class Question(NamedTuple):
    """Whose usage is asked for, over which time, by what, and when."""

    span: Span
    at: dt.datetime
    by: By | None = None
    meter: str | None = None
    customer: str | None = None
    named: bool = False
    """Whether lines of customers say what people call them."""
    dimension: str | None = None
    """In the place of `by`: the dimension of the meter that has a line for each value."""

    @property
    def over_time(self) -> bool:
        """Whether its lines follow each other in time."""
        return self.by is not None and self.by is not By.CUSTOMER


class MeterSource(NamedTuple):
    """Where a meter is read, and how."""

    name: str
    source: Reads
    definitions: Sequence[Definition]
    unit: Decimal
    """The least that is billed."""
    newest: dt.datetime | None = None
    """Of a meter that is sampled, the instant of its newest sample: by the source's clock, which may be ahead."""


NAMED_AT_ONCE = 1_000
"""Of how many lines names are looked up at once."""


class FeedUsage(NamedTuple):
    """The usage of a feed: its lines, what they come to, and what is to be said of them, in sentences."""

    feed: UsageFeed
    lines: DiskList[Line]
    sum: Sum
    notes: list[str]


def ask(
    report: UsageReport,
    question: Question,
    configured: Collection[str],
    stack: ExitStack,
    source_of: Callable[[str], MeterSource | None] | None = None,
    names: Callable[[Iterable[str]], Mapping[str, str]] | None = None,
) -> Iterator[FeedUsage]:
    """Yield the usage of each feed, by meter and sink; the lines live as long as `stack`.

    `names` gives what people call customers, if lines are to say it.

    With `source_of`, sources are asked for what is not read yet; it gives None for a meter that is not configured.
    Raises UsageError for a meter or a range that cannot be asked for, and as a reading does.
    """
    feeds = report.feeds(question.meter, question.span)
    if not feeds:
        known = {feed.meter for feed in report.feeds(None, question.span)} | {*configured}
        raise UsageError(_report_unknown(question.meter, configured, known))
    if question.dimension is not None:
        _refuse_other_than_dimensions(feeds[0], question)
    for meter, definitions in report.definitions(feeds).items():
        refuse_parts_of_windows(meter, definitions, question.span)
    for feed, lines, notes in _lines(report, question, feeds, source_of):
        kept = stack.enter_context(DiskList[Line]())
        total = Sum(adds_up=not (feed.last and question.over_time))
        kept.keep(total.counting(lines if names is None else _named(lines, names)))
        yield FeedUsage(feed, kept, total, [*notes, *_report_missing(question, feed, total)])


def _lines(
    report: UsageReport,
    question: Question,
    feeds: Sequence[UsageFeed],
    source_of: Callable[[str], MeterSource | None] | None,
) -> Iterator[tuple[UsageFeed, Iterator[Line], list[str]]]:
    """Yield the lines of each feed, and what is to be said of its meter; if sources are asked, meter by meter."""
    span, by, of = (
        question.span,
        question.by,
        {"customer": question.customer, "dimension": question.dimension},
    )
    if source_of is None:
        for feed, lines in report.lines_of_each(feeds, span, by, **of):
            yield feed, lines, [_read_up_to(feed)]
        return
    for _, several in groupby(feeds, lambda feed: feed.meter):
        of_meter = list(several)
        with Spool() as spool:
            opened, notes = _open(question, of_meter[0], spool, source_of)
            for feed in of_meter:
                yield feed, report.lines(feed, span, by, **of, opened=opened), notes


def _read_up_to(feed: UsageFeed) -> str:
    return f"{feed.meter} is read up to {minute(feed.mark)}."


def _refuse_other_than_dimensions(feed: UsageFeed, question: Question) -> None:
    """Raise UsageError unless the lines can be by what was named: a dimension that the meter has or had."""
    name, words = question.dimension, ", ".join(By)
    if question.meter is None:
        raise UsageError(
            f"--by {name}: without a METER, lines are by one of {words}. For a dimension, name its meter."
        )
    if name not in feed.dimensions:
        raise UsageError(
            f"Meter {feed.meter} has no dimension {name}: lines are by one of {words}, or by one of its dimensions, which "
            f"are: {', '.join(feed.dimensions) or 'none'}."
        )
    if feed.last:
        raise UsageError(
            f"Meter {feed.meter} is billed by a customer's last number, which no dimension keeps apart: leave out "
            f"--by {name}."
        )


def _named(lines: Iterator[Line], names: Callable[[Iterable[str]], Mapping[str, str]]) -> Iterator[Line]:
    """Yield lines with what their customers are called."""
    while some := list(islice(lines, NAMED_AT_ONCE)):
        found = names(each.customer for each in some if each.customer is not None)
        yield from (each._replace(name=found.get(each.customer or "")) for each in some)


def _open(
    question: Question,
    feed: UsageFeed,
    spool: Spool,
    source_of: Callable[[str], MeterSource | None],
) -> tuple[OpenWindows | None, list[str]]:
    """Ask a meter's source for what is not read yet; return it, and what is to be said of it."""
    read_up_to = _read_up_to(feed)
    found = source_of(feed.meter)
    span = Span(max(feed.mark, question.span.start), min(_present(question, found), question.span.end))
    if span.start >= span.end:
        return None, [read_up_to]
    if found is None:
        why = f"{feed.meter} is not in the configuration, so its source cannot be asked"
        if question.meter is not None:
            raise UsageError(f"{why}: leave out --live.")
        return None, [read_up_to, f"{why}."]
    proven_until = read_open(found.source, found.definitions, span, spool)
    at = f"{question.at:%Y-%m-%dT%H:%M:%SZ}"
    notes = [f"{read_up_to[:-1]}; open is what source {found.name} had of later windows at {at}."]
    if proven_until is not None and proven_until < question.at:
        proven = f"all up to {minute(proven_until)} only" if proven_until > span.start else "nothing of that"
        notes.append(f"Source {found.name} may lack some of it: it has proven to show {proven}.")
    return OpenWindows(feed.mark, spool, found.unit), notes


def _present(question: Question, found: MeterSource | None) -> dt.datetime:
    """Return up to when there may be usage: a sample that was taken is there, also where its clock is a little ahead.

    What the ledger's clock showed is older by what its answer took on the way, so a window may have begun since.
    """
    if found is None or found.newest is None:
        return question.at
    return max(question.at, found.newest + dt.timedelta.resolution)


def _report_missing(question: Question, feed: UsageFeed, total: Sum) -> Iterator[str]:
    """Say what is not in the figures, or is in them in a way of its own."""
    until = min(each for each in (feed.mark, feed.until, question.span.end) if each is not None)
    if feed.read_until < until:
        yield f"{feed.meter} is planned for {feed.sink} up to {minute(feed.read_until)} only (`aggregator status`)."
    if feed.unread:
        yield f"{feed.meter}: the source could not give {counted(feed.unread, 'window')} of the range (`aggregator status`)."
    if feed.changes_from is not None and feed.changes_from < question.span.end:
        yield (
            f"{feed.meter}: windows from {minute(feed.changes_from)} on are read again soon, since a change waits there; "
            "it is not counted yet."
        )
    if not total.adds_up:
        yield (
            f"{feed.meter} is billed by a customer's last number: a line has the newest of its time, so that lines do not "
            "add up over time."
        )


def _report_unknown(meter: str | None, configured: Collection[str], known: Collection[str]) -> str:
    """Say why there is nothing to show."""
    if meter is None or meter in configured:
        what = "any meter" if meter is None else f"meter {meter}"
        return f"Nothing of {what} was read yet: `aggregator run` reads it, or `aggregator backfill` a range of it."
    names = ", ".join(sorted(known)) or "none"
    return f"There is no meter {meter}, neither in the configuration nor in the ledger; there are: {names}."
