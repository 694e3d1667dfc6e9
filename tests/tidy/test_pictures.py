"""Pictures of pages: there is one of each, small, in light and dark, and a page of the docs shows it."""

from pathlib import Path

from aggregator.web.views import VIEWS

DOCS = Path(__file__).parents[2] / "docs"
LARGEST = 60 * 1024


def test_every_picture_is_small_and_shown() -> None:
    """None has more than 60 KB, and docs/web.md leads to each."""
    pictures = sorted((DOCS / "images").glob("web-*.png"))
    told = (DOCS / "web.md").read_text()
    assert [
        path.name for path in pictures if path.stat().st_size > LARGEST or f"images/{path.name}" not in told
    ] == []
    schemes = [
        {path.stem.split("-")[-1] for path in pictures if path.stem.startswith(f"web-{name}-")}
        for name in names()
    ]
    assert all(each >= {"light", "dark"} for each in schemes), dict(zip(names(), schemes, strict=True))


def names() -> list[str]:
    """Return what each page's pictures are called after."""
    called = {"/": "meters", "/meters/{meter}": "meter", "/meters/{meter}/{start}": "window"}
    called["/customers/{customer:path}"] = "customer"
    return [called.get(path, path[1:]) for path in VIEWS]
