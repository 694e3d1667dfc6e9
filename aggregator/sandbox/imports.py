"""Import sets: the snapshot events that tell how a bulk import went, and `GET /v1/events`, which lists them.

From docs.stripe.com/billing/subscriptions/usage-based/recording-usage-in-bulk: `data_management.import_set.failed` with a
`failed_reason`, and `data_management.import_set.succeeded`, of status `succeeded_with_errors` if rows were bad, with their
number and a file of them. From docs.stripe.com/api/events/list: events of the last 30 days, newest first, in pages, with
filters. That the list has these types at all, and where in an import set its file is named, is assumed.

Nothing is imported here: a control call says what an import came to.
"""

from collections.abc import Mapping, Sequence

from aggregator.sandbox.checks import is_count, require
from aggregator.sandbox.errors import invalid
from aggregator.sandbox.form import Params
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.paging import PARAMS as PAGING
from aggregator.sandbox.paging import Row, page
from aggregator.sandbox.rules import Rules

FAILED, SUCCEEDED = "data_management.import_set.failed", "data_management.import_set.succeeded"
STATUSES = ("failed", "succeeded", "succeeded_with_errors")
WANTED = ("status", "file", "reason", "errors")

KEEP_SECONDS = 30 * 86400
MOST_TYPES = 20
BOUNDS = ("gt", "gte", "lt", "lte")
URL = "/v1/events"


class Imports:
    """The snapshot events of one account and mode."""

    def __init__(self, tag: str, account: str | None, note: Note) -> None:
        self._tag = tag
        self._account = account
        self._note = note
        self._events: list[Row] = []

    def make(self, wanted: Mapping[str, object], now: int) -> Row:
        """Say what an import came to. Raise ValueError for what makes no sense."""
        unknown = sorted(set(wanted) - set(WANTED))
        if unknown:
            raise ValueError(f"Unknown: {', '.join(unknown)}. Known: {', '.join(WANTED)}.")
        status, errors = wanted.get("status"), wanted.get("errors", 0)
        require(status in STATUSES, "status", f"one of {', '.join(STATUSES)}")
        require(is_count(errors), "errors", "a count")
        number = len(self._events) + 1
        name = f"{self._tag}{number:08d}"
        event: Row = {
            "id": f"evt_{self._tag}import_{number:08d}",
            "object": "event",
            "api_version": "2026-10-28.endive",
            "created": now,
            "data": {
                "object": {
                    "id": f"impset_{name}",
                    "object": "data_management.import_set",
                    "created": now,
                    "failed_reason": wanted.get("reason"),
                    "file": {"id": f"file_{name}", "filename": wanted.get("file")},
                    "livemode": self._tag.startswith("live"),
                    "result": {"errors": {"row_count": errors, "file_id": f"file_errors_{name}"}},
                    "status": status,
                }
            },
            "livemode": self._tag.startswith("live"),
            "pending_webhooks": 0,
            "request": {"id": None, "idempotency_key": None},
            "type": FAILED if status == "failed" else SUCCEEDED,
        }
        if self._account is not None:
            event["account"] = self._account
        self._note("import", {"event": event})
        self._events.append(event)
        return event

    def since(self, cursor: tuple[int, int]) -> tuple[list[Row], tuple[int, int]]:
        """Return the events that came to be since, and where to go on from next time; (0, 0) is the start."""
        return self._events[cursor[0] :], (len(self._events), 0)

    def page(self, params: Params, now: float, rules: Rules) -> dict[str, object]:
        """Return the page of events that the parameters ask for."""
        params.only("type", "types", "created", "delivery_success", *PAGING)
        types = _types(params, rules)
        bounds = _bounds(params.section("created"))
        wanted = [
            event
            for event in reversed(self._events)
            if (types is None or event["type"] in types)
            and _made_at(event) > now - KEEP_SECONDS
            and all(_holds(name, _made_at(event), bound) for name, bound in bounds.items())
        ]
        return page(wanted, params, URL)

    def restore(self, record: Record) -> None:
        """Take an event back from the state file."""
        self._events.append(record["event"])


def _types(params: Params, rules: Rules) -> Sequence[str] | None:
    one, several = params.text("type"), params.texts("types", most=MOST_TYPES)
    if one is not None and several is not None:
        raise invalid("Give type or types, not both.", "type")
    types = [one] if one is not None else several
    if types is not None and not rules.import_events_listed and {FAILED, SUCCEEDED} & set(types):
        raise invalid("types names a type of event that cannot be listed.", "types")
    return types


def _bounds(created: Params) -> dict[str, int]:
    created.only(*BOUNDS)
    given = {name: created.integer(name) for name in BOUNDS}
    return {name: bound for name, bound in given.items() if bound is not None}


def _holds(name: str, at: int, bound: int) -> bool:
    return (at == bound and name in {"gte", "lte"}) or (at > bound if name[0] == "g" else at < bound)


def _made_at(event: Row) -> int:
    created = event["created"]
    assert isinstance(created, int)
    return created
