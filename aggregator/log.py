"""The log: one line per decision, a stable event name and key-values; JSON when nobody watches.

The names are the interface for whoever searches or alerts on them. docs/log.md lists each with its meaning, and a test
keeps the list complete.
"""

import logging
import sys
from typing import Any

import structlog

Log = structlog.typing.FilteringBoundLogger

DAEMON_STARTED = "daemon_started"
DAEMON_STOPPING = "daemon_stopping"
DAEMON_STOPPED = "daemon_stopped"
CONFIG_RELOADED = "config_reloaded"
CONFIG_REFUSED = "config_refused"
PASS_COMMITTED = "pass_committed"  # noqa: S105 - a pass, not a password
PASS_UNCHANGED = "pass_unchanged"  # noqa: S105
PASS_FAILED = "pass_failed"  # noqa: S105
PASS_SKIPPED = "pass_skipped"  # noqa: S105
METER_STOPPED = "meter_stopped"
BATCH_DELIVERED = "batch_delivered"
EVENT_REFUSED = "event_refused"
DELIVERY_FAILED = "delivery_failed"
SINK_HALTED = "sink_halted"
UNEXPECTED = "unexpected_error"


def configure(*, verbose: bool = False, stream: Any = None) -> None:
    """Send the log to standard error (or `stream`), for people if that is a terminal, as JSON lines otherwise."""
    out = stream if stream is not None else sys.stderr
    readable = out.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True)
        if readable
        else structlog.processors.JSONRenderer(default=str)
    )
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if not readable:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


def logger(**bound: object) -> Log:
    """Return a logger that carries these key-values on each of its lines."""
    return structlog.get_logger(**bound)  # type: ignore[no-any-return]
