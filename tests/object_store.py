"""An object store for tests: moto's server for S3 on loopback, started and stopped in this process."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

KEY_ID, SECRET, REGION = "AKIATESTTESTTEST", "secret-of-the-test", "eu-central-1"


class Store(NamedTuple):
    """A bucket of its own in a running store."""

    url: str
    bucket: str
    client: Any

    def objects(self, prefix: str = "") -> dict[str, tuple[bytes, str]]:
        """Return what lies in it: the content of each object, and when it was last modified, or which version it is."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [(each["Key"], each["LastModified"]) for page in pages for each in page.get("Contents", ())]
        found = {key: self.client.get_object(Bucket=self.bucket, Key=key) for key, _ in keys}
        return {
            key: (found[key]["Body"].read(), f"{at} {found[key].get('VersionId', '')}") for key, at in keys
        }

    def number_versions(self) -> None:
        """Let each write of an object count, however soon it follows the one before."""
        self.client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def uploads(self) -> list[str]:
        """Return the keys of uploads in parts that were not brought to an end."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        return [each["Key"] for each in found]


@cache
def read_models_once() -> None:
    """Let what boto3 knows of S3 be parsed once a process: by itself it does so for every client, in 0.2 s."""
    from botocore.loaders import JSONFileLoader

    parsed = cache(JSONFileLoader().load_file)
    JSONFileLoader.load_file = lambda self, file_path: parsed(file_path)


@contextmanager
def store_running() -> Iterator[str]:
    """Run a store; give its address."""
    from moto.server import ThreadedMotoServer

    read_models_once()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def bucket_in(url: str) -> Iterator[Store]:
    """Make a bucket of its own in a store that runs."""
    import boto3

    session = boto3.session.Session(KEY_ID, SECRET, region_name=REGION)
    client = session.client("s3", endpoint_url=url)
    bucket = f"usage-{uuid.uuid4().hex[:12]}"
    try:
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield Store(url, bucket, client)
    finally:
        client.close()
