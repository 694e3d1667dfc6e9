"""What each of Metronome's answers means for the events of one request. Pure: descriptions in, judgements out.

Rules
- A 200 is an acceptance of every event, duplicates among them: they are not told apart, and count once. What a 200 does not
  say is whether a metric counts the event; preflight looks at that.
- No answer, and any 5xx, leave open how much of a request was taken in: UNKNOWN for all. The same bytes go out again.
- A 4xx that is about the events is REFUSED, for the request as a whole: which event is to blame is found by dividing it.
- A refusal of the token, or of the address, is no word on the events: it halts the sink.

docs.metronome.com, send usage events and high-volume ingestion. What the bodies of refusals hold is not documented, so
nothing depends on it.
"""

from typing import NamedTuple

from aggregator.core.model import Answer
from aggregator.sinks.responses import Response, wished_seconds

LONGEST_WORDS = 300
"""So much of what somebody else wrote is worth keeping."""

REQUEST_TIMEOUT = 408
CONFLICT = 409
TOO_MANY = 429


class Refusal(NamedTuple):
    """An answer that is not a usable 2xx."""

    status: int
    message: str = ""
    retry_after: str | None = None
    request_id: str | None = None


def judge_success(content: bytes, request_id: str | None) -> Response:
    """Judge a 2xx. Metronome's has no body to speak of; a page for people comes from something in between."""
    if content.lstrip().startswith(b"<"):
        return Response(Answer.UNKNOWN, "the answer is a web page, so it is not Metronome's", request_id)
    return Response(Answer.ACCEPTED, request_id=request_id)


def judge_refusal(refusal: Refusal, sink: str) -> Response:
    """Judge an answer that is not a usable 2xx."""
    described, request_id = describe(refusal), refusal.request_id
    halt = why_halt(refusal, sink)
    if halt is not None:
        return Response(Answer.UNSENT, described, request_id, halt=halt)
    if refusal.status == TOO_MANY:
        return Response(
            Answer.BUSY, described, request_id, wished_seconds(refusal.retry_after), throttled=True
        )
    if not 400 <= refusal.status < 500 or refusal.status in (REQUEST_TIMEOUT, CONFLICT):
        return Response(Answer.UNKNOWN, described, request_id, wished_seconds(refusal.retry_after))
    return Response(Answer.REFUSED, described, request_id)


def after_refusal(judgement: Response, _refusal: Response) -> Response:
    """Judge a part of a request that was refused as a whole before.

    Whether the whole was refused with nothing taken in is not documented. So what would otherwise count as not having
    arrived is UNKNOWN.
    """
    if judgement.answer in (Answer.UNSENT, Answer.BUSY):
        reason = judgement.reason or "not sent again by itself yet"
        return judgement._replace(
            answer=Answer.UNKNOWN, reason=f"was part of a request that was refused; {reason}"
        )
    return judgement


def why_halt(refusal: Refusal, sink: str) -> str | None:
    """Say why the sink as a whole is refused, and what to do about it; None if only the call is."""
    described, then = describe(refusal), "then restart or send SIGHUP."
    match refusal.status:
        case 401:
            return (
                f"Metronome does not accept the token of sink {sink}: {described}. Correct `api_key`, {then}"
            )
        case 403:
            return f"The token of sink {sink} lacks a permission: {described}. Grant it or change `api_key`, {then}"
        case 404:
            return f"Metronome's API is not at the address of sink {sink}: {described}. Correct `api_base`, {then}"
        case _:
            return None


def describe(refusal: Refusal) -> str:
    """Put a refusal into one line: the words that came, and the status."""
    words = " ".join(refusal.message.split()).removesuffix(".")[:LONGEST_WORDS]
    return f"{words or 'no message'} ({refusal.status})"
