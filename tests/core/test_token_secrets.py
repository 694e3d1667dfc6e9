"""The secrets of customers' tokens, rotated in their file: they are read again, and not for whoever knocks."""

import datetime as dt
from functools import partial
from pathlib import Path

import pytest

from aggregator.config import load
from aggregator.config.rotated import token_secrets_now
from aggregator.web.token_secrets import READ_AGAIN_SECONDS, TokenSecrets
from aggregator.web.tokens import NotGood, Scope, issue

NOW = dt.datetime(2026, 11, 20, 10, tzinfo=dt.UTC)
OLD, NEW = "o" * 40, "n" * 40
CONFIG = """
ledger: {url: 'postgresql:///nowhere'}
sources: {app: {url: 'sqlite:////nowhere'}}
sinks: {it: {type: stripe, api_key: sk_test_1, mode: test}}
web: {token_secret_file: secret}
meters:
  api_requests:
    source: app
    sinks: [it]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select customer, 1 as quantity from use where at >= :start and at < :end
"""


class Place:
    """A configuration whose secret stands in a file, and a clock that only tests move."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "secret"
        self.file.write_text(f"{OLD}\n")
        path = directory / "aggregator.yaml"
        path.write_text(CONFIG)
        web = load(path, {}).web
        self.elapsed, self.reads = 0.0, 0
        self._now = partial(token_secrets_now, web)
        self.secrets = TokenSecrets(web.token_secrets_revealed(), self._read, lambda: self.elapsed)

    def _read(self) -> tuple[str, ...] | None:
        self.reads += 1
        return self._now()

    def takes(self, secret: str, lasts: dt.timedelta = dt.timedelta(hours=1)) -> bool:
        """Tell whether a token that is signed by this secret is good."""
        try:
            return self.secrets.scope(issue(secret, Scope("cus_1"), NOW, lasts), NOW) == Scope("cus_1")
        except NotGood:
            return False


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place for a configuration, with the old secret in its file."""
    return Place(tmp_path)


def test_a_secret_that_was_rotated_is_taken_up(place: Place) -> None:
    """The first token that is signed by the new one is good; those of the old one are good no more."""
    assert place.takes(OLD)
    place.file.write_text(f"{NEW}\n")
    assert place.takes(NEW)
    assert not place.takes(OLD)


def test_while_both_stand_there_both_are_good(place: Place) -> None:
    """The new one stands before the old one, on a line of its own, until the last token of the old one is over."""
    place.file.write_text(f"{NEW}\n{OLD}\n")
    assert place.takes(NEW)
    assert place.takes(OLD)


@pytest.mark.parametrize("content", [None, "", "too short"])
def test_a_file_that_holds_none_changes_nothing(place: Place, content: str | None) -> None:
    """Somebody is just writing it, or has taken it away: what was known before goes on."""
    if content is None:
        place.file.unlink()
    else:
        place.file.write_text(content)
    assert not place.takes(NEW)
    assert place.takes(OLD)


def test_who_knocks_with_bad_tokens_does_not_have_it_read_each_time(place: Place) -> None:
    """It is read at most every few seconds; what is new in it is seen after that."""
    for _ in range(50):
        assert not place.takes("x" * 40)
    assert place.reads == 1
    place.file.write_text(NEW)
    assert not place.takes(NEW)
    place.elapsed += READ_AGAIN_SECONDS
    assert place.takes(NEW)
    assert place.reads == 2
