"""What a comparison found of a ledger that is to be adopted, before anything is written; and what of it needs a person."""

import datetime as dt
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple, Self

from aggregator.core import planner
from aggregator.core.model import ZERO, Span
from aggregator.core.rebase import SlotComparison
from aggregator.errors import LedgerError
from aggregator.ledger.adoption import Rebased

MOST_NAMED = 20
"""How many customers or windows one sentence names."""

MOST_REASONS = 3


class SplitWindow(NamedTuple):
    """One customer's window of which a sink has several numbers, one in each of some hours."""

    meter: str
    sink: str
    customer: str
    numbers: tuple[tuple[dt.datetime, Decimal], ...]
    """By the hours, in their order."""

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{planner.plain(much)} in {start:%Y-%m-%dT%H:%MZ}" for start, much in self.numbers
        )
        return f"{self.meter} of {self.customer} in {self.sink}: {numbers}"


@dataclass(slots=True)
class Compared:
    """What a comparison found for one meter and sink."""

    meter: str
    sink: str
    span: Span
    customers: int = 0
    windows: int = 0
    """Windows that are re-based."""
    taken_over: Decimal = ZERO
    """Units that the sink has counted and the ledger did not know of."""
    missing: Decimal = ZERO
    """Units that the ledger had booked and the sink has not counted."""
    withdrawn: int = 0
    """Events that were not settled: what the sink lacks of them is planned again."""
    split_windows: list[SplitWindow] = field(default_factory=list)
    """Windows of which the sink has several numbers, where one total cannot overwrite them all."""

    def count(self, comparison: SlotComparison) -> None:
        """Take one window into account that was looked up."""
        differs = planner.subtract(comparison.stands_at, comparison.booked)
        self.windows += comparison.differs
        self.withdrawn += comparison.withdrawn
        if differs > 0:
            self.taken_over = planner.add(self.taken_over, differs)
        else:
            self.missing = planner.subtract(self.missing, differs)


class Left(NamedTuple):
    """A customer of whom a sink has no figures, so that it would stay as the ledger has it."""

    meter: str
    sink: str
    customer: str
    reason: str


@dataclass(slots=True)
class Survey:
    """What sources and sinks said, before anything is written. A context manager: it holds files."""

    stack: ExitStack = field(default_factory=ExitStack)
    compared: list[Compared] = field(default_factory=list)
    rebased: list[Rebased] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def approve(self, leave: frozenset[str]) -> None:
        """Raise LedgerError if a customer that is not to be left needs a person's word, or a window a person's hand."""
        undecided = sorted({each.customer for each in self.left} - leave)
        if undecided:
            reasons = [
                f"{each.meter} to {each.sink}: {each.reason}"
                for each in self.left
                if each.customer not in leave
            ]
            raise LedgerError(
                f"{_some(undecided)}: a sink does not know them, or does not tell their combinations of dimensions apart "
                f"({_some(list(dict.fromkeys(reasons)), '; ', MOST_REASONS)}). So it cannot be asked what they were sent. "
                "Make known there whom it does not know and adopt then, or say --leave with the name of each if the "
                "ledger's word is to be taken: what they were sent since the backup is then sent again, and billed twice. "
                "Nothing was changed."
            )
        split_windows = [str(window) for each in self.compared for window in each.split_windows]
        if split_windows:
            raise LedgerError(
                "Of these windows the sink has numbers in several hours, and a total overwrites only the one in its own: "
                f"{_some(split_windows, '; ')}. Overwrite all but one of each with 0 there, by hand, and adopt then "
                "(docs/adopt.md). Nothing was changed."
            )


def _some(names: Sequence[str], between: str = ", ", most: int = MOST_NAMED) -> str:
    """Name customers, windows or reasons in a sentence: not thousands of them."""
    beyond = len(names) - most
    return between.join(names[:most]) + (f" and {beyond} more" if beyond > 0 else "")
