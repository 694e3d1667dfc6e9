"""Tokens by which a customer's own usage is read: signed, for one customer, perhaps for some meters, for a while. Pure.

    agg1.PAYLOAD.SIGNATURE      both in base64url without padding; the signature is HMAC-SHA-256 of what stands before it

Rules
- The payload is `{"c": customer, "exp": seconds since 1970, "m": [meters] or null}` and nothing else. `exp` is a whole
  number, must be there, and lies no further ahead than `LONGEST`; at that very second the token is good no more.
- Nothing of a token is looked at before its signature was found right, in constant time.
- Why one is not good is not said to whoever shows it.
"""

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import NamedTuple

from aggregator.core.model import EPOCH

KIND = "agg1"
LONGEST = dt.timedelta(days=31)
"""What is shown in a browser should not be good for ever."""

LONGEST_TEXT = 4_096
"""Characters of a token that are looked at."""


class NotGood(Exception):
    """A token that was not made here, or is over."""


class Scope(NamedTuple):
    """What a token lets one read: the usage of a customer, of these meters or of all."""

    customer: str
    meters: tuple[str, ...] | None = None


def issue(secret: str, scope: Scope, now: dt.datetime, lasts: dt.timedelta) -> str:
    """Return a token. Raises ValueError where it would last too long, or not at all."""
    if not dt.timedelta(seconds=1) <= lasts <= LONGEST:
        raise ValueError(f"a token lasts from a second to {LONGEST.days} days")
    payload = {
        "c": scope.customer,
        "exp": int((now + lasts - EPOCH).total_seconds()),
        "m": None if scope.meters is None else list(scope.meters),
    }
    text = f"{KIND}.{_encoded(json.dumps(payload, separators=(',', ':')).encode())}"
    return f"{text}.{_encoded(_signature(secret, text))}"


def scope_of(secret: str, token: str, now: dt.datetime) -> Scope:
    """Return what a token lets one read. Raises NotGood."""
    text, _, signature = token.rpartition(".")
    kind, _, payload = text.partition(".")
    if len(token) > LONGEST_TEXT or not token.isascii() or kind != KIND:
        raise NotGood
    if not hmac.compare_digest(_encoded(_signature(secret, text)), signature):
        raise NotGood
    try:
        claims = json.loads(_decoded(payload))
    except (ValueError, binascii.Error):
        raise NotGood from None
    if not isinstance(claims, dict) or claims.keys() != {"c", "exp", "m"}:
        raise NotGood
    customer, ends, meters = claims["c"], claims["exp"], claims["m"]
    if not isinstance(customer, str) or type(ends) is not int or not _names(meters):
        raise NotGood
    seconds = (now - EPOCH).total_seconds()
    if not seconds < ends <= seconds + LONGEST.total_seconds():
        raise NotGood
    return Scope(customer, None if meters is None else tuple(meters))


def _names(meters: object) -> bool:
    return meters is None or (
        isinstance(meters, Sequence)
        and not isinstance(meters, str)
        and all(isinstance(each, str) for each in meters)
    )


def _signature(secret: str, text: str) -> bytes:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
