"""What is on record of one customer's windows of a meter: events with all that happened to them, and what was read. Nothing
here writes, except what was read from the source just now into a table of the transaction's own.

Rules
- Slots are found by their whole key, window by window: what it costs is told by the windows that are asked about, and not by
  how many customers there are.
- Of events all is looked up by their ids. Identifiers have no index: to find one is a scan, of the latest first.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from aggregator.core import definitions, windows
from aggregator.core.dimensions import Dimensions
from aggregator.core.explanation import (
    CancelFact,
    Decided,
    EventFact,
    Evidence,
    Now,
    Parked,
    PassFact,
    Plain,
    Try,
    WindowFacts,
)
from aggregator.core.model import ZERO, Definition, Span, State
from aggregator.core.statement import Entry
from aggregator.ledger import combinations
from aggregator.ledger.archived import Archived, Beside, Question
from aggregator.ledger.archives import ARCHIVE, FROM_ARCHIVE, Archive
from aggregator.ledger.database import Connection, Database, Part, streamed
from aggregator.ledger.meters import definitions_of
from aggregator.ledger.passes.changes import stage
from aggregator.ledger.passes.evidence import TAKEN
from aggregator.ledger.passes.spool import Spool

FEEDS = """
select feed.id, meter.id, meter.name, sink.name, feed.ordered, meter.mark, feed.since, feed.until
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 where (%(meter)s::text is null or meter.name = %(meter)s)
 order by meter.name, sink.name
"""

EVENT_BY_ID = "select feed_id, customer, window_start, combination from aggregator.event where id = %(event)s"
EVENT_BY_IDENTIFIER = """
select feed_id, customer, window_start, combination from aggregator.event
 where identifier = %(identifier)s and planned_at > %(since)s order by id desc limit 1
"""

ARCHIVES = f"""
select {ARCHIVE} {FROM_ARCHIVE}
 where removed_until > month and (%(event)s::bigint is null or %(event)s between first_event and last_event)
 order by month desc, meter.name
"""

LOOKED_FOR_WITHIN = (dt.timedelta(days=3), dt.timedelta(days=60), dt.timedelta(days=36_500))
"""How long ago an event was planned whose identifier is looked for: first a little, then all."""

OF_CUSTOMER = """
  from unnest(%(starts)s::timestamptz[]) as asked (start)
  join aggregator.slot on slot.feed_id = %(feed)s and slot.window_start = asked.start and slot.customer = %(customer)s
"""

# Whether more happened than that a window was read once and accepted at once; of each of its combinations.
SLOTS = f"""
select slot.window_start, slot.combination, slot.quantity, slot.total,
       slot.revision > 1
       or coalesce(event.state not in ('accepted', 'confirmed') or event.attempts > 1, false)
       or exists (select from aggregator.cancellation where cancellation.event_id = event.id)
       {OF_CUSTOMER}
  left join aggregator.event on event.id = slot.tail
 order by 1, 2
"""  # noqa: S608 - our own text

EVENTS = f"""
select slot.window_start, event.id, event.revision, event.delta, event.total, coalesce(event.quantity, event.total),
       event.at, event.identifier, event.planned_at, event.state::text, event.reason, event.attempts, event.exposed_at,
       event.attempted_at, event.settled_at, nullif(event.transport, ''), event.request_id,
       pass.id, pass.kind, pass.started_at, pass.seconds,
       parked.since, parked.reason, parked.look_at, parked.dismissed_at, parked.was_accepted, parked.moved_with,
       rejection.received_at, rejection.reason, claim.id, claim.name, outbox.due_at, slot.combination
       {OF_CUSTOMER}
 cross join lateral aggregator.events_of(slot.id, slot.revision > 1) as event
  left join aggregator.pass on pass.id = event.pass_id
  left join aggregator.parked on parked.event_id = event.id
  left join aggregator.outbox on outbox.event_id = event.id
  left join lateral (
        select received_at, reason from aggregator.rejection
         where rejection.sink_id = any(array(select id from aggregator.sink))
           and rejection.identifier = event.identifier and rejection.event_id = event.id
         limit 1
       ) as rejection on true
  left join lateral (
        select claim.id, file.name from aggregator.claim left join aggregator.file on file.claim_id = claim.id
         where claim.claimed_at = event.attempted_at and event.id = any(claim.events) limit 1
       ) as claim on true
 order by slot.window_start, slot.combination, event.revision
