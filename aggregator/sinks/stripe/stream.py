"""Many events, one request, no word on any of them: `POST /v2/billing/meter_event_stream`, within a session.

Rules of the stream
- `{}` says that all of them were taken, not that they are valid: that only the account's own totals and reports show
  (docs.stripe.com/api/v2/billing/meter-event-stream/create). Without an answer all of them may have been taken.
- A session that has expired took nothing: it is renewed, and the same events go out once more, each if it still may.
- A request whose content is refused is halved until the event is found that it is about; only that one is refused. What
  becomes of the others is known from their later requests alone: without a word on them, they may have been taken. Whether a
  refused request keeps some of its events is not documented, so one that is a duplicate then is as good as accepted.

Rules of the session
- There is one per account, renewed before it ends. It lasts 15 minutes
  (docs.stripe.com/api/v2/billing/meter-event-session/create). How long is taken from its own two instants, and counted on
  our clock from before it was asked for: clocks that differ make no difference.
- One renewal at a time. Whoever comes meanwhile goes on under the old session while it lasts, else waits; and if it fails,
  it fails for all who have waited.
- A session of the other mode is never used: its events would bill nobody, or somebody.
"""

import asyncio
import datetime as dt
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aggregator.core.model import Answer
from aggregator.runtime import failpoints
from aggregator.sinks.dispatch import Queued, still
from aggregator.sinks.responses import NoResponse, Response, judge_silence
from aggregator.sinks.stripe import wire
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.meter_events import document
from aggregator.sinks.stripe.responses import Refusal, is_expired_session, wrong_mode

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

    def __init__(self, context: AccountContext, monotonic: Callable[[], float]) -> None:
        self._context = context
        self._monotonic = monotonic
        self._opened: Opened | None = None
        self._failure: Response | None = None
        self._failed_at = 0.0
        self._renewing = asyncio.Lock()

    async def current(self) -> Opened | Response:
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
        if isinstance(opened, Response):
            self._failure, self._failed_at = opened, self._monotonic()
        else:
            self._opened, self._failure = opened, None

    async def _open(self) -> Opened | Response:
        context, began = self._context, self._monotonic()
        try:
            answer = await context.client.api.v2.billing.meter_event_session.create_async({}, context.options)
        except Exception as error:  # noqa: BLE001 - no event has left: whatever broke, they come again
            judged = context.judge_before(error)
            return judged._replace(reason=f"no session for the stream: {judged.reason}")
        token, livemode = getattr(answer, "authentication_token", None), getattr(answer, "livemode", None)
        if not isinstance(token, str) or not token or not isinstance(livemode, bool):
            return Response(Answer.BUSY, "no session for the stream: the answer makes no sense")
        if livemode != context.livemode:
            return Response(
                Answer.UNSENT,
                "the session is of the other mode",
                halt=wrong_mode(context.sink, live=livemode),
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


AT_ONCE = 100
"""docs.stripe.com/api/v2/billing/meter-event-stream/create"""

UNSENT = Response(Answer.UNSENT)


class StreamSender:
    """Takes events to one account by its stream, up to `AT_ONCE` in a request."""

    def __init__(self, context: AccountContext, session: Session) -> None:
        self._context = context
        self._session = session

    async def deliver(self, queued: Sequence[Queued]) -> list[Response]:
        """Send events in one request, under a new session if the old one has expired, and judge each of them.

        Those that may no longer leave by then do not leave with it.
        """
        leaving, judged = list(queued), UNSENT
        for last in (False, True):
            opened = await self._session.current()
            if isinstance(opened, Response):
                judged = opened
                break
            leaving = still(leaving)
            if not leaving:
                break
            answer = await self._post(leaving, opened)
            if not isinstance(answer, Refusal):
                judged = answer
                break
            self._session.drop(opened)
            judged = self._context.judge_refusal(answer) if last else judged
        left = set(leaving)
        return [judged if each in left else UNSENT for each in queued]

    async def _post(self, queued: Sequence[Queued], opened: Opened) -> Response | Refusal:
        """Make the request; return the refusal as it is where it is about the session, which took nothing."""
        context = self._context
        body = wire.stream([document(each.event, context) for each in queued])
        failpoints.passing("event_leaving")
        answer = await context.client.post(
            wire.Path.STREAM, body, secrets.token_hex(16), context.account, opened.token
        )
        match answer:
            case NoResponse():
                return judge_silence(answer)
            case Refusal():
                return answer if is_expired_session(answer) else context.judge_refusal(answer)
        failpoints.passing("answer_unread")
        if not _says_taken(answer.body):
            return Response(Answer.UNKNOWN, "the answer is not that of the stream", answer.request_id)
        return Response(Answer.ACCEPTED, request_id=answer.request_id)


def _says_taken(answer: object) -> bool:
    """Recognise `{}`, or what it may become: an object that says what it is."""
    return isinstance(answer, dict) and (not answer or isinstance(answer.get("object"), str))


def after_refusal(judged: Response, before: Response) -> Response:
    """Judge an event by its later request: without a word there, the earlier one that was refused is all there is.

    Who is there already was brought by that one, if anybody knows: as with all that the stream takes, totals show it later.
    """
    if judged.answer is Answer.DUPLICATE:
        return judged._replace(answer=Answer.ACCEPTED)
    if judged.answer not in (Answer.BUSY, Answer.UNSENT):
        return judged
    reason = f"{judged.reason or 'not sent again'}, after a request with it was refused: {before.reason}"
    return judged._replace(answer=Answer.UNKNOWN, reason=reason)
