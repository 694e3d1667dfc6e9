"""Which of two sinks sends a window, where customers move from one to the other at times of their own. Pure.

Rules
- A cutover has one instant, and both feeds go by it: windows that begin before it are sent by the one, all others by the
  other. Since it is one number, no window can be sent by both, and none by neither.
- Both feeds plan every window; the one that does not send plans in shadow. So each stays whole by itself, and the two can be
  compared before the cutover and after it.
- It lies where windows of every meter begin, and ahead of all that was read: what was planned is not taken back.
- A customer with a cutover of their own goes by that; everybody else goes by the one for all, if there is one, and else by
  the terms of the feed.
- Where the new sink is sent the windows before, too, because it makes no invoice of them yet, that is said (`parallel`).
"""

import datetime as dt
from collections.abc import Iterable
from typing import NamedTuple

from aggregator.core.feed_terms import FeedCoverage
from aggregator.core.windows import is_boundary


class Cutover(NamedTuple):
    """From when on a customer, or everybody else (None), is billed by another sink."""

    customer: str | None
    at: dt.datetime
    parallel: bool = False


class Crossing(NamedTuple):
    """A meter that feeds both sinks of a cutover, as it stands: what both feeds bill, and how far it was read."""

    meter: str
    window: dt.timedelta
    mark: dt.datetime
    old: FeedCoverage
    new: FeedCoverage


class Moves(NamedTuple):
    """The cutovers of one feed: the first that leads to it, the last that leads away, and whether one is for all."""

    first_to: dt.datetime | None
    last_from: dt.datetime | None
    everybody: bool


def is_shadow(cutover: Cutover | None, start: dt.datetime, *, leaves: bool, rest_shadowed: bool) -> bool:
    """Tell whether the window that begins at `start` is only planned by a feed, which a customer `leaves` or comes to.

    Without a cutover it is as the feed is for all others.
    """
    if cutover is None:
        return rest_shadowed
    if leaves:
        return cutover.at <= start
    return start < cutover.at and not cutover.parallel


def obstacles(
    at: dt.datetime, crossings: Iterable[Crossing], sinks: tuple[str, str], *, parallel: bool
) -> list[str]:
    """Say what is in the way of a cutover from one sink to the other at an instant, a sentence each."""
    return [said for each in crossings for said in _obstacles(at, each, *sinks, parallel=parallel)]


def _obstacles(at: dt.datetime, each: Crossing, old: str, new: str, *, parallel: bool) -> Iterable[str]:
    named, when = f"Meter {each.meter}", f"{at:%Y-%m-%dT%H:%MZ}"
    if not is_boundary(at, each.window):
        yield f"{named}: no window begins at {when}; take the beginning of a billing period that is one of a window, too."
    if at < each.mark:
        yield (
            f"{named} was read up to {each.mark:%Y-%m-%dT%H:%MZ}, so its windows from {when} on are planned already. Take "
            "a time that lies ahead of that."
        )
    if each.old.shadow or at < each.old.since or (each.old.until is not None and each.old.until < at):
        yield f"{named}: {old} does not bill it right up to {when} (`shadow`, `bill_from`, `bill_until`)."
    if at < each.new.since or (each.new.until is not None and each.new.until <= at):
        yield f"{named}: {new} does not take it from {when} on (`bill_from`, `bill_until`)."
    if parallel and each.new.shadow:
        yield f"{named}: {new} has it in shadow, so nothing is sent there before {when}: leave out --parallel."
    if not parallel and not each.new.shadow and each.new.since < at:
        yield (
            f"{named}: {new} is sent it before {when} as well. If its customers are unbillable there until then, say "
            "--parallel; else let it feed that sink with `shadow: true`."
        )


def why_not_terms(meter: str, sink: str, coverage: FeedCoverage, moves: Moves) -> str | None:
    """Say why a feed cannot have these terms, because of customers who move to it or away; None if it can."""
    if moves.first_to is not None:
        if moves.first_to < coverage.since or (
            coverage.until is not None and coverage.until <= moves.first_to
        ):
            return (
                f"Customers moved to {sink} with {meter} from {moves.first_to:%Y-%m-%dT%H:%MZ} on (`aggregator cutover "
                "list`): its `bill_from` and `bill_until` must leave that to it."
            )
        if not coverage.shadow and coverage.shadow_until is not None and not moves.everybody:
            return (
                f"{sink} is a shadow for customers of {meter} who have not moved to it. Before it can be none, say when all "
                "the others move: `aggregator cutover set --all`."
            )
    if moves.last_from is not None and (
        coverage.shadow or (coverage.until is not None and coverage.until < moves.last_from)
    ):
        return (
            f"{sink} bills customers of {meter} until they move, up to {moves.last_from:%Y-%m-%dT%H:%MZ} (`aggregator "
            "cutover list`): it must not end before, nor become a shadow."
        )
    return None
