"""The calls to an object store, and what its errors mean. boto3 is imported at the first of them.

Rules
- An object appears whole: by one put, or by completing an upload in parts (docs.aws.amazon.com/AmazonS3/latest/userguide,
  "mpuoverview"). Both are told not to take the place of another (ibid., "conditional-writes"); a store that does not know
  that condition is asked before, too.
- No error repeats what the library says in full: it may quote what was sent.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime import failpoints

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

PART_BYTES = 8 << 20
"""What is in memory of an upload. A part has at least 5 MiB, and there are at most 10,000: far above the 1 GB of a file."""

TRIES = 4
CONNECT_SECONDS = 10.0

# The codes are those of docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, of the errors that all services share
# (.../awsconsolehelpdocs/latest/gsg/common-errors.html), of STS and KMS, whom S3 asks on our behalf, and those of botocore's
# own lists (botocore/retries/standard.py). Where an answer has no body, as one to HEAD, its status stands for the code.

NOT_THERE = {"404", "NoSuchKey", "NotFound"}
TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
GONE = {"NoSuchUpload"}

BUSY = {
    "BandwidthLimitExceeded",
    "Busy",
    "DependencyTimeoutException",
    "EC2ThrottledException",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "KMS.DependencyTimeoutException",
    "KMS.InternalException",
    "KMS.KMSInternalException",
    "KMS.KeyUnavailableException",
    "KMS.LimitExceededException",
    "KMS.ThrottlingException",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServerBusy",
    "ServiceException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
    "TransactionInProgressException",
    "XMinioServerNotInitialized",
}
"""It has too much to do, or is not well."""

CONFLICTS = {"ConditionalRequestConflict", "Conflict", "ConflictException", "OperationAborted", "409"}
"""Somebody else is at it."""

DAMAGED = {
    "BadDigest",
    "ChecksumMismatch",
    "ConnectionClosedByRequester",
    "ContentChecksumMismatch",
    "IncompleteBody",
    "InvalidPart",
    "RequestAborted",
    "RequestAbortedException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
"""What came there is not what was sent."""

LAPSED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "IDPCommunicationError",
    "IDPRejectedClaim",
    "RequestExpired",
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    "TokenRefreshRequired",
}
"""Credentials that ran out, or a clock that is off: newer ones come by themselves, or it is set right."""

ROLLING = {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
"""The same of credentials for a while, which are replaced while we use them. A key pair for ever is simply wrong."""

ELSEWHERE = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}
MOVED = {301, 302, 308}
"""The bucket is in another region, or behind another address."""

UNABLE = {501, 505}
"""Statuses from 500 on that no time cures: it cannot do what was asked."""

MUTE = {"400", "403"}
"""An answer to HEAD, which never says why."""

OF_S3 = {
    "AbortMultipartUpload",
    "CompleteMultipartUpload",
    "CreateMultipartUpload",
    "GetObject",
    "HeadBucket",
    "HeadObject",
    "ListMultipartUploads",
    "ListObjectsV2",
    "PutObject",
    "UploadPart",
}
"""What we ask of the store. Whatever else is refused was asked for the sake of credentials."""

HASH = "sha256"
"""Under which name an object says the hash of its content."""

TYPES = {
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/x-ndjson",
    "json": "application/json",
    "csv": "text/csv",
}


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
    """One bucket. The client is made at the first use. `whose` says in messages what it is for, such as `sink s3`."""

    def __init__(
        self,
        whose: str,
        bucket: str,
        *,
        region: str | None,
        endpoint_url: str | None,
        keys: Keys | None,
        timeout: dt.timedelta,
    ) -> None:
        self._whose, self._subject = whose, whose[:1].upper() + whose[1:]
        self._bucket = bucket
        self._region = region
        self._endpoint_url = endpoint_url
        self._keys = keys
        self._timeout = timeout
        self._client: Any = None
        self._rolls = False

    @property
    def client(self) -> Any:
        """The library's client."""
        if self._client is None:
            self._client = self._make()
        return self._client

    def use_keys(self, keys: Keys | None) -> None:
        """Look for credentials anew, and take this key pair if there is one."""
        self._keys = keys
        self._forget()

    def close(self) -> None:
        """Give back connections."""
        if self._client is not None:
            self._client.close()

    def find(self, key: str) -> tuple[int, str | None] | None:
        """Return the size of an object and the hash it says, or None if there is none."""
        try:
            found = self._head(key)
        except _Mute:
            # Whoever is refused by a HEAD is not told why: a call whose answer has a body says it.
            with self._asked("s3:ListBucket"):
                self.client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
            found = self._head(key)
        if found is None:
            return None
        self._surely(found, "ETag")
        return int(found["ContentLength"]), found.get("Metadata", {}).get(HASH)

    def _head(self, key: str) -> dict[str, Any] | None:
        with suppress(_NotThere), self._asked("s3:GetObject and s3:ListBucket", missing=True):
            found: dict[str, Any] = self.client.head_object(Bucket=self._bucket, Key=key)
            return found
        return None

    def get(self, key: str, file: BinaryIO) -> bool:
        """Fetch an object into a file; False if there is none."""
        with suppress(_NotThere), self._asked("s3:GetObject", missing=True):
            body = self.client.get_object(Bucket=self._bucket, Key=key)["Body"]
            file.writelines(body.iter_chunks(PART_BYTES))
            return True
        return False

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys of all objects that begin so."""
        with self._asked("s3:ListBucket"):
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix
            ):
                for each in page.get("Contents", ()):
                    yield each["Key"]

    def put(self, key: str, file: BinaryIO, size: int, content: str) -> bool:
        """Put an object by one call; return False if one of that name is there."""
        with suppress(_Taken), self._asked("s3:PutObject", taken=True):
            answer = self.client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=file,
                ContentLength=size,
                IfNoneMatch="*",
                **_said(key, content),
            )
            self._surely(answer, "ETag")
            return True
        return False

    def put_in_parts(
        self, key: str, file: BinaryIO, content: str, may_go_on: Callable[[], bool]
    ) -> bool | None:
        """Put an object part by part; False if one of that name is there, None if it may not go on. Leaves no parts."""
        upload: dict[str, Any] = {"Bucket": self._bucket, "Key": key}
        with self._asked("s3:PutObject"):
            begun = self.client.create_multipart_upload(**upload, **_said(key, content))
        upload["UploadId"] = self._surely(begun, "UploadId")
        done = False
        try:
            parts: list[dict[str, Any]] = []
            while part := file.read(PART_BYTES):
                if not may_go_on():
                    return None
                number = len(parts) + 1
                with self._asked("s3:PutObject"):
                    answer = self.client.upload_part(**upload, PartNumber=number, Body=part)
                parts.append({"PartNumber": number, "ETag": self._surely(answer, "ETag")})
                failpoints.passing("part_uploaded")
            if not may_go_on():
                return None
            with suppress(_Taken), self._asked("s3:PutObject", taken=True):
                answer = self.client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
                self._surely(answer, "ETag")
                done = True
            return done
        finally:
            if not done:
                with suppress(SinkError):
                    self.abort(Unfinished(key, upload["UploadId"]))

    def _surely(self, answer: Mapping[str, Any], key: str) -> str:
        """Return what every answer of a store has, so that nobody else's 200 passes for one."""
        if not answer.get(key):
            raise SinkUnreachable(
                f"What answers for the store of {self._whose} is no store (its answer has no {key}); it is tried again."
            )
        return str(answer[key])

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
            with self._asked("s3:ListBucket", missing=True):
                said = self.client.head_bucket(Bucket=self._bucket)
        except _NotThere:
            raise SinkHalted(
                f"{self._subject}: there is no bucket {self._bucket}: correct `bucket`. {AGAIN}"
            ) from None
        region: str | None = said.get("BucketRegion")
        return region

    def _make(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
            from botocore.credentials import RefreshableCredentials
            from botocore.exceptions import (
                BotoCoreError,
                CredentialRetrievalError,
                MetadataRetrievalError,
                SSOError,
                TokenRetrievalError,
            )
        except ImportError as error:
            raise SinkHalted(
                f"{self._subject} needs boto3: install `usage-aggregator[s3]`, then restart."
            ) from error
        keys = self._keys._asdict() if self._keys else {}
        try:
            session = boto3.session.Session(
                region_name=self._region, **{f"aws_{name}": value for name, value in keys.items()}
            )
            client = session.client(
                "s3",
                endpoint_url=self._endpoint_url,
                config=Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=self._timeout.total_seconds(),
                    retries={"total_max_attempts": TRIES, "mode": "standard"},
                ),
            )
            client.meta.events.register_first("needs-retry.s3", _try_the_named_region)
            found = session.get_credentials()
        except (CredentialRetrievalError, MetadataRetrievalError, SSOError, TokenRetrievalError) as error:
            raise self._without_credentials(error) from error
        except (BotoCoreError, ValueError) as error:
            raise SinkHalted(
                f"{self._subject} cannot use the settings for the store ({type(error).__name__}). {AGAIN}"
            ) from error
        self._rolls = isinstance(found, RefreshableCredentials) or bool(found and found.token)
        return client

    @contextmanager
    def _asked(self, right: str, *, missing: bool = False, taken: bool = False) -> Iterator[None]:
        """Turn what the library raises into what it means; `right` is what the call needs.

        Whether something is `missing` or its name `taken` is an answer only to who asks for it.
        """
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            CredentialRetrievalError,
            MetadataRetrievalError,
            NoCredentialsError,
            NoRegionError,
            ParamValidationError,
            PartialCredentialsError,
            ProfileNotFound,
            SSOError,
            TokenRetrievalError,
        )

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if missing and code in NOT_THERE:
                raise _NotThere from error
            if taken and code in TAKEN:
                raise _Taken from error
            raise self._meaning(error, code, right) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            raise SinkHalted(
                f"{self._subject} has no credentials for the bucket {self._bucket}: give it a key pair, or a role where "
                f"boto3 finds it. {AGAIN}"
            ) from error
        except (ParamValidationError, NoRegionError) as error:
            raise SinkHalted(
                f"{self._subject} cannot use its settings for the bucket {self._bucket} ({type(error).__name__}): correct "
                f"`bucket`, `prefix` or `region`. {AGAIN}"
            ) from error
        except (CredentialRetrievalError, MetadataRetrievalError, SSOError, TokenRetrievalError) as error:
            raise self._without_credentials(error) from error
        except BotoCoreError as error:
            raise SinkUnreachable(
                f"The store of {self._whose} cannot be reached ({type(error).__name__}); it is tried again."
            ) from error
        except (SinkError, _NotThere, _Taken):
            raise
        except Exception as error:
            # Where it gets credentials from, the library passes on whatever is raised there.
            raise self._without_credentials(error) from error

    def _without_credentials(self, error: Exception) -> SinkUnreachable:
        self._forget()
        return SinkUnreachable(
            f"{self._subject} gets no credentials for its store now ({type(error).__name__}); they are looked for anew."
        )

    def _meaning(self, error: "ClientError", code: str, right: str) -> SinkError:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        asked = str(error.operation_name)
        if code in GONE:
            return _Gone(f"An upload to {self._whose} was ended by somebody else; it is made again.")
        for_credentials = asked not in OF_S3
        lapsed = code in LAPSED or (code in ROLLING and self._rolls)
        if lapsed or (for_credentials and status != 403 and "AccessDenied" not in code):
            self._forget()
            return SinkUnreachable(
                f"The credentials of {self._whose} do not hold now ({code}, {asked}); they are looked for anew."
            )
        if why := _passes(code, status):
            return SinkUnreachable(f"The store of {self._whose} {why} ({code}); it is tried again.")
        refusal = f"The store refuses {self._whose} ({code or status}, {asked}, bucket {self._bucket})"
        if code in ELSEWHERE or status in MOVED:
            region = _region_named(error.response)
            hint = f": the bucket is in {region}, correct `region`" if region else ""
            return SinkHalted(f"{refusal}{hint or ': correct `region` or `endpoint_url`'}. {AGAIN}")
        if status == 403 or code == "AccessDenied":
            halted = f"{refusal}: its role or key needs {right} there, see docs/s3.md. {AGAIN}"
        else:
            halted = f"{refusal}: correct the bucket, the region or the key. {AGAIN}"
        return _Mute(halted) if code in MUTE else SinkHalted(halted)

    def _forget(self) -> None:
        """Make a new client next time, which looks for credentials anew: the library keeps what it once found in a file."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _passes(code: str, status: int) -> str | None:
    """Say why what was refused now may be taken later; None if it will not."""
    if code in CONFLICTS:
        return "is asked for the same by somebody else"
    if code in DAMAGED:
        return "got something else than was sent"
    if code in {"TemporaryRedirect", "307"}:
        return "is being moved"
    if code in BUSY or status in {408, 425, 429} or (status >= 500 and status not in UNABLE):
        return "is busy"
    return None


def _region_named(response: Mapping[str, Any]) -> str | None:
    """Return the region that a refusal says the bucket is in."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
    return str(region) if region else None


def _try_the_named_region(request_dict: dict[str, Any], response: Any, **_: object) -> None:
    """Let a redirect be followed only if it says to where.

    Otherwise the library asks for the bucket, is redirected again, and asks until Python's stack is full: 82 requests.
    """
    if response is not None and _region_named(response[1]) is None:
        request_dict.setdefault("context", {}).setdefault("s3_redirect", {})["redirected"] = True


AGAIN = "Then restart or send SIGHUP."


class _NotThere(Exception):
    """There is no such object."""


class _Taken(Exception):
    """An object of that name is there."""


class _Mute(SinkHalted):
    """A refusal that does not say why."""


class _Gone(SinkUnreachable):
    """The upload is not there any more."""


def _said(key: str, content: str) -> dict[str, Any]:
    return {"Metadata": {HASH: content}, "ContentType": TYPES[key.rpartition(".")[2]]}
