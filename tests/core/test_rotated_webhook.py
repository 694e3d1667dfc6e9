"""The secret that signs what Stripe delivers, rotated in its file: it is read again, and not for whoever knocks."""

from pathlib import Path

import pytest
import stripe

from aggregator.config import load
from aggregator.errors import SinkError
from aggregator.sinks.stripe import StripeNotificationClient
from aggregator.sinks.stripe.notifications import READ_AGAIN_SECONDS
from aggregator.wiring.sinks import build_notification_client, build_sink

CONFIG = """
ledger: {url: 'postgresql:///nowhere'}
sources: {app: {url: 'sqlite:////nowhere'}}
sinks: {it: {type: stripe, api_key: sk_test_1, mode: test, webhook_secret_file: secret}}
meters:
  api_requests:
    source: app
    sinks: [it]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select customer, 1 as quantity from use where at >= :start and at < :end
"""

BODY = '{"type": "something.else"}'


class Place:
    """A configuration whose secret stands in a file, and a clock that only tests move."""

    def __init__(self, directory: Path) -> None:
        self.secret = directory / "secret"
        self.secret.write_text("whsec_old\n")
        path = directory / "aggregator.yaml"
        path.write_text(CONFIG)
        config = load(path, {})
        self.sink = build_sink(config, "it")
        built = build_notification_client(config, "it", self.sink)
        assert isinstance(built, StripeNotificationClient)
        self.notification_client = built

    def takes(self, secret: str) -> bool:
        """Tell whether a delivery that is signed by this secret is taken."""
        signature = stripe.WebhookSignature.generate_signature_header(BODY, secret)
        try:
            self.notification_client.delivered(BODY.encode(), signature)
        except SinkError:
            return False
        return True


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place for a configuration, with the old secret in its file."""
    return Place(tmp_path)


def test_a_secret_that_was_rotated_is_taken_up(place: Place) -> None:
    """The first delivery that is signed by the new one is taken; the old one is worth nothing from then on."""
    assert place.takes("whsec_old")
    place.secret.write_text("whsec_new\n")
    assert place.takes("whsec_new")
    assert not place.takes("whsec_old")


def test_while_both_sign_both_are_taken(place: Place) -> None:
    """Several secrets may stand in the file, as in the configuration."""
    place.secret.write_text("whsec_old, whsec_new\n")
    assert place.takes("whsec_new")
    assert place.takes("whsec_old")


@pytest.mark.parametrize("content", [None, "", "no secret at all"])
def test_a_file_that_holds_none_changes_nothing(place: Place, content: str | None) -> None:
    """Somebody is just writing it, or has taken it away: what was known before goes on."""
    if content is None:
        place.secret.unlink()
    else:
        place.secret.write_text(content)
    assert not place.takes("whsec_new")
    assert place.takes("whsec_old")


def test_whoever_knocks_has_nothing_read(place: Place) -> None:
    """Forged deliveries have the file read once in five seconds, however many come; good ones never."""
    seconds, reads = [0.0], []

    def secrets_now() -> list[str]:
        reads.append(seconds[0])
        return ["whsec_old"]

    place.notification_client = StripeNotificationClient(
        place.sink,  # type: ignore[arg-type]  # it is Stripe's, by the configuration
        {},
        secrets=["whsec_old"],
        livemode=False,
        secrets_now=secrets_now,
        elapsed=lambda: seconds[0],
    )
    assert place.takes("whsec_old")
    assert reads == []
    for seconds[0] in (100.0, 100.0, 100.0 + READ_AGAIN_SECONDS / 2, 100.0 + READ_AGAIN_SECONDS):
        assert not place.takes("whsec_forged")
    assert reads == [100.0, 100.0 + READ_AGAIN_SECONDS]
