"""What happened, in words: the last steps of a life, kept cheaply and written only when somebody must read them."""

import datetime as dt
from collections import deque
from collections.abc import Callable

from aggregator.core.model import Event

KEPT = 60


class Trace:
    """The last steps."""

    def __init__(self, clock: Callable[[], dt.datetime], kept: int = KEPT) -> None:
        self._clock = clock
        self._steps: deque[tuple[dt.datetime, tuple[object, ...]]] = deque(maxlen=kept)

    def tell(self, *words: object) -> None:
        """Take down one step."""
        self._steps.append((self._clock(), words))

    def __str__(self) -> str:
        return "\n".join(
            f"{at:%d %H:%M:%S}.{at.microsecond // 1000:03} " + " ".join(map(_said, words))
            for at, words in self._steps
        )


def _said(word: object) -> str:
    if isinstance(word, Event):
        return (
            f"event {word.id} ({word.meter} {word.customer} {word.window_start:%d %H:%M} r{word.revision} "
            f"{word.delta:+f} = {word.total:f}, attempt {word.attempts})"
        )
    return f"{word:%d %H:%M:%S}" if isinstance(word, dt.datetime) else str(word)
