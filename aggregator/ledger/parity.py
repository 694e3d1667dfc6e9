"""What the ledger has planned for two sinks of a meter, beside each other: per customer, and UTC day or window."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from aggregator.core.model import ZERO, Span
from aggregator.core.planner import add
from aggregator.ledger.archived import Archived, Question
from aggregator.ledger.database import Database, Part, streamed

FED = """
select sink.name, feed.id from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id join aggregator.sink on sink.id = feed.sink_id
 where meter.name = %(meter)s order by sink.name
"""

# By way of the slots, whose key leads to a feed's windows. What was withdrawn counts nowhere.
PLANNED = """
with held as not materialized (
    select id, customer, feed_id, revision,
           case when %(by_day)s then date_trunc('day', slot.window_start) else slot.window_start end as start
      from aggregator.slot
     where slot.feed_id = any(%(feeds)s) and slot.window_start >= %(start)s and slot.window_start < %(end)s
), planned as (
    select held.customer, held.start, held.feed_id, event.state, event.delta, event.reason
      from held join aggregator.event on event.id = held.id and event.revision = 0
     union all
    select held.customer, held.start, held.feed_id, event.state, event.delta, event.reason
      from held join aggregator.event on event.slot_id = held.id and event.revision > 0
     where held.revision > 1
)
select customer, start, feed_id,
       coalesce(sum(delta) filter (where state in ('accepted', 'confirmed')), 0),
       coalesce(sum(delta) filter (where state in ('due', 'sending', 'in_doubt')), 0),
       coalesce(sum(delta) filter (where state in ('held', 'refused')), 0),
       coalesce(sum(delta) filter (where state = 'shadow'), 0),
       count(*) filter (where state = 'shadow' and reason is not null)
  from planned
 where state <> 'void'
 group by 1, 2, 3 order by 1, 2, 3
"""


class Side(NamedTuple):
    """What is planned for one sink, by what became of it."""

    accepted: Decimal = ZERO
    """What the sink holds, as far as it said."""
    under_way: Decimal = ZERO
    waiting: Decimal = ZERO
    """What waits for a person: held and refused events."""
    shadow: Decimal = ZERO
    """What is never sent."""
    turned_away: int = 0
    """How many events of the shadow would have been held or refused."""

    @property
    def planned(self) -> Decimal:
        """All of it."""
        return add(add(self.accepted, self.under_way), add(self.waiting, self.shadow))

    def plus(self, other: "Side") -> "Side":
        """Return the sum of two."""
        return Side(
            add(self.accepted, other.accepted),
            add(self.under_way, other.under_way),
            add(self.waiting, other.waiting),
            add(self.shadow, other.shadow),
            self.turned_away + other.turned_away,
        )


class Place(NamedTuple):
    """What two sinks have of one customer in one day or window."""

    customer: str
    start: dt.datetime
    one: Side
    other: Side


class PlannedUsage(Part):
    """The question what two sinks of a meter have. Nothing here writes."""

    def __init__(self, database: Database, archived: Archived | None = None) -> None:
        super().__init__(database)
        self._archived = archived or Archived()

    def feeds(self, meter: str) -> dict[str, int]:
        """Return the feeds that a meter has or had, by the names of their sinks."""
        return dict(self._rows(FED, {"meter": meter}))

    def places(self, one: int, other: int, span: Span, *, by_day: bool) -> Iterator[Place]:
        """Yield what two feeds have over a span, by customer and time; the transaction lasts as long as the iterator."""
        values = {"feeds": [one, other], "start": span.start, "end": span.end, "by_day": by_day}
        with self._database.transaction(looks=True) as connection:
            place: Place | None = None
            beside = self._archived.beside(connection, Question([one, other], span))
            for customer, start, feed, *sums in streamed(connection, beside(PLANNED), values):
                if place is None or (place.customer, place.start) != (customer, start):
                    if place is not None:
                        yield place
                    place = Place(customer, start, Side(), Side())
                side = Side(*sums)
                place = place._replace(one=side) if feed == one else place._replace(other=side)
            if place is not None:
                yield place
