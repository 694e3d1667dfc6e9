"""Where a configuration's archives lie, and what carries months there. pyarrow is imported at the first file."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.config import Config
from aggregator.errors import UsageError
from aggregator.ledger.ledger import Ledger

if TYPE_CHECKING:
    from aggregator.archive.archiver import Archiver
    from aggregator.archive.places import Place

STORE_TIMEOUT = timedelta(seconds=60)


def place_of(config: Config) -> "Place | None":
    """Return where archives lie; None if the configuration does not say. Close it."""
    from aggregator.archive.places import Directory, InBucket

    where = config.ledger.archive
    if where is None:
        return None
    if not where.startswith("s3://"):
        return Directory(Path(where))
    from aggregator.sinks.files.bucket import Bucket

    name, _, prefix = where.removeprefix("s3://").partition("/")
    store = Bucket("the archive", name, region=None, endpoint_url=None, keys=None, timeout=STORE_TIMEOUT)
    return InBucket(store, name, prefix)


def needed_place(config: Config) -> "Place":
    """Return where archives lie. Raises UsageError if the configuration does not say."""
    place = place_of(config)
    if place is None:
        raise UsageError(
            "`ledger.archive` does not say where archives are: a directory, or `s3://BUCKET/FOLDER/`."
        )
    return place


def archiver_of(
    ledger: Ledger,
    place: "Place",
    keep: int,
    *,
    elapsed: Callable[[], float] | None = None,
    seconds: float = 0,
) -> "Archiver":
    """Return what carries months to a place that are older than `keep` months."""
    from aggregator.archive.archiver import Archiver

    return Archiver(ledger.archives, place, keep, ledger.identity.name, elapsed=elapsed, seconds=seconds)
