"""`aggregator explain`: from a billed number to the rows behind it, as a story."""

import datetime as dt
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.completion import CustomerName, MeterName
from aggregator.cli.options import (
    Instant,
    config_option,
    from_option,
    json_option,
    limit_option,
    load_config,
    span_until_today_ends,
    to_option,
)
from aggregator.cli.printing import plain_value, say, show_table, write_json
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.collection.explanation import ExplainedSource, Question
    from aggregator.config import Config
    from aggregator.core.explanation import EventFact, Explanation, Story
    from aggregator.core.model import Span
    from aggregator.ledger.facts import Facts
    from aggregator.ledger.ledger import Ledger

WIDTH = 118
INDENT = 24
"""An instant to the second, and what follows it."""

MOST_ROWS = 1_000


@click.command()
@click.argument("meter", type=MeterName(), metavar="[METER]", required=False)
@click.option("--customer", type=CustomerName(), help="Whose usage.")
@click.option("--window", type=Instant(), metavar="TIME", help="Only the window that contains this time.")
@from_option()
@to_option()
@click.option(
    "--event",
    metavar="ID",
    help="The window of this event: its number in the ledger, or its identifier at the sink.",
)
@click.option("--sink", help="Only events for this sink.")
@click.option(
    "--live/--no-live",
    default=None,
    help=(
        "Ask the source what it says now, or do not. Without either, it is asked only if the range "
        "is a single window."
    ),
)
@click.option(
    "--rows",
    type=click.IntRange(0, MOST_ROWS),
    default=10,
    show_default=True,
    help="How many of the rows behind a window to show, if the meter has a `detail_query`.",
)
@limit_option("How many windows to show.", default=20, least=1, most=1_000)
@config_option
@json_option
def explain(
    config_path: Path,
    *,
    meter: str | None,
    customer: str | None,
    window: dt.datetime | None,
    start: dt.datetime | None,
    end: dt.datetime | None,
    event: str | None,
    sink: str | None,
    live: bool | None,
    rows: int,
    limit: int,
    as_json: bool,
) -> None:
    """Explain what a customer was billed by METER: what the source said and when, what was sent, and what the sink
    answered.

    Give METER and --customer with --window or --from, or give --event alone. The output has the requests' ids, and a
    query with which anybody can check the number. All of it comes from the ledger, except what the source says now.
    Writes nothing.
    """
    from aggregator.collection.explanation import explain as explained
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator explain") as ledger:
        now = ledger.instant()
        if event is not None:
            if meter or customer or window or start or end:
                raise UsageError("--event is enough: leave out METER, --customer, --window, --from and --to.")
            question = _of_event(ledger.facts, event, now)
        else:
            question = _of_range(ledger.facts, meter, customer, window, start, end, now)
        single = start is None
        question = question._replace(
            live=single if live is None else live, rows=rows, stories=limit, sink=sink or question.sink
        )
        with _sources(config, ledger) as source_of:
            found = explained(ledger.facts, question, config.meters, source_of)
        name = ledger.customers.names([question.customer]).get(question.customer)
    if as_json:
        write_json({**figures(found), "name": name})
    else:
        _show(found, name)


def _of_event(facts: "Facts", event: str, now: dt.datetime) -> "Question":
    """Return the question about the window of an event."""
    from aggregator.collection.explanation import Question

    place = facts.place(event, now)
    if place is None:
        raise UsageError(
            f"The ledger has no event {event}: give its number, as `aggregator events list` shows it, or its identifier."
        )
    return Question(
        place.feed.meter, place.customer, place.window, now, live=True, sink=place.feed.sink, dimensions=place.dimensions
    )  # fmt: skip


def _of_range(
    facts: "Facts",
    meter: str | None,
    customer: str | None,
    window: dt.datetime | None,
    start: dt.datetime | None,
    end: dt.datetime | None,
    now: dt.datetime,
) -> "Question":
    """Return the question about a window, or about a range of them."""
    from aggregator.collection.explanation import Question, window_at

    if meter is None or customer is None:
        raise UsageError("Name the number: by METER and --customer, or by --event.")
    if window is not None:
        if start is not None or end is not None:
            raise UsageError("--window is a range already: give either that, or --from and --to.")
        return Question(meter, customer, window_at(facts, meter, window), now, live=True)
    if start is None:
        raise UsageError("Name the time: by --window, or by --from and --to.")
    span = span_until_today_ends(start, end, now)
    return Question(meter, customer, span, now, live=False)


@contextmanager
def _sources(config: "Config", ledger: "Ledger") -> "Iterator[Callable[[str], ExplainedSource | None]]":
    """Open the source of a meter when it is first asked for."""
    from aggregator.collection.explanation import ExplainedSource
    from aggregator.collection.mapped_source import MappedSource
    from aggregator.wiring.app import meter_of
    from aggregator.wiring.sources import build_source, by_cursor, reads_of

    with ExitStack() as stack:

        def source(name: str) -> "ExplainedSource | None":
            meter = config.meters.get(name)
            if meter is None:
                return None
            found = build_source(config, meter.source, "aggregator explain")
            stack.callback(found.close)
            known, feeds = meter_of(meter), ledger.facts.feeds(name)
            if not feeds:
                return ExplainedSource(found, known.unit, meter.detail_query)
            if known.sampling is not None:
                taken = reads_of(known, feeds[0].meter_id, found, ledger)
                return ExplainedSource(taken, known.unit, known.query)
            sums = None if known.deltas is None else by_cursor(known, feeds[0].meter_id, found, ledger)
            if feeds[0].meter_id not in ledger.customers.mapped_meters():
                return ExplainedSource(sums or found, known.unit, meter.detail_query)
            definitions = partial(ledger.facts.definitions, feeds[0])
            mapped = MappedSource(sums or found, ledger.customers, definitions)
            return ExplainedSource(mapped, known.unit, meter.detail_query, mapped.keys)

        yield source


