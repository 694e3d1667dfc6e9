"""What sinks tell by themselves: taken once each, together with all that follows from it, and how far each was asked.

Rules
- A message and its consequences are one transaction. Whoever brings it again, meanwhile or later, changes nothing.
- `polled_until` moves forward only, and only over what was taken.
- Some of it is asked for by itself: the accounts that a sink's customers name, and how imports went. An account is known by
  the claims of events that went to it: they were committed before the first byte left. Claims are looked through once each,
  in the order of time.
- Accounts take turns: whoever was not asked for the longest time comes first, whatever came of it. The trouble of one is
  written beside that one.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aggregator.core.model import EventId, Report
from aggregator.core.notifications import ParsedNotification
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.review.rejections import take_report

KEPT = dt.timedelta(days=60)
"""Twice as long as a sink can be asked for a message (Stripe: 30 days, docs.stripe.com/api/v2/core/events)."""

# Who comes second waits here until the first has committed, and then finds it done.
TAKE = """
insert into aggregator.notification (sink_id, id, kind, created_at, came_by, taken_at, said)
values (%(sink_id)s, %(id)s, %(kind)s, %(created_at)s, %(came_by)s, %(now)s, %(said)s)
    on conflict (sink_id, id) do nothing
returning id
"""

# What was said last counts, in whatever order it comes.
NOTE_LATE = """
insert into aggregator.checking (sink_id, late_since, told_at)
values (%(sink_id)s, case when %(late)s then %(created_at)s::timestamptz end, %(created_at)s)
    on conflict (sink_id) do update set late_since = excluded.late_since, told_at = excluded.told_at
 where checking.told_at is null or checking.told_at <= excluded.told_at
"""

KNOWN = "select id from aggregator.notification where sink_id = %(sink_id)s and id = any(%(ids)s)"

METERS_OF = """
select distinct meter.name from aggregator.event
  join aggregator.feed on feed.id = event.feed_id
  join aggregator.meter on meter.id = feed.meter_id
 where event.id = any(%(events)s) order by 1
"""

NOTE_POLLED = """
insert into aggregator.poll (sink_id, polled_until, polled_at) values (%(sink_id)s, %(until)s, %(now)s)
    on conflict (sink_id) do update
   set polled_until = greatest(poll.polled_until, excluded.polled_until), polled_at = excluded.polled_at,
       refused_at = null, refused_reason = null
"""

REFUSED = """
insert into aggregator.poll (sink_id, refused_at, refused_reason) values (%(sink_id)s, %(now)s, %(reason)s)
    on conflict (sink_id) do update
   set refused_at = coalesce(poll.refused_at, excluded.refused_at), refused_reason = excluded.refused_reason
"""

FORGET = "delete from aggregator.notification where sink_id = %(sink_id)s and taken_at < %(before)s"

POLLED_UNTIL = "select polled_until from aggregator.poll where sink_id = %(sink_id)s"

POLL_STATES = """
select sink.name, '' as whose,
       coalesce((select min(origin.polled_until) from aggregator.origin
                  where origin.sink_id = sink.id and origin.sent_at >= origin.polled_until - %(talks)s
                    and origin.sent_at >= poll.polled_at - %(keeps)s), poll.polled_until),
       poll.polled_at, poll.refused_at, poll.refused_reason,
       (select count(*) from aggregator.notification where notification.sink_id = sink.id)
  from aggregator.poll join aggregator.sink on sink.id = poll.sink_id
 union all
(select sink.name, origin.name, origin.polled_until, origin.asked_at, origin.refused_at, origin.refused_reason, 0
   from aggregator.origin join aggregator.sink on sink.id = origin.sink_id
   left join aggregator.poll on poll.sink_id = sink.id
  where origin.refused_at is not null and origin.name <> %(unless)s
    and (origin.sent_at is null or poll.polled_at is null or origin.sent_at >= poll.polled_at - %(keeps)s)
  order by origin.refused_at limit %(most)s)
 order by 1, 2
