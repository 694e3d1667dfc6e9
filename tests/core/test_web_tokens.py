"""Tokens of customers: what is in them counts only if all of it is right."""

import base64
import datetime as dt
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.web.tokens import KIND, LONGEST, NotGood, Scope, issue, scope_of

SECRET = "s" * 40
NOW = dt.datetime(2026, 11, 30, 12, 0, 0, 250_000, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
SECOND = dt.timedelta(seconds=1)


def signed(payload: object, secret: str = SECRET, kind: str = KIND) -> str:
    """Return a token that is signed as ours are, whatever is in it."""
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"{kind}.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}"
    signature = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@given(st.text(min_size=1, max_size=100), st.none() | st.lists(st.text(max_size=20), max_size=4))
def test_a_token_says_what_it_was_made_for(customer: str, meters: list[str] | None) -> None:
    """Whatever a customer and meters are called."""
    scope = Scope(customer, None if meters is None else tuple(meters))
    assert scope_of(SECRET, issue(SECRET, scope, NOW, HOUR), NOW) == scope


def test_a_token_is_over_at_its_very_second() -> None:
    """It is good until then, and not a moment longer: it lasts no longer than was said."""
    token = issue(SECRET, Scope("cus_1"), NOW, HOUR)
    ends = (NOW + HOUR).replace(microsecond=0)
    assert scope_of(SECRET, token, ends - dt.timedelta(microseconds=1)) == Scope("cus_1")
    for late in (ends, ends + SECOND, NOW + HOUR, NOW + 100 * HOUR):
        with pytest.raises(NotGood):
            scope_of(SECRET, token, late)


ENDS = int((NOW + HOUR).timestamp())
GOOD = {"c": "cus_1", "exp": ENDS, "m": None}


def test_what_is_signed_as_ours_is_good() -> None:
    """So that the cases below fail for what they change."""
    assert scope_of(SECRET, signed(GOOD), NOW) == Scope("cus_1")


@pytest.mark.parametrize(
    "payload",
    [
        {"c": "cus_1", "m": None},
        GOOD | {"exp": None},
        GOOD | {"exp": str(ENDS)},
        GOOD | {"exp": float(ENDS)},
        GOOD | {"exp": True},
        GOOD | {"exp": ENDS * 1_000},
        GOOD | {"exp": int((NOW + LONGEST + 2 * SECOND).timestamp())},
        GOOD | {"exp": -1},
        GOOD | {"c": None},
        GOOD | {"c": ["cus_1"]},
        GOOD | {"m": "api_requests"},
        GOOD | {"m": [1]},
        GOOD | {"m": {"api_requests": 1}},
        GOOD | {"admin": True},
        [GOOD],
        "text",
        None,
        b"\xff\xfe",
        b"{",
    ],
    ids=str,
)
def test_a_token_with_anything_else_in_it_is_not_good(payload: object) -> None:
    """No end, an end in milliseconds, as text, too far ahead; another shape; even if our secret signed it."""
    with pytest.raises(NotGood):
        scope_of(SECRET, signed(payload), NOW)


def test_no_other_signature_is_taken() -> None:
    """Another secret's, none, one of another payload, another kind; and no part of the text can be changed."""
    token = issue(SECRET, Scope("cus_1", ("api_requests",)), NOW, HOUR)
    text, _, signature = token.rpartition(".")
    other = issue(SECRET, Scope("cus_2"), NOW, HOUR)
    wrong = [
        "", ".", "..", KIND, text, f"{text}.", f"{other.rpartition('.')[0]}.{signature}", signed(GOOD, "x" * 40),
        signed(GOOD, kind="agg2"), token + "=", token + "A", " " + token, token * 200, token.replace("agg1", "AGG1"),
        "ü" + token, signed(GOOD).replace(".", "", 1),
    ]  # fmt: skip
    wrong += [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        for place in range(5, len(token))
    ]
    for each in wrong:
        with pytest.raises(NotGood):
            scope_of(SECRET, each, NOW)


@pytest.mark.parametrize("lasts", [dt.timedelta(0), -HOUR, LONGEST + SECOND])
def test_a_token_lasts_a_while_only(lasts: dt.timedelta) -> None:
    """None is made that never ends, or has ended."""
    with pytest.raises(ValueError, match="31 days"):
        issue(SECRET, Scope("cus_1"), NOW, lasts)
