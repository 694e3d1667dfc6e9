"""The names of meters in the ledger: what each fed, what it is called now, and what its identifiers are named after.

Rules
- A meter that gets another name keeps its row, and with it everything that hangs on it. Identifiers go on under the first
  name it had, and whoever works under the older one loses the meter.
- What a line feeds is recorded when it is registered, by whoever knows the sink's account.
"""

from collections.abc import Sequence

from aggregator.core.model import Meter
from aggregator.core.renaming import KnownLine, KnownMeter, Memory, Outlet, Wanted, refusals, renames
from aggregator.errors import MeterRefused
from aggregator.ledger.database import Connection

FIND_METERS = """
select name, mark, formerly, read,
       archived_until is not null
       or exists (select from aggregator.feed join aggregator.slot on slot.feed_id = feed.id where feed.meter_id = meter.id)
  from aggregator.meter order by name
"""

# What was planned to be sent, and how far: a line in shadow feeds nothing.
FIND_LINES = """
select meter.name, sink.name, coalesce(feed.account, sink.account), feed.called,
       case when (not feed.shadow or feed.parted)
             and (exists (select from aggregator.slot where slot.feed_id = feed.id and tail is not null)
                  or exists (select from aggregator.archived_usage where feed_id = feed.id))
            then feed.read_until end,
       feed.cleared_until > 0 and exists (select from aggregator.claim where claim.sink_id = sink.id)
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where feed.called is not null
 order by feed.id
"""

# Two processes that register at the same time see what the other one has written.
TAKE_TURNS = "select pg_advisory_xact_lock(hashtext('aggregator: names of meters'))"

RENAME = """
update aggregator.meter
   set name = %(new)s, formerly = formerly || name, epoch = epoch + 1, lease_owner = null, lease_until = null
 where name = %(old)s
"""

# Nothing is written where nothing changes, so that whoever only looks needs no right to write.
DIFFERS_IN_OUTLET = """
select from aggregator.feed
 where id = %(feed)s
   and (called is distinct from %(called)s or account is distinct from coalesce(%(account)s, account))
"""
NOTE_OUTLET = """
update aggregator.feed set account = coalesce(%(account)s, account), called = %(called)s where id = %(feed)s
"""


def memory(connection: Connection) -> Memory:
    """Return what the ledger knows of its meters."""
    meters = [
        KnownMeter(name, mark, tuple(formerly), read, has_slots)
        for name, mark, formerly, read, has_slots in connection.execute(FIND_METERS).fetchall()
    ]
    lines = [
        KnownLine(meter, Outlet(sink, account, called), until, has_sent)
        for meter, sink, account, called, until, has_sent in connection.execute(FIND_LINES).fetchall()
    ]
    return Memory({each.name: each for each in meters}, lines)


def wanted(meters: Sequence[Meter]) -> list[Wanted]:
    """Return configured meters by what they feed."""
    return [
        Wanted(
            meter.name,
            meter.renamed_from,
            {terms.sink: terms.bill_from for terms in meter.terms if terms.bill_from is not None},
            meter.start_at,
            [each for each in meter.outlets if not meter.terms_of(each.sink).shadow],
            meter.read,
        )
        for meter in meters
    ]


def settle(connection: Connection, meters: Sequence[Meter]) -> None:
    """Give meters the names that they have now. Raises MeterRefused if one would bill again what was billed already."""
    connection.execute(TAKE_TURNS)
    known, configured = memory(connection), wanted(meters)
    refused = [said for _, said in refusals(configured, known)]
    if refused:
        raise MeterRefused("\n".join(refused))
    for old, new in renames(configured, known).items():
        connection.execute(RENAME, {"old": old, "new": new})


def note(connection: Connection, feed: int, outlet: Outlet | None) -> None:
    """Record what a line feeds."""
    if outlet is not None:
        values = {"feed": feed, "account": outlet.account, "called": outlet.called}
        if connection.execute(DIFFERS_IN_OUTLET, values).fetchone() is not None:
            connection.execute(NOTE_OUTLET, values)
