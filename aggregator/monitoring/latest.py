"""The latest answer to a question that is asked again and again, and that may be slow to answer, or not answered at all.

Rules
- One at a time: whoever asks while the question is being answered waits for the same answer, and not for long. A figure that
  takes 11 seconds and is asked for every 3 would else be looked up four times at once.
- An answer stays until there is a newer one: a ledger that is away leaves the last figures, with their age. An alert that
  waits for a while begins anew each time a figure is missing.
- A question that takes long rests for much longer: monitoring takes a small part of the ledger's time, whatever it costs.
  What is quick is asked each time.
"""

import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from aggregator.errors import AggregatorError
from aggregator.runtime import log

T = TypeVar("T")

REST = 20
"""A question rests for so many times as long as it took: at most a twentieth of the time it is being answered."""

LONGEST_REST_SECONDS = 300.0

WAIT_SECONDS = 2.0
"""How long is waited for an answer: Prometheus gives up after 10 seconds by default."""

QUICK_SECONDS = 0.03
"""What takes longer than that is not waited for once there is an answer: the next one who asks has it."""


class Answer(NamedTuple, Generic[T]):
    """What was answered last, if anything was, how old that is, and why there is nothing newer, if it was tried."""

    value: T | None
    age_seconds: float | None
    trouble: str | None


class Latest(Generic[T]):
    """Asks one question. `elapsed` is a clock in seconds that nobody sets."""

    def __init__(self, ask: Callable[[], T], elapsed: Callable[[], float]) -> None:
        self._ask = ask
        self._elapsed = elapsed
        self._changed = threading.Condition()
        self._asked_at: float | None = None
        self._value: T | None = None
        self._at: float | None = None
        self._ended: float | None = None
        self._took = 0.0
        self._trouble: str | None = None

    def begin(self) -> None:
        """Ask anew, unless the question is being answered, or rests; come back at once."""
        with self._changed:
            if self._asked_at is None and not self._rests():
                self._asked_at = self._elapsed()
                threading.Thread(target=self._answer, name="figures", daemon=True).start()

    def get(self) -> Answer[T]:
        """Return the latest answer, after having asked anew unless the question rests."""
        self.begin()
        with self._changed:
            if self._asked_at is not None and (self._value is None or self._took <= QUICK_SECONDS):
                left = WAIT_SECONDS - (self._elapsed() - self._asked_at)
                self._changed.wait_for(lambda: self._asked_at is None, max(0.0, left))
            age = None if self._at is None else self._elapsed() - self._at
            return Answer(self._value, age, self._hangs() or self._trouble)

    def _hangs(self) -> str | None:
        """Say that the question is being answered for longer than it ever takes."""
        if self._asked_at is None:
            return None
        since = self._elapsed() - self._asked_at
        return f"no answer for {since:.0f} s" if since >= max(WAIT_SECONDS, 3 * self._took) else None

    def _rests(self) -> bool:
        if self._ended is None or self._took <= QUICK_SECONDS:
            return False
        return self._elapsed() - self._ended < min(REST * self._took, LONGEST_REST_SECONDS)

    def _answer(self) -> None:
        began = self._elapsed()
        value, trouble = None, None
        try:
            value = self._ask()
        except AggregatorError as error:
            trouble = str(error)
        except Exception as error:  # noqa: BLE001 - the outermost loop of this thread: the last answer stays
            log.logger().exception(log.UNEXPECTED, part="figures")
            trouble = type(error).__name__
        with self._changed:
            self._ended = self._elapsed()
            self._trouble = trouble
            if trouble is None:
                self._value, self._at = value, began
                self._took = self._ended - began
            self._asked_at = None
            self._changed.notify_all()
