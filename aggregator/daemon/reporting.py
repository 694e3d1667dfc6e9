"""What is said in the log of what was done: the same lines from the daemon, from one pass, and from the web.

Rules
- A line says what happened, and of which meter or sink. What needs a person is a warning or an error.
- Whoever makes one pass is told of it in any case; the daemon keeps quiet while nothing happens.
"""

from dataclasses import dataclass, field
from datetime import datetime

from aggregator.archive.archiver import Archived
from aggregator.collection.mapping import Looked
from aggregator.collection.rounds import Collected
from aggregator.core.planner import plain
from aggregator.delivery.sender import Delivered
from aggregator.reconciliation.canceller import Round
from aggregator.reconciliation.checker import Checked
from aggregator.reconciliation.health_poller import HealthPolled
from aggregator.reconciliation.notification_poller import IMPORTS, Taken
from aggregator.reconciliation.reconciler import Reconciled
from aggregator.runtime import log
from aggregator.wiring.app import App
from aggregator.wiring.opening import not_sent

MOST_SAID = 3
"""Accounts that could not be asked in one round: beyond that they are counted, in one line."""

TO_REJECT = (
    "Look at Stripe what of it was taken. If nothing: `aggregator files reject NAME --reason TEXT`, or with `--rows FILE` "
    "the rows that were not; then put right what the reason says, and `aggregator events release --file NAME`."
)


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports of a meter or sink: of one pass, or again and again. `told` has what is said once, and was."""

    of: str
    log: log.Log
    once: bool
    said: dict[str, str] = field(default_factory=dict)


def report_collected(to: Reporter, result: Collected) -> None:
    """Say what a round of a meter did."""
    report_warnings(to.log, result)
    if result.busy:
        say = to.log.warning if to.once else to.log.debug
        say(log.PASS_SKIPPED, meter=to.of, reason="another process has the meter")
    elif to.once or result.changed or result.deferred or result.moved:
        to.log.info(log.PASS_COMMITTED, **result.figures())
    else:
        to.log.debug(log.PASS_UNCHANGED, **result.figures())


def report_customers(to: Reporter, result: Looked) -> None:
    """Say how a mapping of customers has changed, or why that is not believed yet."""
    if result.doubt is not None:
        to.log.warning(log.CUSTOMERS_DOUBTED, mapping=to.of, reason=result.doubt)
    elif result.figures():
        to.log.info(log.CUSTOMERS_READ, mapping=to.of, **result.figures())


def report_delivered(to: Reporter, result: Delivered) -> None:
    """Say what was sent to a sink, and what of it needs a person."""
    if result.claimed and not to.once:
        to.log.info(log.BATCH_DELIVERED, sink=to.of, **result.figures())
    report_files(to.log, to.of, result)
    report_first_uses(to.log, to.of, result)
    for event, reason in result.refusals.items():
        to.log.warning(log.EVENT_REFUSED, sink=to.of, event_id=event, reason=reason)
    if to.once:
        _report_end(to, result)


def _report_end(to: Reporter, result: Delivered) -> None:
    """Say what one pass came to at a sink, and what waits: nobody looks there again soon."""
    if result.halted:
        to.log.critical(log.SINK_HALTED, sink=to.of, reason=result.halted)
    if result.waiting:
        waits = {"reason": result.waits_for, "waiting": result.waiting, "next_at": str(result.next_at)}
        to.log.warning(log.DELIVERY_WAITING, sink=to.of, **waits)
    to.log.info(log.BATCH_DELIVERED, sink=to.of, **result.figures())


def report_notifications(to: Reporter, taken: Taken) -> None:
    """Say what a sink told, and once what does not let itself be asked."""
    report_taken(to.log, to.of, taken)
    report_refused(to.log, to.of, taken, to.said)


def report_cancelled(to: Reporter, result: Round) -> None:
    """Say what became of cancellations, and what of it needs a person."""
    for trouble in result.troubles:
        to.log.warning(log.CANCELLATION_UNCLEAR, sink=to.of, reason=trouble)
    if result.figures():
        to.log.info(log.CANCELLATIONS, sink=to.of, **result.figures())


def report_reconciled(to: Reporter, result: Reconciled) -> None:
    """Say what reading a sink back has settled, and what it could not."""
    for reason in result.unsettled:
        to.log.warning(log.EVENT_UNCLEAR, sink=to.of, reason=reason)
    if result.figures():
        to.log.info(log.RECONCILED, sink=to.of, **result.figures())


def report_checked(to: Reporter, result: Checked) -> None:
    """Say what was compared with a sink's totals, and what differs; once, that the sink says they are late."""
    if result.late is not None and to.said.get("late") != result.late:
        to.log.warning(log.CHECK_WAITING, sink=to.of, reason=result.late)
    to.said["late"] = result.late or ""
    if result.no_overview is not None and to.said.get("no_overview") != result.no_overview:
        to.log.warning(log.SINK_CANNOT_PROMISE, sink=to.of, reason=result.no_overview)
    to.said["no_overview"] = result.no_overview or to.said.get("no_overview", "")
    for reason in result.found[:MOST_SAID]:
        to.log.error(log.DRIFT_FOUND, sink=to.of, reason=reason, remedy="aggregator reconcile")
    if len(result.found) > MOST_SAID:
        more = f"{len(result.found) - MOST_SAID:,} more places differ"
        to.log.error(log.DRIFT_FOUND, sink=to.of, reason=more, remedy="aggregator reconcile")
    if result.figures():
        to.log.info(log.CHECKED, sink=to.of, **result.figures())


