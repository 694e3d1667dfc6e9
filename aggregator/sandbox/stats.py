"""Counters: what the sandbox was asked and what it did with it, since it started or was reset."""

from collections import Counter
from dataclasses import dataclass, field

from aggregator.sandbox.errors import ApiError


@dataclass
class Stats:
    """Counts of `/v1` and other Stripe calls; the control calls are not counted."""

    requests: int = 0
    dropped: int = 0
    replayed: int = 0
    delivered_late: int = 0
    in_flight: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def refuse(self, error: ApiError) -> None:
        """Count a refusal by its status and by its reason."""
        self.answered[error.status] += 1
        self.refused[error.reason] += 1

    def json(self) -> dict[str, object]:
        """Return the counters; duplicates, 429 and 500 stand apart from the other refusals."""
        apart = {"duplicate_identifier", "rate_limit", "lock_timeout", "error_before", "error_after"}
        return {
            "requests": self.requests,
            "in_flight": self.in_flight,
            "duplicates_refused": self.refused["duplicate_identifier"],
            "refused": {reason: count for reason, count in self.refused.items() if reason not in apart},
            "dropped": self.dropped,
            "replayed": self.replayed,
            "delivered_late": self.delivered_late,
            "answered_429": self.answered[429],
            "answered_500": self.answered[500],
        }
