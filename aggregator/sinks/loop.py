"""An event loop on a thread of its own, for those who call from other threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class LoopThread:
    """Runs from construction to `close`. A daemon thread, so that a process which forgot to close can still end."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @classmethod
    def opened(cls, name: str, connect: "Callable[[LoopThread], Coroutine[Any, Any, Result]]") -> Result:
        """Start a thread and open something on it, which keeps it. If that raises, the thread has ended."""
        thread = cls(name)
        try:
            return thread.call(connect(thread))
        except BaseException:
            thread.close()
            raise

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop and return its result, or raise its error."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def post(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """Have a function called on the loop soon, without waiting for it."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """Stop the loop and wait until its thread has ended."""
        self.post(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()