def report_archived(to: Reporter, result: Archived) -> None:
    """Say which months left the ledger, why others stay, and what went wrong."""
    if result.figures():
        to.log.info(log.ARCHIVED, **result.figures())
    for reason in result.waits:
        if reason not in to.said:
            to.log.info(log.ARCHIVE_WAITING, reason=reason)
    to.said.clear()
    to.said.update(dict.fromkeys(result.waits, ""))
    for trouble in result.troubles:
        to.log.error(log.ARCHIVE_FAILED, reason=trouble)


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


def report_health(to: Reporter, result: HealthPolled) -> None:
    """Say once that a sink cannot be asked whether its totals are late; that they are is said by whoever waits for them."""
    if result.refused is not None and to.said.get("health") != result.refused:
        to.log.info(log.HEALTH_UNHEARD, sink=to.of, reason=result.refused)
    to.said["health"] = result.refused or to.said.get("health", "")


def report_refused(logger: log.Log, sink: str, taken: Taken, said: dict[str, str]) -> None:
    """Say once what does not let itself be asked. `told` has what was said of it last; empty is the sink as a whole."""
    found = {**taken.refusals, **({"": taken.refused} if taken.refused else {})}
    fresh = {whose: reason for whose, reason in found.items() if said.get(whose) != reason}
    said.update(fresh)
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


def report_start(logger: log.Log, app: App, now: datetime) -> None:
    """Say what a person should know of a configuration that begins to work."""
    for unconfigured_meter in app.unconfigured_meters(now):
        logger.warning(log.METER_REMOVED, **unconfigured_meter)
    for waits in app.unconfigured():
        logger.warning(
            log.BACKLOG_UNCONFIGURED,
            meter=waits.meter,
            sink=waits.sink,
            events=waits.events,
            units=str(waits.units),
            since=str(waits.since),
            reason=not_sent(app.config, waits),
        )
    for source, faults in app.unsafe_sources().items():
        logger.warning(log.SOURCE_UNSAFE, source=source, reason=" ".join(faults))
    for source, reason in app.refused_sources().items():
        logger.error(log.SOURCE_REFUSED, source=source, reason=reason)
    for source, sentences in app.limited_sources().items():
        logger.warning(log.SOURCE_CANNOT_PROMISE, source=source, reason=" ".join(sentences))
    for sink, reason in app.unverified.items():
        if sink in app.refused:
            continue  # it is said by whoever sends to it
        logger.warning(log.SINK_UNVERIFIED, sink=sink, reason=reason)
    for each in app.moved_files():
        logger.error(log.FILES_MOVED, **each.figures())
    for sink, sentences in app.unpromised.items():
        for sentence in sentences:
            logger.warning(log.SINK_CANNOT_PROMISE, sink=sink, reason=sentence)


def report_warnings(logger: log.Log, result: Collected) -> None:
    """Say what a person should know of a round of collection: windows that wait, or shrank, or could not be had."""
    if result.took_from:
        logger.warning(log.SESSION_ENDED, meter=result.meter, session=result.took_from)
    if result.waits_anew:
        logger.info(log.BARRIER_WAITING, meter=result.meter, waits_for=result.waits_for)
    if result.unfenced:
        logger.warning(log.BARRIER_GIVEN_UP, meter=result.meter, waited_for=result.waits_for)
    if result.guarded:
        logger.warning(log.SHRINK_HELD, meter=result.meter, windows=result.guarded, held=result.held)
    if result.beyond:
        units = plain(result.beyond_units)
        logger.warning(log.GUARD_HELD, meter=result.meter, events=result.beyond, units=units)
    if result.silent_anew:
        logger.warning(log.METER_SILENT, meter=result.meter, since=str(result.silent_since))
    if result.silent_customers_anew:
        logger.warning(
            log.CUSTOMERS_SILENT,
            meter=result.meter,
            customers=result.silent_customers,
            new=result.silent_customers_anew,
        )
    for reason in result.unstable:
        logger.error(log.QUERY_UNSTABLE, meter=result.meter, reason=reason)
    if result.unread:
        logger.error(log.WINDOW_UNREAD, meter=result.meter, windows=result.unread)
    for reason in result.lost:
        logger.error(log.WINDOWS_LOST, meter=result.meter, reason=reason)


def report_files(logger: log.Log, sink: str, result: Delivered) -> None:
    """Say which files were written."""
    for file in result.files:
        logger.info(log.FILE_WRITTEN, sink=sink, file=file.name, records=file.records, bytes=file.bytes)


def report_first_uses(logger: log.Log, sink: str, result: Delivered) -> None:
    """Say which feeds may send from now on, and which may not."""
    for state in result.first_uses:
        match state.kind:
            case "stopped":
                logger.error(log.FEED_STOPPED, sink=sink, meter=state.meter, reason=state.text)
            case "waiting":
                logger.warning(log.FEED_WAITING, sink=sink, meter=state.meter, reason=state.text)
            case _:
                logger.info(log.FEED_CLEARED, sink=sink, meter=state.meter, reason=state.text)
