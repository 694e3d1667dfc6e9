"""`aggregator run`: the daemon, or one pass of everything."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.common import (
    config_option,
    first_time_option,
    json_option,
    load_config,
    somebody,
    write_json,
)
from aggregator.cli.exit_codes import ExitCode, gravest
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.wiring.app import App


@click.command()
@config_option
@click.option("--once", is_flag=True, help="Make one pass over every meter, send what is due, and exit.")
@click.option("--verbose", is_flag=True, help="Also log passes that changed nothing.")
@click.option(
    "--web",
    metavar="HOST:PORT",
    help="Listen on this address for what Stripe delivers, and answer /livez and /readyz.",
)
@first_time_option
@json_option
def run(
    config_path: Path, *, once: bool, verbose: bool, web: str | None, first_time: bool, as_json: bool
) -> None:
    """Run the daemon, which reads every meter on its schedule and sends what is due; or with --once, one pass.

    SIGTERM and SIGINT end it: calls under way are finished, and other claimed events handed back. SIGHUP reloads the
    configuration. The daemon logs to standard error: as JSON, unless that is a terminal.

    \b
    Exit codes of --once:
      0  done
      1  a pass failed: run it again
      3  events wait for a busy sink: run it again
      4  a person is needed: see `aggregator status`
    """
    from aggregator.runtime import log
    from aggregator.runtime.clock import utcnow
    from aggregator.wiring.app import build

    log.configure(verbose=verbose)
    if once and web:
        raise UsageError("--web belongs to the daemon: leave out --once.")
    config = load_config(config_path)
    if once:
        with _saying_why_stopped(), build(config, verify=True) as app:
            if first_time:
                app.first_time(app.registered, somebody(), app.ledger.instant())
            outcome = run_once(app, as_json=as_json)
        raise click.exceptions.Exit(outcome)
    from aggregator.daemon.daemon import Daemon
    from aggregator.daemon.webhook import Address

    address = Address(web) if web else None
    words = [somebody()] if first_time else []

    @contextmanager
    def building() -> Iterator["App"]:
        with build(load_config(config_path), verify=True) as app:
            while words:  # said once: of what is configured later nobody has said it
                app.first_time(app.registered, words.pop(), app.ledger.instant())
            yield app

    with _saying_why_stopped():
        told = Daemon(building, utcnow, address).run()
    signal.signal(told, signal.SIG_DFL)
    os.kill(os.getpid(), told)


@contextmanager
def _saying_why_stopped() -> Iterator[None]:
    """Say it in the log, too, if the ledger is stopped: whoever watches that looks for it there.

    At a terminal the log is for the same person as the complaint, who is told once.
    """
    from aggregator.errors import LedgerStopped
    from aggregator.runtime import log

    try:
        yield
    except LedgerStopped as stopped:
        if not sys.stderr.isatty():
            log.logger().critical(log.LEDGER_STOPPED, reason=str(stopped))
        raise


def run_once(app: "App", *, as_json: bool = False) -> ExitCode:
    """Collect every meter once, then deliver until nothing is due; say how it went."""
    from aggregator.daemon.daemon import report_start
    from aggregator.daemon.watchdog import report_set_back
    from aggregator.runtime import log

    logger, apart = log.logger(), app.ledger.database.clocks_apart()
    if apart is not None:
        logger.error(log.CLOCKS_APART, reason=apart)
        if as_json:
            write_json({"outcome": "failed", "error": apart, "meters": {}, "sinks": {}})
        return ExitCode.FAILED
    report_set_back(logger, app.ledger.outbox, app.ledger.instant())
    report_start(logger, app, app.ledger.instant())
    outcomes = [ExitCode.PERSON_NEEDED if app.moved_files() or app.unconfigured() else ExitCode.DONE]
    meters = {name: _collect(app, name, outcomes) for name in sorted(app.collections)}
    for name in sorted(app.notification_sinks):
        _hear(app, name, outcomes)
    sinks = {name: _deliver(app, name, outcomes) for name in sorted(app.sink_ids)}
    outcome = gravest(outcomes)
    if as_json:
        write_json({"outcome": outcome.name.lower(), "meters": meters, "sinks": sinks})
    return outcome


def _collect(app: "App", name: str, outcomes: list[ExitCode]) -> dict[str, object]:
    """Collect a meter once; add how that ended, and return what is worth knowing."""
    from aggregator.daemon.daemon import report_warnings
    from aggregator.errors import AggregatorError
    from aggregator.runtime import log
    from aggregator.runtime.redact import named

    logger = log.logger()
    try:
        result = app.collections[name].run_once(app.ledger.now())
    except AggregatorError as error:
        logger.error(log.PASS_FAILED, meter=name, reason=str(error))
        outcomes.append(ExitCode.FAILED)
        return {"error": str(error)}
    except Exception as error:
        logger.exception(log.UNEXPECTED, meter=name)
        outcomes.append(ExitCode.FAILED)
        return {"error": named(error)}
    report_warnings(logger, result)
    if result.busy:
        logger.warning(log.PASS_SKIPPED, meter=name, reason="another process has the meter")
        outcomes.append(ExitCode.WORK_LEFT)
    else:
        logger.info(log.PASS_COMMITTED, **result.figures())
    outcomes += [ExitCode.PERSON_NEEDED] * bool(
        result.held or result.refused or result.unread or result.silent_since
    )
    return result.figures()


def _deliver(app: "App", sink: str, outcomes: list[ExitCode]) -> dict[str, object]:
    """Settle what is in doubt at a sink, then send it all that is due; add how that ended, and return the figures."""
    from aggregator.daemon.daemon import WORKERS, report_files, report_first_uses, report_reconciled
    from aggregator.delivery.sender import drain
    from aggregator.errors import AggregatorError
    from aggregator.runtime import log
    from aggregator.runtime.redact import named

    logger = log.logger()
    if sink in app.refused:
        logger.critical(log.SINK_HALTED, sink=sink, reason=app.refused[sink])
        outcomes.append(ExitCode.PERSON_NEEDED)
        return {
            "halted": app.refused[sink],
            "waiting": app.ledger.outbox.waiting(app.sink_ids[sink], app.feeds_of(sink))[1],
        }
    try:
        reconciled = app.reconciliation(sink).run_once(app.ledger.now())
        report_reconciled(logger, sink, reconciled)
        outcomes += [ExitCode.PERSON_NEEDED] * bool(reconciled.unclear)
    except AggregatorError as error:
        logger.error(log.RECONCILIATION_FAILED, sink=sink, reason=str(error))
    except Exception:
        logger.exception(log.UNEXPECTED, sink=sink)
        outcomes.append(ExitCode.FAILED)
    try:
        delivered = drain([app.delivery(sink, at_once=True) for _ in range(WORKERS)], app.ledger.now)
    except AggregatorError as error:
        logger.error(log.DELIVERY_FAILED, sink=sink, reason=str(error))
        outcomes.append(ExitCode.FAILED)
        return {"error": str(error)}
    except Exception as error:
        logger.exception(log.UNEXPECTED, sink=sink)
        outcomes.append(ExitCode.FAILED)
        return {"error": named(error)}
    report_files(logger, sink, delivered)
    report_first_uses(logger, sink, delivered)
    for event, reason in delivered.refusals.items():
        logger.warning(log.EVENT_REFUSED, sink=sink, event_id=event, reason=reason)
    if delivered.halted:
        logger.critical(log.SINK_HALTED, sink=sink, reason=delivered.halted)
    next_at, waiting = app.ledger.outbox.waiting(app.sink_ids[sink], app.feeds_of(sink))
    if waiting:
        why = delivered.waits_for
        logger.warning(log.DELIVERY_WAITING, sink=sink, reason=why, waiting=waiting, next_at=str(next_at))
    logger.info(log.BATCH_DELIVERED, sink=sink, **delivered.figures())
    outcomes += [ExitCode.WORK_LEFT] * bool(waiting)
    outcomes += [ExitCode.PERSON_NEEDED] * any(told.kind == "stopped" for told in delivered.first_uses)
    outcomes += [ExitCode.PERSON_NEEDED] * bool(delivered.refused or delivered.in_doubt or delivered.halted)
    return {**delivered.figures(), "waiting": waiting}


def _hear(app: "App", sink: str, outcomes: list[ExitCode]) -> None:
    """Take in what a sink tells by itself, and look after cancellations there; add whether a person is needed."""
    from aggregator.daemon.reporting import report_refused, report_round, report_taken
    from aggregator.errors import AggregatorError
    from aggregator.runtime import log

    logger = log.logger()
    try:
        if app.config.polls(sink):
            taken = app.notification_poller(sink).run_once(app.ledger.instant())
            report_taken(logger, sink, taken)
            report_refused(logger, sink, taken, {})
            outcomes += [ExitCode.PERSON_NEEDED] * bool(taken.rejected or taken.troubles or taken.unimported)
        if sink not in app.sink_ids:
            return
        cancelled = app.cancelling(sink).run_once(app.ledger.now())
        report_round(logger, sink, cancelled)
        outcomes += [ExitCode.PERSON_NEEDED] * bool(cancelled.lapsed or cancelled.refused)
    except AggregatorError as error:
        logger.error(log.REPORTS_FAILED, sink=sink, reason=str(error))
    except Exception:
        logger.exception(log.UNEXPECTED, sink=sink)
        outcomes.append(ExitCode.FAILED)
