"""Whose file is closed next, where each meter has files of its own."""

import datetime as dt
from typing import Any, cast

from aggregator.core.model import Bounds
from aggregator.delivery.file_writer import FileWriter
from aggregator.ledger.outbox.files import Due

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
MANY = 1_000_000


class Sink:
    """Takes everything; each of its meters has files of its own."""

    place = "here"
    by_hand = False
    bounds = Bounds(1_000, 900_000, dt.timedelta(minutes=10))

    def bundles(self) -> list[dict[str, int]]:
        """Return one kind of file per meter."""
        return [{"backfilled": 10}, {"live": 10}, {"idle": 10}]

    def preflight(self, bundle: object) -> None:
        """Find nothing wrong."""


class Files:
    """Two meters always have more than a file holds, the third has nothing. A claim is the feeds that were asked for."""

    def due(self, sink_id: int, now: dt.datetime) -> list[Due]:
        """Return what waits."""
        return [Due("backfilled", 1, MANY, now), Due("live", 2, 1_000, now)]

    def claim_whole(
        self, sink_id: int, place: str, around: dict[int, int], *rest: object, **more: object
    ) -> list[int]:
        """Return the feeds themselves instead of a claim."""
        return list(around)


def test_a_meter_with_many_files_does_not_keep_the_others_waiting() -> None:
    """With a backfill of a thousand files before it in the list, a meter's own file is closed second."""
    filing = FileWriter(cast("Any", Files()), cast("Any", None), cast("Any", Sink()), 1, lambda: NOW)
    assert [filing._close(NOW) for _ in range(4)] == [[1], [2], [1], [2]]
