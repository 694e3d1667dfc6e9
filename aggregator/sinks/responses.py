"""What a call to a far side came to, for sinks of any kind: a judgement, or silence.

Rules
- What may have been carried out is UNKNOWN. Only a call of which no byte can have left is BUSY without an answer.
"""

import math
from typing import NamedTuple

from aggregator.core.model import Answer

LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""A sink's wish is honoured up to here; a slip in a header must not park usage for days."""


class NoResponse(NamedTuple):
    """No answer at all. `left` says whether a byte of the request may have left."""

    left: bool
    what: str


class Response(NamedTuple):
    """A verdict on what was sent, and what it means beyond that: slow down, or halt the sink for the reason given."""

    answer: Answer
    reason: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    throttled: bool = False
    halt: str | None = None


def no_longer_fed(meter: str, sink: str) -> Response:
    """Judge an event whose meter the configuration has taken off its sink."""
    return Response(Answer.BUSY, f"meter {meter} no longer feeds sink {sink}: put it back")


def judge_silence(silence: NoResponse) -> Response:
    """Judge a call that came back without an answer."""
    return Response(Answer.UNKNOWN if silence.left else Answer.BUSY, silence.what)


def wished_seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header in seconds; its other form, a date, is of no use without the sender's clock."""
    try:
        seconds = float(retry_after or "nan")
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_AFTER_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None
