"""The pages and the API by a dimension: the lines of `aggregator usage --by`, page by page, and nobody else's."""

import html
import re
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from starlette.testclient import TestClient

from aggregator.core.dimensions import number
from aggregator.core.planner import plain
from aggregator.core.shown import shown
from aggregator.core.usage import Usage, month, sum_of
from aggregator.ledger import usage_days
from aggregator.ledger.ledger import Ledger
from aggregator.web.breakdowns import ON_A_PAGE
from aggregator.web.listener import Address
from tests.postgres.web_site import HERE, HOUR, NOW, OPERATOR, TOKENS, Site, configured, ledger_then

SPAN = month("2026-11")
MANY = 2 * ON_A_PAGE + 50
NEWEST = (NOW - 2 * HOUR).replace(minute=0)

# One customer has very many combinations in one window, of which nothing is billed.
SLOTS = """
insert into aggregator.slot (id, feed_id, revision, window_start, customer, combination, quantity, total)
select nextval('aggregator.event_id'), feed.id, 0, %(start)s, 'cus_many', its.id, its.place, 0
  from aggregator.feed join aggregator.meter on meter.id = feed.meter_id and meter.name = 'llm_tokens',
       unnest(%(ids)s::bigint[]) with ordinality as its (id, place)
"""
COMBINATIONS = """
insert into aggregator.combination (meter_id, id, dimensions)
select meter.id, its.id, jsonb_build_object('model', 'm' || its.place, 'token_type', 'input')
  from aggregator.meter, unnest(%(ids)s::bigint[]) with ordinality as its (id, place) where meter.name = 'llm_tokens'
"""


DRIFT = """
insert into aggregator.drift
       (feed_id, customer, window_start, window_end, cause, amount, reason, found_at, combination, dimensions)
select feed.id, 'cus_acme', %(at)s, %(at)s + interval '1 hour', 'foreign', -150, 'the rest is not ours', %(at)s, 7,
       '{"token_type": "input", "model": "<large>"}'
  from aggregator.feed join aggregator.meter on meter.id = feed.meter_id and meter.name = 'llm_tokens' limit 1
"""


