"""What guards against too much hold, grouped so that one word decides about what belongs together.

Rules
- What is held of a single customer is one group, whatever the windows; what is held of a swollen window, whoever the
  customers. The shrink guard's are not among them: they wait for another read, and for nobody.
- The command that is shown decides about the group, and about the same at every sink of the meter.
"""

import datetime as dt
import shlex
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.planner import plain
from aggregator.core.shown import counted
from aggregator.ledger.database import Connection

HELD_BY_GUARDS = """
select meter.name, sink.name, parked.guard, single.customer, count(distinct event.customer),
       count(distinct event.window_start), count(*), sum(event.delta), min(event.window_start),
       max(event.window_start) + make_interval(secs => meter.window_seconds), min(parked.since)
  from aggregator.parked
  join aggregator.event on event.id = parked.event_id
  join aggregator.feed on feed.id = parked.feed_id
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 cross join lateral (
        select case when parked.guard <> 'max_total_change' then event.customer end as customer,
               case when parked.guard = 'max_total_change' then event.window_start end as window_start
       ) as single
 where parked.guard not in ('shrink_guard', 'repair') and parked.dismissed_at is null
   and (%(meter)s::text is null or meter.name = %(meter)s)
   and (%(customer)s::text is null or event.customer = %(customer)s)
 group by meter.name, sink.name, parked.guard, single.customer, single.window_start, meter.window_seconds
 order by sum(event.delta) desc, meter.name, sink.name, min(event.window_start), single.customer
 limit %(limit)s
"""


class HeldByGuard(NamedTuple):
    """What one guard holds of a customer, or of a window as a whole."""

    meter: str
    sink: str
    guard: str
    customer: str | None
    """Whose it is; None of a whole window."""
    customers: int
    windows: int
    events: int
    units: Decimal
    first_window: dt.datetime
    until: dt.datetime
    """The end of the last window."""
    since: dt.datetime

    @property
    def release(self) -> str:
        """Return the command that sends it."""
        span = f"--from {self.first_window:%Y-%m-%dT%H:%MZ} --to {self.until:%Y-%m-%dT%H:%MZ}"
        whose = span if self.customer is None else f"--customer {shlex.quote(self.customer)}"
        return f"aggregator events release --meter {self.meter} --guard {self.guard} {whose}"

    def describe(self) -> str:
        """Say what is held, by what, and what to do about it."""
        whose = counted(self.customers, "customer") if self.customer is None else self.customer
        windows = counted(self.windows, "window")
        return (
            f"{self.meter} to {self.sink}: {plain(self.units)} units of {whose} in {windows} from "
            f"{self.first_window:%Y-%m-%d %H:%M}Z on are held by `{self.guard}`. If they are right: `{self.release}`"
        )


def held_by_guards(
    connection: Connection, limit: int, meter: str | None = None, customer: str | None = None
) -> list[HeldByGuard]:
    """Return what guards hold, the most units first."""
    values = {"limit": limit, "meter": meter, "customer": customer}
    return [HeldByGuard._make(row) for row in connection.execute(HELD_BY_GUARDS, values)]
