"""What a store's answers mean: most trouble passes by itself, the rest is for a person; only an ETag says *written*."""

import datetime as dt
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime import log
from aggregator.sinks.files import Keys, S3Sink
from aggregator.sinks.files import bucket as bucket_module
from aggregator.sinks.protocol import Batch
from tests.contract.file_sinks import BOUNDS, forms, some
from tests.object_store import KEY_ID, REGION, SECRET


class Answer(NamedTuple):
    """What the store says: a status, an error's code or a body, and headers."""

    status: int
    code: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    more: str = ""
    body: str = ""


NOTHING = Answer(404, "NoSuchKey")
THERE = Answer(200, headers={"ETag": '"0123"'})
BEGUN = Answer(
    200, body="<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
)
COMPLETED = Answer(
    200, body="<CompleteMultipartUploadResult><ETag>0123-1</ETag></CompleteMultipartUploadResult>"
)


@dataclass
class Scripted:
    """A store that says what it is told to, by method: one answer after the other, and the last one for ever."""

    url: str = ""
    said: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str) -> Answer:
        """Take note of a call, and return what to say."""
        self.asked.append(f"{method} {path.partition('?')[0]}")
        waiting = self.said[method]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        store: Scripted = self.server.scripted  # type: ignore[attr-defined]  # put there by the fixture
        said = store.answer(self.command, self.path)
        body = said.body.encode()
        if said.code and self.command != "HEAD":
            body = f"<Error><Code>{said.code}</Code><Message>m</Message>{said.more}</Error>".encode()
        elif self.command == "GET":
            body = b"<ListBucketResult/>"
        self.send_response(said.status)
        for name, value in {**said.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815 - named so by the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing."""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A scripted store, and a library that tries once, so that what is seen is ours."""
    monkeypatch.setattr(bucket_module, "TRIES", 1)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    store = Scripted(f"http://127.0.0.1:{http.server_port}")
    http.scripted = store  # type: ignore[attr-defined]  # carried along
    store.said = {"GET": [Answer(200)], "HEAD": [NOTHING], "PUT": [THERE], "DELETE": [Answer(204)]}
    yield store
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def sink(scripted: Scripted) -> Iterator[S3Sink]:
    """A sink that writes there, with a key pair of its own."""
    made = sink_at(scripted, Keys(KEY_ID, SECRET))
    yield made
    made.close()


def sink_at(scripted: Scripted, keys: Keys | None) -> S3Sink:
    return S3Sink(
        "files",
        bucket="bucket",
        prefix="usage/",
        region=REGION,
        endpoint_url=scripted.url,
        keys=keys,
        timeout=dt.timedelta(seconds=20),
        bounds=BOUNDS,
        form=forms()["jsonl"],
    )


def write(sink: S3Sink) -> bool:
    """Write a file; tell whether it is written."""
    return sink.write(Batch(some(3), again=False), lambda: True) is not None


PASSES = [
    *(
        (400, code)
        for code in (
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestThrottled",
            "RequestThrottledException",
            "TooManyRequestsException",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
            "LimitExceededException",
            "ProvisionedThroughputExceededException",
            "TransactionInProgressException",
            "PriorRequestNotComplete",
            "EC2ThrottledException",
            "KMS.ThrottlingException",
            "KMS.KMSInternalException",
            "KMS.DependencyTimeoutException",
            "KMS.KeyUnavailableException",
            "ExpiredToken",
            "ExpiredTokenException",
            "TokenRefreshRequired",
            "RequestExpired",
            "IDPCommunicationError",
            "IncompleteBody",
            "BadDigest",
            "XAmzContentSHA256Mismatch",
            "InvalidPart",
            "RequestTimeout",
            "RequestTimeoutException",
            "RequestAbortedException",
        )
    ),
    (403, "RequestTimeTooSkewed"),
    (408, "Whatever"),
    (409, "OperationAborted"),
    (409, "ConditionalRequestConflict"),
    (429, "Whatever"),
    (500, "InternalError"),
    (500, "InternalFailure"),
    (502, "BadGateway"),
    (503, "SlowDown"),
    (503, "ServiceUnavailable"),
    (503, "Throttling"),
    (504, "Whatever"),
    (307, "TemporaryRedirect"),
]

IS_FOR_A_PERSON = [
    (400, "InvalidBucketName"),
    (400, "InvalidArgument"),
    (400, "InvalidToken"),
    (400, "KMS.DisabledException"),
    (400, "KMS.NotFoundException"),
    (403, "AccessDenied"),
    (403, "AllAccessDisabled"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (404, "NoSuchBucket"),
    (405, "MethodNotAllowed"),
    (301, "PermanentRedirect"),
    (400, "AuthorizationHeaderMalformed"),
    (400, "IllegalLocationConstraintException"),
    (501, "NotImplemented"),
    (505, "HttpVersionNotSupported"),
]


@pytest.mark.parametrize(("status", "code"), PASSES)
def test_what_passes_by_itself_does_not_halt_the_sink(
    scripted: Scripted, sink: S3Sink, status: int, code: str
) -> None:
    """Crowded, conflicting, damaged on the way, or with credentials that ran out: it is tried again, and then written."""
    scripted.said["PUT"] = [Answer(status, code), THERE]
    with pytest.raises(SinkUnreachable, match=code if code != "ConditionalRequestConflict" else "it is not"):
        write(sink)
    assert write(sink)


@pytest.mark.parametrize(("status", "code"), IS_FOR_A_PERSON)
def test_what_no_time_cures_halts_the_sink(scripted: Scripted, sink: S3Sink, status: int, code: str) -> None:
    """A wrong bucket, key, region or right, and what the store cannot do at all, is named, with what to do."""
    scripted.said["PUT"] = [Answer(status, code)]
    with pytest.raises(SinkHalted, match=rf"{code}.*(correct|needs).*Then restart"):
        write(sink)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "ExpiredToken", SinkUnreachable),
        (403, "RequestTimeTooSkewed", SinkUnreachable),
        (403, "AccessDenied", SinkHalted),
        (400, "InvalidBucketName", SinkHalted),
    ],
)
def test_a_head_that_is_refused_is_asked_why(
    scripted: Scripted, sink: S3Sink, status: int, code: str, error: type[SinkError]
) -> None:
    """An answer to HEAD has no body, so its bare status says nothing: a call whose answer has one says what it is."""
    scripted.said |= {"HEAD": [Answer(status)], "GET": [Answer(200), Answer(status, code)]}
    with pytest.raises(error, match=code):
        write(sink)