"""  # noqa: S608 - our own text

ENTRIES = f"""
select event.id, slot.window_start, event.revision, event.delta, event.total, coalesce(event.quantity, event.total),
       event.state::text, parked.dismissed_at is not null, event.planned_at, event.settled_at, event.identifier,
       event.request_id, coalesce(parked.reason, event.reason), slot.combination
       {OF_CUSTOMER}
 cross join lateral aggregator.events_of(slot.id, slot.revision > 1) as event
  left join aggregator.parked on parked.event_id = event.id
 where event.state <> 'void'
 order by slot.window_start, slot.combination, event.revision
"""

# Each event is looked up by the index: all attempts, with a hundred events each, would be compared with all of these.
TRIES = """
select named.event, at, answer, reason, request_ids[array_position(events, named.event)]
  from unnest(%(events)s::bigint[]) as named (event)
 cross join lateral (select * from aggregator.attempt where attempt.events @> array[named.event] offset 0) as attempt
 order by attempt.id
"""

CANCELLING = """
select event_id, asked_at, state, settled_at, answer from aggregator.cancellation
 where event_id = any(%(events)s) order by id
"""

DECIDED = """
select named.event, decided_at, verb, who, reason
  from unnest(%(events)s::bigint[]) as named (event)
 cross join lateral (select * from aggregator.decision where decision.events @> array[named.event] offset 0) as decision
 order by decision.id
"""

EVIDENCE = """
select window_start, pass_id, coalesce(pass.started_at, 'epoch'), evidence.rows, quantity, checksum
  from aggregator.evidence left join aggregator.pass on pass.id = pass_id
 where evidence.meter_id = %(meter)s and window_start = any(%(starts)s::timestamptz[])
 order by window_start, pass_id
"""

UNREAD = """
select window_start, reason from aggregator.unread
 where meter_id = %(meter)s and window_start = any(%(starts)s::timestamptz[])
"""

UNUSABLE = """
select window_start, combination, min(reason) from aggregator.unmapped
 where meter_id = %(meter)s and window_start = any(%(starts)s::timestamptz[]) and customer = %(customer)s group by 1, 2
"""

# What was read just now, beside what was read before. A span was read completely, so what is not there is zero; a customer
# with an unusable row stays as known. A float that differs by no more than the order of its rows can make has not changed.
COMPARED = f"""
with asked as (
    select start from unnest(%(starts)s::timestamptz[]) as asked (start)
), whole as (
    select window_start, {TAKEN} from reading where window_start in (select start from asked) group by 1
), seen as (
    select window_start, customer, combination, sum(quantity) as quantity, bool_or(reason is not null) as spoilt
      from reading
     where customer is not null and combination is not null and window_start in (select start from asked) group by 1, 2, 3
), both_said as (
    select window_start, customer, combination, coalesce(slot.quantity, 0) as before,
           case when seen.spoilt then coalesce(slot.quantity, 0) else coalesce(seen.quantity, 0) end as now
      from seen
      full join (
            select window_start, customer, combination, quantity from aggregator.slot
             where feed_id = %(feed)s and window_start in (select start from asked)
           ) as slot using (window_start, customer, combination)
), compared as (
    select window_start, count(distinct customer) filter (where differs) as customers,
           sum(now - before) filter (where differs) as change
      from (select *, now <> before
                      and (%(exact)s or abs(now - before) > least(%(unit)s / 2,
                           greatest(%(unit)s / 1e9, 2 * %(noise)s * greatest(abs(now), abs(before))))) as differs
              from both_said) as each_customer
     group by 1
)
select start, own.combination, coalesce(own.now, 0), coalesce(whole.rows, 0), coalesce(whole.quantity, 0),
       coalesce(whole.checksum, 0), coalesce(compared.customers, 0), coalesce(compared.change, 0)
  from asked
  left join both_said as own on own.window_start = start and own.customer = %(customer)s
  left join compared on compared.window_start = start
  left join whole on whole.window_start = start
