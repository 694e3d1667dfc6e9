"""What a sink is: the far side's rules behind one method. One file per sink; `wiring` is the only place that names them.

There are two kinds. A `Sink` is sent events and says of each what became of it. A `FileSink` is given a batch whose members
never change, and makes one file of it.

Rules
- A sink sends the bytes it is given and says what it was told. It decides nothing about money: whether to try again,
  and when, is for `retry`; what is owed is for the planner.
- A sink yields one verdict per event, as soon as it knows it. What has left and came back without a usable answer is
  UNKNOWN, never refused. What never left is UNSENT.
- Right before an event leaves, the sink asks `may_leave`: it says no once the claim might run out before the answer comes,
  as after a long pause of the process, when another may be sending the same events. Then the event is UNSENT.
- A sink that is refused as a whole (key, permission, address) raises SinkHalted after it has given its verdicts on what
  left before.
- A file's name and bytes are a function of its events and their meters' settings, so that a batch that is written again
  makes the same file. It appears under its name whole or not at all, and never takes the place of another.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, Protocol, runtime_checkable

from aggregator.core.dimensions import Dimensions
from aggregator.core.model import Bounds, Event, Limits, Span, Verdict, Written


class Totals(Protocol):
    """What a sink says of itself, and of what it has counted."""

    name: str
    limits: Limits
    """What holds for the sink as a whole: above all how much one `send` should be given."""

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for the events of one of our meters: its write model may be its own."""
        ...

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what the far side has counted of a meter for a customer; the span lies on whole minutes.

        Only where `limits.proof` says that the sink can be read back. Raises SinkError if it gives no number, and
        CustomerUnknown if that is so because it does not know this customer.
        """
        ...

    def breakdown(self, meter: str, customer: str, span: Span, step: timedelta) -> Mapping[datetime, Decimal]:
        """Return the same for each hour or day of the span in which anything was counted, by its start."""
        ...


class Admission(Protocol):
    """Whether the far side lets us in, to which account, and whether our meters fit it."""

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what the far side does not fit these meters: no event could be booked right. Raises SinkError."""
        ...

    def account(self) -> str | None:
        """Name the account and mode that everything goes to, as the far side has it; None if it does not say.

        Raises SinkError.
        """
        ...

    def resume(self) -> None:
        """Take events again after having been halted, if the far side lets us in by now: it is asked, and books nothing.

        Raises SinkHalted or SinkUnreachable as long as it does not; the sink stays halted then.
        """
        ...


class Readiness(NamedTuple):
    """Whether a customer can be billed by a sink: what keeps them from it, and what a person is to see to, in sentences."""

    missing: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


@runtime_checkable
class TakesCustomersOver(Protocol):
    """A sink that says of a customer whether they can be billed there from an instant on. Nothing is changed by asking."""

    def readiness(self, customer: str, at: datetime, now: datetime, *, parallel: bool) -> Readiness:
        """Say what is missing. With `parallel`, what was used before is sent too, and not to be billed. Raises SinkError."""
        ...


class Destination(Totals, Admission, Protocol):
    """What holds for a sink of either kind."""

    def stop(self) -> None:
        """Begin nothing new: what has not left is UNSENT from now on, what has left is waited for."""
        ...

    def close(self) -> None:
        """Give back connections and threads. Nothing is being sent by then."""
        ...


class Sink(Destination, Protocol):
    """Where events go one by one. `send` may be called from several threads at once."""

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Send events and yield a verdict on each, in any order. Raises SinkHalted, at the end, if all were refused."""
        ...


class Batch(NamedTuple):
    """What one file is to hold: the events, once through and in the order of their ids."""

    events: Iterable[Event]
    again: bool
    """Whether somebody has begun with this batch before, and may have left something."""


class FileSink(Destination, Protocol):
    """Where events go as files. `write` may be called from several threads at once, for different batches."""

    bounds: Bounds
    place: str
    """Where its files lie, in words: a batch that was begun in one place is not written in another."""
    by_hand: bool
    """Whether a person carries its files to where they are counted, and says so."""

    def bundles(self) -> Sequence[Mapping[str, int]]:
        """Return which meters may share a file, each with what a record of it takes besides what differs, in bytes."""
        ...

    def misfit(self, event: Event) -> str | None:
        """Say why an event cannot be written at all; None if it can."""
        ...

    def write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        """Make the file, unless it is there already; None if there is nothing to write, or it may not go on.

        Raises SinkUnreachable where another try may succeed, SinkHalted where a person must act.
        """
        ...


@runtime_checkable
class TellsCombinations(Protocol):
    """A sink that can tell what it has counted of each combination of a meter's dimensions."""

    def by_combination(
        self, meter: str, customer: str, span: Span, step: timedelta
    ) -> Mapping[Dimensions, Mapping[datetime, Decimal]] | None:
        """Return what `breakdown` does for each combination; None if it has no figures of its own for them.

        What events have that lack a dimension stands under those that they have. Raises as `breakdown` does.
        """
        ...


class Overview(NamedTuple):
    """What a sink says of a customer by a quick look."""

    figures: Mapping[datetime, Decimal]
    """As `breakdown` gives them."""
    fresh_to: datetime
    """Up to when it is fresh: what the sink took later need not be in it."""
    reads: int
    """How many calls it took; none if an earlier look at another meter had it."""


@runtime_checkable
class GivesOverviews(Protocol):
    """A sink that may have a quicker look at customers than `breakdown` is. It proves nothing: who sees a difference by it
    asks again."""

    def overview(self, meter: str, customer: str, span: Span, step: timedelta) -> Overview | None:
        """Return what a quick look shows; None if it is not set to have any.

        Raises NoOverview if there is none now, with a sentence unless the next figure will say why, or another SinkError.
        """
        ...


@runtime_checkable
class HasCaveats(Protocol):
    """A sink that may be able to send, and yet not to do all that it should. What it says stops nothing."""

    def cannot_promise(self) -> list[str]:
        """Say what cannot be relied on and what to do about it, a sentence each. Raises SinkError."""
        ...


@runtime_checkable
class Testable(Protocol):
    """A sink that can be tried out by an event to a customer who is never billed. Done only when a person asks for it."""

    def send_test_event(self, meter: str, now: datetime) -> str | None:
        """Send one event, and say what is wrong if it is not counted; None if it is. Raises SinkError."""
        ...
