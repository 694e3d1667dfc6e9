"""The edge to a sink's library: whatever it raises stays with that sink, which is asked again."""

import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from aggregator.core.model import Bounds, Written
from aggregator.errors import SinkHalted, SinkUnreachable
from aggregator.sinks.event_loop import LazyLoop
from aggregator.sinks.files.formats import CsvFormat
from aggregator.sinks.files.sink import SinkOfFiles
from aggregator.sinks.protocol import Batch

BOUNDS = Bounds(1, 1, dt.timedelta(0))


async def nothing() -> str:
    return "open"


async def shut(_: str) -> None:
    return None


async def raising(error: BaseException) -> str:
    raise error


@pytest.fixture
def line() -> Iterator[LazyLoop[str]]:
    """Something that is open on a loop."""
    line = LazyLoop("sink-stripe", nothing, shut)
    yield line
    line.close()


@pytest.mark.parametrize(
    "error", [TypeError("a bytes-like object"), KeyError("data"), RuntimeError("sk_test_abc")]
)
def test_what_a_library_raises_over_a_question_is_the_sinks_trouble(
    line: LazyLoop[str], error: Exception
) -> None:
    """It may pass by itself, names the kind of the error, and hides what looks like a key."""
    with pytest.raises(
        SinkUnreachable, match=rf"library of sink stripe failed \({type(error).__name__}"
    ) as caught:
        line.ask(lambda _: raising(error))
    assert "sk_test_abc" not in str(caught.value)


@pytest.mark.parametrize("error", [SinkHalted("no"), MemoryError()])
def test_our_own_word_goes_on_as_it_is(line: LazyLoop[str], error: Exception) -> None:
    """What is said on purpose keeps its meaning; what says nothing about the sink is not its trouble."""
    with pytest.raises(type(error)):
        line.ask(lambda _: raising(error))


def test_a_library_that_cannot_be_opened_is_the_sinks_trouble() -> None:
    """Also at the first use."""
    line: LazyLoop[str] = LazyLoop("sink-stripe", lambda: raising(AttributeError("ssl")), shut)
    with pytest.raises(SinkUnreachable, match="AttributeError: ssl"):
        line.open()


class Breaking(SinkOfFiles):
    """A sink of files whose library breaks."""

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        raise KeyError("ETag")


def test_a_file_that_could_not_be_written_is_made_again() -> None:
    """A file is made under the same name from the same events, so another try does no harm."""
    sink = Breaking(
        "s3",
        place="here",
        by_hand=False,
        bounds=BOUNDS,
        form=CsvFormat({}, identified=False, alone=False),
    )
    with pytest.raises(SinkUnreachable, match=r"Sink s3 could not write a file \(KeyError: 'ETag'\)"):
        sink.write(Batch([], again=False), lambda: True)
