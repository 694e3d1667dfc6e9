"""Faults on demand: what goes wrong with one request is drawn before the request is looked at further.

The same seed and the same requests in the same order give the same faults. What each fault means is told at
`FaultSettings`; `docs.stripe.com/rate-limits` is where the 429 comes from.
"""

from random import Random
from typing import NamedTuple

from aggregator.sandbox.checks import Seconds
from aggregator.sandbox.clock import monotonic
from aggregator.sandbox.errors import ApiError, server_error, too_many_requests
from aggregator.sandbox.settings import FaultSettings


class Luck(NamedTuple):
    """What happens to one request that is not refused outright; None where something does not happen."""

    latency_seconds: float = 0.0
    drop_before: bool = False
    error_after: bool = False
    drop_after: bool = False
    late_seconds: float = 0.0
    arrives_after_seconds: float | None = None
    again_after_seconds: float | None = None
    found_invalid_after_seconds: float | None = None


SPARED = Luck()
LOST = Luck(drop_before=True)
UNANSWERED = Luck(drop_after=True)


class Faults:
    """Draws the luck of each request. `struck` counts the strikes of chances, not latency or the rate limit."""

    def __init__(self, settings: FaultSettings) -> None:
        self.replace(settings)

    def replace(self, settings: FaultSettings) -> None:
        """Start anew with these settings: the random numbers from the seed, the count of strikes from 0."""
        self.settings = settings
        self.struck = 0
        self._random = Random(settings.seed)  # noqa: S311 - chance for tests, no secret
        self._tokens = max(settings.rate_limit_per_second or 0.0, 1.0)
        self._filled_at = monotonic()
        self._calm = settings == FaultSettings(seed=settings.seed)

    def draw(self, customer: str | None, *, is_event: bool) -> Luck:
        """Return the luck of one request. Raise ApiError when it is to be refused before anything is done."""
        settings = self.settings
        if self._calm:
            return SPARED
        if settings.black_hole:
            return UNANSWERED if settings.black_hole_processes else LOST
        if not (is_event or settings.applies_to == "all"):
            return SPARED
        if customer in settings.refuse_customers:
            raise ApiError(400, settings.refuse_message, reason="refused_customer")
        self._limit_rate()
        touched = not settings.only_customers or customer in settings.only_customers
        luck = self._draw() if touched else SPARED
        if not is_event:
            return luck
        if customer in settings.reject_customers or (touched and self._strikes(settings.reject_later)):
            return luck._replace(found_invalid_after_seconds=self._within(settings.reject_after_seconds))
        return luck

    def _draw(self) -> Luck:
        settings = self.settings
        if self._strikes(settings.too_many_requests):
            raise too_many_requests(settings.too_many_requests_code, retry=settings.retry_header)
        if self._strikes(settings.error_before):
            raise server_error("error_before")
        return Luck(
            latency_seconds=self._within(settings.latency_seconds),
            drop_before=self._strikes(settings.drop_before),
            error_after=self._strikes(settings.error_after),
            drop_after=self._strikes(settings.drop_after),
            late_seconds=settings.late_seconds if self._strikes(settings.late) else 0.0,
            arrives_after_seconds=self._delivery(settings.deliver_late),
            again_after_seconds=self._delivery(settings.deliver_twice),
        )

    def _delivery(self, chance: float) -> float | None:
        return self._within(self.settings.late_delivery_seconds) if self._strikes(chance) else None

    def _strikes(self, chance: float) -> bool:
        if not chance or self.struck == self.settings.times or self._random.random() >= chance:
            return False
        self.struck += 1
        return True

    def _within(self, seconds: Seconds) -> float:
        return self._random.uniform(*seconds) if isinstance(seconds, tuple) else seconds

    def _limit_rate(self) -> None:
        """Take a token from a bucket that holds one second's worth, or refuse."""
        rate = self.settings.rate_limit_per_second
        if rate is None:
            return
        now = monotonic()
        self._tokens = min(max(rate, 1.0), self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1.0:
            raise too_many_requests("rate_limit", retry=self.settings.retry_header)
        self._tokens -= 1.0
