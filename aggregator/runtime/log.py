"""The log: one line per decision, a stable event name and key-values; JSON when nobody watches.

The names are the interface for whoever searches or alerts on them. docs/log.md lists each with its meaning, and a test
keeps the list complete.
"""

import io
import logging
import re
import sys
import threading
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from aggregator.runtime.terminal import coloured, printable

Log = structlog.typing.FilteringBoundLogger

DAEMON_STARTED = "daemon_started"
DAEMON_STOPPING = "daemon_stopping"
DAEMON_STOPPED = "daemon_stopped"
CONFIG_RELOADED = "config_reloaded"
CONFIG_UNCHANGED = "config_unchanged"
CONFIG_REFUSED = "config_refused"
PASS_COMMITTED = "pass_committed"  # noqa: S105 - a pass, not a password
PASS_UNCHANGED = "pass_unchanged"  # noqa: S105
PASS_FAILED = "pass_failed"  # noqa: S105
PASS_SKIPPED = "pass_skipped"  # noqa: S105
METER_STOPPED = "meter_stopped"
METER_REMOVED = "meter_removed"
BACKLOG_UNCONFIGURED = "backlog_unconfigured"
BARRIER_WAITING = "barrier_waiting"
BARRIER_GIVEN_UP = "barrier_given_up"
SHRINK_HELD = "shrink_held"
GUARD_HELD = "guard_held"
METER_SILENT = "meter_silent"
CUSTOMERS_SILENT = "customers_silent"
QUERY_UNSTABLE = "query_unstable"
WINDOW_UNREAD = "window_unread"
WINDOWS_LOST = "windows_lost"
CUSTOMERS_READ = "customers_read"
CUSTOMERS_DOUBTED = "customers_doubted"
CUSTOMERS_FAILED = "customers_failed"
SOURCE_UNSAFE = "source_unsafe"
SOURCE_REFUSED = "source_refused"
SOURCE_CANNOT_PROMISE = "source_cannot_promise"
LEDGER_STOPPED = "ledger_stopped"
LEDGER_SLOW = "ledger_slow"
LEDGER_IN_TIME = "ledger_in_time"
LEDGER_CLOCK_SET_BACK = "ledger_clock_set_back"
CLOCKS_APART = "clocks_apart"
CLOCKS_AGREE = "clocks_agree"
CLOCK_JUMPED = "clock_jumped"
RECONCILED = "reconciled"
CHECKED = "checked"
CHECK_WAITING = "check_waiting"
CHECK_FAILED = "check_failed"
DRIFT_FOUND = "drift_found"
SUMMING_UP_FAILED = "summing_up_failed"
ARCHIVED = "archived"
ARCHIVE_WAITING = "archive_waiting"
ARCHIVE_FAILED = "archive_failed"
RECONCILIATION_FAILED = "reconciliation_failed"
EVENT_UNCLEAR = "event_unclear"
REPORTS_TAKEN = "reports_taken"
REPORTS_FAILED = "reports_failed"
HEALTH_UNHEARD = "health_unheard"
REPORTS_REFUSED = "reports_refused"
REPORT_UNCLEAR = "report_unclear"
IMPORT_FAILED = "import_failed"
CANCELLATIONS = "cancellations"
CANCELLATION_UNCLEAR = "cancellation_unclear"
DECIDED = "decided"
WEB_STARTED = "web_started"
WEBHOOK_REFUSED = "webhook_refused"
WEBHOOK_FAILED = "webhook_failed"
BATCH_DELIVERED = "batch_delivered"
FILE_WRITTEN = "file_written"
FILES_MOVED = "files_moved"
EVENT_REFUSED = "event_refused"
FEED_CLEARED = "feed_cleared"
FEED_STOPPED = "feed_stopped"
FEED_WAITING = "feed_waiting"
DELIVERY_FAILED = "delivery_failed"
DELIVERY_WAITING = "delivery_waiting"
DELIVERY_RESUMED = "delivery_resumed"
SESSION_ENDED = "session_ended"
SINK_HALTED = "sink_halted"
SINK_RESUMED = "sink_resumed"
SINK_UNVERIFIED = "sink_unverified"
SINK_CANNOT_PROMISE = "sink_cannot_promise"
TRACES_FAILED = "traces_failed"
TRACES_RESUMED = "traces_resumed"
PING_FAILED = "ping_failed"
PING_RESUMED = "ping_resumed"
ANNOUNCED = "announced"
ANNOUNCE_FAILED = "announce_failed"
UNEXPECTED = "unexpected_error"
LIBRARY_WARNED = "library_warned"


def configure(*, verbose: bool = False, stream: Any = None) -> None:
    """Send the log to standard error (or `stream`), for people if that is a terminal, as JSON lines otherwise."""
    out = stream if stream is not None else sys.stderr
    readable = out.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=coloured(out), exception_formatter=_traceback)
        if readable
        else structlog.processors.JSONRenderer(default=str)
    )
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if readable:
        renderer = _Printable(renderer)
    else:
        processors.append(structlog.processors.format_exc_info)
    _take_in_libraries(out, processors, renderer)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


class _Printable:
    """Renders lines for people, with whatever in them a terminal would obey shown instead."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, name: str, fields: MutableMapping[str, Any]) -> Any:
        shown = {key: printable(value) if isinstance(value, str) else value for key, value in fields.items()}
        return self._renderer(logger, name, shown)


def _traceback(out: TextIO, exc_info: Any) -> None:
    """Write a traceback without variables, among which are keys and passwords; set back, so that it forges no line."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write("\n".join(f"  {printable(line)}" for line in text.getvalue().splitlines()))


def _take_in_libraries(out: Any, processors: list[Any], renderer: Any) -> None:
    """Give what libraries warn of the form of our own lines: a line that no program can read hides those around it."""
    handler = logging.StreamHandler(out)
    handler.addFilter(_Once())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors, structlog.stdlib.add_logger_name, _library_warned],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    # It warns whenever a meter takes longer than its period. That is no trouble: the next pass does it all.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    # It adds a traceback to each try at new credentials that failed. The sink says so itself, once.
    logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)


class _Once(logging.Filter):
    """Lets a warning through once, and then at its 10th time, its 100th and so on, with how often it was said.

    Those that differ in numbers only count as one. Whoever warns the same way for ever says nothing new.
    """

    MOST_KNOWN = 1_000

    def __init__(self) -> None:
        super().__init__()
        self._times: dict[tuple[str, int, str], int] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written."""
        about = (record.name, record.levelno, re.sub(r"\d+", "0", record.getMessage()))
        with self._lock:
            if len(self._times) >= self.MOST_KNOWN:
                self._times.clear()
            times = self._times[about] = self._times.get(about, 0) + 1
        if times > 1:
            record.msg, record.args = f"{record.getMessage()} (said {times:,} times)", ()
        return bool(times == 10 ** (len(str(times)) - 1))


def _library_warned(_: object, __: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    return {**fields, "event": LIBRARY_WARNED, "message": fields["event"]}


def logger(**bound: object) -> Log:
    """Return a logger that carries these key-values on each of its lines."""
    return structlog.get_logger(**bound)  # type: ignore[no-any-return]
