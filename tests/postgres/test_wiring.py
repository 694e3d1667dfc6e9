"""From a configuration to parts that know each other."""

from pathlib import Path

import pytest

from aggregator.archive import places
from aggregator.archive.reader import ArchiveReader
from aggregator.config import load
from aggregator.core.model import Span, WriteModel
from aggregator.core.windows import DAY
from aggregator.wiring import reconciling
from aggregator.wiring.app import build

CONFIG = """
ledger: {{url: '{url}'}}
sources: {{app: {{url: 'sqlite:////nowhere'}}}}
sinks:
  stripe: {{type: stripe, api_key: sk_test_1, mode: test}}
  upload: {{type: csv, directory: '{place}/upload'}}
  folder: {{type: directory, directory: '{place}/folder'}}
defaults:
  source: app
  sinks: [stripe, upload, folder]
  window: 1h
  start_at: 2026-11-01T00:00Z
meters:
  added:
    query: select customer, 1 as quantity from use where at >= :start and at < :end
  hourly:
    stripe: {{event_time_window: hour}}
    query: select customer, 1 as quantity from use where at >= :start and at < :end
"""


def test_the_ledger_knows_what_each_sink_books(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meter's line into a sink says whether that adds up or replaces, and whether it keeps the order."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    path = tmp_path / "aggregator.yaml"
    path.write_text(CONFIG.format(url=ledger_url, place=tmp_path))
    with build(load(path, {})) as app:
        known = {
            meter: {feed.sink: (feed.model, feed.keeps_order) for feed in registered.feeds}
            for meter, registered in app.registered.items()
        }
    adds, replaces = WriteModel.DELTA, WriteModel.OVERWRITE
    assert known == {
        "added": {"stripe": (adds, True), "upload": (adds, True), "folder": (adds, False)},
        "hourly": {"stripe": (replaces, True), "upload": (replaces, True), "folder": (replaces, False)},
    }


def test_what_runs_sees_that_a_feed_is_in_shadow_by_now(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Totals are compared by the feed as it stands, whoever has changed it since this process began."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    text = CONFIG.format(url=ledger_url, place=tmp_path)
    paths = tmp_path / "sent.yaml", tmp_path / "shadow.yaml"
    for path, sink in zip(paths, ("stripe", "{sink: stripe, shadow: true}"), strict=True):
        path.write_text(text.replace("sinks: [stripe,", f"sinks: [{sink},"))
    sent, shadow = (load(path, {}) for path in paths)
    with build(sent) as running:
        [known] = [feed for feed in running.registered["added"].feeds if feed.sink == "stripe"]
        span = Span(known.since, known.since + DAY)

        def line() -> bool:
            body = reconciling.checking(running, "stripe")
            found = body._lines(known.id, span)
            assert found is not None
            return found.shadow

        assert not line()
        for config, is_shadow in ((shadow, True), (sent, False)):
            with build(config):
                pass
            assert line() == is_shadow


def test_archives_have_one_place_in_a_process(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who carries months there has the place that questions read from, and with the ledger it is closed."""
    closed: list[str] = []

    class Place(places.Directory):
        def close(self) -> None:
            closed.append(self.where)

    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    monkeypatch.setattr(places, "Directory", Place)
    path = tmp_path / "aggregator.yaml"
    keeping = CONFIG.replace(
        "ledger: {{url: '{url}'}}", "ledger: {{url: '{url}', keep: 18mo, archive: '{place}/old'}}"
    )
    path.write_text(keeping.format(url=ledger_url, place=tmp_path))
    with build(load(path, {})) as app:
        reader = app.ledger.archived.reader
        assert isinstance(reader, ArchiveReader)
        assert all(app.archiving(seconds)._place is reader.place for seconds in (None, 5.0))
        assert closed == []
    assert closed == [str(tmp_path / "old")]
