"""What a file of an archive looks like: a row for each event with its slot, by customer and window, written by pyarrow.

Rules
- One type for every number, `decimal(38, 18)`: a number that has not room in it is refused, and never rounded. Sums are made
  of Python's decimals, since those of pyarrow turn negative where they overflow, without a word.
- Every instant is in UTC and says so: readers take one without a zone for local time.
- What follows from the rest of its row is left out, and made again when it is read: an identifier, which alone would be half
  of a file, and the numbers of a slot and of its latest event where they are that of the event.
- What is written names sink and dimensions in words, so that a file says all by itself.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from aggregator.core import definitions
from aggregator.core import dimensions as apart_by
from aggregator.core.archive import ALL_DIGITS, EPOCH, Day, Row, digest_of
from aggregator.core.model import ZERO, Definition, Span
from aggregator.core.planner import Identifiers
from aggregator.errors import ArchiveError

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

FORMAT = "1"
BATCH, BATCHES_TOGETHER = 8_192, 4
"""Rows that are in memory at once, and how often that makes a row group: of a customer, as little else is read."""

DIGITS, DECIMALS = 38, 18
DAY = 86_400_000_000
"""In microseconds."""

NUMBERS = {"quantity", "total", "delta", "event_total", "event_quantity"}
INSTANTS = {"window_start", "stamped_at", "at", "planned_at", "exposed_at", "attempted_at", "settled_at"}
SMALL = {"feed_id", "slot_revision", "revision", "attempts"}
TEXTS = {"customer", "state", "identifier", "transport", "request_id", "reason", "tries"}
WORDS = ("sink", "dimensions", "window_seconds")
"""What a file says beside the rows of the ledger."""


class Names(NamedTuple):
    """What the rows of a month are named by."""

    ledger: str
    """With its generation, as identifiers begin."""
    meter: str
    """As identifiers name it."""
    sinks: Mapping[int, str]
    """By the number of the feed."""
    combinations: Mapping[int, str]
    """What combinations of dimensions are, by their number, each as `dimensions_text` writes it."""
    definitions: Sequence[Definition]
    """By which windows are as long as they are, in the order of time."""


def dimensions_text(dimensions: Mapping[str, str]) -> str:
    """Write a combination of dimensions as a file has it: JSON, in the order of names."""
    return json.dumps(dict(sorted(dimensions.items())), ensure_ascii=False)


class Content(NamedTuple):
    """What a file came to."""

    slots: int
    events: int
    first_event: int | None
    last_event: int | None

    def and_rows(self, rows: Sequence[Row]) -> "Content":
        """Return the same with more rows."""
        events = [row.event_id for row in rows if row.event_id is not None]
        known = [event for event in (self.first_event, self.last_event) if event is not None]
        return self._replace(
            slots=self.slots + sum(row.begins_slot for row in rows),
            events=self.events + len(events),
            first_event=min([*events, *known], default=None),
            last_event=max([*events, *known], default=None),
        )


def available() -> None:
    """Raise ArchiveError, which says what to install, where pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ArchiveError("Archives need pyarrow: install `usage-aggregator[archive]`.") from error


def schema() -> "Schema":
    """Return the columns of a file and their types."""
    import pyarrow as pa

    def type_of(name: str) -> Any:
        if name in NUMBERS:
            return pa.decimal128(DIGITS, DECIMALS)
        if name in INSTANTS:
            return pa.timestamp("us", tz="UTC")
        if name in TEXTS:
            return pa.string()
        return pa.int32() if name in SMALL else pa.int64()

    words = [
        pa.field("sink", pa.string()),
        pa.field("dimensions", pa.string()),
        pa.field("window_seconds", pa.int32()),
    ]
    return pa.schema([pa.field(name, type_of(name)) for name in Row._fields] + words)


