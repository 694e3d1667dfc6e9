"""What the tests of file sinks share: events, meters, and each sink with a way to look at what it wrote."""

import datetime as dt
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

import aggregator.sinks.files.bucket as bucket_module
import aggregator.sinks.files.s3 as s3_module
from aggregator.core.model import (
    Bounds,
    Encoding,
    Event,
    EventId,
    Written,
)
from aggregator.sinks.files import CsvFormat, DirectorySink, Format, JsonFormat, Keys, S3Sink
from aggregator.sinks.protocol import Batch, FileSink
from aggregator.sinks.stripe import StripeMeter
from tests.file_validator import Found, validate
from tests.file_validator import Keys as PayloadKeys
from tests.object_store import KEY_ID, REGION, SECRET, Store

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
BOUNDS = Bounds(1_000_000, 900_000_000, dt.timedelta(seconds=10))

METERS = {
    "api_requests": StripeMeter(event_name="api_requests"),
    "tokens": StripeMeter(event_name="llm_tokens", customer_key="customer", value_key="tokens"),
    "seats": StripeMeter(event_name="seats", formula="last"),
}
KEYS = {"llm_tokens": PayloadKeys("customer", "tokens")}


def event(
    number: int,
    meter: str = "api_requests",
    *,
    customer: str = "cus_1",
    delta: Decimal | int = 1,
    total: Decimal | int | None = None,
) -> Event:
    """Make an event as the planner does."""
    start = START + number % 24 * HOUR
    return Event(
        EventId(number),
        meter,
        customer,
        start,
        0,
        Decimal(delta),
        Decimal(delta if total is None else total),
        start + dt.timedelta(minutes=30),
        f"agg_{number:020x}",
        1,
        None,
    )


def some(count: int, meter: str = "api_requests", first: int = 42) -> list[Event]:
    """Make several events of a few customers."""
    return [
        event(first + n, meter, customer=f"cus_{n % 7}", delta=Decimal(n % 11 + 1).scaleb(-(n % 4)))
        for n in range(count)
    ]


def forms() -> dict[str, Format]:
    """Every way to write a file for the import, and the one for the Dashboard."""
    return {
        "jsonl": JsonFormat(METERS, lines=True),
        "json": JsonFormat(METERS, lines=False),
        "text": JsonFormat(METERS, lines=True, encoding=Encoding.TEXT),
        "csv": CsvFormat(METERS, identified=True, alone=False),
        "dashboard": CsvFormat(METERS, identified=False, alone=True),
        "guarded": CsvFormat(METERS, identified=False, alone=True, guarded=True),
    }


class Place(NamedTuple):
    """A sink, and how to look at what it wrote."""

    sink: FileSink
    kind: str
    contents: Callable[[], dict[str, tuple[bytes, str]]]
    """By name: the bytes, and a mark that changes when they are written again."""
    leftovers: Callable[[], list[str]]
    put: Callable[[str, bytes], object]
    again: Callable[[], "Place"]
    """The same place, as the next process has it."""

    def write(self, events: Iterable[Event], *, again: bool = False) -> Written | None:
        """Write a file with nobody in the way."""
        return self.sink.write(Batch(iter(events), again), lambda: True)

    def read(self) -> Found:
        """Validate everything that lies there."""
        files = [(name, io.BytesIO(content)) for name, (content, _) in self.contents().items()]
        return validate(files, dashboard=self.kind == "dashboard", text=self.kind == "text", keys=KEYS)


def in_directory(directory: Path, kind: str) -> Place:
    """Give a sink that writes to a directory."""
    sink = DirectorySink(
        "files",
        directory=directory,
        kind="files",
        by_hand=kind == "dashboard",
        bounds=BOUNDS,
        form=forms()[kind],
    )

    def contents() -> dict[str, tuple[bytes, str]]:
        return {
            path.name: (path.read_bytes(), f"{path.stat().st_ino} {path.stat().st_mtime_ns}")
            for path in sorted(directory.glob("[!.]*"))
        }

    def leftovers() -> list[str]:
        return [path.name for path in directory.glob(".*")]

    def put(name: str, content: bytes) -> int:
        return (directory / name).write_bytes(content)

    return Place(sink, kind, contents, leftovers, put, lambda: in_directory(directory, kind))


def in_bucket(store: Store, kind: str, prefix: str = "usage/", **settings: str) -> Place:
    """Give a sink that writes to a bucket."""
    sink = S3Sink(
        "files",
        bucket=settings.get("bucket", store.bucket),
        prefix=prefix,
        region=settings.get("region", REGION),
        endpoint_url=settings.get("endpoint_url", store.url),
        keys=Keys(KEY_ID, SECRET),
        timeout=dt.timedelta(seconds=20),
        bounds=BOUNDS,
        form=forms()[kind],
    )

    def contents() -> dict[str, tuple[bytes, str]]:
        return {
            key.removeprefix(prefix): (content, f"{at} {hash(content)}")
            for key, (content, at) in store.objects(prefix).items()
        }

    def put(name: str, content: bytes) -> object:
        return store.client.put_object(Bucket=store.bucket, Key=prefix + name, Body=content)

    return Place(sink, kind, contents, store.uploads, put, lambda: in_bucket(store, kind, prefix, **settings))


PART = 1_700
"""What a part holds where objects go in parts: a store that is told so takes parts that Amazon would find too small."""


@contextmanager
def put_up(request: pytest.FixtureRequest, directory: Path) -> Iterator[Place]:
    """Give a sink by a name such as `directory csv`, `s3 jsonl`, or `s3 jsonl in-parts`."""
    where, kind, *parts = request.param.split()
    if parts:
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        patch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
        patch.setattr(bucket_module, "PART_BYTES", PART)
        patch.setattr(s3_module, "PART_BYTES", PART)
    if where == "s3":
        store: Store = request.getfixturevalue("store")
        store.number_versions()
        place = in_bucket(store, kind)
    else:
        place = in_directory(directory / "files", kind)
    yield place
    place.sink.close()


def many(count: int) -> Iterator[Event]:
    """Make events one by one, so that none of them stays in memory."""
    return (event(n, customer=f"cus_{n % 1000:014d}", delta=n % 9 + 1) for n in range(1, count + 1))


class Interrupted(BaseException):
    """The process is gone, as far as the sink can tell."""


def breaking_off(events: list[Event], after: int) -> Iterator[Event]:
    """Yield some events, and then no more for ever."""
    yield from events[:after]
    raise Interrupted


def only(times: int) -> Callable[[], bool]:
    """Say yes so many times, and then no."""
    left = threading.Semaphore(times)
    return lambda: left.acquire(blocking=False)
