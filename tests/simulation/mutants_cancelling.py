"""Bugs on purpose where decreases are done by taking back what they correct."""

import datetime as dt
from typing import Any

from aggregator.core.model import Answer
from aggregator.core.notifications import CancelResult
from aggregator.ledger.review.cancellations import Wanted
from aggregator.reconciliation.canceller import Canceller
from tests.simulation import memory_cancelling
from tests.simulation.mutation import mutant


def hearing(answer: Answer, becomes: CancelResult) -> list[tuple[object, str, object]]:
    """Let one answer to a cancellation mean something else."""
    real = Canceller._judge

    def judge(self: Canceller, wanted: Wanted, said: CancelResult, now: dt.datetime, result: Any) -> None:
        real(self, wanted, becomes if said.answer is answer else said, now, result)

    return [(Canceller, "_judge", judge)]


@mutant("no answer to a cancellation counts as done")
def unanswered_cancellation_is_done() -> list[tuple[object, str, object]]:
    return hearing(Answer.UNKNOWN, CancelResult(Answer.ACCEPTED, True, "as we hope"))


@mutant("a cancellation that was only taken on counts as done")
def pending_cancellation_is_done() -> list[tuple[object, str, object]]:
    return hearing(Answer.ACCEPTED, CancelResult(Answer.ACCEPTED, True, "as we hope"))


@mutant("a cancellation is refused for good, though an earlier try may have been carried out")
def earlier_try_forgotten() -> list[tuple[object, str, object]]:
    real = Canceller._judge

    def judge(self: Canceller, wanted: Wanted, said: CancelResult, now: dt.datetime, result: Any) -> None:
        real(self, wanted._replace(unsure=False), said, now, result)

    return [(Canceller, "_judge", judge)]


@mutant("a held correction of what was cancelled stays")
def held_correction_stays() -> list[tuple[object, str, object]]:
    return [(memory_cancelling, "take_back_held", lambda ledger, gone, reason, now: None)]
