"""What is said of what sinks told and took back: the same lines from the daemon, from one pass, and from the web."""

from aggregator import log
from aggregator.cancelling import Round
from aggregator.intake import Taken

TO_REJECT = (
    "Look at Stripe what of it was taken. If nothing: `aggregator files reject NAME --reason TEXT`, or with `--rows FILE` "
    "the rows that were not; then put right what the reason says, and `aggregator events release --file NAME`."
)


def tell_taken(logger: log.Log, sink: str, taken: Taken) -> None:
    """Say what a sink told, and what of it needs a person."""
    for trouble in taken.troubles:
        logger.error(log.REPORT_UNCLEAR, sink=sink, reason=trouble)
    for each in taken.unimported:
        logger.error(
            log.IMPORT_FAILED, sink=sink, files=list(each.files), reason=each.reason, remedy=TO_REJECT
        )
    if taken.figures():
        logger.info(log.REPORTS_TAKEN, sink=sink, **taken.figures())


def tell_round(logger: log.Log, sink: str, result: Round) -> None:
    """Say what became of cancellations, and what of it needs a person."""
    for trouble in result.troubles:
        logger.warning(log.CANCELLATION_UNCLEAR, sink=sink, reason=trouble)
    if result.figures():
        logger.info(log.CANCELLATIONS, sink=sink, **result.figures())
