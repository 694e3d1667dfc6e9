"""What of a sink is asked by itself: the accounts that its customers name, and how imports went. How far each was heard.

Rules
- An account is known by the claims of events that went to it: they were committed before the first byte left. Claims are
  looked through once each, in the order of time.
- `heard_until` moves forward only, and only over what was taken. One voice's trouble is written beside that voice.
- Accounts take turns: whoever was not asked for the longest time comes first, whatever came of it.
"""

import datetime as dt
from collections.abc import Callable
from typing import NamedTuple

from aggregator.ledger.database import Database

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

FIND_UNTIL = "select sent_until from aggregator.intake where sink_id = %(sink_id)s"

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
insert into aggregator.voice (sink_id, name, sent_at)
select %(sink_id)s, given.name, max(given.sent_at)
  from unnest(%(names)s::text[], %(sent)s::timestamptz[]) as given (name, sent_at)
 group by given.name order by given.name
    on conflict (sink_id, name) do update set sent_at = greatest(voice.sent_at, excluded.sent_at)
"""

LOOKED = """
insert into aggregator.intake (sink_id, sent_until) values (%(sink_id)s, %(until)s)
    on conflict (sink_id) do update set sent_until = greatest(intake.sent_until, excluded.sent_until)
"""

DUE = """
select name, heard_until from aggregator.voice
 where sink_id = %(sink_id)s and sent_at >= %(since)s
   and (heard_until is null or sent_at >= heard_until - %(talks)s)
   and (refused_at is null or asked_at <= %(refused_before)s)
 order by asked_at nulls first, name limit %(limit)s
"""

OF_NAME = """
select name, heard_until from aggregator.voice
 where sink_id = %(sink_id)s and name = %(name)s
   and (refused_at is null or asked_at <= %(refused_before)s)
 union all
select %(name)s, null
 where not exists (select from aggregator.voice where sink_id = %(sink_id)s and name = %(name)s)
"""

HEARD = """
insert into aggregator.voice (sink_id, name, heard_until, asked_at)
values (%(sink_id)s, %(name)s, %(until)s, %(now)s)
    on conflict (sink_id, name) do update
   set heard_until = greatest(voice.heard_until, excluded.heard_until), asked_at = excluded.asked_at,
       refused_at = null, refused_reason = null
"""

UNHEARD = """
insert into aggregator.voice (sink_id, name, asked_at, refused_at, refused_reason)
values (%(sink_id)s, %(name)s, %(now)s, case when %(reason)s::text is not null then %(now)s end, %(reason)s)
    on conflict (sink_id, name) do update
   set asked_at = excluded.asked_at,
       refused_at = case when %(reason)s::text is not null then coalesce(voice.refused_at, excluded.refused_at)
                         else voice.refused_at end,
       refused_reason = coalesce(excluded.refused_reason, voice.refused_reason)
"""


class Voice(NamedTuple):
    """One that is asked by itself, and up to where it was heard; None if it never was."""

    name: str
    heard_until: dt.datetime | None


class Voices:
    """The verbs about what of a sink is asked by itself. Each is one short transaction, but for `find`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listener(self, sink: str) -> int:
        """Make a sink known that no meter feeds, and that is heard all the same; return its id."""
        with self._database.transaction() as connection:
            connection.execute(ADD_SINK, {"name": sink})
            row = connection.execute(FIND_SINK, {"name": sink}).fetchone()
        assert row is not None, "what was added is there"
        return int(row[0])

    def find(self, sink_id: int, account_of: Callable[[str], str | None], now: dt.datetime) -> None:
        """Get to know the accounts that events went to since the last look. `account_of` says where a customer is."""
        with self._database.transaction() as connection:
            row = connection.execute(FIND_UNTIL, {"sink_id": sink_id}).fetchone()
        until = row[0] if row else None
        start = max(until - LATE, now - LOOK_BACK) if until else now - LOOK_BACK
        while start < now:
            end = min(start + PIECE, now)
            self._look(sink_id, account_of, start, end)
            start = end

    def due(self, sink_id: int, now: dt.datetime, again_after: dt.timedelta, limit: int) -> list[Voice]:
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
        with self._database.transaction() as connection:
            return [Voice._make(row) for row in connection.execute(DUE, values)]

    def named(self, sink_id: int, name: str, now: dt.datetime, again_after: dt.timedelta) -> Voice | None:
        """Return one that is no account, known or not; None if it refused, and is not to be asked yet."""
        values = {"sink_id": sink_id, "name": name, "refused_before": now - again_after}
        with self._database.transaction() as connection:
            row = connection.execute(OF_NAME, values).fetchone()
        return Voice._make(row) if row else None

    def heard(self, sink_id: int, name: str, until: dt.datetime, now: dt.datetime) -> None:
        """Note that everything it told before an instant is taken."""
        values = {"sink_id": sink_id, "name": name, "until": until, "now": now}
        with self._database.transaction() as connection:
            connection.execute(HEARD, values)

    def unheard(self, sink_id: int, name: str, reason: str | None, now: dt.datetime) -> None:
        """Note that it was asked in vain: it gave no answer, or, with a reason, it refuses to be asked."""
        values = {"sink_id": sink_id, "name": name, "reason": reason, "now": now}
        with self._database.transaction() as connection:
            connection.execute(UNHEARD, values)

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
