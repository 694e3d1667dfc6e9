"""A million events into files: what it takes to claim, write and settle them, and the peak memory of the writer.

What was written is validated by a process that shares no code with the writer. The store is moto's, on loopback in a process
of its own: its share of the time is its own, not Amazon's.
"""

import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from aggregator.core import planner
from aggregator.core.model import (
    Bounds,
    Change,
    Decision,
    Reading,
    Span,
    Written,
)
from aggregator.delivery.file_writer import FileWriter
from aggregator.ledger.database import Database, migrate
from aggregator.ledger.meters import Feed, Meters
from aggregator.ledger.outbox.files import Files
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Pass, Passes
from aggregator.ledger.passes.spool import Spool
from aggregator.runtime.clock import utcnow
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.sinks.files import DirectorySink, JsonFormat, Keys, S3Sink
from aggregator.sinks.files.sink import LIMITS
from aggregator.sinks.protocol import FileSink
from aggregator.sinks.stripe import StripeMeter
from bench.figures import Figure, measured
from bench.hourly import meter_of, policy_of
from bench.memory import peak_megabytes
from bench.stand import postmaster

HOUR = dt.timedelta(hours=1)
METER = "api_requests"
AT_STRIPE = {METER: StripeMeter(event_name=METER)}
BOUNDS = Bounds(1_000_000, 900_000_000, dt.timedelta(0))
MINUTE = dt.timedelta(minutes=1)
KEYS, BUCKET, REGION = Keys("AKIABENCH", "bench"), "bench", "eu-central-1"

SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
input()
server.stop()
"""


def measure(kind: str, events: int) -> list[Figure]:
    """Plan so many events, write them to files, and have them validated by a process that shares no code with the writer."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgres(directory / "pg"))
        migrate(server.url())
        database = stack.enter_context(Database(server.url()))
        sink_id = _plan(database, events)
        url, store = stack.enter_context(_store()) if kind == "s3" else (None, None)
        sink = _sink(directory / "files", url)
        owner = uuid.uuid4()
        files = Files(database, owner, MINUTE)
        filing = FileWriter(
            files, Outbox(database, owner, MINUTE, MINUTE), sink, sink_id, utcnow, at_once=True
        )
        written: list[Written] = []
        processes = {"ledger": postmaster(server)} | ({"sandbox": store} if store else {})
        figure = Figure(f"{events:,} events to a file, {kind}: claim, write, settle", events)
        with measured(figure, processes):
            while (result := filing.run_once(utcnow())).claimed:
                assert result.accepted == result.claimed, result
                written += result.files
        figure.peak_megabytes = peak_megabytes()
        paths = _fetched(directory / "files", url, written)
        call = [sys.executable, "-m", "tests.file_validator", *map(str, paths)]
        found = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
        assert found["records"] == events, found
        assert Decimal(found["total"]) == sum(n % 997 + 1 for n in range(events)), found
        sink.close()
        return [figure]


def _sink(directory: Path, url: str | None) -> FileSink:
    form = JsonFormat(AT_STRIPE, lines=True)
    if url is None:
        return DirectorySink(
            "files",
            directory=directory,
            kind="files",
            by_hand=False,
            bounds=BOUNDS,
            form=form,
        )
    return S3Sink(
        "files",
        bucket=BUCKET,
        prefix="usage/",
        region=REGION,
        endpoint_url=url,
        keys=KEYS,
        timeout=MINUTE,
        bounds=BOUNDS,
        form=form,
    )


@contextmanager
def _store() -> Iterator[tuple[str, int]]:
    """Run a store; yield its URL and process."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            client = _client(url)
            client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
            client.close()
            yield url, process.pid
        finally:
            process.terminate()


def _client(url: str) -> Any:
    import boto3

    session = boto3.session.Session(*KEYS, region_name=REGION)
    return session.client("s3", endpoint_url=url)


def _fetched(directory: Path, url: str | None, written: list[Written]) -> list[Path]:
    if url is not None:
        directory.mkdir()
        client = _client(url)
        for each in written:
            client.download_file(BUCKET, f"usage/{each.name}", str(directory / each.name))
        client.close()
    return [directory / each.name for each in written]


def _plan(database: Database, events: int) -> int:
    """Fill the outbox with an event per customer; return the sink."""
    start = utcnow().replace(minute=0, second=0, microsecond=0) - 2 * HOUR
    meter = meter_of("files", start)
    meters = Meters(database, uuid.uuid4(), 10 * MINUTE)
    registered = meters.register([meter])[METER]
    policy = policy_of(database, "files", LIMITS, utcnow())

    def decide(feed: Feed, changes: Iterable[Change], *, guarded: bool, **_: object) -> Iterable[Decision]:
        assert not guarded, f"nothing of {feed.sink} shrinks"
        return planner.plan(changes, policy)

    lease = meters.acquire(registered)
    assert lease is not None
    span = Span(start, start + HOUR)
    with Spool() as spool:
        for low in range(0, events, 5_000):
            spool.add(
                [
                    Reading(start, f"cus_{n:014d}", Decimal(n % 997 + 1), start + HOUR / 2)
                    for n in range(low, min(low + 5_000, events))
                ]
            )
        pass_ = Pass("live", span, span, policy.now, lease.definitions[0])
        Passes(database, 10 * MINUTE, time.monotonic).commit(lease, spool, pass_, decide)
    return registered.feeds[0].sink_id