"""  # noqa: S608 - our own text

FOREVER = dt.datetime.max.replace(tzinfo=dt.UTC)


class ExplainedFeed(NamedTuple):
    """What a meter sends to a sink, as far as it is to be explained."""

    id: int
    meter_id: int
    meter: str
    sink: str
    last: bool
    mark: dt.datetime
    since: dt.datetime
    until: dt.datetime
    """The end of all time, if it has none."""


class Place(NamedTuple):
    """Where an event belongs."""

    feed: ExplainedFeed
    customer: str
    window: Span
    dimensions: Dimensions


class Known(NamedTuple):
    """The windows of a customer in a feed: which combinations of them have a story, and what the others come to."""

    feed: ExplainedFeed
    with_story: Sequence[tuple[dt.datetime, Dimensions]]
    plain: Plain


class Facts(Part):
    """The question what is on record of a number."""

    def __init__(self, database: Database, archived: Archived | None = None) -> None:
        super().__init__(database)
        self._archived = archived or Archived()

    def feeds(self, meter: str | None = None) -> list[ExplainedFeed]:
        """Return the feeds that a meter has or had, or those of all meters."""
        return [_feed(row) for row in self._rows(FEEDS, {"meter": meter})]

    def definitions(self, feed: ExplainedFeed) -> tuple[Definition, ...]:
        """Return by which queries, and in which windows, the feed's meter is read, in the order of time."""
        with self._database.transaction() as connection:
            return definitions_of(connection, feed.meter_id)

    def place(self, event: str, now: dt.datetime) -> Place | None:
        """Return where the event of an id, or of an identifier, belongs; None if there is none."""
        row = self._row(EVENT_BY_ID, {"event": int(event)}) if event.isdecimal() and len(event) < 19 else None
        for within in () if row is not None else LOOKED_FOR_WITHIN:
            row = self._row(EVENT_BY_IDENTIFIER, {"identifier": event, "since": now - within})
            if row is not None:
                break
        row = row or self._archived_place(event)
        if row is None:
            return None
        feed_id, customer, start, combination = row
        feed = next(each for each in self.feeds() if each.id == feed_id)
        length = definitions.at(self.definitions(feed), start).window
        with self._database.transaction() as connection:
            known = combinations.named(connection, [combination])
        return Place(feed, customer, Span(start, start + length), known[combination])

    def _archived_place(self, event: str) -> tuple[int, str, dt.datetime, int] | None:
        """Return where an event belongs whose month is archived: of an id only those files are read that may hold it."""
        number = int(event) if event.isdecimal() and len(event) < 19 else None
        with self._database.transaction() as connection:
            archives = [Archive._make(row) for row in connection.execute(ARCHIVES, {"event": number})]
        for archive in archives:
            row = self._archived.find(archive, number, event)
            if row is not None:
                return row.feed_id, row.customer, row.window_start, row.combination
        return None

    def known(self, feed: ExplainedFeed, customer: str, span: Span) -> Known:
        """Return which windows of a customer have a story; the others are counted."""
        starts = list(_starts(self.definitions(feed), span))
        values = {"feed": feed.id, "customer": customer, "starts": starts}
        with self._database.transaction(looks=True) as connection:
            beside = self._beside(connection, feed, customer, starts)
            rows = connection.execute(beside(SLOTS), values).fetchall()
            known = combinations.named(connection, {row[1] for row in rows})
        stories = sorted((start, known[combination]) for start, combination, _, _, story in rows if story)
        others = [row for row in rows if not row[-1]]
        plain = Plain(
            feed.meter,
            feed.sink,
            len({start for start, *_ in others}),
            sum((quantity for _, _, quantity, _, _ in others), ZERO),
            sum((total for _, _, _, total, _ in others), ZERO),
        )
        return Known(feed, stories, plain)

    def windows(self, feed: ExplainedFeed, customer: str, starts: Sequence[dt.datetime]) -> list[WindowFacts]:
        """Return all that is on record of some windows of a customer, in their order, and of each combination by itself.

        Where nothing was read of the customer, that is of the empty one.
        """
        values = {"feed": feed.id, "meter": feed.meter_id, "customer": customer, "starts": list(starts)}
        with self._database.transaction(looks=True) as connection:
            beside = self._beside(connection, feed, customer, starts)
            known = definitions_of(connection, feed.meter_id)
            rows = connection.execute(beside(SLOTS), values).fetchall()
            events = _events(connection, values, beside)
            evidence = defaultdict(list)
            for start, *kept in connection.execute(EVIDENCE, values):
                evidence[start].append(Evidence._make(kept))
            unread = dict(connection.execute(UNREAD, values).fetchall())
            unusable = {tuple(place): reason for *place, reason in connection.execute(UNUSABLE, values)}
            without_slot = {
                (start, combination, None, ZERO, True)
                for start, combination in unusable
                if combination is not None
            }
            rows += [row for row in without_slot if row[:2] not in {each[:2] for each in rows}]
            named = combinations.named(connection, {row[1] for row in rows})
        slots: dict[dt.datetime, list[tuple[Dimensions, int, Decimal | None, Decimal]]] = defaultdict(list)
        for start, combination, quantity, total, _ in rows:
            slots[start].append((named[combination], combination, quantity, total))
        found = []
        for start in starts:
            definition = definitions.at(known, start)
            for apart, combination, quantity, total in sorted(slots[start]) or [((), 0, None, ZERO)]:
                place = (start, combination)
                found.append(
                    WindowFacts(
                        feed.meter, feed.sink, customer, Span(start, start + definition.window), quantity, total, definition,
                        feed.last, feed.mark, Span(feed.since, feed.until), events[place], evidence[start],
                        unread.get(start), unusable.get(place), apart, unusable.get((start, None)),
                    )
                )  # fmt: skip
        return found

    def entries(self, feed: ExplainedFeed, customer: str, span: Span) -> Iterator[Entry]:
        """Yield what was planned for a customer over a span, window by window, but for what was withdrawn.

        The transaction lasts as long as the iterator.
        """
        with self._database.transaction(looks=True) as connection:
            known = definitions_of(connection, feed.meter_id)
            starts = list(_starts(known, span))
            beside = self._beside(connection, feed, customer, starts)
            values = {"feed": feed.id, "customer": customer, "starts": starts}
            named = combinations.of_meter(connection, feed.meter_id)
            rows = streamed(connection, beside(ENTRIES), values, 2_000)
            for event, start, *said, state, dismissed, at, settled, name, request, reason, apart in rows:
                window = Span(start, start + definitions.at(known, start).window)
                rest = (State(state), dismissed, at, settled, name, request, reason, named[apart])
                yield Entry._make((event, window, *said, *rest))

    def compare(
        self,
        feed: ExplainedFeed,
        customer: str,
        starts: Sequence[dt.datetime],
        readings: Spool,
        unit: Decimal,
        now: Now,
    ) -> dict[tuple[dt.datetime, Dimensions], Now]:
        """Return what was read of windows just now, compared with what was read before; `now` says when, and from where.

        Of each combination that the customer has or had; where there is none, of the empty one.
        """
        values = {
            "feed": feed.id,
            "customer": customer,
            "starts": list(starts),
            "exact": not readings.noise,
            "noise": readings.noise,
            "unit": unit,
        }
        with self._database.transaction(looks=True) as connection:
            beside = self._beside(connection, feed, None, starts)
            stage(connection, readings, unit)
            rows = connection.execute(beside(COMPARED), values).fetchall()
            new = {number: combination for combination, number in readings.combinations.items()}
            old = combinations.named(connection, {row[1] for row in rows if row[1] not in new} - {None})
        names = {**new, **old}
        found = {}
        for start, combination, quantity, many, total, checksum, customers, change in rows:
            apart = () if combination is None else names[combination]
            found[start, apart] = now._replace(
                quantity=quantity, rows=many, sum=total, checksum=checksum, customers=customers, change=change
            )
        return found

    def _beside(
        self, connection: Connection, feed: ExplainedFeed, customer: str | None, starts: Sequence[dt.datetime]
    ) -> Beside:
        """Lay what is archived of some windows beside the ledger's own, of a customer or of all."""
        if not starts:
            return str
        span = Span(min(starts), max(starts) + dt.timedelta(microseconds=1))
        customers = None if customer is None else [customer]
        return self._archived.beside(connection, Question([feed.id], span, customers, starts=starts))


