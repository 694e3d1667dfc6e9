"""A question that is asked again and again: once at a time, with its last answer kept, and with a rest if it is slow."""

import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest

from aggregator.errors import LedgerUnreachable
from aggregator.monitoring import latest
from aggregator.monitoring.latest import LONGEST_REST_SECONDS, REST, WAIT_SECONDS, Latest

SOON_SECONDS = 20.0


class Asked(NamedTuple):
    """A question, when it was asked, and what it is to say."""

    question: Latest[int]
    answers: list[Callable[[], int]]
    times: list[float]
    clock: list[float]


@pytest.fixture
def asked() -> Asked:
    """A question that says 1, 2, 3 ... at once, by a clock that stands still."""
    clock = [0.0]
    times: list[float] = []
    answers: list[Callable[[], int]] = []

    def ask() -> int:
        times.append(clock[0])
        return answers.pop(0)() if answers else len(times)

    return Asked(Latest(ask, lambda: clock[0]), answers, times, clock)


def failing() -> int:
    raise LedgerUnreachable("gone")


def taking(asked: Asked, seconds: float) -> Callable[[], int]:
    """Answer so late."""

    def answer() -> int:
        asked.clock[0] += seconds
        return 100

    return answer


def test_a_quick_question_is_asked_each_time(asked: Asked) -> None:
    """Whoever asks has what is true now."""
    assert [asked.question.get().value for _ in range(3)] == [1, 2, 3]


def test_the_last_answer_stays_and_grows_old(asked: Asked) -> None:
    """While there is no newer one, with the reason; and it is replaced once there is."""
    assert asked.question.get() == (1, 0.0, None)
    asked.clock[0] += 60
    asked.answers.append(failing)
    assert asked.question.get() == (1, 60.0, "gone")
    assert asked.question.get() == (3, 0.0, None)


def test_before_the_first_answer_there_is_none(asked: Asked) -> None:
    """And why not is told."""
    asked.answers.append(failing)
    assert asked.question.get() == (None, None, "gone")


def test_a_slow_question_rests(asked: Asked) -> None:
    """For many times as long as it took, and never for longer than some minutes."""
    asked.answers.append(taking(asked, 1.0))
    assert asked.question.get().value == 100
    asked.clock[0] += REST - 0.1
    assert asked.question.get() == (100, REST - 0.1 + 1.0, None)
    assert len(asked.times) == 1
    asked.answers.append(taking(asked, 1_000.0))
    asked.clock[0] += 0.2
    asked.question.get()
    until(lambda: asked.question.get().age_seconds == 1_000.0)
    asked.clock[0] += LONGEST_REST_SECONDS + 1
    asked.question.get()
    until(lambda: len(asked.times) == 3)


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    waits = threading.Event()
    for _ in range(int(SOON_SECONDS * 100)):
        if true():
            return
        waits.wait(0.01)
    raise AssertionError("it did not come")


def test_it_is_asked_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes meanwhile waits for that answer, and for not longer than a bound: then there is none, and why."""
    monkeypatch.setattr(latest, "WAIT_SECONDS", 0.05)
    clock, go = [0.0], threading.Event()
    times: list[float] = []

    def ask() -> int:
        times.append(clock[0])
        assert go.wait(SOON_SECONDS)
        return 7

    question = Latest(ask, lambda: clock[0])
    assert question.get() == (None, None, None)
    clock[0] += WAIT_SECONDS
    assert question.get() == (None, None, "no answer for 2 s")
    assert len(times) == 1
    go.set()
    until(lambda: question.get().value == 7)
    assert len(times) <= 2


def test_a_ledger_that_hangs_leaves_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is told that there is trouble, though nothing has failed yet."""
    monkeypatch.setattr(latest, "WAIT_SECONDS", 0.05)
    clock, go = [0.0], threading.Event()
    said = iter([1])

    def ask() -> int:
        return next(said, None) or (2 if go.wait(SOON_SECONDS) else 0)

    question = Latest(ask, lambda: clock[0])
    assert question.get() == (1, 0.0, None)
    question.begin()
    clock[0] += 30
    assert question.get() == (1, 30.0, "no answer for 30 s")
    go.set()
    until(lambda: question.get().value == 2)
