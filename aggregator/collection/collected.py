"""What one round of collection did for one meter, for the log and for whoever asked for it."""

import datetime as dt
from dataclasses import dataclass, field

from aggregator.core.model import Span
from aggregator.ledger.passes.stats import Tally


@dataclass(slots=True)
class Collected:
    """What one round of collection did for one meter."""

    meter: str
    mark: dt.datetime | None = None
    spans: int = 0
    rows: int = 0
    changed: int = 0
    planned: int = 0
    corrections: int = 0
    held: int = 0
    refused: int = 0
    shadow: int = 0
    """Events that are never sent."""
    deferred: int = 0
    oldest_deferred: dt.datetime | None = None
    aside: int = 0
    """Rows that can be billed to nobody."""
    guarded: int = 0
    """Windows that shrank so much that a second reading must confirm it."""
    unread: int = 0
    """Windows that the source could not give."""
    waits_for: str | None = None
    """What in the source keeps windows waiting that have settled."""
    waits_anew: bool = False
    """They began to wait with this round."""
    unfenced: bool = False
    """Windows were read without waiting any longer."""
    left_from: dt.datetime | None = None
    """From where on something was left that the source has not proven to show; and why."""
    left_why: str | None = None
    silent_since: dt.datetime | None = None
    """Since when there has been no usage, if there always was some before; `silent_anew` if that is news."""
    silent_anew: bool = False
    lost: list[str] = field(default_factory=list)
    """What sinks lack that the source no longer has, in words, if that is news."""
    unstable: list[str] = field(default_factory=list)
    """By what queries are proven to change by themselves, in words, if that is news."""
    moved: bool = False
    """The mark moved."""
    took_from: str | None = None
    """Whose session had to be ended, in words: it held the meter in silence."""
    busy: bool = False
    """Another process has the meter."""

    def figures(self) -> dict[str, object]:
        """Return what is worth a line in the log."""
        return {
            "meter": self.meter,
            "mark": self.mark.isoformat() if self.mark else None,
            "rows": self.rows,
            "changed": self.changed,
            "planned": self.planned,
            **({"left_from": self.left_from.isoformat()} if self.left_from else {}),
            **{
                name: count
                for name in ("held", "refused", "shadow", "deferred", "guarded", "unread")
                if (count := getattr(self, name))
            },
        }

    def add(self, span: Span, tally: Tally) -> None:
        """Take one committed pass into account."""
        self.spans += 1
        self.rows += tally.rows
        self.changed += tally.changed
        self.planned += tally.planned
        self.corrections += tally.corrections
        self.held += tally.held
        self.refused += tally.refused
        self.shadow += tally.shadow
        self.deferred += tally.deferred
        self.aside += tally.aside
        self.guarded += tally.guarded
        waiting = [start for start in (self.oldest_deferred, tally.oldest_deferred) if start is not None]
        self.oldest_deferred = min(waiting, default=None)
        if not tally.guarded:
            self.move(span)

    def leave(self, since: dt.datetime, why: str | None) -> None:
        """Note that a reading left what lies behind an instant."""
        if self.left_from is None or since < self.left_from:
            self.left_from, self.left_why = since, why

    def move(self, span: Span) -> None:
        """Take into account that the mark went on behind a span, if it stood in it."""
        if self.mark is not None and span.start <= self.mark < span.end:
            self.mark = span.end
            self.moved = True