def write(file: BinaryIO, rows: Iterable[Row], names: Names, about: Mapping[str, str]) -> Content | None:
    """Write rows, and return what they came to; None if there are none. `about` is kept in the file, as are the names.

    Raises ArchiveError for a number that has not room in a file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = schema().with_metadata(
        {"format": FORMAT, "ledger": names.ledger, "identified_as": names.meter, **about}
    )
    counted = Content(0, 0, None, None)
    identifiers = _Identifiers(names.ledger, names.meter)
    coming = iter(rows)
    packed = [name for name in columns.names if name not in TEXTS | NUMBERS and name not in WORDS]
    with parquet.ParquetWriter(
        file,
        columns,
        compression="zstd",
        use_dictionary=[name for name in columns.names if name not in packed],
        column_encoding=dict.fromkeys(packed, "DELTA_BINARY_PACKED"),
    ) as writer:
        together: list[RecordBatch] = []
        while some := list(islice(coming, BATCH)):
            counted = counted.and_rows(some)
            try:
                together.append(_batch(some, names, identifiers, columns))
            except pa.ArrowInvalid as error:
                raise ArchiveError(f"A number has no room in an archive: {_too_large(some)}") from error
            if len(together) == BATCHES_TOGETHER:
                writer.write_table(pa.Table.from_batches(together), row_group_size=BATCH * BATCHES_TOGETHER)
                together.clear()
        if together:
            writer.write_table(pa.Table.from_batches(together), row_group_size=BATCH * BATCHES_TOGETHER)
    return counted if counted.slots else None


def _batch(
    rows: Sequence[Row], names: Names, identifiers: "_Identifiers", columns: "Schema"
) -> "RecordBatch":
    import pyarrow as pa

    said: list[Row] = []
    words: list[tuple[str, str | None, int]] = []
    for row in rows:
        length = definitions.at(names.definitions, row.window_start).window
        dimensions = names.combinations[row.combination] if row.combination else None
        also = (names.sinks[row.feed_id], dimensions, int(length.total_seconds()))
        said.append(row._replace(**_left_out(row, identifiers, also)))
        words.append(also)
    values = [*zip(*said, strict=True), *zip(*words, strict=True)]
    return pa.record_batch(
        [pa.array(list(each), type=field.type) for each, field in zip(values, columns, strict=True)],
        schema=columns,
    )


def _left_out(row: Row, identifiers: "_Identifiers", also: tuple[str, str | None, int]) -> dict[str, Any]:
    """Return what of a row follows from the rest of it, as it is written: not at all."""
    if row.event_id is None:
        return {}
    made_of = (row.customer, row.window_start, row.revision or 0)
    follows = {"slot_id": row.event_id, "tail": row.event_id, "identifier": identifiers.of(*made_of, *also)}
    return {name: None for name, value in follows.items() if getattr(row, name) == value}


def _too_large(rows: Iterable[Row]) -> str:
    """Name the first number that does not fit."""
    for row in rows:
        for name in sorted(NUMBERS):
            number = getattr(row, name)
            if isinstance(number, Decimal) and not _fits(number):
                return (
                    f"{name} {number} of customer {row.customer} in the window from {row.window_start:%Y-%m-%dT%H:%MZ}. "
                    f"There are {DIGITS - DECIMALS} digits before the point and {DECIMALS} behind it."
                )
    return "it is not known which."


def _fits(number: Decimal) -> bool:
    exponent = number.normalize().as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -DECIMALS and number.adjusted() < DIGITS - DECIMALS


class _Identifiers:
    """Makes identifiers of what a file says."""

    def __init__(self, ledger: str, meter: str) -> None:
        self._made = lru_cache(maxsize=None)(
            lambda sink, seconds: Identifiers(ledger, sink, meter, timedelta(seconds=seconds))
        )

    def of(
        self,
        customer: str,
        window_start: datetime,
        revision: int,
        sink: str,
        dimensions: str | None,
        window_seconds: int,
    ) -> str:
        """Return the identifier that an event has if it was planned in the generation of the file."""
        apart = apart_by.of_mapping(json.loads(dimensions)) if dimensions else ()
        return self._made(sink, window_seconds).of(customer, window_start, revision, apart)


def read(path: Path, span: Span | None = None, customers: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a file, of a span or of some customers only. Raises ArchiveError if it is no such file."""
    import pyarrow as pa
    from pyarrow import dataset

    wanted = None
    if span is not None:
        begins = dataset.field("window_start")
        wanted = (begins >= pa.scalar(span.start, pa.timestamp("us", tz="UTC"))) & (
            begins < pa.scalar(span.end, pa.timestamp("us", tz="UTC"))
        )
    if customers is not None:
        of_customers = dataset.field("customer").isin(list(customers))
        wanted = of_customers if wanted is None else wanted & of_customers
    yield from _rows(path, wanted)


def find(path: Path, number: int | None, identifier: str) -> Row | None:
    """Return the row of an event, by its number or by its identifier: for the latter, all are looked through."""
    from pyarrow import dataset

    wanted = None if number is None else dataset.field("event_id") == number
    return next(
        (row for row in _rows(path, wanted) if number is not None or row.identifier == identifier), None
    )


