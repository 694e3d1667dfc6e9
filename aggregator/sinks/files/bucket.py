"""The calls to an object store, and what its errors mean. boto3 is imported at the first of them.

Rules
- An object appears whole: by one put, or by completing an upload in parts (docs.aws.amazon.com/AmazonS3/latest/userguide,
  "mpuoverview"). Both are told not to take the place of another (ibid., "conditional-writes"); a store that does not know
  that condition is asked before, too.
- No error repeats what the library says in full: it may quote what was sent.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from aggregator import points
from aggregator.errors import SinkError, SinkHalted, SinkUnreachable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

PART_BYTES = 8 << 20
"""What is in memory of an upload. A part has at least 5 MiB, and there are at most 10,000: far above the 1 GB of a file."""

TRIES = 4
CONNECT_SECONDS = 10.0

NOT_THERE = {"404", "NoSuchKey", "NotFound"}
TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
BUSY = {
    "SlowDown",
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "503",
    "500",
}
GONE = {"NoSuchUpload"}

HASH = "sha256"
"""Under which name an object says the hash of its content."""

TYPES = {"jsonl": "application/x-ndjson", "json": "application/json", "csv": "text/csv"}


class Keys(NamedTuple):
    """A key pair; without one, the library looks where it always does."""

    access_key_id: str
    secret_access_key: str


class Unfinished(NamedTuple):
    """An upload in parts that was begun and not brought to an end."""

    key: str
    id: str
    since: dt.datetime | None = None


class Bucket:
    """One bucket. The client is made at the first use."""

    def __init__(
        self,
        sink: str,
        bucket: str,
        *,
        region: str | None,
        endpoint_url: str | None,
        keys: Keys | None,
        timeout: dt.timedelta,
    ) -> None:
        self._sink = sink
        self._bucket = bucket
        self._region = region
        self._endpoint_url = endpoint_url
        self._keys = keys
        self._timeout = timeout
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The library's client."""
        if self._client is None:
            self._client = self._make()
        return self._client

    def close(self) -> None:
        """Give back connections."""
        if self._client is not None:
            self._client.close()

    def find(self, key: str) -> tuple[int, str | None] | None:
        """Return the size of an object and the hash it says, or None if there is none."""
        try:
            with self._asked("s3:GetObject and s3:ListBucket"):
                found = self.client.head_object(Bucket=self._bucket, Key=key)
        except _NotThere:
            return None
        return int(found["ContentLength"]), found["Metadata"].get(HASH)

    def put(self, key: str, file: BinaryIO, size: int, content: str) -> bool:
        """Put an object by one call; return False if one of that name is there."""
        with suppress(_Taken), self._asked("s3:PutObject"):
            self.client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=file,
                ContentLength=size,
                IfNoneMatch="*",
                **_said(key, content),
            )
            return True
        return False

    def put_in_parts(
        self, key: str, file: BinaryIO, content: str, may_go_on: Callable[[], bool]
    ) -> bool | None:
        """Put an object part by part; False if one of that name is there, None if it may not go on. Leaves no parts."""
        upload: dict[str, Any] = {"Bucket": self._bucket, "Key": key}
        with self._asked("s3:PutObject"):
            upload["UploadId"] = self.client.create_multipart_upload(**upload, **_said(key, content))[
                "UploadId"
            ]
        done = False
        try:
            parts: list[dict[str, Any]] = []
            while part := file.read(PART_BYTES):
                if not may_go_on():
                    return None
                number = len(parts) + 1
                with self._asked("s3:PutObject"):
                    answer = self.client.upload_part(**upload, PartNumber=number, Body=part)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
                points.passing("part_uploaded")
            if not may_go_on():
                return None
            with suppress(_Taken), self._asked("s3:PutObject"):
                self.client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
                done = True
            return done
        finally:
            if not done:
                with suppress(SinkError):
                    self.abort(Unfinished(key, upload["UploadId"]))

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Yield uploads that were begun and not brought to an end, of keys that begin so."""
        with self._asked("s3:ListBucketMultipartUploads"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=prefix
            )
            for page in pages:
                for each in page.get("Uploads", ()):
                    yield Unfinished(each["Key"], each["UploadId"], each["Initiated"])

    def abort(self, upload: Unfinished) -> None:
        """Forget an upload and its parts."""
        with suppress(_Gone), self._asked("s3:AbortMultipartUpload"):
            self.client.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.id)

    def region(self) -> str | None:
        """Return the region the bucket is in, as far as the store says. Raises SinkError if it is not there or not ours."""
        try:
            with self._asked("s3:ListBucket"):
                said = self.client.head_bucket(Bucket=self._bucket)
        except _NotThere:
            raise SinkHalted(
                f"Sink {self._sink}: there is no bucket {self._bucket}: correct `bucket`. {AGAIN}"
            ) from None
        region: str | None = said.get("BucketRegion")
        return region

    def _make(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise SinkHalted(
                f"Sink {self._sink} needs boto3: install `usage-aggregator[s3]`, then restart."
            ) from error
        keys = self._keys._asdict() if self._keys else {}
        try:
            session = boto3.session.Session(
                region_name=self._region, **{f"aws_{name}": value for name, value in keys.items()}
            )
            return session.client(
                "s3",
                endpoint_url=self._endpoint_url,
                config=Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=self._timeout.total_seconds(),
                    retries={"total_max_attempts": TRIES, "mode": "standard"},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise SinkHalted(
                f"Sink {self._sink} cannot use the settings for the store ({type(error).__name__}). {AGAIN}"
            ) from error

    @contextmanager
    def _asked(self, right: str) -> Iterator[None]:
        """Turn what the library raises into what it means; `right` is what the call needs."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
        )

        try:
            yield
        except ClientError as error:
            raise self._meaning(error, right) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            raise SinkHalted(
                f"Sink {self._sink} has no credentials for the bucket {self._bucket}: give it a key pair, or a role where "
                f"boto3 finds it. {AGAIN}"
            ) from error
        except BotoCoreError as error:
            raise SinkUnreachable(
                f"The store of sink {self._sink} cannot be reached ({type(error).__name__}); it is tried again."
            ) from error

    def _meaning(self, error: "ClientError", right: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in NOT_THERE:
            return _NotThere()
        if code in TAKEN:
            return _Taken()
        if code in GONE:
            return _Gone(f"An upload to sink {self._sink} was ended by somebody else; it is made again.")
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in BUSY or status >= 500 or status == 429:
            return SinkUnreachable(f"The store of sink {self._sink} is busy ({code}); it is tried again.")
        told = f"The store refuses sink {self._sink} ({code or status}, {error.operation_name}, bucket {self._bucket})"
        if status == 403 or code == "AccessDenied":
            return SinkHalted(f"{told}: its role or key needs {right} there, see docs/s3.md. {AGAIN}")
        return SinkHalted(f"{told}: correct the bucket, the region or the key. {AGAIN}")


AGAIN = "Then restart or send SIGHUP."


class _NotThere(Exception):
    """There is no such object."""


class _Taken(Exception):
    """An object of that name is there."""


class _Gone(SinkUnreachable):
    """The upload is not there any more."""


def _said(key: str, content: str) -> dict[str, Any]:
    return {"Metadata": {HASH: content}, "ContentType": TYPES[key.rpartition(".")[2]]}
