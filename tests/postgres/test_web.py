"""The pages and the API over a real ledger: who sees what, who may decide, and that nothing shown can do anything."""

import html
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from aggregator.core.model import Span
from aggregator.core.usage import By, sum_of
from aggregator.errors import UsageError
from aggregator.ledger import usage_days
from aggregator.ledger.ledger import Ledger
from aggregator.web import sessions, tokens
from aggregator.web.listener import Address
from tests.postgres.web_site import (
    HERE,
    HOUR,
    OPERATOR,
    SECRET,
    TOKENS,
    WITH_SECRET,
    Site,
    configured,
    ledger_then,
)  # fmt: skip


@pytest.fixture
def ledger(ledger_url: str, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with a past."""
    with ledger_then(ledger_url, tmp_path) as ledger:
        yield ledger


@pytest.fixture
def serve(ledger: Ledger, ledger_url: str, tmp_path: Path) -> Iterator[Any]:
    """Serve it with these keys, on an address."""

    def served(web: str = TOKENS, host: str = "127.0.0.1") -> Site:
        address = stack.enter_context(closing(Address(f"{host}:0")))
        site = Site(ledger, configured(ledger_url, tmp_path, web), address)
        stack.enter_context(closing(site))
        return site

    with ExitStack() as stack:
        yield served


@pytest.fixture
def site(serve: Any) -> Site:
    """The site on this machine, with both tokens."""
    made: Site = serve()
    return made


def hour_ago(site: Site, hours: int = 2) -> str:
    now = site.ledger.instant().replace(minute=0, second=0, microsecond=0)
    return f"{now - hours * HOUR:%Y-%m-%dT%H:%MZ}"


PAGES = [
    "/",
    "/meters/api_requests",
    "/customers",
    "/customers/cus_acme",
    "/events",
    "/runs",
    "/reconciliation",
    "/explain",
    "/explain?meter=api_requests&customer=cus_acme",
    "/files",
    "/configuration",
]


@pytest.mark.parametrize("path", PAGES)
def test_this_machine_looks_without_a_token(serve: Any, path: str) -> None:
    """Every page is shown, with a policy that lets nothing in from elsewhere, and without anything in it that needs more."""
    answer = serve(WITH_SECRET).browser().get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:|https?://(?!www.w3.org)", answer.text)
    assert re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.DOTALL)[0][1] == ""


def test_every_part_of_a_page_is_ours(site: Site) -> None:
    """What a page names is served, for good, under a name that changes with it."""
    text = site.browser().get("/").text
    parts = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', text))
    assert len(parts) == 3
    for part in parts:
        answer = site.browser().get(part)
        assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)
    assert site.browser().get("/static/0/style.css").status_code == 404
    assert site.browser().get("/static/x/../site.py").status_code == 404


@pytest.mark.parametrize("path", PAGES)
def test_from_elsewhere_one_signs_in(serve: Any, path: str) -> None:
    """Behind a web server, at an address that others reach, and by what was passed on: all are led to the form."""
    behind = serve(f"{TOKENS}, public_url: 'https://usage.example.com'").browser("https://usage.example.com")
    passed_on = serve().browser()
    passed_on.headers["x-forwarded-for"] = "203.0.113.7"
    for browser in (behind, passed_on):
        answer = browser.get(path)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")


def test_no_page_without_a_token_where_others_reach_it(serve: Any) -> None:
    """To listen there without one is refused at once, with the remedy."""
    for web, host in (("", "0.0.0.0"), ("public_url: 'https://usage.example.com'", "127.0.0.1")):
        with pytest.raises(UsageError, match="operator_token"):
            serve(web, host)


def test_what_was_passed_on_needs_a_token_that_there_is(serve: Any) -> None:
    """Without one nobody from elsewhere gets in, and that is said."""
    answer = serve(WITH_SECRET).browser().get("/", headers={"x-forwarded-for": "203.0.113.7"})
    assert answer.status_code == 403
    assert "operator_token" in answer.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""])
def test_another_name_for_this_machine_shows_nothing(site: Site, host: str) -> None:
    """A page elsewhere that has its own name lead here reads neither the pages nor the API."""
    for path in ("/", "/api/usage?customer=cus_acme", "/sign-in"):
        answer = site.browser().get(path, headers={"host": host})
        assert (answer.status_code, "cus_acme" in answer.text) == (421, False)


def test_the_meters_are_shown_as_they_stand(site: Site) -> None:
    """How far each is read, what is due, what waits for whom."""
    text = told(site.browser().get("/").text)
    assert "3 of 3 need your attention" in text
    assert re.search(r"api_requests stripe needs you .* 24 0 2 0 0 12", text)


def told(page: str) -> str:
    """Return the words of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_month_is_drawn_as_the_ledger_has_it(site: Site) -> None:
    """The figures of the page are those of `aggregator usage`, and the bars say their own."""
    text = told(site.browser().get("/meters/api_requests").text)
    now = site.ledger.instant()
    span = Span(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0), now)
    [feed] = site.ledger.usage.feeds("api_requests", span)
    days = list(site.ledger.usage.lines(feed, span, By.DAY))
    its = sum_of(line.usage for line in days)
    assert 0 < its.billed < its.used
    assert its.unmapped == 431
    assert f"Used {its.used:,} Billed through stripe {its.billed:,} Not billed yet {its.not_billed:,}" in text
    assert "431 unmapped." in text
    for line in days:
        assert f"{line.start:%d %b}: {line.usage.used:,} used, {line.usage.billed:,} billed" in text


