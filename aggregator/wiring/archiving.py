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


def needed_place(ledger: Ledger) -> "Place":
    """Return where a ledger's archives lie; who has opened it closes that. Raises UsageError if nobody has said where."""
    from aggregator.archive.reader import ArchiveReader

    reader = ledger.archived.reader
    if reader is None:
        raise UsageError(
            "`ledger.archive` does not say where archives are: a directory, or `s3://BUCKET/FOLDER/`."
        )
    assert isinstance(reader, ArchiveReader), "the wiring has made it"
    return reader.place


def archiver_of(
    ledger: Ledger,
    keep: int,
    *,
    elapsed: Callable[[], float] | None = None,
    seconds: float = 0,
) -> "Archiver":
    """Return what carries months that are older than `keep` months to where the ledger's archives lie."""
    from aggregator.archive.archiver import Archiver

    return Archiver(
        ledger.archives, needed_place(ledger), keep, ledger.identity.name, elapsed=elapsed, seconds=seconds
    )
