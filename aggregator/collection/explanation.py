"""Why a customer's number is what it is: asked of the ledger, and of the source for what it says now. Nothing is written.

Rules
- A source is asked only if that is wanted, and outside of the ledger's transactions. If it cannot be had, that is said
  in the place of what it would have said, and everything else is explained all the same.
- A single window is always told; of a range only what is more than a window that was read once and billed at once, and no
  more stories than were asked for.
- Each combination of dimensions has a story of its own, also one that only the source has so far.
"""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple, Protocol

from aggregator.collection.asking import ShowsRows
from aggregator.collection.backfill import refuse_parts_of_windows
from aggregator.collection.open_windows import read_open
from aggregator.core import definitions, query_text, story, windows
from aggregator.core.dimensions import Dimensions
from aggregator.core.explanation import Detail, Explanation, Now, Story, WindowFacts
from aggregator.core.freshness import Reads
from aggregator.core.model import ZERO, Definition, Span
from aggregator.errors import SourceError, UsageError
from aggregator.ledger.facts import ExplainedFeed, Facts
from aggregator.ledger.passes.spool import Spool

MOST_WINDOWS = 50_000
"""More than the minutes of a month: so many are looked up for one question."""


class Source(Reads, ShowsRows, Protocol):
    """What is asked of an application database."""


class ExplainedSource(NamedTuple):
    """Where a meter is read, the least that is billed of it, and by which query its rows can be shown."""

    source: Source
    unit: Decimal
    detail_query: str | None
    keys: Callable[[str, dt.datetime], list[str]] | None = None
    """By which keys the query has what a customer used in a window; None: by itself."""


class Question(NamedTuple):
    """Whose windows are to be explained, and how fully."""

    meter: str
    customer: str
    span: Span
    at: dt.datetime
    live: bool
    """Whether the source is asked what it says now."""
    rows: int = 0
    """How many of the rows behind it are shown."""
    stories: int = 20
    """How many stories are told at most."""
    sink: str | None = None
    """Of which sink, if not of all."""
    dimensions: Dimensions | None = None
    """Of which combination, if not of all."""


def explain(
    facts: Facts,
    question: Question,
    configured: Collection[str],
    source_of: Callable[[str], ExplainedSource | None],
) -> Explanation:
    """Return all that there is to say; `source_of` gives None for a meter that is not configured. Raises UsageError."""
    feeds = _feeds(facts, question, configured)
    known = facts.definitions(feeds[0])
    refuse_parts_of_windows(question.meter, known, question.span)
    single = definitions.at(known, question.span.start).window >= question.span.end - question.span.start
    _refuse_too_many(known, question.span)
    source = source_of(question.meter)
    stories: list[Story] = []
    plain, left_out = [], 0
    for feed in feeds:
        found = facts.known(feed, question.customer, question.span)
        telling = found.with_story[: question.stories]
        starts = [question.span.start] if single else list(dict.fromkeys(start for start, _ in telling))
        windows_of = facts.windows(feed, question.customer, starts)
        said = _now(facts, question, feed, windows_of, known, source)
        if single:
            windows_of = _each_combination(windows_of, said, question.dimensions)
            left_out += max(0, len(windows_of) - question.stories)
        else:
            windows_of = [each for each in windows_of if (each.window.start, each.dimensions) in telling]
            left_out += len(found.with_story) - len(telling)
        chosen = windows_of[: question.stories]
        last = {
            each.window: each for each in chosen
        }  # the rows behind a window are those of all of its combinations
        stories += [
            _story(
                question._replace(rows=question.rows if each is last[each.window] else 0),
                each,
                said.get((each.window.start, each.dimensions)),
                source,
            )
            for each in chosen
        ]
        if not single:
            plain.append(found.plain)
    notes = list(_notes(question, feeds[0], source))
    return Explanation(
        question.at, question.meter, question.customer, question.span, stories, plain, left_out, notes
    )


def window_at(facts: Facts, meter: str, instant: dt.datetime) -> Span:
    """Return the window of a meter that an instant lies in; an empty one if the ledger does not know the meter."""
    feeds = facts.feeds(meter)
    if not feeds:
        return Span(instant, instant)
    length = definitions.at(facts.definitions(feeds[0]), instant).window
    start = windows.floor(instant, length)
    return Span(start, start + length)