@pytest.fixture
def ledger(ledger_url: str, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with a meter that is kept apart, whose days but the newest are summed up."""
    with ledger_then(ledger_url, tmp_path, apart=True) as ledger:
        assert ledger.usage_days.sum_up(sink_id=1).days
        yield ledger


@pytest.fixture
def site(ledger: Ledger, ledger_url: str, tmp_path: Path) -> Iterator[Site]:
    """The site over it."""
    with (
        closing(Address("127.0.0.1:0")) as address,
        closing(Site(ledger, configured(ledger_url, tmp_path, TOKENS), address)) as site,
    ):
        yield site


def asked(site: Site, query: str, **headers: str) -> Any:
    """Return an answer of the API."""
    client = TestClient(site.application, HERE)
    return client.get(
        f"/api/usage?period=2026-11&{query}", headers=headers or {"authorization": f"Bearer {OPERATOR}"}
    )


def said_by_usage(
    ledger: Ledger, dimension: str, customer: str | None = None
) -> list[tuple[str | None, Usage]]:
    """Return what the command says."""
    [feed] = ledger.usage.feeds("llm_tokens", SPAN)
    return [
        (line.value, line.usage)
        for line in ledger.usage.lines(feed, SPAN, dimension=dimension, customer=customer)
    ]


def rows(site: Site, path: str) -> list[list[str]]:
    """Return the cells of the table by a dimension on a page."""
    answer = site.browser().get(path)
    assert answer.status_code == 200, answer.text
    [table] = re.findall(r'aria-label="Values of .*?</table>', answer.text, re.DOTALL)
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
    ]  # fmt: skip


def test_a_page_shows_the_lines_of_usage(site: Site) -> None:
    """Of a meter and of a customer, by each dimension: the values with most usage first, and a total that they come to."""
    for customer, path in (
        (None, "/meters/llm_tokens?sink=stripe&period=2026-11"),
        ("cus_acme", "/customers/cus_acme?period=2026-11&meter=llm_tokens&sink=stripe"),
    ):
        for dimension in ("model", "token_type"):
            said = said_by_usage(site.ledger, dimension, customer)
            head, *lines, total = rows(site, f"{path}&by={dimension}")
            assert head[:3] == [dimension, "Used", "Billed"]
            assert [line[:3] for line in lines] == [
                [value, shown(its.used), shown(its.billed)] for value, its in said
            ]
            come_to = sum_of(its for _, its in said)
            assert total[:3] == ["Total", shown(come_to.used), shown(come_to.billed)]
        page = site.browser().get(path).text
        assert page.count("By model</a>") == page.count("By token_type</a>") == 1
        assert "Values of" not in page, "it is looked up for whoever wants it"
    assert site.browser().get("/meters/llm_tokens?by=region").status_code == 400
    assert site.browser().get("/customers/cus_acme?meter=seats&sink=stripe&by=model").status_code == 400


def test_the_api_gives_the_lines_of_usage(site: Site) -> None:
    """Exact, with sums that add up, under keys that the description names; again with its ETag, nothing."""
    said = said_by_usage(site.ledger, "model", "cus_acme")
    answer = asked(site, "customer=cus_acme&meter=llm_tokens&by=model")
    document = answer.json()
    [its] = document["usage"]
    assert document["by"] == "model"
    assert [(line["value"], line["used"], line["billed"]) for line in its["lines"]] == [
        (value, plain(line.used), plain(line.billed)) for value, line in said
    ]
    assert its["count"] == len(said) == 3
    for name in ("used", "billed", "not_billed_yet"):
        assert sum(Decimal(line[name]) for line in its["lines"]) == Decimal(its[name])
    [plainly] = asked(site, "customer=cus_acme&meter=llm_tokens").json()["usage"]
    assert {name: its[name] for name in plainly} == plainly
    described = TestClient(site.application, HERE).get("/api/openapi.json").json()
    schema = described["components"]["schemas"]["Usage"]["properties"]["usage"]["items"]
    assert its.keys() == schema["properties"].keys()
    assert its["lines"][0].keys() == schema["properties"]["lines"]["items"]["oneOf"][1]["properties"].keys()
    known = {"authorization": f"Bearer {OPERATOR}", "if-none-match": answer.headers["etag"]}
    assert asked(site, "customer=cus_acme&meter=llm_tokens&by=model", **known).status_code == 304
    for other in ("customer=cus_acme&meter=llm_tokens&by=token_type", "customer=cus_acme&meter=llm_tokens"):
        assert asked(site, other, **known).status_code == 200


def test_a_token_reads_by_dimension_what_it_reads_otherwise(site: Site) -> None:
    """Its customer, its meters; what dimensions another meter has is not told either."""
    own, narrow, other = (
        site.token(),
        site.token("cus_acme", "llm_tokens"),
        site.token("cus_acme", "seats"),
    )
    assert asked(site, "customer=cus_acme&meter=llm_tokens&by=model", **own).status_code == 200
    assert asked(site, "customer=cus_acme&by=model", **narrow).status_code == 200, "it is for one meter"
    assert asked(site, "customer=cus_borealis&meter=llm_tokens&by=model", **own).status_code == 403
    for dimension in ("model", "region"):
        refused = asked(site, f"customer=cus_acme&meter=llm_tokens&by={dimension}", **other)
        assert (refused.status_code, "model" in refused.text) == (403, False)
    assert asked(site, "customer=cus_acme&meter=llm_tokens&by=region", **own).json() == {
        "error": "llm_tokens has no dimension region; its dimensions: model, token_type"
    }


def test_very_many_combinations_come_page_by_page(site: Site, ledger_url: str) -> None:
    """Each once, those with most usage first, and beside each page what all of them come to; on the page likewise."""
    values = {"start": NEWEST, "ids": [number((("model", f"m{place}"),)) for place in range(MANY)]}
    with psycopg.connect(ledger_url) as connection:
        for statement in (COMBINATIONS, SLOTS):
            connection.execute(statement, values)
    with site.ledger.database.transaction() as changing:
        usage_days.changed(changing, 4, [NEWEST])
    answers = [
        asked(site, f"customer=cus_many&meter=llm_tokens&by=model&page={page}").json()["usage"][0]
        for page in (1, 2, 3, 4)
    ]
    lines = [line for answer in answers for line in answer["lines"]]
    assert [len(answer["lines"]) for answer in answers] == [ON_A_PAGE, ON_A_PAGE, 50, 0]
    assert [line["value"] for line in lines] == [f"m{place}" for place in range(MANY, 0, -1)]
    assert {(answer["count"], answer["used"]) for answer in answers} == {(MANY, str(MANY * (MANY + 1) // 2))}
    path = "/customers/cus_many?period=2026-11&meter=llm_tokens&sink=stripe&by=model&page=2"
    _, first, *_, total = rows(site, path)
    assert first[0] == f"m{MANY - 100}"
    assert total[:2] == ["Total of all pages", shown(Decimal(MANY * (MANY + 1) // 2))]
    assert 'rel="next"' in site.browser().get(path).text


def test_days_are_read_by_their_sums(site: Site, ledger_url: str) -> None:
    """Of a day that is summed up no slot is looked at; the lines are the same, and count for what they are of."""
    before = [said_by_usage(site.ledger, "model", customer) for customer in (None, "cus_acme")]
    with psycopg.connect(ledger_url) as connection:
        connection.execute("update aggregator.usage_day set made_at = null")
    assert [said_by_usage(site.ledger, "model", customer) for customer in (None, "cus_acme")] == before
    with psycopg.connect(ledger_url) as connection:
        connection.execute("update aggregator.usage_day set changed_at = now() - interval '1 year'")
    assert site.ledger.usage_days.sum_up(sink_id=1).days
    with psycopg.connect(ledger_url) as connection:
        for table in ("usage_of_day", "usage_of_combination"):
            connection.execute(
                f"update aggregator.{table} set quantity = quantity + 1, total = total + 1".encode()
            )
    for customer, was in zip((None, "cus_acme"), before, strict=True):
        more = [its.used for _, its in said_by_usage(site.ledger, "model", customer)]
        rest = [its.used - each for each, (_, its) in zip(more, was, strict=True)]
        assert rest == [-4] * 3, "one of each of two token types and two days"


def test_a_difference_is_shown_with_its_combination(site: Site, ledger_url: str) -> None:
    """In a column of its own, which is there only if a difference is of one."""
    before = site.browser().get("/reconciliation").text
    assert ("cus_granite" in before, ">Dimensions</th>" in before) == (True, False)
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(DRIFT, {"at": NEWEST})
    text = site.browser().get("/reconciliation").text
    assert text.count(">Dimensions</th>") == text.count("<td>model=&lt;large&gt;, token_type=input</td>") == 1
    assert "cus_granite" in text
