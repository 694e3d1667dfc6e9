"""Sinks of files when something goes wrong: killed at each point, made twice, calls that fail, answers that are lost.

Whatever happens, the next process makes the same file of the same events: it lies there once, whole, and what lay there
already was not written again.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator.core.model import Event
from aggregator.errors import SinkUnreachable
from aggregator.runtime import durable
from aggregator.runtime.failpoints import FILE_POINTS, VARIABLE
from aggregator.sinks.files import directory as directory_module
from aggregator.sinks.protocol import Batch
from tests.contract.file_sinks import PART, Place, put_up, some

CALLS = {"directory jsonl": 3, "directory dashboard": 3, "s3 jsonl": 3, "s3 jsonl in-parts": 9}
"""Every kind of sink (that of type `csv` is a directory for the Dashboard), objects in parts among them; and how many calls
each makes to the far side for a file: the disk, the link, the directory; or looking for leftovers and for the object, then
one put, or the beginning, five parts and the end."""

PLACES = list(CALLS)

EVENTS = 50
"""As many take several parts of `PART` bytes."""


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of sink."""
    with put_up(request, tmp_path) as given:
        yield given


def finished(place: Place, events: list[Event], before: dict[str, tuple[bytes, str]]) -> None:
    """Assert that the next process leaves one whole file, and that what lay there was not touched."""
    last = place.again()
    written = last.write(events, again=True)
    assert written is not None
    lying = last.contents()
    assert list(lying) == [written.name]
    assert before in ({}, lying), "what lies there is whole, and not written again"
    assert last.read().records == len(events)
    assert last.leftovers() == []
    assert last.write(events, again=True) == written
    assert last.contents() == lying
    last.sink.close()


# Killed


KILLED = """
import sys
from pathlib import Path
import aggregator.sinks.files.bucket as bucket, aggregator.sinks.files.s3 as s3
from tests.contract.file_sinks import in_bucket, in_directory, some
from tests.object_store import Store

where, kind, directory, url, name, part = sys.argv[1:]
bucket.PART_BYTES = s3.PART_BYTES = int(part)
place = in_directory(Path(directory), kind) if where == "directory" else in_bucket(Store(url, name, None), kind)
place.write(some(50))
"""


