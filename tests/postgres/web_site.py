"""A site over a ledger that is worth looking at, as of an instant that stands, and somebody in front of it."""

import datetime as dt
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from starlette.testclient import TestClient

from aggregator.collection.usage import MeterSource
from aggregator.config import Config, load
from aggregator.config.changes import settings_of
from aggregator.core.model import Span
from aggregator.ledger.database import Database
from aggregator.ledger.ledger import Ledger
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.web import tokens
from aggregator.web.application import Application
from aggregator.web.listener import Address, Listener
from aggregator.web.serving import Served
from aggregator.wiring.sources import build_source
from tests.postgres import web_ledger

OPERATOR = "operator-token-of-24-chars"
SECRET = "s" * 40
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
NOW = web_ledger.NOW
HERE = "http://127.0.0.1"
CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}'
web: {{{web}}}
sources: {{app: {{url: 'sqlite:////nowhere'}}}}
sinks: {{stripe: {{type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1'}}}}
meters:
"""
METER = (
    "  {name}: {{source: app, sinks: [stripe], window: 1h, start_at: 2026-11-01T00:00Z, query: '{query}'}}\n"
)
QUERY = "select customer, 1 as quantity from use where at >= :start and at < :end"
KEPT_APART = f"""
  {web_ledger.APART}:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    dimensions: [model, token_type]
    query: select customer, model, token_type, tokens as quantity from spend where at >= :start and at < :end
"""
TOKENS = f"operator_token: {OPERATOR}, token_secret: {SECRET}"
WITH_SECRET = f"token_secret: {SECRET}"


class Site:
    """What is served of a ledger, and a browser in front of it."""

    def __init__(self, ledger: Ledger, config: Config, address: Address) -> None:
        self.ledger, self.config = ledger, config
        self._app = build_source(config, "app", "tests")  # which leads nowhere, so that asking it fails
        self.served = Served(address, config, ledger, self._source)
        self.application = Application(self.served.routes(), self.served.error)

    def _source(self, meter: str) -> MeterSource | None:
        if meter not in self.config.meters:
            return None
        feed = self.ledger.usage.feeds(meter, Span(NOW, NOW))[0]
        return MeterSource("app", self._app, self.ledger.usage.definitions([feed])[feed.meter], Decimal(1))

    def close(self) -> None:
        """Give everything back."""
        self.served.close()
        self._app.close()

    def browser(self, base: str = HERE) -> TestClient:
        """Return somebody who comes by a browser, follows no redirect, and says what a browser does."""
        client = TestClient(self.application, base, follow_redirects=False, raise_server_exceptions=False)
        client.headers |= {"accept": "text/html"}
        return client

    def signed_in(self) -> "Operator":
        """Return somebody who signed in."""
        return Operator(self.browser())

    def token(self, customer: str = "cus_acme", *meters: str, lasts: dt.timedelta = HOUR) -> dict[str, str]:
        """Return the headers of a customer's token."""
        scope = tokens.Scope(customer, meters or None)
        return {"authorization": f"Bearer {tokens.issue(SECRET, scope, self.ledger.instant(), lasts)}"}


class Operator:
    """Somebody who signed in by the form."""

    def __init__(self, browser: TestClient, who: str = "Ada") -> None:
        self.browser = browser
        form = {"who": who, "token": OPERATOR, "next": "/events"}
        answer = browser.post("/sign-in", data=form, headers={"sec-fetch-site": "same-origin"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/events")

    def form_token(self) -> str:
        """Return what the forms of this session bring with them."""
        found = re.search(r'name="form_token" value="([^"]+)"', self.browser.get("/events").text)
        assert found is not None
        return found[1]

    def send(self, path: str, **form: Any) -> Any:
        """Send a form as its page does."""
        given = {"form_token": self.form_token(), **form}
        return self.browser.post(path, data=given, headers={"sec-fetch-site": "same-origin"})


class AsOfThen(Ledger):
    """A ledger whose clock stands."""

    def instant(self) -> dt.datetime:
        return NOW

    def now(self) -> dt.datetime:
        return NOW


@contextmanager
def listening(ledger: Ledger, url: str, directory: Path) -> Iterator[str]:
    """Serve a ledger over real HTTP on this machine; give its address."""
    with closing(Address("127.0.0.1:0")) as address:
        site = Site(ledger, configured(url, directory, TOKENS), address)
        listener = Listener(address, site.application)
        listener.start()
        yield address.url
        listener.stop()
        site.close()


@contextmanager
def ledger_then(url: str, directory: Path, days: int = 2, *, apart: bool = False) -> Iterator[Ledger]:
    """Fill an empty ledger with some whole days and the present one, and open it as of then.

    With `apart`, a meter whose usage is kept apart by dimensions is there, too.
    """
    meters = settings_of(configured(url, directory, TOKENS).meters)
    with psycopg.connect(url) as connection:
        since = NOW.replace(hour=0, minute=0) - days * DAY
        web_ledger.fill(connection, NOW, since=since, meters=meters, apart=apart)
    with Database(url) as database:
        yield AsOfThen(
            database, ClaimCounter(directory), "may_lose", lease=HOUR, leave=HOUR, answer=HOUR, hold=HOUR
        )


def configured(ledger_url: str, directory: Path, web: str) -> Config:
    """Return a configuration with these keys of the page."""
    path = directory / "aggregator.yaml"
    meters = "".join(METER.format(name=name, query=QUERY) for name in web_ledger.METERS) + KEPT_APART
    path.write_text(CONFIG.format(ledger=ledger_url, directory=directory, web=web) + meters)
    return load(path, {})
