"""`aggregator run`: the daemon, or one pass of everything."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.exit_codes import ExitCode, gravest
from aggregator.cli.options import config_option, first_time_option, json_option, load_config, somebody
from aggregator.cli.printing import write_json_line
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.daemon.jobs import Task
    from aggregator.wiring.app import App


@click.command()
@config_option
@click.option("--once", is_flag=True, help="Make one pass over every meter, send what is due, and exit.")
@click.option("--verbose", is_flag=True, help="Also log passes that changed nothing.")
@click.option(
    "--web",
    metavar="HOST:PORT",
    help=(
        "Serve the page and the API on this port, receive Stripe's webhook calls, and answer /livez "
        "and /readyz."
    ),
)
@first_time_option
@json_option
def run(
    config_path: Path, *, once: bool, verbose: bool, web: str | None, first_time: bool, as_json: bool
) -> None:
    """Run the daemon, which reads every meter on its schedule and sends what is due; with --once, make one pass and
    exit.

    SIGTERM and SIGINT end it: it finishes calls that are under way, and gives back the other claimed events. SIGHUP
    reloads the configuration. The daemon logs to standard error, as JSON unless that is a terminal.

    \b
    Exit codes of --once:
      0  done
      1  a pass failed: run it again
      3  events wait for a busy sink: run it again
      4  a person is needed: see `aggregator status`
    """
    from aggregator.runtime.garbage import seldom_collected, uncollected

    with seldom_collected(), uncollected() as begun:
        _run(config_path, begun, once=once, verbose=verbose, web=web, first_time=first_time, as_json=as_json)


def _run(
    config_path: Path,
    begun: Callable[[], None],
    *,
    once: bool,
    verbose: bool,
    web: str | None,
    first_time: bool,
    as_json: bool,
) -> None:
    """Run as told; say when everything is built for the first time."""
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
            begun()
            outcome = run_once(app, as_json=as_json)
        _say_alive(config.monitoring.sign_of_life_url(), outcome)
        raise click.exceptions.Exit(outcome)
    from aggregator.daemon.daemon import Daemon
    from aggregator.web.listener import Address

    address = Address(web) if web else None
    words = [somebody()] if first_time else []

    @contextmanager
    def building() -> Iterator["App"]:
        with build(load_config(config_path), verify=True) as app:
            while words:  # said once: of what is configured later nobody has said it
                app.first_time(app.registered, words.pop(), app.ledger.instant())
            begun()
            yield app

    with _saying_why_stopped():
        ended_by = Daemon(building, utcnow, address).run()
    signal.signal(ended_by, signal.SIG_DFL)
    os.kill(os.getpid(), ended_by)


def _say_alive(url: str | None, outcome: ExitCode) -> None:
    """Call whoever waits for a sign of life, unless the pass failed."""
    if url is None or outcome is ExitCode.FAILED:
        return
    from aggregator.monitoring.watch import SignOfLife

    SignOfLife(url, lambda: True)()


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
    """Do every job once: collect every meter, hear every sink, and deliver until nothing is due; say how it went."""
    from aggregator.daemon.jobs import fed_sinks, tasks
    from aggregator.daemon.reporting import report_start
    from aggregator.daemon.watchdog import report_set_back
    from aggregator.runtime import log

    logger, apart = log.logger(), app.ledger.database.clocks_apart()
    if apart is not None:
        logger.error(log.CLOCKS_APART, reason=apart)
        if as_json:
            write_json_line({"outcome": "failed", "error": apart, "meters": {}, "sinks": {}})
        return ExitCode.FAILED
    report_set_back(logger, app.ledger.outbox, app.ledger.instant())
    report_start(logger, app, app.ledger.instant())
    outcomes = [ExitCode.PERSON_NEEDED if app.moved_files() or app.unconfigured() else ExitCode.DONE]
    answers: dict[str, dict[str, object]] = {"meters": {}, "sinks": {}}
    failed: set[tuple[str, str]] = set()
    for task in tasks(app, once=True):
        job, of = task.job, task.of
        if (job.failed, of) in failed:
            continue  # where one thing of a kind failed, the next is not tried
        kept_out = job.things is fed_sinks and of in app.refused
        figures = _refused(task, outcomes) if kept_out else _round(task, outcomes)
        if "error" in figures:
            failed.add((job.failed, of))
        if job.answers is not None:
            answers[job.answers][of] = figures
    outcome = gravest(outcomes)
    if as_json:
        write_json_line({"outcome": outcome.name.lower(), **answers})
    return outcome


def _round(task: "Task", outcomes: list[ExitCode]) -> dict[str, object]:
    """Do one round of a task; add how that ended, and return what is worth knowing: under `error`, why it failed."""
    from aggregator.errors import AggregatorError
    from aggregator.runtime import log
    from aggregator.runtime.redact import named

    logger = log.logger()
    try:
        result = task.round()
    except AggregatorError as error:
        logger.error(task.job.failed, **task.whose, reason=str(error))
        outcomes += [ExitCode.FAILED] * (task.job.answers is not None)
        return {"error": str(error)}
    except Exception as error:
        logger.exception(log.UNEXPECTED, **task.whose)
        outcomes.append(ExitCode.FAILED)
        return {"error": named(error)}
    outcomes += [ExitCode.WORK_LEFT] * result.leaves_work + [ExitCode.PERSON_NEEDED] * result.needs_person
    figures: dict[str, object] = result.summary()
    return figures


def _refused(task: "Task", outcomes: list[ExitCode]) -> dict[str, object]:
    """Say of a sink that refuses us as a whole that nothing is sent to it, and how much waits; it is not asked
    either.
    """
    from aggregator.daemon.jobs import waiting
    from aggregator.runtime import log

    if task.job.answers is None:
        return {}
    reason = task.app.refused[task.of]
    log.logger().critical(log.SINK_HALTED, sink=task.of, reason=reason)
    outcomes.append(ExitCode.PERSON_NEEDED)
    return {"halted": reason, "waiting": waiting(task.app, task.of)[1]}