"""

HEALTH = "health"
"""The name under which it is kept how far messages on late totals were heard. Most accounts do not have them, so that they
cannot be asked for is no trouble to show."""

MOST_REFUSING = 20
"""Accounts that do not let themselves be asked: so many are shown, those first that have not for the longest time."""

NEWEST_RUN = """
select max(started_at) from aggregator.pass where id > (select max(id) - 1000 from aggregator.pass)
"""


class Taking(NamedTuple):
    """What came of a message: the events refused by it, and the meters to be read back; nothing if it was taken before."""

    fresh: bool
    refused: tuple[EventId, ...] = ()
    readbacks: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    """Meters of whose events some are invalid that nobody names and no figure can show."""


class PollState(NamedTuple):
    """How far a sink was heard, and why it refuses to tell, if it does.

    `whose` is empty for the sink as a whole. An account of its customers, or `imports`, is there if it refuses.
    """

    sink: str
    whose: str
    polled_until: dt.datetime | None
    polled_at: dt.datetime | None
    refused_at: dt.datetime | None
    refused_reason: str | None
    messages: int


def _unseen(
    connection: Connection, report: Report, found: Sequence[EventId], proof: dt.timedelta | None
) -> list[str]:
    """Return the meters of which some events are invalid that nobody names, and that no figure of this sink shows.

    A report on a meter that is not the sink's is about rows of imported files, if it names one; else it is not about us.
    """
    if report.meter:
        return [report.meter] if proof is None else []
    return [row[0] for row in connection.execute(METERS_OF, {"events": list(found)})]


class Notifications(Part):
    """The verbs about what sinks tell. Each is one short transaction."""

    def take(
        self,
        sink_id: int,
        parsed: ParsedNotification,
        came_by: str,
        now: dt.datetime,
        proofs: Sequence[dt.timedelta | None],
    ) -> Taking:
        """Take a message with all that follows from it. `proofs`: per report, how long the sink needs to count, or None."""
        notification = parsed.notification
        values = {
            **notification._asdict(),
            "sink_id": sink_id,
            "came_by": came_by,
            "now": now,
            "said": str(parsed),
        }
        refused: list[EventId] = []
        readbacks, unseen = [], []
        with self._database.transaction() as connection:
            if connection.execute(TAKE, values).fetchone() is None:
                return Taking(fresh=False)
            if parsed.totals_late is not None:
                connection.execute(NOTE_LATE, {**values, "late": parsed.totals_late})
            for report, proof in zip(parsed.reports, proofs, strict=True):
                found, asked = take_report(connection, sink_id, report, now, proof)
                refused += found
                if asked:
                    readbacks.append(report.meter)
                elif report.rejected > len(report.named):
                    unseen += _unseen(connection, report, found, proof)
        return Taking(fresh=True, refused=tuple(refused), readbacks=tuple(readbacks), unseen=tuple(unseen))

    def known(self, sink_id: int, ids: Sequence[str]) -> set[str]:
        """Return which of these messages were taken already."""
        return {row[0] for row in self._rows(KNOWN, {"sink_id": sink_id, "ids": list(ids)})}

    def polled_until(self, sink_id: int) -> dt.datetime | None:
        """Return up to where a sink was heard; None if it never was."""
        row = self._row(POLLED_UNTIL, {"sink_id": sink_id})
        return row[0] if row else None

    def polled(self, sink_id: int, until: dt.datetime | None, now: dt.datetime) -> None:
        """Note that everything a sink told before an instant is taken, and forget what nobody can bring again.

        None for a sink of which each account is heard by itself: then it is only noted that it was asked.
        """
        with self._database.transaction() as connection:
            connection.execute(NOTE_POLLED, {"sink_id": sink_id, "until": until, "now": now})
            connection.execute(FORGET, {"sink_id": sink_id, "before": now - KEPT})

    def refused(self, sink_id: int, reason: str, now: dt.datetime) -> None:
        """Note that a sink does not let itself be asked, for `status` to show."""
        self._run(REFUSED, {"sink_id": sink_id, "reason": reason, "now": now})

    def poll_states(self) -> list[PollState]:
        """Return how far each sink was heard."""
        values = {"talks": TALKS, "keeps": KEEPS, "most": MOST_REFUSING}
        return [PollState._make(row) for row in self._rows(POLL_STATES, {**values, "unless": HEALTH})]

    def last_pass_at(self) -> dt.datetime | None:
        """Return when the latest pass of any meter began: a sign of life."""
        row = self._row(NEWEST_RUN)
        return row[0] if row else None


LOOK_BACK = dt.timedelta(days=29)
"""How far back the first look at claims goes: as far as a sink can be asked."""

LATE = dt.timedelta(minutes=10)
"""How long after its time a claim may show, clocks that differ included: claims are short."""

TALKS = dt.timedelta(days=7)
"""For how long after the last event that went there an account is asked: a report comes within minutes, or days."""

KEEPS = LOOK_BACK + TALKS
"""For how long after the last event that went there an account can have anything left to say: then it is left in peace, even
if it never let itself be asked. Those that were closed would take up ever more turns."""

PIECE = dt.timedelta(hours=3)
"""How much time of claims is looked through in one transaction."""

ADD_SINK = "insert into aggregator.sink (name) values (%(name)s) on conflict do nothing"
FIND_SINK = "select id from aggregator.sink where name = %(name)s"

FIND_UNTIL = "select sent_until from aggregator.poll where sink_id = %(sink_id)s"

# Whom a customer belongs to is the sink's to say: one customer for each beginning is shown to it.
FIND_SENT = """
select max(event.customer), max(claim.claimed_at)
  from aggregator.claim
 cross join unnest(claim.events) as sent (event_id)
  join aggregator.event on event.id = sent.event_id
 where claim.sink_id = %(sink_id)s and claim.claimed_at >= %(start)s and claim.claimed_at < %(end)s
   and strpos(event.customer, '/') > 1
 group by split_part(event.customer, '/', 1)
