"""A fact about a source: how it is asked, and what came of it. Pure."""

import datetime as dt
from collections.abc import Callable, Sequence
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from aggregator.core.model import Reading, Span
from aggregator.errors import SourceError
from aggregator.source.contract.wording import Wording, at


class Verdict(StrEnum):
    """What became of a fact."""

    PROVEN = "proven"
    NOT_PROVEN = "not proven"
    WRONG = "wrong"


class Doing(Enum):
    """How a question is asked."""

    READ = auto()  # to its end
    GIVE_UP = auto()  # no further than its first rows
    CLOSE = (
        auto()
    )  # until the source is closed, from another thread; only where a statement timeout would end it
    STOP = auto()  # until the statement timeout, which it takes longer than, or until a further one does


class Question(NamedTuple):
    """A usage query, and the span that it is asked for."""

    text: str
    span: Span
    doing: Doing = Doing.READ
    window: dt.timedelta = dt.timedelta(days=1)


class Got(NamedTuple):
    """What came of a question: the readings that arrived, what ended them if not their end, and what it took."""

    readings: Sequence[Reading] = ()
    error: SourceError | None = None
    took: dt.timedelta = dt.timedelta(0)
    grew: int | None = None
    """By how many bytes this process grew until the first rows were there; None where that cannot be told."""


class Conclusion(NamedTuple):
    """What a fact came to: what was seen, and what to write if it is not proven."""

    verdict: Verdict
    seen: str
    write: str = ""


class Fact(NamedTuple):
    """One thing that must hold. It has no questions where a kind of database has no words for it."""

    name: str
    says: str
    asks: Callable[[Wording], Sequence[Question]]
    judge: Callable[[Wording, Sequence[Got]], Conclusion]
    write: str = ""
    """What to write where it does not hold; the wording's advice on zones if this is left empty."""

    def conclusion(self, words: Wording, got: Sequence[Got]) -> Conclusion:
        """Judge what came of the questions, and say what to write if it does not hold."""
        unasked = Conclusion(Verdict.NOT_PROVEN, "this kind of database has no words for it here")
        found = self.judge(words, got) if got else unasked
        if found.verdict is Verdict.PROVEN or found.write:
            return found
        return found._replace(write=self.write or words.advice)


DAY = Span(at("2026-06-01"), at("2026-06-02"))


def refused(got: Sequence[Got]) -> Conclusion | None:
    """Return a conclusion for the first question that was not answered."""
    error = next((each.error for each in got if each.error is not None), None)
    return None if error is None else Conclusion(Verdict.NOT_PROVEN, words_of(error))


def words_of(error: SourceError) -> str:
    """Return an error's text without the name of the source."""
    return str(error).removeprefix("Source ").split(": ", 1)[-1]


def seconds_of(time: dt.timedelta) -> str:
    """Return a time to a tenth of a second."""
    return f"{time.total_seconds():.1f} s"