def _feed(row: tuple[Any, ...]) -> ExplainedFeed:
    *others, until = row
    return ExplainedFeed._make((*others, until or FOREVER))


def _starts(known: Sequence[Definition], span: Span) -> Iterator[dt.datetime]:
    """Yield the windows of a span, each as long as its definition says."""
    for definition, piece in definitions.pieces(known, span):
        for window in windows.tile(piece, definition.window):
            yield window.start


def _events(
    connection: Connection, values: dict[str, object], beside: Beside
) -> "defaultdict[tuple[dt.datetime, int], list[EventFact]]":
    """Return the events of windows and combinations, each with its tries and what a person asked of it."""
    rows = connection.execute(beside(EVENTS), values).fetchall()
    ids = {"events": [row[1] for row in rows]}
    tries, cancelling = defaultdict(list), defaultdict(list)
    for event, at, state, *said in connection.execute(beside(TRIES), ids):
        tries[event].append(Try(at, State(state), *said))
    for event, *asked in connection.execute(CANCELLING, ids):
        cancelling[event].append(CancelFact._make(asked))
    decided = defaultdict(list)
    for event, *what in connection.execute(DECIDED, ids):
        decided[event].append(Decided._make(what))
    found = defaultdict(list)
    for row in rows:
        start, event, *own = row[:17]
        own[7] = State(own[7])
        planned_by = PassFact._make(row[17:21]) if row[17] is not None else None
        parked = Parked._make(row[21:27]) if row[21] is not None else None
        later = (*row[27:29], cancelling[event], *row[29:32], decided[event])
        found[start, row[32]].append(EventFact._make((event, *own, planned_by, tries[event], parked, *later)))
    return found
