"""`aggregator check --prove-source`, and what `check` says of a database that nobody here knows."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.cli.check import Finding, _sources
from aggregator.config import load
from aggregator.source.contract.facts import FACTS
from aggregator.source.contract.prover import Prover
from tests.contract.engines import ZonedDialect, register

CONFIG = """
sources: {{app: {{url: "{url}"}}}}
sinks: {{out: {{type: csv, directory: {directory}/out}}}}
meters:
  requests:
    source: app
    sinks: [out]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select 'a' as customer, 1 as quantity where :start < :end
"""
pytestmark = pytest.mark.direct

QUICK = tuple(fact for fact in FACTS if fact.name in {"bounds", "zone", "decimals", "only reads"})


def written(directory: Path, url: str) -> Path:
    path = directory / "aggregator.yaml"
    path.write_text(CONFIG.format(url=url, directory=directory))
    return path


def findings(directory: Path, url: str) -> list[Finding]:
    return list(_sources(load(written(directory, url), {}), None, {}))


class Printed(NamedTuple):
    """What a command came to."""

    code: int
    out: str


def proved(directory: Path, url: str, *more: str) -> Printed:
    words = ["check", "--config", str(written(directory, url)), "--prove-source", *(more or ["app"])]
    result = CliRunner().invoke(cli, words)
    return Printed(result.exit_code, f"{result.output}{result.exception or ''}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a few facts: `test_every_source` asks all."""
    monkeypatch.setattr(Prover.__init__, "__defaults__", (QUICK,))


def test_each_fact_is_a_row_and_all_is_well(tmp_path: Path, source_url: str) -> None:
    """Nothing else is looked at: there is no ledger here."""
    code, out = proved(tmp_path, source_url)
    assert code == 0, out
    assert "source app (postgresql)" in out
    assert "4 proven, 0 not proven, 0 wrong." in out
    assert "the session's zone is called UTC" in out


def test_programs_get_json(tmp_path: Path) -> None:
    """With what was seen and what to write apart; what is not proven is no failure."""
    (tmp_path / "app.db").touch()
    code, out = proved(tmp_path, f"sqlite:///{tmp_path}/app.db", "app", "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["source"], found["kind"], found["cannot_promise"]) == (
        0,
        True,
        "app",
        "sqlite",
        [],
    )
    rows = {row["fact"]: row for row in found["facts"]}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "bounds": "proven",
        "zone": "proven",
        "decimals": "not proven",
        "only reads": "proven",
    }
    assert rows["decimals"]["write"] == "integers of the smallest unit"


def test_what_is_wrong_fails_with_what_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that would be refused is asked all the same: that is what it is asked for."""
    register()
    monkeypatch.setattr(ZonedDialect, "zone", "America/New_York")
    (tmp_path / "app.db").touch()
    code, out = proved(tmp_path, f"zonedb:///{tmp_path}/app.db")
    assert code == 1
    assert "set the session's time zone to UTC" in " ".join(out.split())
    assert "not promised" in out


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By its name, or by why it does not answer; neither is a traceback."""
    assert (
        "There is no source ap in the configuration; it has: app."
        in proved(tmp_path, "sqlite:///x.db", "ap").out
    )
    code, out = proved(tmp_path, f"sqlite:///{tmp_path}/missing.db")
    assert (code != 0, "there is no file" in out) == (True, True), out


def test_check_refuses_a_query_that_would_see_several_states(tmp_path: Path) -> None:
    """Before anything is billed; and names what such a database cannot promise."""
    register()
    (tmp_path / "app.db").touch()
    found = findings(tmp_path, f"otherdb:///{tmp_path / 'app.db'}")
    [wrong] = [each for each in found if each.verdict == "wrong"]
    assert (wrong.what, "`accepts: [several_states]`" in wrong.text) == ("meter requests", True)
    assert any("no statement timeout is set" in each.text for each in found if each.verdict == "note")


def test_check_refuses_a_database_that_does_not_show_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to write."""
    register()
    monkeypatch.setattr(ZonedDialect, "zone", "Asia/Kathmandu")
    (tmp_path / "app.db").touch()
    [wrong] = [
        each for each in findings(tmp_path, f"zonedb:///{tmp_path / 'app.db'}") if each.verdict == "wrong"
    ]
    assert "does not show that `:start` arrives as the instant meant" in wrong.text
