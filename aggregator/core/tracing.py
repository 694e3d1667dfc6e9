"""What is told of a pass and of a claim to whoever traces them, and a tracer that takes note of nothing.

Rules
- No customer and no event is named, and no message of an error: those may hold what is a customer's, or a secret. Meters,
  sinks, spans and counts are all there is.
- What is noted changes nothing of the work: the work fills in what it knows, and whoever traces looks when it is over.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aggregator.core.model import Span


@dataclass(slots=True)
class PassTrace:
    """One pass over a span of a meter; what never came to be one, and did not fail, is not told."""

    meter: str
    kind: str
    span: Span
    outcome: str | None = None
    """None before anything of the span was read; `committed`; `nothing` if the source does not show the span yet; `too_long`
    if it took the source too long as a whole; or `failed`."""
    pass_id: int | None = None
    """The number of its record in the ledger, once it is committed."""
    read_seconds: float | None = None
    """How long the source took."""
    figures: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class ClaimTrace:
    """One claim on what a sink is owed, and what became of it."""

    sink: str
    claim: int | None = None
    """None if nothing was claimed: that is no claim, and is not told."""
    meters: Callable[[], Iterable[str]] = tuple
    """Of which meters its events are, where that is known."""
    outcome: str = "failed"
    """`settled`; `nothing_taken` if all was handed back; `halted` if the sink refuses every call; or `failed`."""
    figures: Mapping[str, object] = field(default_factory=dict)
    planned_by: Callable[[], Sequence[int]] = tuple
    """Which passes planned its events, by the numbers of their records."""


class Tracing:
    """Takes note of nothing; others that do are made like it."""

    @contextmanager
    def a_pass(self, meter: str, kind: str, span: Span) -> Iterator[PassTrace]:
        """Trace one pass, for as long as it takes."""
        yield PassTrace(meter, kind, span)

    @contextmanager
    def a_claim(self, sink: str) -> Iterator[ClaimTrace]:
        """Trace one claim, for as long as it takes."""
        yield ClaimTrace(sink)


NO_TRACING = Tracing()
