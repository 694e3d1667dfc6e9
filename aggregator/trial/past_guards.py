"""What the guards of a meter would have held of past usage, had they been there. Pure: usage in, findings out.

Rules
- A guard judges as it does in a pass (`core.guards`), each window as if it were read for the first time: nothing of it was
  let go before. What is held of single customers is in no window's total, and what `max_per_customer_window` holds is never
  usual.
- Where nothing could be compared, for want of a history, a guard is not said to have held nothing: nothing was tried.
- `unusual_zero` holds nothing. Counted is whom it would have told of: who had usage in this hour of each week before.
- A guard that holds something in half of the windows with usage is below normal use: somebody would have to release usage
  all the time.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.guards import LEAST_WEEKS, WEEKS, beyond, limit_of
from aggregator.core.model import ZERO, Guard, Guards, Span
from aggregator.core.planner import plain
from aggregator.core.shown import counted, duration
from aggregator.trial.findings import Finding, Kind, Severity

Usage = Mapping[dt.datetime, Mapping[str, Decimal]]
"""What each customer used, by window."""


class Stretch(NamedTuple):
    """A stretch of closed windows, and the same stretch of each of the weeks before, if guards compare with those."""

    span: Span
    used: Usage
    weeks: Sequence[Usage] = ()
    whole: bool = True
    """Whether all of it has ended: who has no usage in a part of an hour may have some in the rest."""


@dataclass(slots=True)
class _Held:
    """What one guard would have held."""

    events: int = 0
    windows: set[dt.datetime] = field(default_factory=set)
    customers: set[str] = field(default_factory=set)
    most: Decimal = ZERO
    known: set[object] = field(default_factory=set)
    """The customers, or windows, that had something to be compared with; `unknown` are the others."""
    unknown: set[object] = field(default_factory=set)

    def compares(self, which: object, usual: Decimal | None) -> None:
        """Take into account whether a customer, or a window, has a history."""
        (self.unknown if usual is None else self.known).add(which)

    def add(self, window: dt.datetime, customers: Iterable[str], quantity: Decimal) -> None:
        """Take into account what is held of a window."""
        named = set(customers)
        self.events += len(named)
        self.customers |= named
        self.most = max(self.most, quantity)
        if named:
            self.windows.add(window)


def judged(stretches: Sequence[Stretch], guards: Guards) -> list[Finding]:
    """Say of each guard what it would have held in these stretches, the newest first. Nothing is said of no usage."""
    found: dict[Guard, _Held] = {
        guard: _Held() for guard, limit in _limits(guards).items() if limit is not None
    }
    windows: set[dt.datetime] = set()
    for each in stretches:
        usual, usual_total = _usual(each.weeks, guards)
        for window, used in each.used.items():
            windows.add(window)
            left = dict(used)
            for customer, quantity in used.items():
                if Guard.CHANGE in found:
                    found[Guard.CHANGE].compares(customer, usual.get(customer))
                guard = _tripped(quantity, usual.get(customer), guards)
                if guard is not None:
                    found[guard].add(window, [customer], quantity)
                    del left[customer]
            total = sum(left.values(), ZERO)
            times = guards.max_total_change
            if Guard.TOTAL in found:
                found[Guard.TOTAL].compares(window, usual_total)
            limit = None if times is None or usual_total is None else limit_of(times, usual_total, guards)
            if limit is not None and beyond(total, limit, ZERO):
                found[Guard.TOTAL].add(window, left, total)
    if not windows:
        return []
    span = Span(stretches[-1].span.start, stretches[0].span.end)
    said = [_finding(guard, held, guards, span, len(windows)) for guard, held in found.items()]
    return [*said, _silence(stretches, guards, span)] if guards.unusual_zero else said


def _limits(guards: Guards) -> dict[Guard, Decimal | None]:
    return {
        Guard.CUSTOMER: guards.max_per_customer_window,
        Guard.CHANGE: guards.max_change,
        Guard.TOTAL: guards.max_total_change,
    }


def _tripped(quantity: Decimal, usual: Decimal | None, guards: Guards) -> Guard | None:
    most, times = guards.max_per_customer_window, guards.max_change
    if most is not None and beyond(quantity, most, ZERO):
        return Guard.CUSTOMER
    if times is not None and usual is not None and beyond(quantity, limit_of(times, usual, guards), ZERO):
        return Guard.CHANGE
    return None


def _usual(weeks: Sequence[Usage], guards: Guards) -> tuple[dict[str, Decimal], Decimal | None]:
    """Return what was usual of each customer who has a history, and of a whole window."""
    of_customers: dict[str, list[Decimal]] = defaultdict(list)
    totals: list[Decimal] = []
    limit = guards.max_per_customer_window
    for week in weeks:
        most: dict[str, Decimal] = {}
        let_go = [
            {who: much for who, much in used.items() if limit is None or much <= limit}
            for used in week.values()
        ]
        for used in let_go:
            for customer, quantity in used.items():
                most[customer] = max(quantity, most.get(customer, ZERO))
        for customer, quantity in most.items():
            of_customers[customer].append(quantity)
        totals += [max(sums) for sums in [[sum(used.values(), ZERO) for used in let_go if used]] if sums]
    known = {who: max(each) for who, each in of_customers.items() if len(each) >= LEAST_WEEKS}
    return known, max(totals) if len(totals) >= LEAST_WEEKS else None


def _finding(guard: Guard, held: _Held, guards: Guards, span: Span, windows: int) -> Finding:
    limit = _limits(guards)[guard]
    assert limit is not None, "only what is configured is judged"
    name = f"`{guard.value}: {plain(limit)}{'' if guard is Guard.CUSTOMER else 'x'}`"
    last = _last(span)
    if not held.events:
        return Finding(Kind.GUARD, Severity.NOTE, f"{name} {_nothing(guard, held, last)}")
    what = f"{counted(held.events, 'event')} of {counted(len(held.customers), 'customer')}"
    in_windows = f"in {len(held.windows):,} of {counted(windows, 'window')}"
    most = f"{plain(held.most)} units at most"
    said = f"{name} would have held {what} {last}, {in_windows}: {most}"
    if windows >= LEAST_WINDOWS and 2 * len(held.windows) >= windows:
        cure = "That is below normal use, and you would have to release usage all the time: set it higher"
        return Finding(Kind.GUARD, Severity.WARNING, f"{said}. {cure}")
    return Finding(
        Kind.GUARD,
        Severity.NOTE,
        f"{said}. You would see them with `aggregator events list`, and send them with `events release`",
    )


def _last(span: Span) -> str:
    return f"in the last {duration(span.end - span.start)} of usage ({span})"


def _nothing(guard: Guard, held: _Held, last: str) -> str:
    """Say that nothing would have been held, or that nothing could be compared."""
    what = "window" if guard is Guard.TOTAL else "customer"
    if held.unknown and not held.known:
        return (
            f"has nothing to compare with yet {last}: no {what} had usage at the same hour in {LEAST_WEEKS} of the {WEEKS} "
            "weeks before that"
        )
    short = held.unknown - held.known
    beside = f"; {len(short):,} of {counted(len(short | held.known), what)} had no history to compare with"
    return f"would have held nothing {last}{beside if short else ''}"


def _silence(stretches: Sequence[Stretch], guards: Guards, span: Span) -> Finding:
    """Say of whom `unusual_zero` would have told."""
    looked, noticed, customers, known = 0, 0, set[str](), False
    for each in stretches:
        if not each.whole or len(each.weeks) < WEEKS:
            continue
        looked += 1
        weekly = [_sums(week) for week in each.weeks]
        always = {who for who in weekly[0] if all(who in week for week in weekly)}
        known = known or bool(always)
        silent = {
            who
            for who in always - _sums(each.used).keys()
            if min(week[who] for week in weekly) >= guards.unusual_from
        }
        noticed += bool(silent)
        customers |= silent
    name, last = "`unusual_zero: true`", _last(span)
    if not known:
        why = f"no customer had usage at the same hour in each of the {WEEKS} weeks before"
        return Finding(Kind.GUARD, Severity.NOTE, f"{name} has nothing to compare with yet {last}: {why}")
    if not customers:
        return Finding(Kind.GUARD, Severity.NOTE, f"{name} would have reported nobody {last}")
    of = f"{counted(len(customers), 'customer')}, such as {min(customers)!r}"
    said = f"{name} would have reported {of}, {last}, in {noticed:,} of {counted(looked, 'stretch', 'stretches')}"
    if looked >= LEAST_WINDOWS and 2 * noticed >= looked:
        cure = "It is normal that some have none, and you would soon ignore it: set `unusual_from` higher"
        return Finding(Kind.GUARD, Severity.WARNING, f"{said}. {cure}")
    return Finding(Kind.GUARD, Severity.NOTE, said)


def _sums(used: Usage) -> dict[str, Decimal]:
    """Return what each customer used in a stretch."""
    sums: dict[str, Decimal] = {}
    for window in used.values():
        for customer, quantity in window.items():
            sums[customer] = sums.get(customer, ZERO) + quantity
    return sums


LEAST_WINDOWS = 3
"""Of fewer windows nobody can say what is normal."""
