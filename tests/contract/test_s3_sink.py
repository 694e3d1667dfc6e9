"""The store itself: uploads in parts, conditions, what is left of an upload, and what its errors mean."""

import datetime as dt
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from aggregator.errors import SinkHalted, SinkUnreachable
from aggregator.sinks.files import Keys, S3Sink
from aggregator.sinks.files.bucket import PART_BYTES, Bucket
from aggregator.sinks.protocol import Batch
from tests.contract.file_sinks import BOUNDS, Interrupted, Place, forms, in_bucket, many, only, some
from tests.file_validator import validate
from tests.object_store import KEY_ID, REGION, SECRET, Store

LARGE = 60_000
"""Events that take more than one part."""


@pytest.fixture
def place(store: Store) -> Iterator[Place]:
    """A sink of JSON Lines."""
    given = in_bucket(store, "jsonl")
    yield given
    given.sink.close()


@pytest.fixture
def bucket(store: Store) -> Iterator[Bucket]:
    """The calls alone."""
    given = Bucket(
        "files",
        store.bucket,
        region=REGION,
        endpoint_url=store.url,
        keys=Keys(KEY_ID, SECRET),
        timeout=dt.timedelta(seconds=20),
    )
    yield given
    given.close()


def test_a_large_file_goes_in_parts(place: Place, store: Store) -> None:
    """What is larger than a part is uploaded part by part, is whole, and leaves nothing behind."""
    written = place.write(many(LARGE))
    assert written is not None
    assert written.bytes > PART_BYTES
    assert place.read().records == LARGE
    head = store.client.head_object(Bucket=store.bucket, Key=f"usage/{written.name}")
    assert head["ETag"].strip('"').endswith("-2"), "two parts"
    assert head["Metadata"] == {"sha256": written.sha256}
    assert head["ContentType"] == "application/x-ndjson"
    assert place.leftovers() == []


def test_a_large_file_is_not_written_twice(place: Place) -> None:
    """The same events again find their object there: nothing is modified, so nothing is imported again."""
    first = place.write(many(LARGE))
    lying = place.contents()
    assert place.write(many(LARGE), again=True) == first
    assert place.contents() == lying


@pytest.mark.parametrize("times", [12, 13, 14, 15, 16])
def test_an_upload_that_may_not_go_on_leaves_nothing(place: Place, times: int) -> None:
    """Before the first part, between parts, or before the end: no object, and no parts that cost money."""
    assert place.sink.write(Batch(many(LARGE), again=False), only(times)) is None
    assert (place.contents(), place.leftovers()) == ({}, [])


def test_what_a_killed_upload_left_is_removed(place: Place, store: Store) -> None:
    """Parts of the same file, from a process that was killed, are gone once the file is written again."""
    name = getattr(place.write(many(LARGE)), "name", "")
    store.client.delete_object(Bucket=store.bucket, Key=f"usage/{name}")
    for key in (f"usage/{name}", "usage/usage-of-somebody-else"):
        upload = store.client.create_multipart_upload(Bucket=store.bucket, Key=key)
        store.client.upload_part(
            Bucket=store.bucket, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 100
        )
    assert place.write(many(LARGE), again=True) is not None
    assert place.leftovers() == ["usage/usage-of-somebody-else"]
    assert place.read().records == LARGE


def test_old_uploads_of_ours_are_removed_at_the_start(store: Store) -> None:
    """What nobody goes on with for hours is forgotten at the first file; what is young, or not ours, is left."""
    for key in ("usage/usage-1-x.jsonl", "usage/other", "elsewhere/usage-1-x.jsonl"):
        store.client.create_multipart_upload(Bucket=store.bucket, Key=key)
    since = store.client.list_multipart_uploads(Bucket=store.bucket)["Uploads"][0]["Initiated"]
    for hours, left in ((5, 3), (7, 2)):
        sink = S3Sink(
            "files",
            bucket=store.bucket,
            prefix="usage/",
            region=REGION,
            endpoint_url=store.url,
            keys=Keys(KEY_ID, SECRET),
            timeout=dt.timedelta(seconds=20),
            bounds=BOUNDS,
            form=forms()["jsonl"],
            clock=partial(since.__add__, dt.timedelta(hours=hours)),
        )
        assert sink.write(Batch(some(3, first=hours), again=False), lambda: True) is not None
        sink.close()
        assert len(store.uploads()) == left


