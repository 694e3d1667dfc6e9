"""docs/moving.md, lived through: its first two configurations in turns, with late rows on both sides of the instant.

Its last part, which goes customer by customer, is followed in tests/system/test_cutover.py.
"""

import datetime as dt
import re
from dataclasses import replace
from pathlib import Path

from aggregator.adoption.parity import Parity, compare
from aggregator.config import load
from aggregator.core.model import Meter, Span
from aggregator.ledger.database import Database
from aggregator.ledger.parity import PlannedUsage
from aggregator.wiring.app import meter_of
from tests.fakes import FakeSink, FakeSource
from tests.postgres.world import World

PAGE = Path(__file__).parents[2] / "docs" / "moving.md"
ENV = {
    "APP_DATABASE_URL": "postgresql://reader@db/app",
    "STRIPE_API_KEY": "rk_live_1",
    "NEXT_API_KEY": "rk_live_2",
    "METRONOME_TOKEN": "token",
}
NAME = "api_requests"
HOUR = dt.timedelta(hours=1)
T = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
SHADOWED = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


def configured(directory: Path) -> list[Meter]:
    """Return the meter of each whole configuration of the page, in its order."""
    found = []
    for text in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        path = directory / "aggregator.yaml"
        path.write_text(text)
        found.append(meter_of(load(path, ENV).meters[NAME]))
    return found


def test_the_page_moves_a_meter_without_a_gap_and_without_a_double_bill(
    database: Database, tmp_path: Path
) -> None:
    """In shadow everything is planned and nothing sent; after T each window is at one sink, late rows included."""
    shadow, moved, _ = configured(tmp_path)
    old, new, source = FakeSink("stripe"), FakeSink("next"), FakeSource()
    before = World(database, meter=replace(shadow, terms=()), source=source, sinks=[old])
    start = shadow.start_at
    for hour in range(int((T - start) / HOUR) + 48):
        source.use("cus_a", start + hour * HOUR, hour % 7 + 1)
    used = len(source.uses)

    def live(world: World, now: dt.datetime) -> None:
        world.now = now
        world.collect()
        world.deliver()
        world.check_balance()

    live(before, SHADOWED + 5 * HOUR)
    trying = World(database, meter=shadow, source=source, sinks=[old, new])
    for hours in (29, 30, 31):
        live(trying, SHADOWED + hours * HOUR)
    assert new.received == []
    beside = PlannedUsage(database)
    feeds = beside.feeds(NAME)
    span = Span(SHADOWED, SHADOWED + 24 * HOUR)
    parity = Parity()
    places = list(beside.places(feeds["stripe"], feeds["next"], span, by_day=True))
    assert list(parity.counting(compare(places, NAME, span))) == []
    assert (parity.places, parity.sums[1].shadow) == (1, parity.sums[0].accepted)
    moving = World(database, meter=moved, source=source, sinks=[old, new])
    for hours in (-30, -1, 2, 5, 48):
        live(moving, T + hours * HOUR + dt.timedelta(minutes=5))
    source.use("cus_a", T - HOUR, 100)
    source.use("cus_a", T, 1_000)
    live(moving, T + 73 * HOUR)
    held = {sink.name: {start for (_, _, start), much in sink.slots.items() if much} for sink in (old, new)}
    assert (min(held["stripe"]), max(held["stripe"])) == (start, T - HOUR)
    assert (min(held["next"]), max(held["next"])) == (T, T + 47 * HOUR)
    assert len(held["stripe"]) + len(held["next"]) == used
    total = old.booked[NAME, "cus_a"] + new.booked[NAME, "cus_a"]
    assert total == source.totals()["cus_a"]
    assert all(new.slots[NAME, "cus_a", at] == 0 for at in held["stripe"])
    assert old.slots[NAME, "cus_a", T] == 0
