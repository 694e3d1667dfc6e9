"""A meter of hours, registered as it is, and how its usage is planned: what measurements of the ledger fill it with."""

import datetime as dt

from aggregator.core import planner
from aggregator.core.model import Decreases, Limits, Meter
from aggregator.ledger.database import Database, ledger_id_of

HOUR = dt.timedelta(hours=1)
NAME = "api_requests"


def meter_of(sink: str, start: dt.datetime) -> Meter:
    """Return the meter, from an hour on, for one sink."""
    return Meter(
        name=NAME,
        source="app",
        query="",
        fingerprint="",
        sinks=(sink,),
        window=HOUR,
        start_at=start,
        delay=HOUR,
        revisit=HOUR,
    )


def policy_of(database: Database, sink: str, limits: Limits, now: dt.datetime) -> planner.Policy:
    """Return by what events of it are planned."""
    return planner.Policy(
        ledger=str(ledger_id_of(database).ledger_id),
        sink=sink,
        meter=NAME,
        window=HOUR,
        decimals=0,
        decreases=Decreases.HOLD,
        limits=limits,
        now=now,
    )
