"""The ledger of a configuration, opened: all that a command needs that only looks, or decides about what waits.

It knows no source and no sink, so that such a command starts at once: drivers and their libraries are for those who read and
send.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

from aggregator.config import Config, FileSink, S3Sink
from aggregator.config.rotated import url_now
from aggregator.core import age_limits
from aggregator.errors import LedgerError
from aggregator.ledger.clock import LedgerClock
from aggregator.ledger.database import Database, migrate, unfit
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.reports import Unconfigured
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.runtime.clock import Clock, utcnow
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.wiring.archiving import place_of

CLOCK_SKEW = timedelta(seconds=60)
"""A host whose clock is further from the ledger's reads and sends nothing: far more than hosts that are kept in time differ,
and far less than anything that is counted from an instant."""

LEAVE_WITHIN = timedelta(seconds=30)
"""How long after a claim its events may leave. Every settled verdict renews it, so a slow sink keeps its claims."""

STILL_BILLABLE = age_limits.FURTHEST
"""How long a window of a meter that was removed is worth a word."""

ANSWER_MARGIN = timedelta(seconds=10)
"""A claim outlasts the last answer by this much, so that it runs out only when its process is gone or stuck."""

FILE_HELD, FILE_CALLS = timedelta(seconds=60), 6
"""How long a file is its owner's without a sign of life: a minute, or as many calls to a store as may fail in a row."""


def feeding(config: Config) -> list[tuple[str, str]]:
    """Return which meter feeds which sink."""
    return [(meter.name, sink) for meter in config.meters.values() for sink in meter.sinks]


def not_sent(config: Config, waits: Unconfigured) -> str:
    """Say why nothing sends what waits of a meter and a sink, and what to do."""
    if waits.meter not in config.meters:
        why = f"meter {waits.meter} is not in the configuration"
    elif waits.sink not in config.sinks:
        why = f"sink {waits.sink} is not in the configuration"
    else:
        why = f"meter {waits.meter} does not name sink {waits.sink} any more"
    return (
        f"Nothing is sent of it from here, since {why}. Put it back, or give the events up: "
        f"`aggregator events give-up --meter {waits.meter} --sink {waits.sink}`."
    )


@contextmanager
def ledger_url(config: Config) -> Iterator[str]:
    """Give the ledger's URL; without one in the configuration, run the embedded Postgres meanwhile."""
    configured = config.ledger.url_revealed()
    if configured is not None:
        yield configured
        return
    with EmbeddedPostgres(config.state_dir / "postgres") as server:
        yield server.url()


@contextmanager
def open_ledger(
    config: Config, *, may_migrate: bool, name: str = "aggregator", host: Clock = utcnow
) -> Iterator[Ledger]:
    """Open the ledger, brought to the newest revision first if that is allowed. `host` is this host's wall clock.

    Raises LedgerUnreachable, LedgerOutdated, or LedgerError when the server is not fit to keep a ledger.
    """
    with ledger_url(config) as url:
        if may_migrate and config.ledger.migrate:
            migrate(url)
        clock = LedgerClock(CLOCK_SKEW, host)
        with Database(url, name=name, url_now=lambda: url_now(config.ledger), clock=clock) as database:
            ledger = _ledger(config, database)
            faults = unfit(database)
            if faults:
                raise LedgerError(" ".join(faults))
            place = place_of(config)
            if place is None:
                yield ledger
                return
            from aggregator.archive.reader import ArchiveReader

            with closing(place):
                ledger.archived.reader = ArchiveReader(place)
                yield ledger


def _ledger(config: Config, database: Database) -> Ledger:
    """Return the ledger as the settings have it. A claim outlasts the slowest of the configured sinks."""
    answers = [sink.timeout for sink in config.sinks.values() if not isinstance(sink, FileSink)]
    uploads = [sink.timeout for sink in config.sinks.values() if isinstance(sink, S3Sink)]
    return Ledger(
        database,
        ClaimCounter(config.state_dir),
        config.ledger.failover,
        lease=config.ledger.lease,
        leave=LEAVE_WITHIN,
        answer=max(answers, default=timedelta(seconds=10)) + ANSWER_MARGIN,
        hold=max([FILE_HELD, *(FILE_CALLS * each for each in uploads)]),
    )
