"""The pages in a real browser: readable by everybody, by keyboard, without scripts, on a phone, and on paper."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser import browsing, missing
from tests.postgres.web_site import HOUR, NOW, OPERATOR, ledger_then, listening

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
    pytest.mark.direct,  # what is looked at here is the same through a pooler
    pytest.mark.xdist_group("browser"),  # one browser at a time
]

WINDOW = f"/meters/api_requests/{(NOW - 3 * HOUR).replace(minute=0):%Y-%m-%dT%H:%MZ}"
PAGES = {
    "meters": "/",
    "meter": "/meters/api_requests",
    "day": f"/meters/api_requests?day={NOW:%Y-%m-%d}",
    "window": WINDOW,
    "customers": "/customers",
    "customer": "/customers/cus_acme",
    "meter-by": "/meters/llm_tokens?by=token_type",
    "customer-by": "/customers/cus_acme?meter=llm_tokens&sink=stripe&by=model",
    "statement": "/customers/cus_acme?statement=1",
    "events": "/events",
    "explain": f"/explain?meter=api_requests&customer=cus_acme&window={(NOW - 5 * HOUR).replace(minute=0):%Y-%m-%dT%H:%MZ}",
    "reconciliation": "/reconciliation",
    "runs": "/runs",
    "files": "/files",
    "configuration": "/configuration",
    "sign-in": "/sign-in",
    "nothing": "/nothing",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here."""
    with browsing() as browser:
        yield browser


@pytest.fixture
def address(ledger_url: str, tmp_path: Path) -> Iterator[str]:
    """A site that listens."""
    with (
        ledger_then(ledger_url, tmp_path, apart=True) as ledger,
        listening(ledger, ledger_url, tmp_path) as address,
    ):
        yield address


def sign_in(page: Page, address: str) -> None:
    """Sign in by the form."""
    page.goto(f"{address}/sign-in")
    page.get_by_label("Your name").fill("Ada")
    page.locator("#token").fill(OPERATOR)
    page.get_by_role("button", name="Sign in").click()


CONTRAST = """
selector => {
  const element = document.querySelector(selector);
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [red, green, blue] = parts(colour).slice(0, 3).map(each => each / 255)
      .map(each => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const style = getComputedStyle(element);
  let behind = element;
  while (behind.parentElement && ["rgba(0, 0, 0, 0)", "transparent"].includes(getComputedStyle(behind).backgroundColor))
    behind = behind.parentElement;
  const [one, other] = [
    light(element instanceof SVGElement ? style.fill : style.color), light(getComputedStyle(behind).backgroundColor),
  ].sort((a, b) => b - a);
  return (one + 0.05) / (other + 0.05);
}
"""
"""How a text's colour stands out from what is behind it (www.w3.org/TR/WCAG21/#dfn-contrast-ratio)."""

ENOUGH = 4.5


def faults(page: Page) -> list[tuple[str, Any]]:
    """Return what axe-core finds on a page. What it cannot tell is a fault, too, but for colours, which are measured."""
    found = Axe().run(page, options={"resultTypes": ["violations", "incomplete"]}).response
    unsure = [
        (rule["id"], node)
        for rule in found["incomplete"]
        for node in rule["nodes"]
        if rule["id"] != "color-contrast" or page.evaluate(CONTRAST, node["target"][0]) < ENOUGH
    ]
    wrong = [(rule["id"], node) for rule in found["violations"] for node in rule["nodes"]]
    return [(rule, node["html"][:200]) for rule, node in [*wrong, *unsure]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_for_everybody(browser: Browser, address: str, scheme: Any) -> None:
    """axe-core finds nothing, in light and in dark; nothing is fetched from elsewhere, and the policy stops nothing."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    fetched: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: fetched.append(request.url))
    sign_in(page, address)
    found: dict[str, Any] = {}
    for name, path in PAGES.items():
        page.goto(address + path)
        found[name] = faults(page)
    assert {name: its for name, its in found.items() if its} == {}
    assert [line for line in said if "404" not in line] == []
    assert [url for url in fetched if not url.startswith(address)] == []
    context.close()


def test_a_page_fits_a_phone(browser: Browser, address: str) -> None:
    """Nothing is wider than the screen but what has a frame to scroll in, which the keyboard reaches."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    sign_in(page, address)
    for name, path in PAGES.items():
        page.goto(address + path)
        assert (name, page.evaluate("document.documentElement.scrollWidth")) == (name, 360)
    context.close()


def test_one_decides_by_keyboard(browser: Browser, address: str) -> None:
    """From the first key on: to the content, to an event, to the reason, to the button; and sees what was done."""
    page = browser.new_page()
    sign_in(page, address)
    page.goto(f"{address}/events?state=refused")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    reach(page, "input[name=id]")
    page.keyboard.press("Space")
    reach(page, "input[name=reason]")
    page.keyboard.type("the customer exists now")
    reach(page, "button[value=retry]")
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("1 event released").wait_for()
    assert page.get_by_text("the customer exists now").is_visible()
    page.close()


def reach(page: Page, selector: str) -> None:
    """Press Tab until something has the focus, and see that one can tell."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    raise AssertionError(f"{selector} is not reached")


def test_it_works_without_scripts(browser: Browser, address: str) -> None:
    """One signs in, dismisses an event, and signs out."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_in(page, address)
    page.goto(f"{address}/events?customer=cus_fjord")
    page.locator("input[name=id]").check()
    page.get_by_label("Why", exact=True).fill("a trial")
    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("status").get_by_text("1 event dismissed").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("link", name="Sign in").wait_for()
    context.close()


def test_with_scripts_a_command_is_copied_and_nothing_is_sent_for_nothing(
    browser: Browser, address: str
) -> None:
    """A button beside each command; a form without a chosen event stays where it is."""
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    sign_in(page, address)
    page.goto(f"{address}/events?state=in_doubt")
    page.locator("button.copy").first.click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("aggregator events mark-accepted ")
    page.goto(f"{address}/events")
    page.get_by_label("Why", exact=True).fill("for nothing")
    page.get_by_role("button", name="Release").click()
    assert page.evaluate("document.activeElement.name") == "id"
    assert page.url == f"{address}/events"
    context.close()


def test_a_statement_is_printed_whole(browser: Browser, address: str) -> None:
    """On paper there is no frame to scroll in, nothing to click, and dark ink."""
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{address}/customers/cus_acme?statement=1")
    page.emulate_media(media="print")
    style = "(selector, name) => getComputedStyle(document.querySelector(selector))[name]"
    assert page.evaluate(f"({style})('.scroll', 'overflowX')") == "visible"
    assert page.evaluate(f"({style})('.top', 'display')") == "none"
    assert page.evaluate(f"({style})('td', 'color')") == "rgb(0, 0, 0)"
    context.close()
