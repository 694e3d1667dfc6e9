"""Archives as the ledger's questions read them, and as people have them checked and brought back."""

from collections.abc import Iterator, Sequence

from aggregator.archive import parquet
from aggregator.archive.archiver import days_in
from aggregator.archive.places import Place
from aggregator.core.archive import Row
from aggregator.core.model import Span
from aggregator.errors import ArchiveError, InvariantBroken
from aggregator.ledger.archives import Archive, Archives
from aggregator.runtime import failpoints


class ArchiveReader:
    """Reads the archives that lie in a place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def rows(self, archive: Archive, span: Span, customers: Sequence[str] | None) -> Iterator[Row]:
        """Yield the rows of a span, of some customers or of all. Raises ArchiveError where they cannot be had."""
        parquet.available()
        with self.place.fetched(archive.name) as path:
            yield from parquet.read(path, span, customers)

    def find(self, archive: Archive, number: int | None, identifier: str) -> Row | None:
        """Return the row of an event, by its number or by its identifier; None if it is in none. Raises the same."""
        parquet.available()
        with self.place.fetched(archive.name) as path:
            return parquet.find(path, number, identifier)


def trouble_of(place: Place, archives: Archives, archive: Archive) -> str | None:
    """Read an archive again; say what is wrong with it, or None if it holds what was removed, to the last row."""
    try:
        found = days_in(place, archive)
    except (ArchiveError, InvariantBroken) as error:
        return str(error)
    if archive.verified_at is not None and found != archives.days(archive):
        return f"{archive.name} does not hold what it held when it was read back."
    return None


def bring_back(place: Place, archives: Archives, archive: Archive) -> bool:
    """Bring a month back into the ledger; False if it is there.

    Raises ArchiveError where the file cannot be had, InvariantBroken where it is not what was removed.
    """
    parquet.available()
    with place.fetched(archive.name) as path:
        done = archives.restore(archive, parquet.read(path))
    failpoints.passing("archive_restored")
    return done
