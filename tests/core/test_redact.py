"""What drivers say, without secrets and fit to be stored."""

import pytest

from aggregator.runtime.redact import LONGEST, named, redacted


@pytest.mark.parametrize(
    ("text", "secret", "shown"),
    [
        ('no "s3cr3t-long" here', "s3cr3t-long", 'no "***" here'),
        ("as a URL writes it: p%40ss%2Fword", "p@ss/word", "as a URL writes it: ***"),
        ("xs3cr3t-longx", "s3cr3t-long", "x***x"),
        ("xpa55wordx", "pa55word", "x***x"),
        ('role "bob7" may not', "bob7", 'role "***" may not'),
        ("the bobsled7 is no secret, bobs7x neither", "bobs", "the bobsled7 is no secret, bobs7x neither"),
        ("column a is not known", "a", "column a is not known"),
        ("password=a sslmode=x", "a", "password=*** sslmode=x"),
        ("at postgresql://me:a@host/db", "a", "at postgresql://me:***@host/db"),
        ("at postgresql://me:other@host/db", "", "at postgresql://me:***@host/db"),
        ("Authorization: Bearer abc.def", "", "Authorization: Bearer ***"),
        ("key sk_live_abc123 is expired", "", "key sk_live_*** is expired"),
    ],
)
def test_a_secret_is_hidden_where_it_stands_as_one(text: str, secret: str, shown: str) -> None:
    """A long one everywhere, a short one as a word of its own, the shortest only where its place tells what it is."""
    assert redacted(text, [secret]) == shown


def test_what_is_kept_can_be_stored() -> None:
    """No NUL, no broken character, one line, and no end of a row that a driver repeats."""
    assert redacted("a\x00b\udc80c\nd\x1b[2J", ()) == "a\\x00b\\udc80c d\\x1b[2J"
    assert len(redacted("x" * 100_000, ())) < LONGEST + 10


def test_an_error_is_named_with_its_kind() -> None:
    """A KeyError's text is a key, and an empty one says nothing at all."""
    assert named(KeyError("plan")) == "KeyError: 'plan'"
    assert named(NotImplementedError()) == "NotImplementedError"