def _feeds(facts: Facts, question: Question, configured: Collection[str]) -> list[ExplainedFeed]:
    """Return the feeds that are meant. Raises UsageError if there are none."""
    feeds = [each for each in facts.feeds(question.meter) if question.sink in (None, each.sink)]
    if feeds:
        return feeds
    if question.meter in configured:
        raise UsageError(
            f"Nothing of meter {question.meter} was read yet: `aggregator run` reads it, or `aggregator backfill` a range."
        )
    names = ", ".join(sorted({each.meter for each in facts.feeds()} | {*configured})) or "none"
    raise UsageError(
        f"There is no meter {question.meter}, neither in the configuration nor in the ledger; there are: {names}."
    )


def _refuse_too_many(known: Sequence[Definition], span: Span) -> None:
    many = sum(windows.count(piece, held.window) for held, piece in definitions.pieces(known, span))
    if many > MOST_WINDOWS:
        raise UsageError(
            f"The range {span} has {many:,} windows, and at most {MOST_WINDOWS:,} are explained at once: give a shorter one."
        )


def _now(
    facts: Facts,
    question: Question,
    feed: ExplainedFeed,
    shown: Sequence[WindowFacts],
    known: Sequence[Definition],
    source: ExplainedSource | None,
) -> Mapping[tuple[dt.datetime, Dimensions], Now]:
    """Return what the source says now of each window and combination, if that is wanted, or why it does not."""
    if not question.live or source is None or not shown:
        return {}
    now = Now(question.at, source.source.name)
    starts = list(dict.fromkeys(each.window.start for each in shown))
    try:
        with Spool() as spool:
            for start in starts:
                window = Span(start, start + definitions.at(known, start).window)
                proven = read_open(source.source, known, window, spool)
                if proven is not None and (now.proven_until is None or proven < now.proven_until):
                    now = now._replace(proven_until=proven)
            return facts.compare(feed, question.customer, starts, spool, source.unit, now)
    except SourceError as error:
        places = [(each.window.start, each.dimensions) for each in shown]
        return dict.fromkeys(places, now._replace(trouble=str(error)))


def _each_combination(
    found: Sequence[WindowFacts], said: Mapping[tuple[dt.datetime, Dimensions], Now], only: Dimensions | None
) -> list[WindowFacts]:
    """Return what is told of one window: also the combinations that only the source has, and none but the one asked for."""
    by_dimensions = {each.dimensions: each for each in found}
    if only is not None:
        return [by_dimensions[only]]
    base = found[0]._replace(quantity=None, total=ZERO, events=(), unusable=None)
    by_dimensions.update(
        {apart: base._replace(dimensions=apart) for _, apart in said if apart and apart not in by_dimensions}
    )
    if len(by_dimensions) > 1 and by_dimensions.get((), base).quantity is None:
        by_dimensions.pop((), None)  # nothing is on record of it, and the source has what others are about
    return [by_dimensions[apart] for apart in sorted(by_dimensions)]


def _story(question: Question, facts: WindowFacts, now: Now | None, source: ExplainedSource | None) -> Story:
    """Tell of one window."""
    query, span = facts.definition.query, facts.window
    if source is None:
        filled = query_text.filled(query, {"start": span.start, "end": span.end})
    else:
        filled = source.source.filled(query, span)
    whose = [question.customer]
    if source is not None and source.keys is not None:
        whose = source.keys(question.customer, span.start)
    pasted = query_text.of_customer(filled, *whose)
    return Story(facts, story.sentences(facts, now), pasted, now, _detail(question, facts, source))


def _detail(question: Question, facts: WindowFacts, source: ExplainedSource | None) -> Detail | None:
    """Return rows behind the number, if they are wanted and the meter has a query for them."""
    if not question.live or not question.rows or source is None or source.detail_query is None:
        return None
    try:
        found = source.source.rows_behind(source.detail_query, facts.window, question.customer, question.rows)
    except SourceError as error:
        return Detail((), (), more=False, trouble=str(error))
    return Detail(*found)


def _notes(question: Question, feed: ExplainedFeed, source: ExplainedSource | None) -> "list[str]":
    """Say what is not in it."""
    notes = []
    if feed.mark < question.span.end:
        notes.append(f"{feed.meter} is read up to {story.moment(feed.mark)}.")
    if source is None:
        notes.append(
            f"{feed.meter} is not in the configuration, so its source cannot be asked what it says now."
        )
    elif not question.live:
        notes.append(f"Source {source.source.name} was not asked what it says now: --live does.")
    return notes