"""

ADD = """
insert into aggregator.origin (sink_id, name, sent_at)
select %(sink_id)s, given.name, max(given.sent_at)
  from unnest(%(names)s::text[], %(sent)s::timestamptz[]) as given (name, sent_at)
 group by given.name order by given.name
    on conflict (sink_id, name) do update set sent_at = greatest(origin.sent_at, excluded.sent_at)
"""

LOOKED = """
insert into aggregator.poll (sink_id, sent_until) values (%(sink_id)s, %(until)s)
    on conflict (sink_id) do update set sent_until = greatest(poll.sent_until, excluded.sent_until)
"""

DUE = """
select name, polled_until from aggregator.origin
 where sink_id = %(sink_id)s and sent_at >= %(since)s
   and (polled_until is null or sent_at >= polled_until - %(talks)s)
   and (refused_at is null or asked_at <= %(refused_before)s)
 order by asked_at nulls first, name limit %(limit)s
"""

OF_NAME = """
select name, polled_until from aggregator.origin
 where sink_id = %(sink_id)s and name = %(name)s
   and (refused_at is null or asked_at <= %(refused_before)s)
 union all
select %(name)s, null
 where not exists (select from aggregator.origin where sink_id = %(sink_id)s and name = %(name)s)
"""

NOTE_ORIGIN_POLLED = """
insert into aggregator.origin (sink_id, name, polled_until, asked_at)
values (%(sink_id)s, %(name)s, %(until)s, %(now)s)
    on conflict (sink_id, name) do update
   set polled_until = greatest(origin.polled_until, excluded.polled_until), asked_at = excluded.asked_at,
       refused_at = null, refused_reason = null