def test_what_has_changed_is_seen_at_the_next_look(site: Site) -> None:
    """Sums that are kept of a day count no more once a slot of the day has changed, whatever changed it."""
    browser = site.browser()
    before = told(browser.get("/meters/seats").text)
    with site.ledger.database.transaction() as connection:
        start = site.ledger.instant().replace(minute=0, second=0, microsecond=0) - 3 * HOUR
        connection.execute(
            "update aggregator.slot set quantity = quantity + 1000000 where feed_id = 3 and customer = 'cus_acme'"
            " and window_start = %s", [start],
        )  # fmt: skip
        usage_days.changed(connection, 3, [start])
    assert figure(told(browser.get("/meters/seats").text)) == figure(before) + 1_000_000


def figure(text: str) -> int:
    found = re.search(r"Used ([\d,]+) Billed", text)
    assert found is not None
    return int(found[1].replace(",", ""))


def test_a_window_shows_its_customers_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who used most first; each is on one page, with a way to the next; the total is of all of them."""
    monkeypatch.setattr("aggregator.web.views.LINES", 10)
    path = f"/meters/api_requests/{hour_ago(site)}"
    seen: list[str] = []
    for page in (1, 2, 3):
        text = site.browser().get(f"{path}?page={page}").text
        seen += re.findall(r'<th scope="row"><a href="/customers/[^"]+">([^<]+)</a>', text)
        assert ("Next page" in text) == (page < 3)
    assert len(seen) == len(set(seen)) == 24
    assert site.browser().get(f"{path}?page=0").status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/meters/nothing", 404), ("/meters/api_requests?sink=nowhere", 404), ("/meters/api_requests?period=2026-13", 400),
        ("/meters/api_requests?period=0001-01", 400), ("/meters/api_requests?period=9999-12", 400),
        ("/meters/api_requests?day=x", 400), ("/meters/api_requests/x", 400), ("/meters/api_requests/0001-01-01", 400),
        ("/meters/api_requests?page=x", 400), ("/meters/api_requests?page=99999999999", 400), ("/nothing", 404),
        ("/customers/cus_acme?live=1", 503), ("/customers/cus_acme?period=x", 400), ("/customers/", 200),
        ("/explain?meter=nothing&customer=cus_acme", 404), ("/explain?meter=api_requests&customer=a%00b", 400),
        ("/customers?begins=%00", 400), ("/customers/a%00b", 400), ("/events?customer=%00", 400), ("/events?meter=%00", 400),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(site: Site, path: str, status: int) -> None:
    """On a page for people, in JSON for programs, and never with a trace of ours."""
    answer = site.browser().get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "Traceback" not in answer.text
    if status >= 400:
        assert "error" in site.browser().get(path, headers={"accept": "*/*"}).json()


EVIL = "<img src=x onerror=alert(1)>'\"&amp;/../\u202e"


def test_foreign_words_do_nothing(site: Site) -> None:
    """A customer, a reason or a search that is HTML is shown as it is, in every place."""
    with site.ledger.database.transaction() as connection:
        connection.execute("update aggregator.slot set customer = %s where customer = 'cus_acme'", [EVIL])
        connection.execute("update aggregator.parked set reason = %s", [EVIL])
        connection.execute("insert into aggregator.unmapped (meter_id, window_start, reason, customer, rows)"
                           " values (1, '2026-11-20T10:00Z', %s, %s, 1)", [EVIL, EVIL])  # fmt: skip
    browser = site.signed_in().browser
    found = re.search(r'href="(/customers/[^"]*onerror[^"]*)"', browser.get("/customers").text)
    assert found is not None
    paths = ["/", "/customers", html.unescape(found[1]), "/events", f"/meters/api_requests/{hour_ago(site)}"]
    for path in [
        *paths,
        f"/customers?begins={EVIL}",
        f"/events?customer={EVIL}&done={EVIL}",
        '/sign-in?next="><script>',
    ]:
        text = browser.get(path).text
        assert "<img" not in text
        assert '"><script>' not in text
    assert EVIL in html.unescape(browser.get(html.unescape(found[1])).text)


def test_a_source_that_cannot_be_asked_is_said(site: Site) -> None:
    """Which, and why; without asking it, the page is there."""
    answer = site.browser().get("/customers/cus_acme?live=1")
    assert (answer.status_code, "Source app" in told(answer.text)) == (503, True), told(answer.text)


def test_a_customer_sees_what_is_not_billed_yet(site: Site) -> None:
    """By meter: used, billed, and the rest, which is due or waits for a person."""
    text = told(site.browser().get("/customers/cus_acme").text)
    with site.ledger.database.transaction() as connection:
        rows = connection.execute(
            "select meter.name, sum(delta), sum(delta) filter (where event.state = 'confirmed')"
            " from aggregator.event join aggregator.feed on feed.id = feed_id join aggregator.meter on meter.id = meter_id"
            " where customer = 'cus_acme' and window_start >= '2026-11-01' group by 1"
        ).fetchall()
    assert len(rows) == 3
    for name, used, billed in rows:
        assert f"{name} stripe {used:,} {billed:,} {used - billed:,}" in text
    assert "The source says 1,204 less" in text
    statement = told(site.browser().get("/customers/cus_acme?statement=1").text)
    assert f"{rows[0][1]:,}" in statement


def waiting(site: Site, state: str) -> list[int]:
    """Return which events wait in a state."""
    with site.ledger.database.transaction() as connection:
        rows = connection.execute(
            "select event_id from aggregator.parked where dismissed_at is null and state = %s::aggregator.event_state"
            " order by 1", [state],
        )  # fmt: skip
        return [row[0] for row in rows]


def decisions(site: Site) -> list[tuple[str, str, str | None, list[int]]]:
    """Return what was decided, the newest first."""
    return [
        (each.verb.value, each.who, each.reason, each.events) for each in site.ledger.decisions.latest(10)
    ]


def test_a_decision_is_carried_out_and_on_record(site: Site) -> None:
    """Released, tried again, dismissed: with who and why, which the page shows."""
    operator, held, [refused] = site.signed_in(), waiting(site, "held"), waiting(site, "refused")
    answer = operator.send(
        "/events", verb="release", id=[held[0]], reason=" checked with <Bob> ", back="/events"
    )
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/events")
    assert "1+event+released" in answer.headers["location"]
    assert operator.send("/events", verb="dismiss", id=[held[1]], reason="a trial").status_code == 303
    assert (
        operator.send("/events", verb="retry", id=[refused], reason="the customer exists now").status_code
        == 303
    )
    assert (waiting(site, "held"), waiting(site, "refused")) == ([], [])
    assert decisions(site)[:3] == [
        ("release", "Ada on the page", "the customer exists now", [refused]),
        ("dismiss", "Ada on the page", "a trial", [held[1]]),
        ("release", "Ada on the page", "checked with <Bob>", [held[0]]),
    ]
    text = told(operator.browser.get("/events?dismissed=1").text)
    assert "Dismissed by Ada on the page at 2026-11-20 14:25Z: a trial" in text
    assert "checked with <Bob>" in text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"verb": "release", "id": "1", "reason": "  "}, "Give a reason"),
        ({"verb": "release", "reason": "x"}, "Select the events"),
        ({"verb": "release", "id": "-1", "reason": "x"}, "not an event"),
        ({"verb": "release", "id": "9" * 30, "reason": "x"}, "not an event"),
        ({"verb": "drop", "id": "1", "reason": "x"}, "Choose what to do"),
    ],
)
def test_a_form_that_makes_no_sense_changes_nothing(site: Site, form: dict[str, str], words: str) -> None:
    """It is said what is missing."""
    before = decisions(site)
    answer = site.signed_in().send("/events", **form)
    assert (answer.status_code, words in html.unescape(answer.text)) == (409, True)
    assert decisions(site) == before


def test_files_are_confirmed(site: Site) -> None:
    """Those that are chosen, once: a second time is refused, as by the command."""
    operator = site.signed_in()
    assert "gb_stored-0002.csv" in operator.browser.get("/files").text
    assert operator.send("/files", name=["gb_stored-0002.csv"], back="/files").status_code == 303
    again = operator.send("/files", name=["gb_stored-0002.csv"])
    assert (again.status_code, "confirmed" in again.text) == (409, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {},
    ],
    ids=str,
)
def test_a_form_that_was_sent_from_elsewhere_is_refused(site: Site, headers: dict[str, str]) -> None:
    """Even with the session's cookie and the right word; and so is signing somebody in from there."""
    operator, held = site.signed_in(), waiting(site, "held")
    form = {"form_token": operator.form_token(), "verb": "release", "id": str(held[0]), "reason": "x"}
    assert operator.browser.post("/events", data=form, headers=headers).status_code == 403
    signing_in = {"who": "Eve", "token": OPERATOR, "next": "/"}
    assert site.browser().post("/sign-in", data=signing_in, headers=headers).status_code == 403
    assert waiting(site, "held") == held