def test_a_head_alone_that_is_refused_names_the_right(scripted: Scripted, sink: S3Sink) -> None:
    """Whoever may list and not look lacks one right."""
    scripted.said["HEAD"] = [Answer(403)]
    with pytest.raises(SinkHalted, match=r"needs s3:GetObject and s3:ListBucket there"):
        write(sink)


@pytest.mark.parametrize("method", ["PUT", "HEAD"])
def test_only_an_etag_says_that_it_is_written(scripted: Scripted, sink: S3Sink, method: str) -> None:
    """A 200 of somebody in between, such as a portal that wants a login, is no store's: it is tried again."""
    scripted.said[method] = [Answer(200)]
    with pytest.raises(SinkUnreachable, match="has no ETag"):
        write(sink)
    scripted.said[method] = [THERE] if method == "PUT" else [NOTHING]
    assert write(sink)


@pytest.mark.parametrize("lacking", ["upload", "part", "whole"])
def test_the_same_of_an_upload_in_parts(
    scripted: Scripted, sink: S3Sink, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its beginning, nor a part, nor its end counts without what a store says of it."""
    monkeypatch.setattr("aggregator.sinks.files.s3.PART_BYTES", 1)
    nothing = Answer(200, body="<Result/>")
    scripted.said["POST"] = [
        nothing if lacking == "upload" else BEGUN,
        nothing if lacking == "whole" else COMPLETED,
    ]
    scripted.said["PUT"] = [nothing if lacking == "part" else THERE]
    scripted.said["DELETE"] = [Answer(204)]
    with pytest.raises(SinkUnreachable, match="has no UploadId" if lacking == "upload" else "has no ETag"):
        write(sink)
    scripted.said |= {"POST": [BEGUN, COMPLETED], "PUT": [THERE]}
    assert write(sink)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Answer(301, "PermanentRedirect"), "correct `region` or `endpoint_url`"),
        (Answer(307, "TemporaryRedirect"), "it is tried again"),
        (Answer(302, "Found"), "correct `region` or `endpoint_url`"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "HEAD"])
def test_a_redirect_costs_one_try(
    scripted: Scripted, sink: S3Sink, said: Answer, told: str, method: str
) -> None:
    """One that does not say to where is not followed: the library would ask until its stack is full."""
    scripted.said[method] = [said]
    with pytest.raises((SinkHalted, SinkUnreachable), match=told if method == "PUT" else "30"):
        write(sink)
    assert len([asked for asked in scripted.asked if asked.startswith(method)]) == 1


def test_a_redirect_that_says_where_is_followed_once(scripted: Scripted, sink: S3Sink) -> None:
    """The bucket is in another region, and the answer says in which: that costs one call more."""
    scripted.said["PUT"] = [Answer(301, "PermanentRedirect", {"x-amz-bucket-region": "us-west-2"}), THERE]
    assert write(sink)
    scripted.said["PUT"] = [Answer(301, "PermanentRedirect", {"x-amz-bucket-region": "us-west-1"})]
    with pytest.raises(SinkHalted, match=r"the bucket is in us-west-1, correct `region`"):
        write(sink)


@pytest.mark.parametrize("code", ["InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_credentials_that_are_replaced_are_looked_for_anew(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Those for a while are read again from where they come, once the store does not take them: a pair for ever is wrong."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "first")
    rolling = sink_at(scripted, None)
    scripted.said["PUT"] = [Answer(403, code), THERE]
    with pytest.raises(SinkUnreachable, match="credentials of sink files do not hold now"):
        write(rolling)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "second")
    assert write(rolling)
    assert rolling._bucket.client._request_signer._credentials.token == "second"
    rolling.close()


def test_a_refresh_that_fails_is_one_line(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program for credentials that fails is tried again, whatever it raises, without a traceback of the library's."""
    (tmp_path / "config").write_text("[default]\ncredential_process = /bin/false\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    log.configure()
    failing = sink_at(scripted, None)
    for _ in range(3):
        with pytest.raises(SinkUnreachable):
            write(failing)
    failing.close()
    expired = json.dumps(
        {
            "Version": 1,
            "AccessKeyId": KEY_ID,
            "SecretAccessKey": SECRET,
            "SessionToken": "t",
            "Expiration": "2020-01-01T00:00:00Z",
        }
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = /bin/echo '{expired}'\n")
    stale = sink_at(scripted, None)
    with pytest.raises(SinkUnreachable):
        write(stale)
    stale.close()
    assert capsys.readouterr().err.count("\n") <= 1