@pytest.mark.parametrize(
    ("place", "point"),
    [
        (place, point)
        for place in PLACES
        for point in FILE_POINTS
        if point != "part_uploaded" or place.endswith("in-parts")
    ],
    indirect=["place"],
)
def test_a_process_that_is_killed_at_a_point(
    place: Place, point: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With SIGKILL, so that nobody clears up: there is a file only if it was published, and the next process has it."""
    named = request.node.callspec.params["place"]
    where, kind, *parts = named.split()
    store = request.getfixturevalue("store") if where == "s3" else SimpleNamespace(url="", bucket="")
    size = PART if parts else 1 << 30
    arguments = [where, kind, str(tmp_path / "files"), store.url, store.bucket, str(size)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), VARIABLE: point},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    before = place.contents()
    assert len(before) == (point == "file_published")
    finished(place, some(EVENTS), before)


# Made twice


@pytest.mark.parametrize("look", range(6))
def test_two_processes_make_one_file(place: Place, look: int) -> None:
    """One is overtaken by another at any of its looks at whether to go on, be it the last before the name: one file."""
    events, other, looks = some(EVENTS), place.again(), iter(range(1_000))
    overtaken: dict[str, Any] = {}

    def overtaking() -> bool:
        if next(looks) == look:
            overtaken["written"] = other.write(events, again=True)
            overtaken["lying"] = other.contents()
        return True

    # Whoever comes second removes the parts that it finds: then the first has nothing to complete, and tries again later.
    with suppress(SinkUnreachable):
        written = place.sink.write(Batch(iter(events), again=False), overtaking)
        assert written == overtaken.get("written", written)
    assert place.contents() == overtaken.get("lying", place.contents())
    finished(place, events, place.contents())
    other.sink.close()


# Calls that fail, and answers that are lost


class Far:
    """What is on the far side of a sink: calls are counted, and those that are meant fail, before or after they are done."""

    def __init__(self, fails: Callable[[int], bool], *, done: bool) -> None:
        self.fails = fails
        self.done = done
        self.calls = 0
        self.struck = 0

    def call(self, error: Exception, call: Callable[..., Any], *given: Any, **more: Any) -> Any:
        """Make a call, or not, and let it fail, or not."""
        number, self.calls = self.calls, self.calls + 1
        if not self.fails(number):
            return call(*given, **more)
        self.struck += 1
        if self.done:
            call(*given, **more)
        raise error


@contextmanager
def striking(far: Far) -> Iterator[None]:
    """Let calls to a file system, or to a store, go by way of `far`; one that fails is not tried again by a library."""
    from botocore.endpoint import Endpoint
    from botocore.exceptions import ConnectionClosedError

    lost, broken = ConnectionClosedError(endpoint_url="it"), OSError(errno.EIO, "broken")
    send = Endpoint._send
    system = {name: partial(far.call, broken, getattr(os, name)) for name in ("fsync", "link")}
    with pytest.MonkeyPatch.context() as patch:
        for module in (directory_module, durable):
            patch.setattr(module, "os", SimpleNamespace(**{**vars(os), **system}))
        patch.setattr("aggregator.sinks.files.bucket.TRIES", 1)
        patch.setattr(Endpoint, "_send", lambda self, request: far.call(lost, send, self, request))
        yield


@pytest.mark.parametrize("done", [False, True], ids=["nothing done", "answer lost"])
@pytest.mark.parametrize(
    ("place", "number"),
    [(place, number) for place, calls in CALLS.items() for number in range(calls)],
    indirect=["place"],
)
def test_a_call_that_fails(place: Place, number: int, *, done: bool) -> None:
    """Whichever call it is, every part of an upload included: it is tried again later, and finds what was done."""
    far, events = Far(lambda call: call == number, done=done), some(EVENTS)
    with striking(far), pytest.raises(SinkUnreachable, match="tried again"):
        place.write(events)
    assert far.struck == 1
    finished(place, events, place.contents())


@pytest.mark.parametrize("done", [False, True], ids=["nothing done", "answers lost"])
@pytest.mark.parametrize(
    ("place", "number"),
    [(place, number) for place, calls in CALLS.items() for number in range(0, calls, 2)],
    indirect=["place"],
)
def test_a_place_that_is_away_from_a_call_on(place: Place, number: int, *, done: bool) -> None:
    """Nothing answers any more, clearing up included; once it is back, the file is there once, and nothing is left over."""
    far, events = Far(lambda call: call >= number, done=done), some(EVENTS)
    with striking(far):
        for again in (False, True):
            with pytest.raises(SinkUnreachable, match="tried again"):
                place.write(events, again=again)
    finished(place, events, place.contents())


@pytest.mark.parametrize("place", ["s3 jsonl", "s3 jsonl in-parts"], indirect=True)
def test_a_lost_answer_that_the_library_asks_for_again(
    place: Place, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call a second time is told that the object is there: it is ours, so the file is written."""
    last, events = CALLS[request.node.callspec.params["place"]] - 1, some(EVENTS)
    far = Far(lambda call: call == last, done=True)
    with striking(far):
        monkeypatch.setattr("aggregator.sinks.files.bucket.TRIES", 2)
        monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
        written = place.write(events)
    assert far.struck == 1
    assert written is not None
    assert place.leftovers() == []
    finished(place, events, place.contents())


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_every_call_is_struck(place: Place, request: pytest.FixtureRequest) -> None:
    """A sink makes as many calls for a file as the trials here have numbers for."""
    far = Far(lambda _: False, done=False)
    with striking(far):
        assert place.write(some(EVENTS)) is not None
    assert far.calls == CALLS[request.node.callspec.params["place"]]
