"""Take the pictures of docs/web.md anew: `python -m tests.screenshots`, with chromium, over a ledger that is made up."""

import io
import tempfile
from pathlib import Path

import psycopg
from PIL import Image

from aggregator.ledger.database import migrate
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.browser import browsing
from tests.postgres.test_web_browser import PAGES, sign_in
from tests.postgres.web_site import ledger_then, listening

TO = Path(__file__).parents[1] / "docs" / "images"
LARGEST = 60 * 1024
TALLEST = 1_000
COLOURS = 96
"""A page has few; more would make the file larger, not better."""

LEFT_OUT = {"nothing"}
ON_A_PHONE = {"meters", "customer", "customer-by"}


def main() -> None:
    """Take them all."""
    TO.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home, EmbeddedPostgres(Path(home) / "pg") as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("create database shown")
        url = server.url("shown")
        migrate(url)
        with (
            ledger_then(url, Path(home), days=19, apart=True) as ledger,
            listening(ledger, url, Path(home)) as address,
        ):
            take(address)


def take(address: str) -> None:
    """Take each page in light and dark, and some as a phone has them."""
    with browsing() as browser:
        for scheme, width, names in (
            ("light", 1100, PAGES.keys()),
            ("dark", 1100, PAGES.keys()),
            ("phone", 390, ON_A_PHONE),
        ):
            dark = "dark" if scheme == "dark" else "light"
            context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme=dark)  # type: ignore[arg-type]  # a literal
            page = context.new_page()
            sign_in(page, address)
            for name in names - LEFT_OUT:
                page.goto(address + PAGES[name])
                keep(page.screenshot(full_page=True), TO / f"web-{name}-{scheme}.png")
            context.close()


def keep(picture: bytes, path: Path) -> None:
    """Write a picture down, small."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, TALLEST)))
    small = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    assert path.stat().st_size <= LARGEST, f"{path} has {path.stat().st_size:,} bytes"


if __name__ == "__main__":
    main()
