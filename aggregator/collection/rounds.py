"""What a round of collection came to: counts, how far the meter is, and what is news. No I/O."""

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal

from aggregator.core.model import ZERO, Span
from aggregator.ledger.passes.stats import PassCounts, Tally


@dataclass(slots=True)
class Collected(PassCounts):
    """What one round of collection did for one meter."""

    meter: str
    mark: dt.datetime | None = None
    spans: int = 0
    changed: int = 0
    planned: int = 0
    oldest_deferred: dt.datetime | None = None
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
    silent_since: dt.datetime | None = None
    """Since when there has been no usage, if there always was some before; `silent_anew` if that is news."""
    silent_customers: int = 0
    """Customers without usage that always had some at this hour; and how many of them are news."""
    silent_customers_anew: int = 0
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
    taken: int = 0
    """Rows that were taken in by a cursor."""
    missed: Decimal = ZERO
    """What a recount found that the cursor had not; `taken_back`, what it did not find any more."""
    taken_back: Decimal = ZERO
    touched: int = 0
    """Windows that the source named as touched."""
    missed_by_changed: int = 0
    """Windows in which a full reading found what it had never named; `missed_from`, the oldest of them."""
    missed_from: dt.datetime | None = None
    differed: set[dt.datetime] = field(default_factory=set)
    """Windows that had been read, and of which the source says another number by now."""
    shown_until: dt.datetime | None = None
    """Up to when each reading of the round surely showed everything, as far as the source says so."""

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
                for name in (
                    *("held", "refused", "shadow", "deferred", "guarded", "beyond", "unread", "taken"),
                    *("touched", "missed_by_changed"),
                )
                if (count := getattr(self, name))
            },
            **({"missed_from": self.missed_from.isoformat()} if self.missed_from else {}),
            **{name: str(quantity) for name in ("missed", "taken_back") if (quantity := getattr(self, name))},
        }

    @property
    def needs_person(self) -> bool:
        """Whether events wait for somebody, a window could not be had, or the meter or a customer fell silent."""
        silent = self.silent_since or self.silent_customers
        return bool(self.held or self.refused or self.unread or silent)

    @property
    def leaves_work(self) -> bool:
        """Whether another process had the meter."""
        return self.busy

    def shown(self, seen: dt.datetime | None, touched: dt.datetime | None) -> dt.datetime | None:
        """Take into account what a reading surely showed; return `touched`, no later than each of the round's showed it."""
        if seen is not None:
            self.shown_until = min(seen, self.shown_until or seen)
        if touched is None or self.left_from is not None:
            return None
        if self.shown_until is None:
            return touched
        return min(touched, self.shown_until)

    def add(self, span: Span, tally: Tally) -> None:
        """Take one committed pass into account."""
        self.add_counts(tally)
        self.beyond_units += tally.beyond_units
        self.differed |= tally.differed
        self.spans += 1
        waiting = [start for start in (self.oldest_deferred, tally.oldest_deferred) if start is not None]
        self.oldest_deferred = min(waiting, default=None)
        if not tally.guarded:
            self.move(span)

    def move(self, span: Span) -> None:
        """Take into account that the mark went on behind a span, if it stood in it."""
        if self.mark is not None and span.start <= self.mark < span.end:
            self.mark = span.end
            self.moved = True