"""

UNHEARD = """
insert into aggregator.origin (sink_id, name, asked_at, refused_at, refused_reason)
values (%(sink_id)s, %(name)s, %(now)s, case when %(reason)s::text is not null then %(now)s end, %(reason)s)
    on conflict (sink_id, name) do update
   set asked_at = excluded.asked_at,
       refused_at = case when %(reason)s::text is not null then coalesce(origin.refused_at, excluded.refused_at)
                         else origin.refused_at end,
       refused_reason = coalesce(excluded.refused_reason, origin.refused_reason)
"""


class Origin(NamedTuple):
    """One that is asked by itself, and up to where it was heard; None if it never was."""

    name: str
    polled_until: dt.datetime | None


class Origins(Part):
    """The verbs about what of a sink is asked by itself. Each is one short transaction, but for `find`."""

    def listener(self, sink: str) -> int:
        """Make a sink known that no meter feeds, and that is heard all the same; return its id."""
        with self._database.transaction() as connection:
            connection.execute(ADD_SINK, {"name": sink})
            row = connection.execute(FIND_SINK, {"name": sink}).fetchone()
        assert row is not None, "what was added is there"
        return int(row[0])

    def find(self, sink_id: int, account_of: Callable[[str], str | None], now: dt.datetime) -> None:
        """Get to know the accounts that events went to since the last look. `account_of` says where a customer is."""
        row = self._row(FIND_UNTIL, {"sink_id": sink_id})
        until = row[0] if row else None
        start = max(until - LATE, now - LOOK_BACK) if until else now - LOOK_BACK
        while start < now:
            end = min(start + PIECE, now)
            self._look(sink_id, account_of, start, end)
            start = end

    def due(self, sink_id: int, now: dt.datetime, again_after: dt.timedelta, limit: int) -> list[Origin]:
        """Return accounts to be asked, those first that were not for the longest time.

        One that refused is asked again `again_after` later; one to which nothing goes any more is left in peace.
        """
        values = {
            "sink_id": sink_id,
            "since": now - KEEPS,
            "talks": TALKS,
            "refused_before": now - again_after,
            "limit": limit,
        }
        return [Origin._make(row) for row in self._rows(DUE, values)]

    def named(self, sink_id: int, name: str, now: dt.datetime, again_after: dt.timedelta) -> Origin | None:
        """Return one that is no account, known or not; None if it refused, and is not to be asked yet."""
        values = {"sink_id": sink_id, "name": name, "refused_before": now - again_after}
        row = self._row(OF_NAME, values)
        return Origin._make(row) if row else None

    def polled(self, sink_id: int, name: str, until: dt.datetime, now: dt.datetime) -> None:
        """Note that everything it told before an instant is taken."""
        values = {"sink_id": sink_id, "name": name, "until": until, "now": now}
        self._run(NOTE_ORIGIN_POLLED, values)

    def not_polled(self, sink_id: int, name: str, reason: str | None, now: dt.datetime) -> None:
        """Note that it was asked in vain: it gave no answer, or, with a reason, it refuses to be asked."""
        values = {"sink_id": sink_id, "name": name, "reason": reason, "now": now}
        self._run(UNHEARD, values)

    def _look(
        self, sink_id: int, account_of: Callable[[str], str | None], start: dt.datetime, end: dt.datetime
    ) -> None:
        """Look through a stretch of claims, in one transaction with the note that this was done."""
        values: dict[str, object] = {"sink_id": sink_id, "start": start, "end": end}
        with self._database.transaction() as connection:
            sent = [(account_of(customer), at) for customer, at in connection.execute(FIND_SENT, values)]
            known = [(account, at) for account, at in sent if account is not None]
            if known:
                values |= {"names": [name for name, _ in known], "sent": [at for _, at in known]}
                connection.execute(ADD, values)
            connection.execute(LOOKED, {"sink_id": sink_id, "until": end})
