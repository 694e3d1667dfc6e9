"""Thin events: what `GET /v2/core/events` lists, and what a webhook is told.

From docs.stripe.com/api/v2/core/events: the events of the last 30 days, by id or in pages, with filters. A notification is
an event without its `data`, which the receiver fetches. Newest first and twenty to a page are assumed.

The events are the reports of `reports`, and those a control call makes up, whose type nobody needs to know. One that says
that summaries are late makes them so: they show nothing that comes after it, until another says that they are on time.
"""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from aggregator.sandbox.errors import invalid, not_found
from aggregator.sandbox.form import Params
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.paging import Row, read_limit
from aggregator.sandbox.reports import Findings
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.times import instant, read_instant

KEEP_SECONDS = 30 * 86400
MOST_TYPES = 20
DEFAULT_LIMIT = 20
BOUNDS = ("gt", "gte", "lt", "lte")
PATH = "/v2/core/events"


LATE = "v2.core.health.meter_event_summaries_delayed.firing"
ON_TIME = "v2.core.health.meter_event_summaries_delayed.resolved"


class Filter(NamedTuple):
    """Which events a list call asks for."""

    types: list[str] | None
    object_id: str | None
    bounds: dict[str, float]

    def wants(self, event: Row) -> bool:
        """Say whether an event is asked for."""
        related = event["related_object"]
        return (
            (self.types is None or event["type"] in self.types)
            and (
                self.object_id is None or (isinstance(related, dict) and related.get("id") == self.object_id)
            )
            and all(_holds(name, made_at(event), bound) for name, bound in self.bounds.items())
        )


class Notifications:
    """The thin events of one account and mode."""

    def __init__(self, tag: str, context: str | None, findings: Findings, note: Note) -> None:
        self._tag = tag
        self._context = context
        self._findings = findings
        self._note = note
        self._made: list[Row] = []

    def all(self, now: float, rules: Rules) -> Sequence[Row]:
        """Return every event, the earliest first, those of one moment in the order in which they came to be."""
        reports = self._findings.reports(now, rules)
        return sorted([*reports, *self._made], key=made_at) if self._made else reports

    def since(self, cursor: tuple[int, int], now: float, rules: Rules) -> tuple[list[Row], tuple[int, int]]:
        """Return the events that came to be since, and where to go on from next time; (0, 0) is the start."""
        reports, made = self._findings.reports(now, rules), self._made
        return [*reports[cursor[0] :], *made[cursor[1] :]], (len(reports), len(made))

    def make(self, kind: str, now: float) -> Row:
        """Make up an event of a type."""
        event: Row = {
            "id": f"evt_{self._tag}made_{len(self._made) + 1:08d}",
            "object": "v2.core.event",
            "type": kind,
            "created": instant(now),
            "livemode": self._tag.startswith("live"),
            "context": self._context,
            "reason": None,
            "related_object": None,
            "data": {},
        }
        self._note("notification", {"event": event})
        self._made.append(event)
        return event

    def late_since(self) -> float | None:
        """Return since when summaries are said to be late; None if they are not, or not any more."""
        said = [event for event in self._made if event["type"] in {LATE, ON_TIME}]
        return made_at(said[-1]) if said and said[-1]["type"] == LATE else None

    def get(self, name: str, now: float, rules: Rules) -> Row:
        """Return an event by its id. Raise ApiError if there is none, or none any more."""
        for event in self._kept(now, rules):
            if event["id"] == name:
                return event
        raise not_found("event", name)

    def page(self, params: Params, now: float, rules: Rules) -> dict[str, object]:
        """Return the page of events that the parameters ask for."""
        params.only("types", "object_id", "created", "limit", "page")
        wanted, limit = _filter(params), read_limit(params, DEFAULT_LIMIT)
        if not rules.health_events_listed and {LATE, ON_TIME} & set(wanted.types or ()):
            raise invalid("types names a type of event that cannot be listed.", "types")
        events = [event for event in reversed(self._kept(now, rules)) if wanted.wants(event)]
        first, backwards = _start(params, events)
        if backwards:
            first, end = max(0, first - limit), first
        else:
            end = first + limit
        shown = events[first:end]
        later = _url(wanted, limit, f"after:{shown[-1]['id']}") if shown and end < len(events) else None
        earlier = _url(wanted, limit, f"before:{shown[0]['id']}") if shown and first > 0 else None
        return {"data": shown, "next_page_url": later, "previous_page_url": earlier}

    def restore(self, record: Record) -> None:
        """Take a made-up event back from the state file."""
        self._made.append(record["event"])

    def _kept(self, now: float, rules: Rules) -> list[Row]:
        return [event for event in self.all(now, rules) if made_at(event) > now - KEEP_SECONDS]


def made_at(event: Row) -> float:
    """Return when an event came to be, in unix seconds."""
    seconds = read_instant(str(event["created"]))
    assert seconds is not None
    return seconds


def notification(event: Row) -> Row:
    """Return what a webhook is told of an event."""
    return {key: value for key, value in event.items() if key != "data"}


def _filter(params: Params) -> Filter:
    created = params.section("created")
    created.only(*BOUNDS)
    bounds = {}
    for name in BOUNDS:
        text = created.text(name)
        if text is not None:
            seconds = read_instant(text)
            if seconds is None:
                where = created.name_of(name)
                raise invalid(f"{where} must be an RFC 3339 time with a zone, but it is {text!r}.", where)
            bounds[name] = seconds
    return Filter(params.texts("types", most=MOST_TYPES), params.text("object_id"), bounds)


def _holds(name: str, at: float, bound: float) -> bool:
    return (at == bound and name in {"gte", "lte"}) or (at > bound if name[0] == "g" else at < bound)


def _start(params: Params, events: Sequence[Row]) -> tuple[int, bool]:
    """Return where the page starts, or ends if it goes backwards."""
    cursor = params.text("page")
    if cursor is None:
        return 0, False
    direction, _, name = cursor.partition(":")
    for place, event in enumerate(events):
        if event["id"] == name and direction in {"after", "before"}:
            return (place, True) if direction == "before" else (place + 1, False)
    raise invalid("page must be taken from next_page_url or previous_page_url of this list.", "page")


def _url(wanted: Filter, limit: int, cursor: str) -> str:
    pairs: list[tuple[str, object]] = [("limit", limit), ("page", cursor)]
    pairs += [(f"types[{place}]", kind) for place, kind in enumerate(wanted.types or ())]
    pairs += [(f"created[{name}]", instant(bound)) for name, bound in wanted.bounds.items()]
    if wanted.object_id is not None:
        pairs.append(("object_id", wanted.object_id))
    return f"{PATH}?{urlencode(pairs)}"
