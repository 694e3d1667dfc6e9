"""How fast calls may leave: a token bucket whose rate halves when the far side says "too many" and grows back by itself.

Pure but for its own state: the present is an argument, in seconds on any clock that is not set back.

Rules
- In any stretch of `t` seconds at most `calls_per_second * t + burst` calls leave, however the rate moves. Where a
  call counts as several (events per request), the last one may go beyond the burst by what it counts.
- One wave of refusals counts once: the rate halves at most once a second, and never below a floor.
- It grows by equal steps (additive increase, multiplicative decrease), so that several senders end up sharing fairly.
"""

import math

BURST_SECONDS = 0.05
"""What may leave at once after a lull, in seconds' worth of calls: makes up for the grain of timers and for short stalls."""

LEAST_CALLS_PER_SECOND = 1.0
"""Slow enough for any limit, and still quick to notice that the far side has recovered."""

HALVING_SECONDS = 1.0
"""Refusals of calls that were in flight together arrive within about this time."""

RECOVERY_SECONDS = 30.0
"""From the floor back to the full rate."""

LONGEST_PAUSE_SECONDS = 30.0
"""No single answer silences a sink for longer than this."""


class Pace:
    """The rate at which calls may leave; `rate` is what it is now, at most `calls_per_second`."""

    def __init__(self, calls_per_second: float, burst: float | None = None) -> None:
        assert calls_per_second > 0
        self._burst_seconds = BURST_SECONDS if burst is None else burst / calls_per_second
        self._set_top(calls_per_second)
        self.rate = calls_per_second
        self._tokens = self.burst
        self._earned_until: float | None = None
        self._halved_at: float | None = None

    @property
    def calls_per_second(self) -> float:
        """The rate at most."""
        return self._top

    def limit(self, now: float, calls_per_second: float) -> None:
        """Set another rate at most; what it is lowered to by refusals, and the burst, change in proportion."""
        assert calls_per_second > 0
        self._earn(now)
        part = calls_per_second / self._top
        lowered = self.rate < self._top
        self._set_top(calls_per_second)
        self.rate = min(self._top, max(self._floor, self.rate * part)) if lowered else self._top
        self._tokens = min(self._tokens, self.burst)

    def take(self, now: float, calls: float = 1.0) -> float:
        """Take leave for one call, or for what counts as several; return how many seconds it has to wait for it."""
        earned_until = self._earn(now)
        self._tokens -= calls
        return self._wait(now, earned_until)

    def due(self, now: float) -> float:
        """Return how many seconds what was taken last still has to wait."""
        return self._wait(now, self._earn(now))

    def throttled(self, now: float, pause_seconds: float = 0.0) -> None:
        """Take a refusal into account: slow down, and let nothing go for as long as the far side asked for."""
        earned_until = self._earn(now)
        if self._halved_at is None or now - self._halved_at >= HALVING_SECONDS:
            self._halved_at = now
            self.rate = max(self._floor, self.rate / 2)
        self._earned_until = max(earned_until, now + min(pause_seconds, LONGEST_PAUSE_SECONDS))

    def _set_top(self, calls_per_second: float) -> None:
        self._top = calls_per_second
        self._floor = min(LEAST_CALLS_PER_SECOND, calls_per_second)
        self._growth = calls_per_second / RECOVERY_SECONDS
        self.burst = max(1.0, calls_per_second * self._burst_seconds)

    def _wait(self, now: float, earned_until: float) -> float:
        return earned_until - now + self._seconds_to_earn(max(0.0, -self._tokens))

    def _earn(self, now: float) -> float:
        """Add the tokens and the growth of the time gone by; return until when they are counted: now, or a pause's end."""
        if self._earned_until is None:
            self._earned_until = now
        elapsed = max(0.0, now - self._earned_until)
        growing = min(elapsed, (self._top - self.rate) / self._growth)
        earned = self._earned_growing(growing) + self._top * (elapsed - growing)
        self._tokens = min(self.burst, self._tokens + earned)
        self.rate = min(self._top, self.rate + self._growth * growing)
        self._earned_until = max(now, self._earned_until)
        return self._earned_until

    def _seconds_to_earn(self, tokens: float) -> float:
        """Return how long it takes to earn so many tokens while the rate grows: no longer, or the rest would pile up."""
        growing = (self._top - self.rate) / self._growth
        beyond = tokens - self._earned_growing(growing)
        if beyond > 0:
            return growing + beyond / self._top
        return 2 * tokens / (self.rate + math.sqrt(self.rate**2 + 2 * self._growth * tokens))

    def _earned_growing(self, seconds: float) -> float:
        return self.rate * seconds + self._growth * seconds**2 / 2
