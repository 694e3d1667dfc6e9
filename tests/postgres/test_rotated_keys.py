"""A sink's key that is rotated in its file: the halted sink reads it again by itself, and takes no other account's."""

import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from aggregator.config import load
from aggregator.core.model import Answer, Event, EventId
from aggregator.errors import SinkHalted
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.sinks.protocol import Sink
from aggregator.wiring.app import App, build
from tests.postgres.configured import written

OLD, NEW, LIVE = "sk_test_before", "sk_test_after", "sk_live_after"

STRIPE = "type: stripe, api_key_file: key, mode: test, api_base: '{url}'"
METRONOME = "type: metronome, api_key_file: key, quantity_encoding: text, api_base: '{url}'"
S3 = "type: s3, bucket: bucket, region: eu-central-1, endpoint_url: '{url}'"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=(MeterSpec("api_requests"),))) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(server: RunningSandbox) -> RunningSandbox:
    """It, empty."""
    server.reset()
    return server


class Place:
    """A configuration whose one sink's key stands in a file."""

    def __init__(self, directory: Path, ledger_url: str) -> None:
        self.directory = directory
        self.key = directory / "key"
        self._ledger_url = ledger_url

    def app(self, sink: str) -> AbstractContextManager[App]:
        """Put everything together with this sink."""
        return build(load(written(self.directory, self._ledger_url, sink), {}))


@pytest.fixture
def place(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place for a configuration, with the old key in its file, on the tests' own server."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    place = Place(tmp_path, ledger_url)
    place.key.write_text(f"{OLD}\n")
    return place


def sent(app: App, number: int) -> Answer:
    """Send one event; return what became of it, whether the sink is halted or not."""
    at = app.ledger.instant().replace(second=0, microsecond=0) - dt.timedelta(hours=1)
    one = Decimal(1)
    event = Event(
        id=EventId(number),
        meter="api_requests",
        customer="cus_1",
        window_start=at,
        revision=0,
        delta=one,
        total=one,
        at=at,
        identifier=f"agg_{number:020x}",
        attempts=1,
        exposed_at=None,
    )
    verdicts = cast("Sink", app.sinks["it"]).send([event], lambda: True)
    answer = next(verdicts).answer
    with suppress(SinkHalted):
        assert list(verdicts) == []
    return answer


def test_a_key_of_stripe_that_was_rotated_is_taken_up(sandbox: RunningSandbox, place: Place) -> None:
    """As long as the file has the old one it stays halted; with the new one it sends, and shows neither."""
    with place.app(STRIPE.format(url=sandbox.url)) as app:
        assert sent(app, 1) is Answer.ACCEPTED
        sandbox.set_keys(revoked=[OLD])
        assert sent(app, 2) is Answer.UNSENT
        for unusable in (OLD, "", "no key at all"):
            place.key.write_text(unusable)
            with pytest.raises(SinkHalted) as caught:
                app.resume("it")
            assert (unusable or "nothing") not in str(caught.value)
        place.key.unlink()
        with pytest.raises(SinkHalted, match="cannot read the file of its key now"):
            app.resume("it")
        place.key.write_text(f"{NEW}\n")
        app.resume("it")
        assert sent(app, 2) is Answer.ACCEPTED
        assert app.sinks["it"].account() == "acct_sandbox test"


def test_a_key_of_the_other_mode_is_never_taken_up(sandbox: RunningSandbox, place: Place) -> None:
    """What is wrong is said, without the key; nothing is asked by it, above all nothing is billed."""
    with place.app(STRIPE.format(url=sandbox.url)) as app:
        sandbox.set_keys(revoked=[OLD])
        assert sent(app, 1) is Answer.UNSENT
        place.key.write_text(LIVE)
        asked = sandbox.stats()["requests"]
        with pytest.raises(SinkHalted, match="`mode` is `test`, but the key is a live key") as caught:
            app.resume("it")
        assert LIVE not in str(caught.value)
        assert sandbox.stats()["requests"] == asked
        assert sent(app, 1) is Answer.UNSENT
        assert sandbox.stats()["accepted"] == 0


def test_a_key_of_another_account_is_never_taken_up(sandbox: RunningSandbox, place: Place) -> None:
    """The sink stays halted and keeps its old key: not even a figure is read from an account that is another one."""
    with place.app(STRIPE.format(url=sandbox.url)) as app:
        with app.ledger.database.transaction() as connection:
            connection.execute("update aggregator.sink set account = 'acct_before test'")
            connection.execute(
                "insert into aggregator.claim (sink_id, owner, claimed_at, events)"
                " select id, gen_random_uuid(), now(), '{}' from aggregator.sink"
            )
        sandbox.set_keys(revoked=[OLD])
        assert sent(app, 1) is Answer.UNSENT
        place.key.write_text(NEW)
        with pytest.raises(SinkHalted, match="acct_before test"):
            app.resume("it")
        assert sent(app, 1) is Answer.UNSENT
        with pytest.raises(SinkHalted, match="does not accept the API key"):
            app.sinks["it"].account()


def test_a_token_of_metronome_that_was_rotated_is_taken_up(sandbox: RunningSandbox, place: Place) -> None:
    """The same for a token."""
    control = MetronomeControl(sandbox.url)
    control.reset()
    control.add_metric("api_requests")
    with place.app(METRONOME.format(url=control.url)) as app:
        control.set_keys(revoked=[OLD])
        assert sent(app, 1) is Answer.UNSENT
        with pytest.raises(SinkHalted):
            app.resume("it")
        place.key.write_text(NEW)
        app.resume("it")
        assert sent(app, 1) is Answer.ACCEPTED


class _Guarded(BaseHTTPRequestHandler):
    """A store that lets one key pair in."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Let in, or not, as the signature says whose it is."""
        lets_in = "Credential=AKIAAFTER/" in self.headers.get("Authorization", "")
        self.send_response(200 if lets_in else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing."""


@pytest.fixture
def store_url() -> Iterator[str]:
    """A store that lets in AKIAAFTER."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Guarded)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_key_pair_that_was_rotated_is_taken_up(place: Place, store_url: str) -> None:
    """Each half from its file, whichever of them changed last."""
    first, second = place.directory / "id", place.directory / "secret"
    first.write_text("AKIABEFORE\n")
    second.write_text("secret-before\n")
    files = ", access_key_id_file: id, secret_access_key_file: secret"
    with place.app(S3.format(url=store_url) + files) as app:
        with pytest.raises(SinkHalted):
            app.resume("it")
        first.write_text("AKIAAFTER\n")
        app.resume("it")
        assert app.sinks["it"].preflight(["api_requests"]) == []


def test_credentials_that_boto3_finds_are_looked_for_anew(
    place: Place, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library keeps what it once found in its file; whoever rotates that restarts nothing."""
    file = place.directory / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"
    file.write_text(text.format("AKIABEFORE"))
    with place.app(S3.format(url=store_url)) as app:
        with pytest.raises(SinkHalted):
            app.resume("it")
        file.write_text(text.format("AKIAAFTER"))
        app.resume("it")
        assert app.sinks["it"].preflight(["api_requests"]) == []
