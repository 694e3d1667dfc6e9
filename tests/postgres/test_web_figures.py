"""Every number of the pages and of the API is the one of `aggregator usage` for the same time, whatever the history."""

import datetime as dt
import html
import json
import random
import re
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from aggregator.cli.usage import usage
from aggregator.core.model import Span
from aggregator.core.planner import plain
from aggregator.core.shown import shown
from aggregator.core.usage import By, Line, Usage, month, sum_of
from aggregator.core.windows import DAY, HOUR, floor
from aggregator.ledger.database import Database
from aggregator.ledger.usage import UsageFeed
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.web.listener import Address
from tests import usage_by_hand
from tests.postgres.made_usage import CUSTOMERS, HOURS, START, Made
from tests.postgres.web_site import HERE, OPERATOR, TOKENS, AsOfThen, Site, configured

MONTHS = ("2026-10", "2026-11")
METERS = 2


class Shown:
    """A site over a ledger with a random history, and what `usage` says of it, worked out by hand."""

    def __init__(self, site: Site, connection: psycopg.Connection[Any]) -> None:
        self.site = site
        self.browser = site.browser()
        self._connection = connection

    def feeds(self) -> list[UsageFeed]:
        """Return the feeds."""
        return self.site.ledger.usage.feeds(None, month(MONTHS[1]))

    def lines(
        self, feed: UsageFeed, span: Span, by: By | None = None, customer: str | None = None
    ) -> list[Line]:
        """Return what `usage` says."""
        return usage_by_hand.lines(self._connection, feed, span, by, customer)

    def total(self, feed: UsageFeed, span: Span, customer: str | None = None) -> Usage:
        """Return what it says in all."""
        return sum_of(line.usage for line in self.lines(feed, span, None, customer))

    def told(self, path: str) -> str:
        """Return the words of a page."""
        answer = self.browser.get(path)
        assert answer.status_code == 200, answer.text
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())

    def api(self, **query: str) -> Any:
        """Return what the API says."""
        headers = {"authorization": f"Bearer {OPERATOR}"}
        client = TestClient(self.site.application, HERE)
        answer = client.get("/api/usage", params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(params=range(2))
def made(
    request: pytest.FixtureRequest, database: Database, ledger_url: str, tmp_path: Path
) -> Iterator[Shown]:
    """Such a site. One sink's days are summed up, the other's are not."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        history = Made(connection, random.Random(request.param))
        for number in range(METERS):
            history.meter(f"meter_{number}")
        ledger = AsOfThen(
            database, ClaimCounter(tmp_path), "may_lose", lease=HOUR, leave=HOUR, answer=HOUR, hold=HOUR
        )
        assert ledger.usage_days.sum_up(sink_id=1).days >= METERS
        with closing(Address("127.0.0.1:0")) as address:
            config = configured(ledger_url, tmp_path, TOKENS)
            with closing(Site(ledger, config, address)) as site:
                yield Shown(site, connection)


def waiting(its: Usage) -> Decimal:
    """Return what may still be billed, as the documentation says."""
    return its.under_way + its.held + its.refused + its.carried + its.unmapped + its.open


def figures_of(its: Usage, sink: str) -> str:
    """Return what stands above a chart."""
    words = f"Used {shown(its.used)} Billed through {sink} {shown(its.billed)} Not billed yet {shown(waiting(its))}"
    words += f" In shadow {shown(its.shadow)}" if its.shadow else ""
    return words + (f" Dismissed {shown(its.dismissed)}" if its.dismissed else "")


def stretches(feed: UsageFeed, lines: list[Line], step: dt.timedelta) -> Iterator[str]:
    """Yield what the bars of a chart say."""
    label = "%d %b" if step == DAY else "%H:%M"
    for line in lines:
        assert line.start is not None
        assert line.start == floor(line.start, step), feed
        yield f"{line.start:{label}}: {shown(line.usage.used)} used, {shown(line.usage.billed)} billed"


def test_a_meters_month_and_days_are_those_of_usage(made: Shown) -> None:
    """Above the chart, in each bar and in each hour: what is unmapped is used, and what is in shadow is not billed."""
    for feed in made.feeds():
        for text in MONTHS:
            page = made.told(f"/meters/{feed.meter}?sink={feed.sink}&period={text}")
            assert figures_of(made.total(feed, month(text)), feed.sink) in page
            for words in stretches(feed, made.lines(feed, month(text), By.DAY), DAY):
                assert words in page
        for number in range(HOURS // 24 + 1):
            span = Span(START + number * DAY, START + (number + 1) * DAY)
            page = made.told(f"/meters/{feed.meter}?sink={feed.sink}&day={span.start:%Y-%m-%d}")
            assert figures_of(made.total(feed, span), feed.sink) in page
            hours = made.lines(feed, span, By.HOUR)
            names = [
                name
                for name in Usage._fields
                if name in ("used", "billed") or any(getattr(line.usage, name) for line in hours)
            ]
            for words, line in zip(stretches(feed, hours, HOUR), hours, strict=True):
                assert words in page
                cells = " ".join(shown(getattr(line.usage, name)) for name in names)
                assert re.search(rf"{line.start:%Y-%m-%d %H:%M} \d+ {re.escape(cells)} ", page), (line, page)


def test_a_windows_customers_are_those_of_usage(made: Shown) -> None:
    """Each customer's line, and the total, whatever the state of their events."""
    for feed in made.feeds():
        for hour in range(0, HOURS, 7):
            span = Span(START + hour * HOUR, START + (hour + 1) * HOUR)
            lines = made.lines(feed, span, By.CUSTOMER)
            page = made.told(f"/meters/{feed.meter}/{span.start:%Y-%m-%dT%H:%MZ}?sink={feed.sink}")
            total = made.total(feed, span)
            names = [name for name in Usage._fields if name in ("used", "billed") or getattr(total, name)]
            for line in [*lines, Line("Total", None, total)] if lines else ():
                cells = " ".join(shown(getattr(line.usage, name)) for name in names)
                assert f"{line.customer or 'no customer'} {cells} " in page, (line, page)


def test_a_customers_page_and_statement_are_those_of_usage(made: Shown) -> None:
    """By meter and sink: what was used, billed, and is not billed yet; shadow apart."""
    for text, whose in ((text, whose) for text in MONTHS for whose in CUSTOMERS):
        page = made.told(f"/customers/{quote(whose, safe='')}?period={text}")
        statement = made.told(f"/customers/{quote(whose, safe='')}?period={text}&statement=1")
        its = [(feed, made.total(feed, month(text), whose)) for feed in made.feeds()]
        apart = [name for name in ("dismissed", "shadow") if any(getattr(each, name) for _, each in its)]
        for feed, total in its:
            if any(total):
                first = f"{feed.meter} {feed.sink} {shown(total.used)} {shown(total.billed)} {shown(waiting(total))} "
                assert first in page
                assert first + "".join(f"{shown(getattr(total, name))} " for name in apart) in statement + " "
                for words in stretches(feed, made.lines(feed, month(text), By.DAY, whose), DAY):
                    assert words in page


def test_the_api_says_what_usage_says(made: Shown) -> None:
    """Of each customer, in all and by day, hour or month; also of whoever used nothing."""

    def figures(its: Usage) -> dict[str, str]:
        return {
            "used": plain(its.used),
            "billed": plain(its.billed),
            "not_billed_yet": plain(waiting(its)),
        }

    for whose in (*CUSTOMERS, "cus_nobody"):
        for text, by in ((text, by) for text in MONTHS for by in (None, By.HOUR, By.DAY, By.MONTH)):
            told = made.api(customer=whose, period=text, **({"by": by} if by else {}))
            assert (told["customer"], len(told["usage"])) == (whose, len(made.feeds()))
            for each, feed in zip(told["usage"], made.feeds(), strict=True):
                assert (each["meter"], each["sink"]) == (feed.meter, feed.sink)
                assert each == {**each, **figures(made.total(feed, month(text), whose))}
                lines = made.lines(feed, month(text), by, whose) if by else []
                assert each.get("lines", []) == [
                    {"from": f"{line.start:%Y-%m-%dT%H:%M:%SZ}", **figures(line.usage)} for line in lines
                ]


def test_the_command_says_what_the_page_says(
    made: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`aggregator usage` itself, asked for the same month."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    path = str(tmp_path / "aggregator.yaml")
    done = CliRunner().invoke(usage, ["--period", MONTHS[1], "--json", "--config", path])
    assert done.exit_code == 0, done.output
    feeds = json.loads(done.stdout)["feeds"]
    assert len(feeds) == len(made.feeds())
    for each in feeds:
        [line] = each["lines"]
        its = Usage(*(Decimal(line[name]) for name in Usage._fields))
        page = made.told(f"/meters/{each['meter']}?sink={each['sink']}&period={MONTHS[1]}")
        assert figures_of(its, each["sink"]) in page
