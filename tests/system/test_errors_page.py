"""The configuration that docs/errors.md shows, run as it stands there: only addresses, dates and secrets are our own."""

from pathlib import Path

from aggregator.core.windows import floor
from tests.system.harness import HOUR, World, as_reader, until
from tests.tidy.test_docs import blocks, page

SECRET = "whsec_0123456789abcdef"


def shown(world: World) -> str:
    """The page's configuration, with usage that begins with the world, and the sandbox in the place of Stripe."""
    text = blocks(page("errors.md"), "yaml")[0]
    text = text.replace("2026-11-01T00:00Z", f"{floor(world.start, HOUR):%Y-%m-%dT%H:%MZ}")
    return text.replace("    mode: live", f"    api_base: {world.sandbox.url}\n    mode: live")


def test_the_page_on_errors_shows_what_works(world: World, tmp_path: Path) -> None:
    """It bills, takes a signed delivery, and says who was refused."""
    assert world.ledger_url is not None
    world.use("cus_0", 3, minute=0)
    world.use("cus_1", 4, minute=0)
    world.sandbox.set_faults(reject_customers=["cus_1"], reject_after_seconds=8)
    world.sandbox.set_rules(report_window_seconds=0)
    (tmp_path / "aggregator.yaml").write_text(shown(world))
    daemon = world.start_process(
        "run",
        "--web",
        "127.0.0.1:0",
        name="daemon",
        APP_DATABASE_URL=as_reader(world.source_url),
        LEDGER_URL=world.ledger_url,
        STRIPE_API_KEY="rk_live_sandbox",
        STRIPE_WEBHOOK_SECRET=SECRET,
    )
    url = daemon.logged("web_started")["url"]
    world.sandbox.add_webhook(f"{url}/webhooks/stripe/stripe", SECRET, livemode=True)
    until(
        lambda: world.ledger("select customer from aggregator.event where state = 'refused'") == [("cus_1",)],
        "the one that Stripe does not know is refused",
        seen=lambda: daemon.err[-2000:],
    )
    assert world.sandbox.totals("requests", livemode=True)["cus_0"] == 3
    assert daemon.stop() == -15
