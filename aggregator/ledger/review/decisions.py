"""What people decided about events that waited: who it was, and why, for as long as the ledger lasts.

A decision is written in the transaction that carries it out, and names the events that it changed.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from aggregator.ledger.database import Connection, Part
from aggregator.runtime.redact import storable

LONGEST_REASON = 500
"""Characters that are kept of a reason, and of a name."""

NOTE = """
insert into aggregator.decision (decided_at, verb, who, reason, events)
values (%(now)s, %(verb)s, %(who)s, %(reason)s, %(events)s)
"""

# The newest decision about each of some events.
ABOUT = """
select distinct on (named.event) named.event, verb, who, reason, decided_at
  from unnest(%(events)s::bigint[]) as named (event)
  join aggregator.decision on decision.events @> array[named.event]
 order by named.event, decision.id desc
"""

LATEST = """
select verb, who, reason, decided_at, cardinality(events), events[1:%(named)s]
  from aggregator.decision order by id desc limit %(limit)s
"""


class Verb(StrEnum):
    """What was decided."""

    RELEASE = "release"
    DISMISS = "dismiss"
    CANCEL = "cancel"
    MARK_ACCEPTED = "mark-accepted"
    MARK_MISSING = "mark-missing"
    GIVE_UP = "give-up"
    CONFIRM = "confirm"
    REJECT = "reject"
    MOVE = "move"


DONE = {
    Verb.RELEASE: "released",
    Verb.DISMISS: "dismissed",
    Verb.CANCEL: "cancelled",
    Verb.MARK_ACCEPTED: "marked as accepted",
    Verb.MARK_MISSING: "marked as missing",
    Verb.GIVE_UP: "given up",
    Verb.CONFIRM: "confirmed with its file",
    Verb.REJECT: "said not to be taken from its file",
    Verb.MOVE: "said to be in no file at the former place",
}
"""What was done with an event, in a sentence."""


class Decider(NamedTuple):
    """Who decides, and why, if that is said."""

    who: str
    reason: str | None = None


class Decision(NamedTuple):
    """What somebody decided about an event."""

    event: int
    verb: Verb
    who: str
    reason: str | None
    at: dt.datetime

    def describe(self) -> str:
        """Say it in a sentence."""
        return f"{DONE[self.verb]} by {self.who} at {self.at:%Y-%m-%d %H:%M}Z" + (
            f": {self.reason}" if self.reason else ""
        )


class DecidedEvents(NamedTuple):
    """One decision, how many events it was about, and the first of them."""

    verb: Verb
    who: str
    reason: str | None
    at: dt.datetime
    number: int
    events: list[int]


class Decisions(Part):
    """The questions about decisions."""

    def about(self, events: Iterable[int]) -> dict[int, Decision]:
        """Return the newest decision about each of these events, of those about which there is one."""
        rows = self._rows(ABOUT, {"events": list(events)})
        return {row[0]: Decision(row[0], Verb(row[1]), *row[2:]) for row in rows}

    def latest(self, limit: int, named: int = 5) -> list[DecidedEvents]:
        """Return the newest decisions, each with the first `named` events."""
        rows = self._rows(LATEST, {"limit": limit, "named": named})
        return [DecidedEvents(Verb(row[0]), *row[1:]) for row in rows]


def note(
    connection: Connection, verb: Verb, events: Sequence[int], decider: Decider | None, now: dt.datetime
) -> None:
    """Write down what was decided about these events, unless there are none, or nobody says who decides."""
    if not events or decider is None:
        return
    reason = storable(decider.reason or "").strip()[:LONGEST_REASON] or None
    values = {
        "now": now,
        "verb": verb.value,
        "who": storable(decider.who)[:LONGEST_REASON],
        "reason": reason,
        "events": sorted(events),
    }
    connection.execute(NOTE, values)
