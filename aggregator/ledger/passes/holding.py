"""Whoever writes what was read of a meter holds it meanwhile, by the epoch of the lease, in a ledger that may be written."""

import datetime as dt

from aggregator.core.archive import closed
from aggregator.core.model import Span
from aggregator.errors import LeaseLost, LedgerStopped, MonthClosed
from aggregator.ledger.database import Connection
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.meters import Lease
from aggregator.ledger.silent_holder import HOLDERS

# Nobody waits for it: it comes after the row's lock, and only says whose that is.
SAY_WHO_HOLDS = "select pg_advisory_xact_lock(%(class)s, %(meter_id)s)"

HOLD_METER = """
select mark, reread_from, archived_until from aggregator.meter
 where id = %(meter_id)s and epoch = %(epoch)s and lease_owner = %(owner)s
   for update
"""


def hold(
    connection: Connection, lease: Lease, identity: LedgerIdentity | None, span: Span | None = None
) -> tuple[dt.datetime, dt.datetime | None]:
    """Hold the meter's row until the end of the transaction; return its mark, and from where it is to be read again.

    Raises LeaseLost when another process holds the meter by now, LedgerStopped when the ledger is not to be written;
    without an `identity` nobody asks for that. MonthClosed where windows of the `span` are archived.
    """
    held = connection.execute(HOLD_METER, lease.key).fetchone()
    if held is None:
        raise LeaseLost
    connection.execute(SAY_WHO_HOLDS, {"class": HOLDERS, "meter_id": lease.registered.id})
    stopped = identity.stopped(connection) if identity is not None else None
    if stopped is not None:
        raise LedgerStopped(stopped)
    if span is not None:
        refuse_closed(lease.registered.meter.name, held[2], span)
    return held[0], held[1]


def refuse_closed(meter: str, archived_until: dt.datetime | None, span: Span) -> None:
    """Raise MonthClosed if windows of a span are archived: they would be planned as if nothing had been billed of them."""
    if archived_until is not None and span.start < archived_until:
        raise MonthClosed(closed(meter, archived_until))
