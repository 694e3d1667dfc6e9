"""A month's way out of the ledger: closed, written, recorded, read back, removed day by day.

Rules
- Whoever is killed is followed up: each step looks at what the ledger says, and can be taken again. A file that was made and
  not recorded is made again, with the same name; one that was recorded is read back before anything is removed.
- Nothing is removed that was not read back from where it lies. What has changed since it was written is written again.
- One meter's trouble is its own.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aggregator.archive import parquet
from aggregator.archive.places import Place
from aggregator.core.archive import Day, Row, closed_before, days_of, span_of
from aggregator.core.counts import Counts
from aggregator.core.model import Span
from aggregator.errors import ArchiveError, InvariantBroken, LedgerUnreachable
from aggregator.ledger.archives import Archive, ArchivedMeter, Archives, Written
from aggregator.runtime import failpoints
from aggregator.sinks.files.directory import content_of

SENT_WITHIN = timedelta(days=35)
"""How long after a month something of it may have been sent (core.age_limits): then its claims may be spent, too."""


@dataclass(slots=True)
class Archived(Counts):
    """What a round came to."""

    written: int = 0
    """Months that were written to a file."""
    removed: int = 0
    """Months that are out of the ledger now."""
    days: int = 0
    """Days that were removed."""
    waits: list[str] = field(default_factory=list)
    """Why a month that is old enough is not closed, one sentence for each meter."""
    troubles: list[str] = field(default_factory=list)
    """What went wrong, and what to do about it."""

    @property
    def needs_person(self) -> bool:
        """Whether somebody has to look at it."""
        return bool(self.troubles)


class _Stopped(Exception):
    """No more is to be begun."""


class Archiver:
    """Archives all meters of a ledger. `name` gives what identifiers begin with; `keep` months stay.

    With `elapsed` and `seconds` it ends between two steps once those are over, so that it goes on the next time.
    """

    def __init__(
        self,
        archives: Archives,
        place: Place,
        keep: int,
        name: Callable[[], str],
        *,
        elapsed: Callable[[], float] | None = None,
        seconds: float = 0,
    ) -> None:
        self._archives = archives
        self._place = place
        self._keep = keep
        self._name = name
        self._elapsed = elapsed
        self._seconds = seconds
        self._until: float | None = None
        self._stopping = False

    def stop(self) -> None:
        """Begin no further step; a file that is being written is given up."""
        self._stopping = True

    def run_once(self, now: datetime, meters: Iterable[str] | None = None) -> Archived:
        """Archive every month that is old enough and closed, of all meters or of some, the oldest first."""
        parquet.available()
        self._until = None if self._elapsed is None else self._elapsed() + self._seconds
        before, result = closed_before(now, self._keep), Archived()
        try:
            for meter in self._archives.meters(meters):
                self._of(meter, before, result)
            if result.removed:
                self._archives.remove_spent_claims(before + SENT_WITHIN, iter(self._may_go_on, None))
        except _Stopped:
            result.more = True
        return result

    def _may_go_on(self) -> bool:
        over = self._until is not None and self._elapsed is not None and self._elapsed() >= self._until
        return not (self._stopping or over)

    def _step(self, point: str) -> None:
        failpoints.passing(point)
        if not self._may_go_on():
            raise _Stopped

    def _of(self, meter: ArchivedMeter, before: datetime, result: Archived) -> None:
        try:
            for archive in self._archives.listed([meter.name]):
                if archive.removed_at is None and archive.restored_at is None:
                    self._carry_on(archive, result)
            for month in self._archives.unwritten(meter.id, before):
                span = span_of(month)
                reasons = self._archives.close(meter.id, span.end)
                if reasons:
                    result.waits.append(f"{meter.name} of {month:%Y-%m} stays open: {', '.join(reasons)}")
                    return
                self._step("month_closed")
                self._write(meter, span, result)
                for archive in self._archives.listed([meter.name]):
                    if archive.month == month:
                        self._carry_on(archive, result)
        except (ArchiveError, InvariantBroken) as error:
            result.troubles.append(f"{meter.name}: {error}")

    def _write(self, meter: ArchivedMeter, month: Span, result: Archived) -> None:
        names = parquet.Names(
            self._name(),
            meter.first_name,
            self._archives.feeds(meter.id),
            {
                number: parquet.dimensions_text(dimensions)
                for number, dimensions in self._archives.combinations(meter.id).items()
            },
            self._archives.definitions(meter.id),
        )
        about = {"meter": meter.name, "month": f"{month.start:%Y-%m}"}
        with self._place.making() as (path, file):
            rows = self._archives.rows(meter.id, month)
            content = parquet.write(file, self._while_wanted(rows), names, about)
            if content is None:
                return
            file.flush()
            os.fsync(file.fileno())
            size, sha256 = content_of(path)
            self._step("archive_made")
            name = f"{meter.name}-{month.start:%Y-%m}-{sha256[:12]}.parquet"
            self._place.publish(path, name)
            failpoints.passing("archive_published")
            written = Written(self._place.where, name, size, sha256, *content)
            self._archives.record(meter.id, month.start, written)
        result.written += 1
        self._step("archive_recorded")

    def _while_wanted(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if self._stopping:
                raise _Stopped
            yield row

    def _carry_on(self, archive: Archive, result: Archived) -> None:
        """Read a file back if that was not done, and remove what is left of its month."""
        if archive.verified_at is None:
            self._archives.verified(archive, days_in(self._place, archive))
            self._step("archive_verified")
        for day in days_of(Span(archive.removed_until, archive.span.end)):
            try:
                if not self._archives.remove(archive, day):
                    return  # another process goes on with it
            except InvariantBroken as error:
                if day > archive.month:
                    raise InvariantBroken(
                        f"{day:%Y-%m-%d} has changed since it was archived, and the days before it are removed. Bring the "
                        f"month back with `aggregator ledger restore {archive.meter} {archive.month:%Y-%m}`, then archive "
                        "it again with `aggregator ledger archive --restored`."
                    ) from error
                self._archives.forget(archive)  # it is written again, as it is now
                result.more = True
                return
            except LedgerUnreachable:
                result.more = True  # somebody wrote in this day just now: it is tried again
                return
            result.days += 1
            self._step("archive_day_removed")
        self._archives.removed(archive)
        result.removed += 1
        self._step("month_removed")


def days_in(place: Place, archive: Archive) -> dict[datetime, Day]:
    """Read a file back, row by row, and return what it holds of each day.

    Raises ArchiveError if it is not the file that was written, or cannot be read.
    """
    with place.fetched(archive.name) as path:
        if content_of(path) != (archive.bytes, archive.sha256):
            raise ArchiveError(
                f"{archive.name} in {place.where} is not the file that was written. Bring it back from a backup; nothing of "
                "it is removed from the ledger meanwhile."
            )
        found = parquet.days(path)
    slots, events = sum(day.slots for day in found.values()), sum(day.events for day in found.values())
    if (slots, events) != (archive.slots, archive.events):
        raise InvariantBroken(
            f"{archive.name} holds {slots:,} slots and {events:,} events, and {archive.slots:,} and {archive.events:,} were "
            "written."
        )
    return found
