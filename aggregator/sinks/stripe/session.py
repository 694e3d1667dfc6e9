"""The session under which a stream takes events: one per account, renewed before it ends.

Rules
- A session lasts 15 minutes (docs.stripe.com/api/v2/billing/meter-event-session/create). How long is taken from its own two
  instants, and counted on our clock from before it was asked for: clocks that differ make no difference.
- One renewal at a time. Whoever comes meanwhile goes on under the old session while it lasts, else waits; and if it fails,
  it fails for all who have waited.
- A session of the other mode is never used: its events would bill nobody, or somebody.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import NamedTuple

from aggregator.core.model import Answer
from aggregator.sinks.responses import Judgement
from aggregator.sinks.stripe.account_context import Office
from aggregator.sinks.stripe.responses import wrong_mode

LASTS = dt.timedelta(minutes=15)

RENEW_BEFORE = dt.timedelta(minutes=2)
"""So long before its end it is renewed: more than the longest call takes, so that none ends under way."""


ASK_AGAIN_SECONDS = 1.0
"""How soon it is asked again for a session that could not be had."""


class Opened(NamedTuple):
    """A session: what its requests carry as their key, until when, and from when on it is renewed, on the clock given."""

    token: str
    until: float
    renew_at: float


class Session:
    """Keeps a session open for as long as it is asked for one."""

    def __init__(self, office: Office, monotonic: Callable[[], float]) -> None:
        self._office = office
        self._monotonic = monotonic
        self._opened: Opened | None = None
        self._failure: Judgement | None = None
        self._failed_at = 0.0
        self._renewing = asyncio.Lock()

    async def current(self) -> Opened | Judgement:
        """Return a session that lasts for a while yet; or, if none can be had, what that means for the events."""
        if self._is_fresh() or (self._renewing.locked() and self._lasts()):
            return self._held()
        async with self._renewing:
            if self._is_fresh():
                return self._held()
            if self._failure is None or self._monotonic() - self._failed_at > ASK_AGAIN_SECONDS:
                await self._renew()
            if self._failure and (self._failure.halt or not self._lasts()):
                return self._failure
            return self._held()

    def drop(self, opened: Opened) -> None:
        """Take note that a session has ended, unless it is replaced already."""
        if self._opened == opened:
            self._opened = None

    def _held(self) -> Opened:
        assert self._opened is not None, "it lasts, so there is one"
        return self._opened

    def _is_fresh(self) -> bool:
        return self._opened is not None and self._monotonic() < self._opened.renew_at

    def _lasts(self) -> bool:
        return self._opened is not None and self._monotonic() < self._opened.until

    async def _renew(self) -> None:
        opened = await self._open()
        if isinstance(opened, Judgement):
            self._failure, self._failed_at = opened, self._monotonic()
        else:
            self._opened, self._failure = opened, None

    async def _open(self) -> Opened | Judgement:
        office, began = self._office, self._monotonic()
        try:
            answer = await office.client.api.v2.billing.meter_event_session.create_async({}, office.options)
        except Exception as error:  # noqa: BLE001 - no event has left: whatever broke, they come again
            judged = office.judge_before(error)
            return judged._replace(reason=f"no session for the stream: {judged.reason}")
        token, livemode = getattr(answer, "authentication_token", None), getattr(answer, "livemode", None)
        if not isinstance(token, str) or not token or not isinstance(livemode, bool):
            return Judgement(Answer.BUSY, "no session for the stream: the answer makes no sense")
        if livemode != office.livemode:
            return Judgement(
                Answer.UNSENT,
                "the session is of the other mode",
                halt=wrong_mode(office.sink, live=livemode),
            )
        lasts = _lasts(getattr(answer, "created", None), getattr(answer, "expires_at", None))
        early = min(RENEW_BEFORE, lasts / 4)
        return Opened(token, began + lasts.total_seconds(), began + (lasts - early).total_seconds())


def _lasts(created: object, expires_at: object) -> dt.timedelta:
    """Return how long a session lasts by its own word, if that makes sense; never longer than documented."""
    try:
        between = _instant(expires_at) - _instant(created)
    except ValueError:
        return LASTS
    return min(between, LASTS) if between > dt.timedelta(0) else LASTS


def _instant(said: object) -> dt.datetime:
    """Read an instant: RFC 3339 by the reference, unix seconds by one sample of the guide. Raises ValueError."""
    if isinstance(said, int | float):
        return dt.datetime.fromtimestamp(said, dt.UTC)
    instant = dt.datetime.fromisoformat(str(said))
    return instant if instant.tzinfo else instant.replace(tzinfo=dt.UTC)
