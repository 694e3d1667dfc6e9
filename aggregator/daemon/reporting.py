"""What is said of what sinks told and took back: the same lines from the daemon, from one pass, and from the web."""

from aggregator.reconciliation.canceller import Round
from aggregator.reconciliation.notification_poller import IMPORTS, Taken
from aggregator.runtime import log

MOST_SAID = 3
"""Accounts that could not be asked in one round: beyond that they are counted, in one line."""

TO_REJECT = (
    "Look at Stripe what of it was taken. If nothing: `aggregator files reject NAME --reason TEXT`, or with `--rows FILE` "
    "the rows that were not; then put right what the reason says, and `aggregator events release --file NAME`."
)


def report_taken(logger: log.Log, sink: str, taken: Taken) -> None:
    """Say what a sink told, and what of it needs a person."""
    for trouble in taken.troubles:
        logger.error(log.REPORT_UNCLEAR, sink=sink, reason=trouble)
    for each in taken.unimported:
        logger.error(
            log.IMPORT_FAILED, sink=sink, files=list(each.files), reason=each.reason, remedy=TO_REJECT
        )
    if taken.figures():
        logger.info(log.REPORTS_TAKEN, sink=sink, **taken.figures())


def report_refused(logger: log.Log, sink: str, taken: Taken, told: dict[str, str]) -> None:
    """Say once what does not let itself be asked. `told` has what was said of it last; empty is the sink as a whole."""
    found = {**taken.refusals, **({"": taken.refused} if taken.refused else {})}
    fresh = {whose: reason for whose, reason in found.items() if told.get(whose) != reason}
    told.update(fresh)
    whole = [fresh.pop(whose) for whose in ("", IMPORTS) if whose in fresh]
    if len(fresh) > MOST_SAID:
        name, reason = next(iter(fresh.items()))
        whole.append(
            f"{len(fresh)} accounts of its customers could not be asked, {name} among them: {reason}"
        )
    else:
        whole += [f"{name} could not be asked: {reason}" for name, reason in fresh.items()]
    for reason in whole:
        logger.warning(log.REPORTS_REFUSED, sink=sink, reason=reason)


def report_round(logger: log.Log, sink: str, result: Round) -> None:
    """Say what became of cancellations, and what of it needs a person."""
    for trouble in result.troubles:
        logger.warning(log.CANCELLATION_UNCLEAR, sink=sink, reason=trouble)
    if result.figures():
        logger.info(log.CANCELLATIONS, sink=sink, **result.figures())
