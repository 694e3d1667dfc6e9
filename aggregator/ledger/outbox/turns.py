"""Whose events a claim takes: feeds take turns, and of each the oldest go first, or now and then the newest.

Rules
- A claim's cost grows neither with the events that wait nor with the feeds that have some.
- Whoever keeps an order is not asked for the newest.
"""

import datetime as dt
from collections.abc import Sequence

from aggregator.ledger.database import Connection, array

LEAST_SHARE = 8
"""Of fewer events at once a feed costs more than they do: it is looked for in an index, and lies on pages of its own. Where
very many feeds have something due, some have their turn with one claim and some with the next."""

# First of what is new, then of what a backfill planned: each of so many feeds, in turns, of which something is due has an
# equal share; what one of them does not need, the others have, and then the feeds whose turn is later. It is all looked up
# as it is needed, and a limit stops the whole as soon as there is enough: a claim's cost grows neither with the events that
# wait nor with the feeds that have some. Of a feed the oldest come first, or now and then the newest; rows that another
# claim is taking are passed over.
# Of an ordered feed, each customer's next event leaves once the one before it is settled; what that costs is spent only
# where there is such a feed. Of a feed whose sink is still to be asked what it holds, none leaves that was not cleared.
# Rows are compared as a whole, so that only `outbox_by_feed` has them in that order: by equal columns the planner would go
# through all events, oldest first, for the few of one feed. The innermost limit is a number that it knows.
PICK_BEGINS = """
with given as materialized (
    select feed.id, feed.ordered, those.turn,
           case when feed.cleared_at is null then feed.cleared_until else 9223372036854775807 end as until
      from unnest(%(feeds)s::int[]) with ordinality as those (id, turn) join aggregator.feed on feed.id = those.id
     order by those.turn
)
select mine.event_id, turn.id, kind.backfill
  from (values (false), (true)) as kind (backfill)
 cross join lateral (
        with ready as materialized (
            select given.* from given
             cross join lateral (
                    select from aggregator.outbox
                     where (outbox.feed_id, outbox.backfill) >= (given.id, kind.backfill)
                       and (outbox.feed_id, outbox.backfill, outbox.event_id) <= (given.id, kind.backfill, given.until)
                       and outbox.due_at <= %(now)s
                     order by outbox.feed_id, outbox.backfill, outbox.event_id limit 1
                   ) as first
             limit %(turns)s
        ), among as materialized (
            select count(*) as feeds, ceil(%(limit)s::float / nullif(count(*), 0))::int as share, max(turn) as last
              from ready
        )
        select ready.id, ready.ordered, ready.until, 0 as taken, among.share as most from ready cross join among
         union all
        select ready.id, ready.ordered, ready.until, among.share, %(limit)s::int from ready cross join among
         union all
        select given.id, given.ordered, given.until, 0, %(limit)s::int
          from given join among on among.feeds = %(turns)s and given.turn > among.last
       ) as turn
 cross join lateral (
        select oldest.event_id
          from (
                select outbox.event_id from aggregator.outbox
                 where (outbox.feed_id, outbox.backfill) >= (turn.id, kind.backfill)
                   and (outbox.feed_id, outbox.backfill, outbox.event_id) <= (turn.id, kind.backfill, turn.until)
                   and outbox.due_at <= %(now)s
                   and (not turn.ordered or outbox.event_id = any(array(
                        select min(waiting.event_id)
                          from aggregator.outbox as waiting
                          join aggregator.feed on feed.id = waiting.feed_id and feed.ordered
                         where waiting.feed_id = any(%(feeds)s::int[])
                         group by waiting.feed_id, waiting.customer)))
                 """

PICK_ENDS = """
                   for update skip locked
               ) as oldest
        offset turn.taken limit turn.most
       ) as mine
 limit %(limit)s
"""

PICK = PICK_BEGINS + "order by outbox.feed_id, outbox.backfill, outbox.event_id limit %(most)s" + PICK_ENDS
PICK_NEWEST = (
    PICK_BEGINS
    + "order by outbox.feed_id desc, outbox.backfill desc, outbox.event_id desc limit %(most)s"
    + PICK_ENDS
)

NEWEST_EVERY = 4
"""Of so many claims of a sink one takes the newest events of each feed, the others the oldest. So the windows of today do
not wait until all of a backlog has left, and the backlog goes down nearly as fast."""

IN_ORDER = "select exists (select from aggregator.feed where id = any(%(feeds)s::int[]) and ordered)"


class Turns:
    """What this process remembers of its claims, by sink: how many there were, and which feed the next begins with."""

    def __init__(self) -> None:
        self._made: dict[int, int] = {}
        self._begins_with: dict[int, int] = {}

    def pick(
        self, connection: Connection, sink_id: int, those: Sequence[int], limit: int, now: dt.datetime
    ) -> list[int]:
        """Choose and lock what a claim of these feeds takes. The next claim begins with another feed."""
        if not those:
            return []
        first = self._begins_with.get(sink_id)
        at = those.index(first) if first in those else 0
        those = [*those[at:], *those[:at]]
        turns = -(-limit // LEAST_SHARE)
        values = {"feeds": array(those), "now": now, "limit": limit, "most": 2 * limit, "turns": turns}
        pick = PICK_NEWEST if self._is_for_newest(connection, sink_id, those) else PICK
        rows = connection.execute(pick, values).fetchall()
        if rows:
            self._made[sink_id] = self._made.get(sink_id, 0) + 1
            taken = [feed for _, feed, backfill in rows if backfill == rows[-1][2]]
            self._begins_with[sink_id] = _next_turn(those, taken, turns)
        # Another claim may give a row back in the middle of the statement, which is then found twice.
        return sorted({row[0] for row in rows})

    def _is_for_newest(self, connection: Connection, sink_id: int, those: Sequence[int]) -> bool:
        """Tell whether it is the turn of the newest events."""
        if self._made.get(sink_id, 0) % NEWEST_EVERY < NEWEST_EVERY - 1:
            return False
        return connection.execute(IN_ORDER, {"feeds": array(those)}).fetchone() == (False,)


def _next_turn(those: Sequence[int], taken: Sequence[int], turns: int) -> int:
    """Return the feed that the next claim begins with: of `taken`, which feed each event is of, in the order of their turns.

    It is the one behind the last. If all that have something were among them, each begins once: the last has what is left.
    """
    feeds = list(dict.fromkeys(taken))
    last = feeds[-1] if turns <= len(feeds) < len(those) else feeds[0]
    return those[(those.index(last) + 1) % len(those)]