def test_a_form_brings_the_word_of_its_session(site: Site) -> None:
    """None, another session's, or no session at all: nothing is decided."""
    operator, other, held = site.signed_in(), site.signed_in(), waiting(site, "held")
    form = {"verb": "release", "id": str(held[0]), "reason": "x"}
    from_us = {"sec-fetch-site": "same-origin"}
    for word in ("", "x", "ü", other.form_token()):
        answer = operator.browser.post("/events", data={**form, "form_token": word}, headers=from_us)
        assert answer.status_code == 403
    nobody = site.browser().post(
        "/events", data={**form, "form_token": operator.form_token()}, headers=from_us
    )
    assert nobody.status_code == 401
    as_json = operator.browser.post(
        "/events", json={**form, "form_token": operator.form_token()}, headers=from_us
    )
    assert as_json.status_code == 415
    assert waiting(site, "held") == held


@pytest.mark.parametrize("path", ["/events", "/files", "/sign-in", "/sign-out"])
def test_no_bearer_decides(site: Site, path: str) -> None:
    """Neither a customer's token nor the operator's as a bearer: only who signed in, by a form."""
    form = {
        "verb": "release",
        "id": str(waiting(site, "held")[0]),
        "reason": "x",
        "name": "gb_stored-0002.csv",
    }
    for headers in (site.token(), {"authorization": f"Bearer {OPERATOR}"}):
        given = {**headers, "sec-fetch-site": "same-origin"}
        assert site.browser().post(path, data=form, headers=given).status_code in (400, 401, 403)
    assert len(waiting(site, "held")) == 2


