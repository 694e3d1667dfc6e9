"""Faults on demand: what goes wrong with one request is drawn before the request is looked at further.

The same seed and the same requests in the same order give the same faults. What each fault means is told at
`FaultSettings`; `docs.stripe.com/rate-limits` is where the 429 comes from.
"""

from collections.abc import Set as AbstractSet
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
    each_may_be_found_invalid: bool = False


class Victim(NamedTuple):
    """A call that something may happen to. `events` is how many it brings, 0 if it is of another kind.

    `account` is whose rate limit it takes from; `connected` says that a header named that account.
    """

    account: str
    customers: AbstractSet[str | None] = frozenset()
    events: int = 0
    streams: bool = False
    connected: bool = False


class Bucket:
    """The tokens of one rate limit: one second's worth at most. What comes at once may overdraw it."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = max(rate, 1.0)
        self._filled_at = monotonic()

    def takes(self, count: int) -> bool:
        """Take so many tokens, or say that there is none."""
        now = monotonic()
        self._tokens = min(max(self._rate, 1.0), self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= count
        return True


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
        self._buckets: dict[tuple[str, bool, float], Bucket] = {}
        self.calm = settings == FaultSettings(seed=settings.seed)

    def draw(self, victim: Victim) -> Luck:
        """Return the luck of one request. Raise ApiError when it is to be refused before anything is done."""
        settings = self.settings
        if self.calm:
            return SPARED
        if settings.black_hole:
            return UNANSWERED if settings.black_hole_processes else LOST
        if not (victim.events or settings.applies_to == "all"):
            return SPARED
        if not victim.streams and not victim.customers.isdisjoint(settings.refuse_customers):
            raise ApiError(400, settings.refuse_message, reason="refused_customer")
        self._limit_rate(victim)
        touched = not settings.only_customers or not victim.customers.isdisjoint(settings.only_customers)
        luck = self._draw() if touched else SPARED
        if not victim.events or not (settings.reject_later or settings.reject_customers):
            return luck
        if victim.streams:
            return luck._replace(each_may_be_found_invalid=True)
        (customer,) = victim.customers
        return luck._replace(found_invalid_after_seconds=self.rejection(customer))

    def rejection(self, customer: str | None) -> float | None:
        """Return after how many seconds an event is found invalid, or None when it is not."""
        settings = self.settings
        touched = not settings.only_customers or customer in settings.only_customers
        if customer in settings.reject_customers or (touched and self._strikes(settings.reject_later)):
            return self._within(settings.reject_after_seconds)
        return None

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

    def _limit_rate(self, victim: Victim) -> None:
        """Take tokens from the account's bucket, or refuse."""
        settings = self.settings
        rate, apart = settings.rate_limit_per_second, False
        if victim.connected and settings.connected_rate_limit_per_second is not None:
            rate = settings.connected_rate_limit_per_second
        elif victim.streams and settings.stream_rate_limit_per_second is not None:
            rate, apart = settings.stream_rate_limit_per_second, True
        if rate is None:
            return
        bucket = self._buckets.setdefault((victim.account, apart, rate), Bucket(rate))
        if not bucket.takes(1 if settings.stream_counts_requests else max(victim.events, 1)):
            raise too_many_requests("rate_limit", retry=settings.retry_header)
