"""Asks a source for each fact, by the same reading that bills from it.

Rules
- Nothing is made in the database: see `facts`.
- Whatever comes of a question is an answer, unless the source is away by then: that ends the walk, and proves nothing.
"""

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, assert_never

from aggregator.core.model import Reading
from aggregator.errors import QueryRejected, QueryTimedOut, SourceError, SourceUnreachable
from aggregator.source.contract.behaviour import LEFT_RUNNING, STOPPED_WITHIN, TIMEOUT, UNDER_WAY
from aggregator.source.contract.fact import Conclusion, Doing, Fact, Got, Question
from aggregator.source.contract.facts import FACTS
from aggregator.source.contract.times import spelling
from aggregator.source.contract.wording import UNKNOWN, Wording, wordings
from aggregator.source.engine import Source

MEMORY = Path("/proc/self/statm")
"""Where Linux tells what a process takes, in pages (man7.org/linux/man-pages/man5/proc_pid_statm.5.html)."""

PAGE = 4096


class Proof(NamedTuple):
    """What became of one fact."""

    fact: Fact
    conclusion: Conclusion


class Prover:
    """Walks the facts for one source. `elapsed` gives seconds from anywhere on."""

    def __init__(self, source: Source, elapsed: Callable[[], float], facts: Sequence[Fact] = FACTS) -> None:
        self._facts = facts
        self._source = source
        self._elapsed = elapsed
        self._bounded = False

    def run(self) -> Iterator[Proof]:
        """Yield what becomes of each fact, in order. Raises SourceError if the source does not answer, or not any more."""
        self._source.ping()
        words = self._words()
        for fact in self._facts:
            yield Proof(fact, fact.conclusion(words, list(self._answers(fact.asks(words)))))

    def _words(self) -> Wording:
        """Return how this kind of database says things: tried out, where nobody here knows it."""
        known = wordings(self._source.kind)
        if len(known) == 1:
            return known[0]
        for each in known:
            if self._read(spelling(each)).readings:
                return each
        return UNKNOWN

    def _answers(self, questions: Sequence[Question]) -> Iterator[Got]:
        """Ask one after the other; of those to be stopped, up to the first that takes too long."""
        for question in questions:
            got = self._asked(question)
            yield got
            if question.doing is Doing.STOP and (
                got.error is not None or got.took > TIMEOUT + STOPPED_WITHIN
            ):
                return

    def _asked(self, question: Question) -> Got:
        """Ask; and again where the source seems to be away, once it has answered: a lost connection is no answer."""
        got = self._asked_once(question)
        if isinstance(got.error, SourceUnreachable):
            self._source.ping()
            got = self._asked_once(question)
        return got

    def _asked_once(self, question: Question) -> Got:
        began = self._elapsed()
        match question.doing:
            case Doing.READ:
                got = self._read(question)
            case Doing.GIVE_UP:
                return self._given_up(question)
            case Doing.STOP:
                got = self._read(question, TIMEOUT)
                self._bounded = self._bounded or isinstance(got.error, QueryTimedOut)
            case Doing.CLOSE:
                return self._closed_meanwhile(question)
            case _:
                assert_never(question.doing)
        return got._replace(took=self._since(began))

    def _read(self, question: Question, timeout: dt.timedelta | None = None) -> Got:
        readings: list[Reading] = []
        try:
            for batch in self._source.ask(question.text, question.span, question.window, timeout):
                readings += batch
        except SourceError as error:
            return Got(readings, error)
        return Got(readings)

    def _given_up(self, question: Question) -> Got:
        """Take the first batch, and see what the process grew by, and how long it takes to leave."""
        before = _resident()
        try:
            with closing(self._source.ask(question.text, question.span, question.window)) as batches:
                first = next(batches, [])
                after = _resident()
                began = self._elapsed()
        except SourceError as error:
            return Got(error=error)
        grew = None if before is None or after is None else after - before
        return Got(first, took=self._since(began), grew=grew)

    def _closed_meanwhile(self, question: Question) -> Got:
        """Close the source while a statement is under way, and see how much longer that takes."""
        if not self._bounded:
            return Got(error=QueryRejected("not tried, as no statement timeout would end it"))
        got: list[Got] = []
        asking = threading.Thread(target=lambda: got.append(self._read(question, LEFT_RUNNING)), daemon=True)
        asking.start()
        asking.join(UNDER_WAY.total_seconds())
        closed = self._elapsed()
        self._source.close()
        asking.join()
        return got[0]._replace(took=self._since(closed))

    def _since(self, began: float) -> dt.timedelta:
        return dt.timedelta(seconds=self._elapsed() - began)


def _resident() -> int | None:
    """Return how much memory this process takes, in bytes; None where that is not told."""
    with suppress(OSError):
        return int(MEMORY.read_text().split()[1]) * PAGE
    return None