def test_two_puts_make_one_object(bucket: Bucket, store: Store) -> None:
    """Whoever comes second, between a look and a put, is told so by the store: the first one's bytes stay."""
    for content, taken in ((b"first", True), (b"second", False)):
        assert bucket.put("k.jsonl", io.BytesIO(content), len(content), "0") is taken
    assert {key: content for key, (content, _) in store.objects().items()} == {"k.jsonl": b"first"}


def test_two_uploads_make_one_object(bucket: Bucket, store: Store) -> None:
    """The same where the object is completed from parts; the second one's parts are removed."""
    large = b"x" * (PART_BYTES + 1)
    for content, taken in ((large, True), (b"y" + large, False)):
        assert bucket.put_in_parts("k.jsonl", io.BytesIO(content), "0", lambda: True) is taken
    assert {key: content for key, (content, _) in store.objects().items()} == {"k.jsonl": large}
    assert store.uploads() == []


def test_an_upload_that_breaks_off_is_forgotten(bucket: Bucket, store: Store) -> None:
    """A failure between two parts leaves no object and no parts."""

    def broken() -> bool:
        raise Interrupted

    with pytest.raises(Interrupted):
        bucket.put_in_parts("k.jsonl", io.BytesIO(b"x"), "0", broken)
    assert (store.objects(), store.uploads()) == ({}, [])


def test_a_bucket_that_is_not_there_halts_the_sink(store: Store) -> None:
    """A wrong bucket is a person's to correct: check says so, and so does the first file."""
    wrong = in_bucket(store, "jsonl", bucket="no-such-bucket-here")
    with pytest.raises(SinkHalted, match="there is no bucket no-such-bucket-here"):
        wrong.sink.preflight(["api_requests"])
    with pytest.raises(SinkHalted, match=r"refuses sink files \(NoSuchBucket"):
        wrong.write(some(3))
    wrong.sink.close()


def test_a_store_that_is_away_is_tried_again(store: Store) -> None:
    """No answer at all is no refusal."""
    away = in_bucket(store, "jsonl", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(SinkUnreachable, match="cannot be reached"):
        away.write(some(3))
    away.sink.close()


def test_a_bucket_in_another_region_is_named(store: Store) -> None:
    """The region that was configured is compared with the one that the store names."""
    fits, wrong = in_bucket(store, "jsonl"), in_bucket(store, "jsonl", region="us-west-2")
    assert fits.sink.preflight(["api_requests"]) == []
    [told] = wrong.sink.preflight(["api_requests"])
    assert "is in eu-central-1, not in us-west-2: correct `region`" in told
    for each in (fits, wrong):
        each.sink.close()


def test_no_credentials_halt_the_sink(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where boto3 finds no key and no role, that is said, and not a traceback."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    bucket = Bucket(
        "files",
        store.bucket,
        region=REGION,
        endpoint_url=store.url,
        keys=None,
        timeout=dt.timedelta(seconds=5),
    )
    with pytest.raises(SinkHalted, match="has no credentials for the bucket"):
        bucket.find("k")
    bucket.close()


def test_the_library_s_own_chain_gives_credentials(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key pair in the configuration, boto3 looks where it always does."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    bucket = Bucket(
        "files",
        store.bucket,
        region=REGION,
        endpoint_url=store.url,
        keys=None,
        timeout=dt.timedelta(seconds=5),
    )
    assert bucket.put("k.jsonl", io.BytesIO(b"x"), 1, "0")
    bucket.close()


MEMORY = """
import resource, sys
from pathlib import Path
from tests.contract.file_sinks import in_directory, many

place = in_directory(Path(sys.argv[1]), "jsonl")
place.write(many(1_000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
written = place.write(many(200_000))
print(written.name, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Two hundred thousand events take no more than a few MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    name, megabytes = done.stdout.split()
    with (tmp_path / name).open("rb") as file:
        assert validate([(name, file)]).records == 200_000
    assert int(megabytes) <= 8
