"""Sinks of files in the configuration: what they need, what is refused, and that no secret is told."""

from pathlib import Path

import pytest

from aggregator.config import CsvSink, DirectorySink, S3Sink, load
from aggregator.errors import ConfigError

BEGIN = """
sources: {app: {url: 'sqlite://'}}
meters:
  calls:
    {source: app, sinks: [out], window: 1h, start_at: '2026-11-01T00:00Z', query: 'select 1 where :start < :end'}
sinks:
  out:
"""
CANARY = "Kanar1envogel"


def written(directory: Path, *lines: str) -> Path:
    path = directory / "aggregator.yaml"
    path.write_text(BEGIN + "".join(f"    {line}\n" for line in lines))
    return path


def complaint(directory: Path, *lines: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(written(directory, *lines), {})
    return str(caught.value)


def test_what_is_left_out_has_stripe_s_limits(tmp_path: Path) -> None:
    """A csv sink needs a directory, an import a place: the rest follows from what Stripe takes."""
    csv = load(written(tmp_path, "type: csv", "directory: upload"), {}).sinks["out"]
    assert isinstance(csv, CsvSink)
    assert csv.directory == tmp_path / "upload"
    assert (csv.max_bytes, csv.close_after.days) == (4_900_000, 1)
    files = load(written(tmp_path, "type: directory", "directory: /var/out"), {}).sinks["out"]
    assert isinstance(files, DirectorySink)
    assert files.directory == Path("/var/out")
    assert (files.format, files.max_records, files.close_after.seconds) == ("jsonl", 1_000_000, 10)
    bucket = load(written(tmp_path, "type: s3", "bucket: acme", "prefix: usage"), {}).sinks["out"]
    assert isinstance(bucket, S3Sink)
    assert (bucket.prefix, bucket.keys_revealed(), bucket.quantity_encoding) == ("usage/", None, "number")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["type: csv"], "directory: is missing"),
        (["type: csv", "directory: x", "max_bytes: 5000000"], "max_bytes: is too large: 4999999 is the most"),
        (["type: csv", "directory: x", "format: jsonl"], "format: is not a known key"),
        (["type: csv", "directory: x", "close_after: 31d"], "close_after: is too long"),
        (["type: csv", "directory: x", "api_key: x"], "api_key: is not a known key"),
        (["type: directory", "directory: x", "format: xml"], "format: must be `jsonl`, `csv` or `json`"),
        (["type: directory", "directory: x", "max_records: 0"], "max_records: is too small: 1 is the least"),
        (["type: directory", "directory: 3"], "directory: must be text"),
        (["type: s3"], "bucket: is missing"),
        (["type: s3", "bucket: acme", "prefix: /usage"], "prefix: must be a folder such as `usage/`"),
        (["type: s3", "bucket: acme", f"prefix: {'x' * 101}"], "prefix: is too long"),
        (
            ["type: s3", "bucket: acme", "endpoint_url: http://store.example"],
            "endpoint_url: would send the key",
        ),
        (
            ["type: s3", "bucket: acme", "access_key_id: x"],
            "secret_access_key: and `access_key_id` belong together",
        ),
        (["type: s3", "bucket: acme", "secret_access_key: x"], "and `access_key_id` belong together"),
        (
            ["type: s3", "bucket: acme", "access_key_id: x", "access_key_id_file: y", "secret_access_key: z"],
            "access_key_id_file: and `access_key_id` are both given",
        ),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, lines: list[str], told: str) -> None:
    """Each of these is refused at its place, with what to write instead."""
    assert f"sinks.out.{told}" in complaint(tmp_path, *lines) or told in complaint(tmp_path, *lines)


def test_a_key_pair_may_come_from_files(tmp_path: Path) -> None:
    """Both halves of a key pair may stand in files of their own; nothing shows them."""
    for name in ("id", "secret"):
        (tmp_path / name).write_text(f"{CANARY}-{name}\n")
    config = load(
        written(
            tmp_path, "type: s3", "bucket: acme", "access_key_id_file: id", "secret_access_key_file: secret"
        ),
        {},
    )
    sink = config.sinks["out"]
    assert isinstance(sink, S3Sink)
    assert sink.keys_revealed() == (f"{CANARY}-id", f"{CANARY}-secret")
    assert CANARY not in f"{config!r} {config} {config.model_dump_json()}"


@pytest.mark.parametrize(
    "lines",
    [
        ["type: s3", "bucket: acme", f"secret_access_key: {CANARY}"],
        ["type: s3", "bucket: acme", f"access_key_id: [{CANARY}]", f"secret_access_key: {{a: {CANARY}}}"],
        ["type: s3", f"bucket: [{CANARY}]", f"format: {CANARY}", f"prefix: /{CANARY}"],
        ["type: csv", "directory: x", f"max_bytes: {CANARY}", f"close_after: {CANARY}"],
    ],
)
def test_no_mistake_tells_a_secret(tmp_path: Path, lines: list[str]) -> None:
    """What is refused is never repeated: it may be a secret in the wrong place."""
    assert CANARY not in complaint(tmp_path, *lines)
