"""Pages that say whether numbers are right: what sinks hold beside what was sent, and why a number is what it is."""

from typing import cast

from aggregator.collection.explanation import ExplainedSource, Question, Source, explain, window_at
from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.sampled import SampledSource
from aggregator.core import story
from aggregator.core.drift import NAMES
from aggregator.core.explanation import Story
from aggregator.web.application import Refused
from aggregator.web.asking import instant_of, period_of
from aggregator.web.site import Asked, Backend, Page

MOST_DIFFERENCES = 100
MOST_STORIES = 10
LONGEST_ID = 200


def reconciliation(backend: Backend, asked: Asked) -> Page:
    """Show what the daemon has found by comparing sinks' own totals with what they accepted, and how far it is."""
    checks = backend.ledger.checks
    drift = checks.drift(MOST_DIFFERENCES + 1)
    values = {
        "drift": drift[:MOST_DIFFERENCES],
        "more": len(drift) > MOST_DIFFERENCES,
        "apart": any(each.dimensions for each in drift[:MOST_DIFFERENCES]),
        "coverage": checks.coverage(),
        "names": {cause.value: name for cause, name in NAMES.items()},
        "now": asked.now,
    }
    return Page("reconciliation.html", values)


def explanation(backend: Backend, asked: Asked) -> Page:
    """Tell why a customer's number is what it is: of an event's window, of a window, or of a month. Asks no source."""
    question = _question(backend, asked)
    if question is None:
        return Page("explain.html", {"found": None, "now": asked.now})
    found = explain(
        backend.ledger.facts, question, backend.config.meters, lambda meter: _source(backend, meter)
    )
    return Page(
        "explain.html", {"found": found, "stories": list(map(_described, found.stories)), "now": asked.now}
    )


def _source(backend: Backend, meter: str) -> ExplainedSource | None:
    """Return where a meter is read: its query is written as that database takes it."""
    found = backend.source_of(meter) if backend.source_of else None
    if found is None:
        return None
    keys = found.source.keys if isinstance(found.source, MappedSource) else None
    shows_rows = backend.config.meters[meter].detail_query
    if isinstance(found.source, SampledSource):
        shows_rows = found.definitions[-1].query  # by which the samples behind a number are shown
    return ExplainedSource(cast("Source", found.source), found.unit, shows_rows, keys)


def _described(each: Story) -> dict[str, object]:
    return {"story": each, "headline": story.headline(each.facts), "balance": story.balance(each.facts)}


def _question(backend: Backend, asked: Asked) -> Question | None:
    facts, query = backend.ledger.facts, asked.query
    event, meter, customer = query.get("event", "").strip(), query.get("meter"), query.get("customer")
    if event:
        place = facts.place(event[:LONGEST_ID], asked.now) if "\0" not in event else None
        if place is None:
            raise Refused(404, f"the ledger has no event {event[:LONGEST_ID]}")
        return Question(
            place.feed.meter, place.customer, place.window, asked.now, live=False, sink=place.feed.sink,
            stories=MOST_STORIES, dimensions=place.dimensions,
        )  # fmt: skip
    if not meter or not customer:
        return None
    window = query.get("window")
    span = window_at(facts, meter, instant_of(window)) if window else period_of(asked).span
    return Question(meter, customer, span, asked.now, live=False, stories=MOST_STORIES)
