"""An event loop on a thread of its own, for those who call from other threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Generic, TypeVar, TypeVarTuple

from aggregator.errors import AggregatorError, SinkUnreachable
from aggregator.runtime.redact import named, redacted

Line = TypeVar("Line")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class LoopThread:
    """Runs from construction to `close`. A daemon thread, so that a process which forgot to close can still end.

    Whoever waits for an answer when it is closed is told so, and so is whoever asks later.
    """

    def __init__(self, name: str) -> None:
        self._loop = _new_loop()
        self._taking = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop and return its result, or raise its error; CancelledError once it is closed."""
        with self._taking:
            if self._closed:
                coroutine.close()
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    def post(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """Have a function called on the loop soon, without waiting for it; once it is closed, nothing is called."""
        with self._taking:
            if not self._closed:
                self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """Stop the loop and wait until its thread has ended."""
        with self._taking:
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
            while left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's where there is one: it takes a fifth less of the time of a call."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LazyLoop(Generic[Line]):
    """Something that is open on a loop of its own, from its first use until `close`.

    `connect` opens it and `shut` closes it, both on the loop. If `connect` raises, nothing is open and no thread is left.
    What a library raises that nobody foresaw comes out as SinkUnreachable: it stays with the sink, which is asked again.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Coroutine[Any, Any, Line]],
        shut: Callable[[Line], Coroutine[Any, Any, None]],
    ) -> None:
        self._name = name
        self._connect = connect
        self._shut = shut
        self._opening = threading.Lock()
        self._open: tuple[LoopThread, Line] | None = None

    @property
    def now(self) -> Line | None:
        """What is open at present."""
        return self._open[1] if self._open else None

    def open(self) -> Line:
        """Return what is open, opening it at the first use."""
        return self._opened()[1]

    def ask(self, question: Callable[[Line], Coroutine[Any, Any, Result]]) -> Result:
        """Run what a question makes of it on the loop; return the result, or raise its error."""
        thread, line = self._opened()
        try:
            return thread.call(question(line))
        except (AggregatorError, MemoryError):
            raise
        except CancelledError:
            raise SinkUnreachable(f"{self._called} is closed.") from None
        except Exception as error:
            raise self._broken(error) from error

    def post(self, message: Callable[[Line], object]) -> None:
        """Have something done to it on the loop soon, if it is open, without waiting for it."""
        if (opened := self._open) is not None:
            thread, line = opened
            thread.post(message, line)

    def close(self) -> None:
        """Give back what is open, and its thread. Doing it twice does no harm."""
        with self._opening:
            opened, self._open = self._open, None
        if opened is not None:
            thread, line = opened
            try:
                thread.call(self._shut(line))
            finally:
                thread.close()

    def _opened(self) -> tuple[LoopThread, Line]:
        with self._opening:
            if self._open is None:
                thread = LoopThread(self._name)
                try:
                    self._open = thread, thread.call(self._connect())
                except BaseException as error:
                    thread.close()
                    if isinstance(error, Exception) and not isinstance(error, AggregatorError | MemoryError):
                        raise self._broken(error) from error
                    raise
            return self._open

    def _broken(self, error: Exception) -> SinkUnreachable:
        failure = redacted(named(error), ())
        return SinkUnreachable(f"The library of {self._called} failed ({failure}); it is asked again later.")

    @property
    def _called(self) -> str:
        return self._name.replace("-", " ", 1)