def figures(found: "Explanation") -> dict[str, object]:
    """Return all of it for programs."""
    return {
        "as_of": found.as_of,
        "meter": found.meter,
        "customer": found.customer,
        **_span(found.span),
        "windows": [_figures(each) for each in found.stories],
        "plain": [each._asdict() for each in found.plain],
        "left_out": found.left_out,
        "notes": list(found.notes),
    }


def _span(span: "Span") -> dict[str, object]:
    return {"from": span.start, "to": span.end}


def _figures(each: "Story") -> dict[str, object]:
    """Return a window with its story, and with the facts that it was made of."""
    from aggregator.core import story

    facts = each.facts
    return {
        "meter": facts.meter,
        "sink": facts.sink,
        "customer": facts.customer,
        "dimensions": dict(facts.dimensions),
        **_span(facts.window),
        "headline": story.headline(facts),
        "used": facts.quantity,
        "billed": facts.billed,
        "under_way": facts.under_way,
        "waiting": facts.waiting,
        "carried": facts.carried,
        "story": [{"at": said.at, "text": said.text} for said in each.sentences],
        "events": [_event(event) for event in facts.events],
        "evidence": [{**kept._asdict(), "checksum": kept.digest} for kept in facts.evidence],
        "definition": facts.definition._asdict(),
        "query": each.query,
        "now": each.now and {**each.now._asdict(), "checksum": story.digest(each.now.checksum)},
        "rows": each.detail
        and {**each.detail._asdict(), "rows": [list(map(_cell, row)) for row in each.detail.rows]},
    }


def _event(event: "EventFact") -> dict[str, object]:
    return {
        **event._asdict(),
        "planned_by": event.planned_by and event.planned_by._asdict(),
        "tries": [each._asdict() for each in event.tries],
        "parked": event.parked and event.parked._asdict(),
        "cancelling": [each._asdict() for each in event.cancelling],
        "decided": [each._asdict() for each in event.decided],
    }


def _cell(value: object) -> object:
    """Return a value of a source as programs have it."""
    return value if value is None or isinstance(value, str | int | float | bool) else plain_value(value)


def _show(found: "Explanation", name: str | None) -> None:
    """Print the stories one after the other, and what is to be said of the rest."""
    from aggregator.core.shown import counted
    from aggregator.core.story import amount

    if name is not None:
        say(f"{found.customer} is {name}.")
    for each in found.stories:
        for line in story_lines(each):
            say(line)
        _show_rows(each)
        say()
    for rest in found.plain:
        windows = counted(rest.windows, "other window" if found.stories else "window")
        were = "was" if rest.windows == 1 else "were"
        say(
            f"{windows} of {rest.meter} for {found.customer} to {rest.sink} {were} read once and "
            f"billed at once: {amount(rest.quantity)} used, {amount(rest.billed)} billed."
        )
    if found.left_out:
        has = "window has" if found.left_out == 1 else "windows have"
        say(f"{found.left_out:,} more {has} a story; see --limit, or give a shorter range.")
    for note in found.notes:
        say(note)


def story_lines(each: "Story") -> "Iterator[str]":
    """Yield the lines of a story for a person, each short enough to be read in a letter."""
    from aggregator.core import dimensions as apart_by
    from aggregator.core import story

    facts = each.facts
    yield story.headline(facts)
    yield story.balance(facts)
    yield ""
    for said in each.sentences:
        first = story.moment(said.at) if said.at else "now"
        yield from textwrap.wrap(
            said.text,
            WIDTH,
            initial_indent=f"  {first:<{INDENT - 2}}",
            subsequent_indent=" " * INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
    yield ""
    for event in facts.events:
        request = f", request {event.request_id}" if event.request_id else ""
        yield f"  event {event.id} ({event.state.replace('_', ' ')}) is {event.identifier} at {facts.sink}{request}"
    if facts.events:
        yield ""
    since = (
        ""
        if facts.definition.since.year < 1971
        else f", in force since {story.moment(facts.definition.since)}"
    )
    whose = f"; this is its row of {apart_by.shown(facts.dimensions)}" if facts.dimensions else ""
    yield f"  The query{since}, to be pasted into the source{whose}:"
    yield ""
    for line in each.query.splitlines():
        yield f"    {line}"


def _show_rows(each: "Story") -> None:
    """Print the rows behind a window, if there are any to be shown."""
    detail = each.detail
    if detail is None:
        return
    say()
    if detail.trouble is not None:
        say(f"  The rows behind it cannot be shown: {detail.trouble}")
        return
    of_all = ", of all combinations" if each.facts.dimensions else ""
    show_table(f"rows behind it{of_all}", dict.fromkeys(detail.columns, "left"), detail.rows)
    if detail.more:
        say("There are more rows; see --rows.")
