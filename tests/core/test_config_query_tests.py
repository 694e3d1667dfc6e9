"""The tests of a query in the file: what is missing or wrong in them is named, and they decide nothing of what is billed."""

from pathlib import Path
from typing import Any

import pytest

from aggregator.config import load
from aggregator.config.changes import settings_of
from aggregator.config.meter import fingerprint
from aggregator.errors import ConfigError

CONFIG = """
sources: {app: {url: "sqlite:///app.db"}}
sinks: {stripe: {type: stripe, api_key: sk_test_x, mode: test}}
meters:
  requests:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select customer, quantity from usage where at >= :start and at < :end
"""

TEST = """
    tests:
      - name: it counts
        rows:
          app.usage:
            - {customer: cus_1, quantity: 2, at: "2026-11-01 10:20:00", paid: true}
          other: []
        usage:
          - {customer: cus_1, window: 2026-11-01T10:00Z, quantity: 2}
"""


def loaded(directory: Path, tests: str) -> Any:
    """Return the meter of a file with these tests."""
    path = directory / "aggregator.yaml"
    path.write_text(CONFIG + tests)
    return load(path, {}).meters["requests"]


def test_they_are_read_as_they_stand(tmp_path: Path) -> None:
    """Each value keeps its kind."""
    [test] = loaded(tmp_path, TEST).tests
    assert test.rows == {
        "app.usage": ({"customer": "cus_1", "quantity": 2, "at": "2026-11-01 10:20:00", "paid": True},),
        "other": (),
    }
    assert [(each.customer, each.quantity) for each in test.usage] == [("cus_1", 2)]


def test_they_decide_nothing(tmp_path: Path) -> None:
    """A meter with other tests is the same meter, and no change of it is put on record."""
    with_tests, without = loaded(tmp_path, TEST), loaded(tmp_path, "")
    assert fingerprint(with_tests) == fingerprint(without)
    assert settings_of({"requests": with_tests}) == settings_of({"requests": without})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("T10:00Z", "T10:30Z", "tests[0].usage: must be the start of a window"),
        (
            "usage:\n          - {customer: cus_1, window: 2026-11-01T10:00Z, quantity: 2}",
            "usage: []",
            "is empty: say",
        ),
        ("name: it counts", "name: it counts\n        from: 2026-11-01T10:00Z", "`from` goes with it"),
        (
            "name: it counts",
            "name: it counts\n        from: 2026-11-01T10:00Z\n        to: 2026-11-01T10:00Z",
            "tests[0].to: is not after `from`",
        ),
        ("app.usage:", "app..usage:", "is not how a query names a table"),
        ("app.usage:", "'usage; drop table x':", "is not how a query names a table"),
        ("quantity: 2}\n", "quantity: two}\n", "must be a number in plain digits"),
        ("paid: true", "paid: [1]", "must be text, a number"),
        ("name: it counts", "nam: it counts", "is not a known key"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    """One line says where it stands and what to write."""
    text = TEST.replace(old, new, 1) if old != "quantity: 2}\n" else TEST.replace(old, new)
    assert text != TEST
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert told in str(caught.value)


def test_two_with_one_name_are_refused(tmp_path: Path) -> None:
    """Else nobody could tell which of them failed."""
    twice = TEST + TEST.partition("tests:\n")[2]
    with pytest.raises(ConfigError, match="has two tests named `it counts`"):
        loaded(tmp_path, twice)
