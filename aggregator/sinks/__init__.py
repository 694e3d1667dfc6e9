"""What a sink is: the far side's rules behind one method. One file per sink; `wiring` is the only place that names them.

Rules
- A sink sends the bytes it is given and says what it was told. It decides nothing about money: whether to try again,
  and when, is for `retry`; what is owed is for the planner.
- A sink yields one verdict per event, as soon as it knows it. What has left and came back without a usable answer is
  UNKNOWN, never refused. What never left is UNSENT.
- Right before an event leaves, the sink asks `may_leave`: it says no once the claim might run out before the answer comes,
  as after a long pause of the process, when another may be sending the same events. Then the event is UNSENT.
- A sink that is refused as a whole (key, permission, address) raises SinkHalted after it has given its verdicts on what
  left before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol, runtime_checkable

from aggregator.model import Event, Limits, Span, Verdict


class Sink(Protocol):
    """Where events go. `send` may be called from several threads at once."""

    name: str
    limits: Limits
    """What holds for the sink as a whole: above all how much one `send` should be given."""

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for the events of one of our meters: its write model may be its own."""
        ...

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Send events and yield a verdict on each, in any order. Raises SinkHalted, at the end, if all were refused."""
        ...

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what the far side does not fit these meters: no event could be booked right. Raises SinkError."""
        ...

    def account(self) -> str | None:
        """Name the account and mode that everything goes to, as the far side has it; None if it does not say.

        Raises SinkError.
        """
        ...

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Return what the far side has counted of a meter for a customer; the span lies on whole minutes.

        Only where `limits.proof` says that the sink can be read back. Raises SinkError if it gives no number.
        """
        ...

    def breakdown(self, meter: str, customer: str, span: Span, step: timedelta) -> Mapping[datetime, Decimal]:
        """Return the same for each hour or day of the span in which anything was counted, by its start."""
        ...

    def stop(self) -> None:
        """Begin nothing new: what has not left is UNSENT from now on, what has left is waited for."""
        ...

    def close(self) -> None:
        """Give back connections and threads. Nothing is being sent by then."""
        ...


@runtime_checkable
class Tried(Protocol):
    """A sink that can be tried out by an event to a customer who is never billed. Done only when a person asks for it."""

    def send_test_event(self, meter: str, now: datetime) -> str | None:
        """Send one event, and say what is wrong if it is not counted; None if it is. Raises SinkError."""
        ...