def _rows(path: Path, wanted: Any) -> Iterator[Row]:
    from pyarrow import dataset

    with _explained(path):
        found = dataset.dataset(path, format="parquet")
        identifiers = _identifiers_of(path, found.schema)
        batches = found.to_batches(
            filter=wanted,
            batch_size=BATCH,
            batch_readahead=1,
            fragment_readahead=1,
            fragment_scan_options=dataset.ParquetFragmentScanOptions(pre_buffer=False),
            use_threads=False,
        )
        for batch in batches:
            made = _all_identifiers(batch, identifiers)
            columns = (made if name == "identifier" else _values(batch, name) for name in Row._fields)
            yield from map(Row._make, zip(*columns, strict=True))


def _identifiers_of(path: Path, found: "Schema") -> "_Identifiers":
    """Return what makes a file's identifiers. Raises ArchiveError if it is no file of ours."""
    about = {key.decode(): value.decode() for key, value in (found.metadata or {}).items()}
    if about.get("format") != FORMAT or found.names != schema().names:
        raise ArchiveError(f"{path} is no archive that this version reads.")
    return _Identifiers(about["ledger"], about["identified_as"])


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ArchiveError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _whole(batch: "RecordBatch", name: str) -> Any:
    """Return a column with what was left out of it."""
    from pyarrow import compute

    column = batch.column(name)
    return compute.coalesce(column, batch.column("event_id")) if name in {"slot_id", "tail"} else column


def _values(batch: "RecordBatch", name: str) -> list[Any]:
    values: list[Any] = _whole(batch, name).to_pylist()
    if name in INSTANTS:
        return [None if value is None else value.replace(tzinfo=UTC) for value in values]
    return values


def days(path: Path) -> dict[datetime, Day]:
    """Return what a file holds of each UTC day, row by row as it is read. Raises ArchiveError if it cannot be.

    The texts of which digests are made come column by column: to make values of them first would take twice as long.
    """
    from pyarrow import parquet

    found: dict[int, list[Any]] = {}
    with _explained(path), parquet.ParquetFile(path) as lying:
        identifiers = _identifiers_of(path, lying.schema_arrow)
        for batch in lying.iter_batches(BATCH, use_threads=False):
            starts = batch.column("window_start").cast("int64").to_pylist()
            begins = [not revision for revision in batch.column("revision").to_pylist()]
            with_events = batch.column("event_id").is_valid().to_pylist()
            numbers = [batch.column(name).to_pylist() for name in ("quantity", "total")]
            for row in zip(starts, begins, with_events, *numbers, _digests(batch, identifiers), strict=True):
                start, begins_slot, has_event, quantity, total, digest = row
                day = found.setdefault(start // DAY, [0, 0, ZERO, ZERO, 0])
                if begins_slot:
                    day[0] += 1
                    day[2] = ALL_DIGITS.add(day[2], quantity)
                    day[3] = ALL_DIGITS.add(day[3], total)
                day[1] += has_event
                day[4] += digest
    return {EPOCH + timedelta(days=day): Day(*sums) for day, sums in found.items()}


def _digests(batch: "RecordBatch", identifiers: "_Identifiers") -> Iterator[int]:
    """Yield the digest of each row."""
    columns = []
    for name in Row._fields:
        if name == "identifier":
            columns.append([f'"{each}"' if each else "-" for each in _all_identifiers(batch, identifiers)])
            continue
        column = _whole(batch, name)
        texts = (column.cast("int64") if name in INSTANTS else column).cast("string").to_pylist()
        if name in TEXTS:
            columns.append(["-" if each is None else f'"{each}"' for each in texts])
        elif name in NUMBERS:
            columns.append(["-" if each is None else _plain(each) for each in texts])
        else:
            columns.append(["-" if each is None else each for each in texts])
    for row in zip(*columns, strict=True):
        yield digest_of(" ".join(row))


def _plain(number: str) -> str:
    """Return a number without zeros at its end; pyarrow writes small ones with an exponent."""
    return (format(Decimal(number), "f") if "E" in number else number).rstrip("0").rstrip(".")


def _all_identifiers(batch: "RecordBatch", identifiers: "_Identifiers") -> Iterator[str | None]:
    """Yield the identifier of each event of a batch, made again where it was left out."""
    names = ("identifier", "event_id", "customer", "window_start", "revision", *WORDS)
    for known, event, *made_of in zip(*(_values(batch, name) for name in names), strict=True):
        yield known if event is None or known is not None else identifiers.of(*made_of)