def test_a_session_is_signed_and_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No character of it can be changed, another token ends it, it is renewed while one looks, and it ends by itself."""
    operator = site.signed_in()
    [cookie] = operator.browser.cookies.jar
    assert cookie.value is not None
    answer = operator.browser.get("/")
    set_cookie = answer.headers["set-cookie"].lower()
    assert all(word in set_cookie for word in ("httponly", "samesite=lax", "path=/"))
    for place in range(len(cookie.value)):
        changed = (
            cookie.value[:place] + ("A" if cookie.value[place] != "A" else "B") + cookie.value[place + 1 :]
        )
        browser = site.browser()
        browser.cookies.set(cookie.name, changed)
        assert "Sign out" not in browser.get("/sign-in").text + browser.get("/events").text
    monkeypatch.setattr("tests.postgres.web_site.NOW", site.ledger.instant() + sessions.LASTS)
    late = site.browser()
    late.cookies.set(cookie.name, cookie.value)
    assert "Sign out" not in late.get("/events").text


def test_behind_tls_the_cookie_is_of_this_host_alone(serve: Any) -> None:
    """Its name has the prefix by which browsers keep it to TLS and to this host, and nothing else is set."""
    site = serve(f"{TOKENS}, public_url: 'https://usage.example.com'")
    browser = site.browser("https://usage.example.com")
    form = {"who": "Ada", "token": OPERATOR, "next": "/"}
    answer = browser.post("/sign-in", data=form, headers={"origin": "https://usage.example.com"})
    assert answer.headers["set-cookie"].startswith("__Host-aggregator=")
    assert "; secure" in answer.headers["set-cookie"].lower()
    assert "domain" not in answer.headers["set-cookie"].lower()
    assert browser.get("/").status_code == 200
    elsewhere = browser.post("/sign-in", data=form, headers={"origin": "http://usage.example.com"})
    assert elsewhere.status_code == 403


@pytest.mark.parametrize(
    "following",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "",
        "/\t/evil.example",
        "/a\nb",
    ],
)
def test_signing_in_leads_nowhere_else(site: Site, following: str) -> None:
    """What is no path of ours leads to the first page; so does `back` of a form."""
    form = {"who": "Ada", "token": OPERATOR, "next": following}
    answer = site.browser().post("/sign-in", data=form, headers={"sec-fetch-site": "same-origin"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    done = site.signed_in().send("/files", name=["gb_stored-0002.csv"], back=following)
    assert (done.status_code, done.headers["location"].partition("?")[0]) == (303, "/")


def test_tokens_are_not_tried_out(site: Site) -> None:
    """After ten wrong ones nobody signs in for a while, with the right one neither."""
    from_us = {"sec-fetch-site": "same-origin"}
    form = {"who": "Eve", "next": "/"}
    statuses = [
        site.browser().post("/sign-in", data={**form, "token": f"wrong {n}"}, headers=from_us).status_code
        for n in range(12)
    ]
    assert statuses == [403] * 10 + [429] * 2
    assert (
        site.browser().post("/sign-in", data={**form, "token": OPERATOR}, headers=from_us).status_code == 429
    )


def asked(site: Site, query: str = "customer=cus_acme", **headers: str) -> Any:
    """Ask the API from elsewhere."""
    client = TestClient(site.application, HERE, raise_server_exceptions=False)
    return client.get(f"/api/usage?{query}", headers={"x-forwarded-for": "203.0.113.7", **headers})


def test_a_customer_reads_its_own_usage(site: Site) -> None:
    """Exact numbers as text, by meter, and by day if that is asked for; they add up."""
    answer = asked(site, "customer=cus_acme&by=day", **site.token())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    told = answer.json()
    assert [its["meter"] for its in told["usage"]] == ["api_requests", "gb_stored", "seats"]
    for its in told["usage"]:
        assert all(isinstance(its[name], str) for name in ("used", "billed", "not_billed_yet"))
        assert Decimal(its["used"]) == Decimal(its["billed"]) + Decimal(its["not_billed_yet"]) > 0
        for name in ("used", "billed", "not_billed_yet"):
            assert sum(Decimal(line[name]) for line in its["lines"]) == Decimal(its[name])


def test_a_token_reads_nobody_elses_usage(site: Site) -> None:
    """Another customer, another meter, none, one that is over, one of another secret, and several at once."""
    own, narrow = site.token(), site.token("cus_acme", "seats")
    assert asked(site, "customer=cus_borealis", **own).status_code == 403
    assert asked(site, "customer=cus_acme&customer=cus_borealis", **own).status_code in (400, 403)
    assert asked(site, "customer=CUS_ACME", **own).status_code == 403
    assert asked(site, "customer=cus_acme&meter=api_requests", **narrow).status_code == 403
    assert asked(site, "customer=cus_acme&meter=seats&meter=api_requests", **narrow).status_code == 403
    assert [its["meter"] for its in asked(site, **narrow).json()["usage"]] == ["seats"]
    assert asked(site).status_code == 401
    assert asked(site).headers["www-authenticate"].startswith("Bearer")
    for bad in (
        "Bearer",
        "Bearer x",
        "Basic eDp5",
        f"Bearer {own['authorization'][7:-2]}AA",
        "Bearer agg1.e30.e30",
    ):
        assert asked(site, authorization=bad).status_code == 401
    over = tokens.issue(SECRET, tokens.Scope("cus_acme"), site.ledger.instant() - 2 * HOUR, HOUR)
    assert asked(site, authorization=f"Bearer {over}").status_code == 401
    other = tokens.issue("t" * 40, tokens.Scope("cus_acme"), site.ledger.instant(), HOUR)
    assert asked(site, authorization=f"Bearer {other}").status_code == 401


@pytest.mark.parametrize("path", [*PAGES, "/customers/cus_borealis", "/metrics"])
def test_a_customers_token_opens_no_page(site: Site, path: str) -> None:
    """As a bearer or as a cookie, it leads to the form as nothing does."""
    headers = {**site.token(), "x-forwarded-for": "203.0.113.7"}
    browser = site.browser()
    browser.cookies.set("aggregator", headers["authorization"][7:])
    assert browser.get(path, headers=headers).status_code in (303, 404)


def test_without_a_secret_no_token_is_good(serve: Any) -> None:
    """Not even one that is signed with nothing."""
    site = serve(f"operator_token: {OPERATOR}")
    assert asked(site, **site.token()).status_code == 401
    empty = tokens.issue("", tokens.Scope("cus_acme"), site.ledger.instant(), HOUR)
    assert asked(site, authorization=f"Bearer {empty}").status_code == 401
    assert asked(site, authorization=f"Bearer {OPERATOR}").status_code == 200


def test_a_secret_is_changed_while_tokens_are_in_use(serve: Any, tmp_path: Path) -> None:
    """The first of several signs, and what any of them signed is good; also from a file. One that is gone is not."""
    new, old, gone = "n" * 40, "o" * 40, "g" * 40
    held = tmp_path / "secrets"
    held.write_text(f"{new}\n{old}\n")
    for setting in (f"token_secret: '{new},{old}'", f"token_secret_file: {held}"):
        site = serve(f"operator_token: {OPERATOR}, {setting}")
        now = site.ledger.instant()
        by = {
            secret: tokens.issue(secret, tokens.Scope("cus_acme"), now, HOUR) for secret in (new, old, gone)
        }
        assert [asked(site, authorization=f"Bearer {by[each]}").status_code for each in (new, old, gone)] == [
            200,
            200,
            401,
        ]
        both = tokens.issue(f"{new},{old}", tokens.Scope("cus_acme"), now, HOUR)
        assert asked(site, authorization=f"Bearer {both}").status_code == 401


@pytest.mark.parametrize(
    "query",
    [
        "", "customer=", "customer=a%00b", "customer=cus_acme&by=year", "customer=cus_acme&period=x",
        "customer=cus_acme&all=1", "customer=cus_acme&by=", "customer=cus_acme&by=model", "customer=cus_acme&page=2",
        "customer=cus_acme&meter=seats&by=model", "customer=cus_acme&meter=seats&meter=gb_stored&by=model",
        "customer=cus_acme&meter=seats&by=model&page=0", "customer=cus_acme&meter=seats&by=model&page=x",
        "customer=cus_acme&from=2026-11-01", "customer=cus_acme&from=2026-11-02&to=2026-11-01",
        "customer=cus_acme&from=2020-01-01&to=2026-11-01", "customer=cus_acme&from=2026-11-01T06:00Z&to=2026-11-02",
        "customer=cus_acme&period=2026-11&from=2026-11-01&to=2026-11-02", "customer=cus_acme&period=9999-12",
        "customer=cus_acme&" + "&".join(["meter=x"] * 51), "customer=cus_acme&meter=", "customer=cus_acme&meter=a%00b",
        f"customer=cus_acme&meter={'x' * 101}",
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(site: Site, query: str) -> None:
    """400, in JSON, with what to write."""
    answer = asked(site, query, authorization=f"Bearer {OPERATOR}")
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_who_has_the_answer_is_told_so(site: Site) -> None:
    """304 with the same ETag as long as nothing changed; it is another one once something did."""
    first = asked(site, **site.token())
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        again = asked(site, **site.token(), **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert asked(site, **site.token(), **{"if-none-match": '"x"'}).status_code == 200
    assert asked(site, "customer=cus_acme&meter=seats", **site.token()).headers["etag"] != etag
    assert asked(site, "customer=cus_borealis", **site.token("cus_borealis")).headers["etag"] != etag


def test_pages_of_yours_may_read_the_answer(serve: Any) -> None:
    """Those that are named, with a token; never with the cookies of whoever signed in."""
    site = serve(f"{TOKENS}, allow_origins: ['https://app.example.com']")
    ours, other = "https://app.example.com", "https://evil.example"
    assert asked(site, origin=ours, **site.token()).headers["access-control-allow-origin"] == ours
    refused = asked(site, origin=ours)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ours)
    strange = asked(site, origin=other, **site.token())
    assert not [name for name in strange.headers if name.startswith("access-control")]
    assert "access-control-allow-credentials" not in asked(site, origin=ours, **site.token()).headers
    client = TestClient(site.application, HERE)
    asks = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    assert client.options("/api/usage", headers={"origin": ours, **asks}).status_code == 204
    assert client.options("/api/usage", headers={"origin": other, **asks}).status_code == 403


def test_the_description_of_the_api_is_true(site: Site) -> None:
    """Every answer has the keys that it names, and it names every parameter that is taken."""
    document = TestClient(site.application, HERE).get("/api/openapi.json").json()
    schema = document["components"]["schemas"]["Usage"]
    answer = asked(site, "customer=cus_acme&by=day", **site.token()).json()
    its = schema["properties"]["usage"]["items"]["properties"]
    assert answer.keys() == schema["properties"].keys()
    over_time, _ = (each["properties"] for each in its["lines"]["items"]["oneOf"])
    for each in answer["usage"]:
        assert each.keys() == its.keys() - {"count"}
        assert each["lines"][0].keys() == over_time.keys()
        for name in ("used", "billed", "not_billed_yet"):
            assert re.fullmatch(its[name]["pattern"], each[name])
    parameters = {each["name"] for each in document["paths"]["/api/usage"]["get"]["parameters"]}
    assert parameters == {"customer", "meter", "period", "from", "to", "by", "page"}
    assert json.dumps(document).count("$ref") == 5
