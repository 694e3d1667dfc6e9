"""Source, ledger and sink compared on a real ledger: what is found, with how few reads, and what a repair leaves behind."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.collection.open_windows import read_open
from aggregator.core.drift import Cause, Repair
from aggregator.core.model import Answer, Decreases, Event, Rejection, Report, Span, WriteModel
from aggregator.core.readbacks import Finding, decide
from aggregator.errors import CustomerUnknown, MetersMixed
from aggregator.ledger.database import Database
from aggregator.ledger.drift import Asked, DriftReport, FeedLine
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import Choice, ParkedEvents
from aggregator.ledger.review.rejections import refuse_known, take_report
from aggregator.ledger.review.repairs import Done, Proposal, Repairs
from aggregator.reconciliation.drift_finder import DriftFinder, Found, Line, Summary
from tests.fakes import LIMITS, FakeSink
from tests.postgres.world import HOUR, METER, START, World

DAY = dt.timedelta(days=1)
D = Decimal


class CountingSink(FakeSink):
    """A sink that counts what it is asked."""

    def __init__(self, **fields: object) -> None:
        super().__init__(limits=replace(LIMITS, **fields))  # type: ignore[arg-type]
        self.reads: list[tuple[str, dt.timedelta]] = []
        self.unknown: set[str] = set()
        self.mixed = False
        self.noise = D(0)

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> dict[dt.datetime, Decimal]:
        """Count a read, and return what was booked."""
        self.reads.append((customer, step))
        return self.summed(meter, customer, span, step)

    def summed(self, meter: str, customer: str, span: Span, step: dt.timedelta) -> dict[dt.datetime, Decimal]:
        """Return what was booked, as the floats that a summary shows."""
        if self.mixed:
            raise MetersMixed
        if customer in self.unknown:
            raise CustomerUnknown(f"There is no customer {customer}.")
        found = super().breakdown(meter, customer, span, step)
        return {start: Decimal(repr(float(much))) + self.noise for start, much in found.items()}

    def book(self, customer: str, at: dt.datetime, much: int, name: str = "stray") -> None:
        """Book what somebody else sends."""
        like = next(iter(self.identifiers.values()))
        self.identifiers[name] = like._replace(
            customer=customer, at=at, delta=D(much), total=D(much), identifier=name
        )

    def forget(self, customer: str, delta: int) -> Event:
        """Lose an event of a customer."""
        name = next(
            name
            for name, event in self.identifiers.items()
            if (event.customer, event.delta) == (customer, D(delta))
        )
        return self.identifiers.pop(name)


class Compared:
    """A world whose first days are compared."""

    def __init__(self, database: Database, days: int = 3, **meter: object) -> None:
        self.sink = CountingSink()
        self.world = World(database, meter=replace(METER, **meter), sinks=[self.sink])  # type: ignore[arg-type]
        self.days, self.first = days, START

    def settled(self) -> "Compared":
        """Let everything be read and sent, and long enough ago."""
        self.world.at(24 * self.days + 1)
        self.round()
        self.world.at(24 * (self.days + 2))
        return self

    def round(self) -> None:
        """Read what is due, and send it."""
        self.world.collect()
        self.world.deliver()

    def later(self) -> None:
        """Let what was sent be long enough ago."""
        self.world.now += 27 * HOUR

    @property
    def line(self) -> Line:
        """What is compared."""
        world, feed = self.world, self.world.registered.feeds[0]
        return Line(
            METER.name,
            feed.sink,
            FeedLine(feed.id, world.registered.id, feed.since, feed.until),
            Span(self.first, START + self.days * DAY),
            world.meters.definitions(world.registered),
            world.meter.unit,
            world.one("select mark from aggregator.meter") - world.meter.revisit,
        )

    def compare(
        self, late: str | None = None, customer: str | None = None, *, every_hour: bool = False
    ) -> tuple[list[Found], Summary]:
        """Compare all three."""
        line, report = self.line, DriftReport(self.world.database)
        with Spool() as spool:
            read_open(self.world.source, line.known, line.span, spool)
            asked = Asked(line.span, spool, line.unit)
            lines = list(report.days(line.feed, line.span, asked, customer and [customer]))
        finder = DriftFinder(report, line, self.sink, self.world.now, late, every_hour=every_hour)
        return list(finder.compare(lines)), finder.summary

    def said(self, late: str | None = None) -> list[tuple[str, int, Cause, Decimal]]:
        """Return what differs: customer, hour, cause and amount."""
        return [
            (found.place.customer, (found.place.span.start - START) // HOUR, each.cause, each.amount)
            for found in self.compare(late)[0]
            for each in found.differences
        ]

    def repair(self, found: Sequence[Found] | None = None) -> list[Done]:
        """Put right what differs."""
        feed = self.world.registered.feeds[0]

        def name(
            customer: str, start: dt.datetime, revision: int, stamped_at: dt.datetime | None
        ) -> Proposal:
            at = (stamped_at or start) if self.sink.limits.write_model is WriteModel.OVERWRITE else start
            return Proposal(f"{customer} {start:%d%H} {revision}", at)

        repairs = Repairs(self.world.database)
        line = FeedLine(feed.id, self.world.registered.id, feed.since, feed.until)
        return [
            repairs.put_right(line, each.place, each.differences, name, self.world.now)
            for each in (self.compare()[0] if found is None else found)
        ]

    def states(self, customer: str) -> list[tuple[str, Decimal]]:
        """Return the events of a customer, in their order."""
        return self.world.rows(
            "select state::text, delta from aggregator.event where customer = %s order by id", customer
        )

    def balanced(self) -> bool:
        """Tell whether the ledger agrees with itself."""
        feed = self.world.registered.feeds[0].id
        return DriftReport(self.world.database).unbalanced(feed, None, 10) == []


@pytest.fixture
def three(database: Database) -> Compared:
    """Three customers with usage on two days each, all of it billed."""
    compared = Compared(database)
    for number, customer in enumerate(("cus_a", "cus_b", "cus_c")):
        for hour in (2, 3, 30):
            compared.world.source.use(customer, START + hour * HOUR, hour + number)
    return compared.settled()


def test_what_agrees_costs_one_read_per_customer(three: Compared) -> None:
    """All days of a customer come by one read, and no hours are asked for."""
    found, summary = three.compare()
    assert found == []
    assert three.sink.reads == [(customer, DAY) for customer in ("cus_a", "cus_b", "cus_c")]
    assert (summary.customers, summary.days, summary.events, summary.reads) == (3, 6, 9, 3)
    assert summary.whole[1:] == (*[D(2 * 3 + 3 * 35 + 3)] * 4, D(0), 0)


def test_hours_are_asked_for_where_a_day_differs(three: Compared) -> None:
    """One read more for the customer whose day differs, and none for the others."""
    three.sink.book("cus_b", START + 5 * HOUR, 500)
    assert three.said() == [("cus_b", 5, Cause.FOREIGN, D(-500))]
    assert sorted(three.sink.reads) == sorted(
        [("cus_a", DAY), ("cus_b", DAY), ("cus_b", HOUR), ("cus_c", DAY)]
    )


def test_what_cancels_out_within_a_day_is_seen_by_its_hours(three: Compared) -> None:
    """Days alone do not show it; the hours of every day do, at a read for each four days."""
    three.sink.book("cus_b", START + 5 * HOUR, 4)
    three.sink.forget("cus_b", 4)
    assert three.said() == []
    found, summary = three.compare(every_hour=True)
    assert [(each.place.span.start, each.differences[0].cause) for each in found] == [
        (START + 3 * HOUR, Cause.MISSING),
        (START + 5 * HOUR, Cause.FOREIGN),
    ]
    assert summary.reads == 6


def test_each_place_of_a_change_has_its_cause(three: Compared) -> None:
    """Changes at the source, in the sink and by both are told apart, each with its hour."""
    source = three.world.source
    source.use("cus_a", START + 3 * HOUR, 1)
    source.uses = [use for use in source.uses if use[:2] != ("cus_b", START + 2 * HOUR)]
    three.sink.forget("cus_c", 32)
    three.sink.book("cus_c", START + 3 * HOUR, 7)
    assert three.said() == [
        ("cus_a", 3, Cause.LATE, D(1)),
        ("cus_b", 2, Cause.CHANGED, D(-3)),
        ("cus_c", 3, Cause.FOREIGN, D(-7)),
        ("cus_c", 30, Cause.MISSING, D(32)),
    ]
    _, summary = three.compare()
    assert (summary.changed, summary.rose) == ({"cus_a", "cus_b"}, D(-2))


def test_a_customer_without_usage_in_the_span_is_asked_about_too(database: Database) -> None:
    """Somebody else may send usage of a customer who used nothing of late."""
    compared = Compared(database)
    compared.world.source.use("cus_a", START + 60 * HOUR, 1)
    compared.settled().days = 2
    assert compared.said() == []
    compared.sink.book("cus_a", START + 5 * HOUR, 4)
    assert compared.said() == [("cus_a", 5, Cause.FOREIGN, D(-4))]


def test_what_was_billed_before_the_feed_bills_is_nobodys_difference(database: Database) -> None:
    """Whoever billed before has sent it: whole days of it, and the hours of the day in which the feed takes over."""
    compared = Compared(database, start_at=START + 6 * HOUR)
    compared.world.source.use("cus_a", START + 7 * HOUR, 3)
    compared.settled()
    for hour, name in ((-30, "a"), (-2, "b"), (5, "c")):
        compared.sink.book("cus_a", START + hour * HOUR, 9, name)
    compared.first = START - 2 * DAY
    assert compared.said() == []
    _, summary = compared.compare()
    assert (summary.whole.billed, summary.whole.in_sink) == (D(3), D(3))
    compared.sink.book("cus_a", START + 6 * HOUR, 4, "d")
    assert compared.said() == [("cus_a", 6, Cause.FOREIGN, D(-4))]


def test_a_customer_whom_the_ledger_does_not_know_is_asked_about_if_named(three: Compared) -> None:
    """Nobody can list who has usage at Stripe; whoever is suspected is named."""
    three.sink.book("cus_other", START + 5 * HOUR, 4)
    assert three.said() == []
    [found], _ = three.compare(customer="cus_other")
    assert (found.place.customer, found.differences[0].cause) == ("cus_other", Cause.FOREIGN)


def test_a_customer_whom_the_sink_does_not_know_is_left_unchecked(three: Compared) -> None:
    """The others are compared, and who was not is said."""
    three.sink.unknown.add("cus_b")
    found, summary = three.compare()
    assert found == []
    assert summary.unasked == ["There is no customer cus_b."]


def test_a_customer_whom_the_sink_need_not_know_yet_is_checked(three: Compared) -> None:
    """It has accepted nothing of that one, so there is nothing of which it could say otherwise."""
    three.world.source.use("cus_later", START + 40 * HOUR, 5)
    three.world.collect()
    three.sink.unknown.add("cus_later")
    [found], summary = three.compare()
    assert (found.place.customer, [each.cause for each in found.differences]) == (
        "cus_later",
        [Cause.PENDING],
    )
    assert summary.unasked == []


@pytest.mark.usefixtures("says_what_changed")
def test_nothing_is_missing_while_totals_are_late(three: Compared) -> None:
    """Events stay as they are, whatever the totals lack; a repair does nothing."""
    three.sink.forget("cus_a", 30)
    assert three.said(late="summaries are delayed") == [("cus_a", 30, Cause.PENDING, D(30))]
    found, _ = three.compare(late="summaries are delayed")
    assert three.repair(found) == [Done()]
    assert three.said() == [("cus_a", 30, Cause.MISSING, D(30))]


@pytest.mark.usefixtures("says_what_changed")
def test_what_is_missing_is_planned_anew(three: Compared) -> None:
    """The lost event is refused, another one goes out in its place, and nothing more does."""
    three.sink.forget("cus_a", 30)
    [done] = three.repair()
    assert (len(done.planned), done.held, done.read_again) == (1, None, True)
    three.round()
    assert three.said() == []
    assert three.states("cus_a")[-1] == ("accepted", D(30))
    assert [state for state, _ in three.states("cus_a")].count("refused") <= 1
    sent = len(three.sink.received)
    assert three.repair() == []
    three.later()
    three.round()
    assert (len(three.sink.received), three.balanced()) == (sent, True)


@pytest.mark.usefixtures("says_what_changed")
def test_what_is_too_much_becomes_a_proposal_that_a_person_decides_about(three: Compared) -> None:
    """Nothing is lowered by itself: the event is held; released, it makes all three equal."""
    three.sink.book("cus_b", START + 3 * HOUR, 500)
    [done] = three.repair()
    assert (done.taken_over, done.held is not None) == (D(500), True)
    for _ in range(3):
        three.world.now += HOUR
        three.round()
    assert three.said() == [("cus_b", 3, Cause.PENDING, D(-500))]
    assert three.repair() == [Done()]
    assert done.held is not None
    three.world.outbox.release([done.held], three.world.now)
    three.world.deliver()
    assert three.said() == []
    assert sum(event.delta for event in three.sink.identifiers.values()) == sum(
        three.world.source.totals().values()
    )
    assert three.balanced()


@pytest.mark.usefixtures("says_what_changed")
def test_a_proposal_is_held_whatever_the_meter_says(database: Database) -> None:
    """Also where decreases are applied, only a person lowers what a sink holds."""
    compared = Compared(database, decreases=Decreases.APPLY)
    compared.world.source.use("cus_a", START + 2 * HOUR, 5)
    compared.settled().sink.book("cus_a", START + 2 * HOUR, 3)
    compared.repair()
    before = len(compared.sink.received)
    for _ in range(3):
        compared.world.now += HOUR
        compared.round()
    assert len(compared.sink.received) == before


def test_what_replaces_a_proposal_is_held_as_well(database: Database) -> None:
    """Whatever is read in its window since, and read again an hour later, only a person lowers what the sink holds."""
    compared = Compared(database, decreases=Decreases.APPLY, revisit=20 * DAY)
    at = START + 70 * HOUR
    compared.world.source.use("cus_a", at, 5)
    compared.settled().sink.book("cus_a", at, 500)
    compared.repair()
    before, usage = len(compared.sink.received), D(5)
    for much in (1, 2, -7):
        compared.world.source.use("cus_a", at, much)
        usage += much
        for _ in range(2):
            compared.world.now += 25 * HOUR
            compared.round()
        [waiting] = ParkedEvents(database).waiting(Choice(state="held"), 10)
        assert (waiting.delta, waiting.total, waiting.guard) == (usage - 505, usage, "repair")
        assert compared.balanced()
    assert len(compared.sink.received) == before
    compared.world.outbox.release([waiting.event], compared.world.now)
    compared.world.deliver()
    assert (len(compared.sink.received), compared.said(), compared.balanced()) == (before + 1, [], True)


def test_more_usage_than_was_proposed_to_take_back_goes_out(database: Database) -> None:
    """Only what lowers a bill waits for a person: an increase by the rest needs nobody."""
    compared = Compared(database)
    compared.world.source.use("cus_a", START + 70 * HOUR, 5)
    compared.settled().sink.book("cus_a", START + 70 * HOUR, 3)
    compared.repair()
    compared.world.source.use("cus_a", START + 70 * HOUR, 4)
    compared.world.now += HOUR
    compared.round()
    assert compared.said() == []
    assert [each for each in compared.states("cus_a") if each[0] != "void"][-1] == ("accepted", D(1))
    assert compared.balanced()


@pytest.mark.usefixtures("says_what_changed")
def test_what_somebody_lowered_is_sent_once_more(three: Compared) -> None:
    """The ledger takes the sink's word, and the next pass plans what the source says beyond it."""
    three.sink.book("cus_b", START + 3 * HOUR, -2)
    assert three.said() == [("cus_b", 3, Cause.FOREIGN, D(2))]
    three.repair()
    three.round()
    assert three.said() == []
    assert three.states("cus_b")[-2:] == [("confirmed", D(-2)), ("accepted", D(2))]
    assert three.balanced()


@pytest.mark.parametrize("by", [1, -1])
def test_a_ledger_that_differs_alone_sends_nothing(three: Compared, by: int) -> None:
    """Source and sink agree: the ledger takes that over, and nobody is sent anything."""
    three.world.execute("alter table aggregator.event_at_rest disable trigger event_is_frozen")
    three.world.execute(
        "update aggregator.event_at_rest set delta = delta + %s, total = total + %s where customer = 'cus_b' and delta = 4",
        by,
        by,
    )
    three.world.execute(
        "update aggregator.slot set quantity = quantity + %s, total = total + %s where customer = 'cus_b' and quantity = 4",
        by,
        by,
    )
    assert three.said() == [("cus_b", 3, Cause.UNEXPLAINED, D(0))]
    before = len(three.sink.received)
    three.repair()
    three.round()
    assert (three.said(), len(three.sink.received), three.balanced()) == ([], before, True)


def test_a_contradiction_in_the_ledger_is_named_and_left(three: Compared) -> None:
    """A slot that does not stand where its events lead is no ground for anything."""
    three.world.execute(
        "update aggregator.slot set total = total + 1, quantity = quantity + 1 where customer = 'cus_a' and quantity = 3"
    )
    [found], _ = three.compare()
    assert [(each.cause, each.repair) for each in found.differences] == [(Cause.UNEXPLAINED, Repair.NONE)]
    assert three.repair() == [Done()]
    three.world.execute(
        "update aggregator.slot set total = total - 1 where customer = 'cus_a' and quantity = 4"
    )
    assert not three.balanced()


@pytest.mark.usefixtures("says_what_changed")
def test_usage_of_a_customer_without_a_slot_is_proposed_too(three: Compared) -> None:
    """A slot is made for it, so that it is on record and can be taken back."""
    three.sink.book("cus_c", START + 8 * HOUR, 9)
    [done] = three.repair()
    assert done.held is not None
    three.world.outbox.release([done.held], three.world.now)
    three.round()
    assert (three.said(), three.balanced()) == ([], True)


@pytest.mark.usefixtures("says_what_changed")
def test_what_changed_since_it_was_compared_is_left(three: Compared) -> None:
    """A figure proves nothing of a slot that has moved on: nothing is written."""
    three.sink.book("cus_b", START + 3 * HOUR, 500)
    found, _ = three.compare()
    three.world.source.use("cus_b", START + 3 * HOUR, 1)
    three.world.now += HOUR
    three.round()
    [done] = three.repair(found)
    assert done.left is not None
    assert ("confirmed", D(500)) not in three.states("cus_b")


@pytest.mark.usefixtures("says_what_changed")
def test_a_slot_with_an_event_that_waits_is_left(three: Compared) -> None:
    """A slot has one event at most that is not settled: a person decides about that first."""
    source = three.world.source
    source.uses = [use for use in source.uses if use[:2] != ("cus_b", START + 2 * HOUR)]
    three.world.now += HOUR
    three.round()
    three.sink.book("cus_b", START + 2 * HOUR, 500)
    dones = three.repair()
    assert [done.left is not None for done in dones] == [True]


@pytest.mark.usefixtures("says_what_changed")
def test_several_windows_of_one_hour_are_compared_by_hours(database: Database) -> None:
    """A sink shows no quarter of an hour by itself: the hour is compared, and put right as a whole."""
    compared = Compared(database, window=HOUR / 4)
    for quarter in range(8):
        compared.world.source.use("cus_a", START + quarter * HOUR / 4, quarter + 1)
    compared.settled()
    assert compared.said() == []
    compared.sink.forget("cus_a", 7)
    assert compared.said() == [("cus_a", 1, Cause.MISSING, D(7))]
    compared.repair()
    compared.round()
    assert (compared.said(), compared.balanced()) == ([], True)


@pytest.mark.parametrize("decreases", list(Decreases))
@pytest.mark.parametrize("by", [1, -1])
def test_a_ledger_that_differs_alone_in_one_of_several_windows_sends_nothing(
    database: Database, by: int, decreases: Decreases
) -> None:
    """What is taken over stands in the window that differs: the next pass finds nothing to raise there, or to lower."""
    compared = Compared(database, window=HOUR / 4, decreases=decreases)
    for quarter in range(4):
        compared.world.source.use("cus_a", START + 70 * HOUR + quarter * HOUR / 4, 10 * (quarter + 1))
    compared.settled()
    compared.world.execute("alter table aggregator.event_at_rest disable trigger event_is_frozen")
    for table, figure in (("event_at_rest", "delta"), ("slot", "quantity")):
        compared.world.execute(
            f"update aggregator.{table} set {figure} = {figure} + %s, total = total + %s where {figure} = 20",
            by,
            by,
        )
    assert compared.said() == [("cus_a", 70, Cause.UNEXPLAINED, D(0))]
    before = len(compared.sink.received)
    compared.repair()
    compared.world.now += HOUR
    compared.round()
    assert (compared.said(), len(compared.sink.received), compared.balanced()) == ([], before, True)


def test_what_a_repair_took_over_of_an_hour_is_not_owed_again(database: Database) -> None:
    """What an hour lacked in one window was taken over with what it had too much in another: a report counts no more."""
    compared = Compared(database, window=HOUR / 4)
    at = START + 70 * HOUR
    for quarter, much in enumerate((10, 4)):
        compared.world.source.use("cus_a", at + quarter * HOUR / 4, much)
    compared.settled()
    lost = compared.sink.forget("cus_a", 4)
    compared.sink.book("cus_a", at, 500)
    [done] = compared.repair()
    assert (done.taken_over, done.held is not None) == (D(496), True)
    feed = compared.world.registered.feeds[0]
    report = Report("evt_1", METER.name, Span(at, at + HOUR), 1, (Rejection(lost.identifier, "late"),))
    with database.transaction() as connection:
        assert take_report(connection, feed.sink_id, report, compared.world.now, None) == ([], False)
        assert refuse_known(connection, [lost.id], "not there", compared.world.now) == []
    assert done.held is not None
    compared.world.outbox.release([done.held], compared.world.now)
    compared.round()
    assert sum(event.delta for event in compared.sink.identifiers.values()) == 14
    assert (compared.said(), compared.balanced()) == ([], True)


def test_a_binary_fraction_is_proposed_as_the_decimal_it_stands_for(database: Database) -> None:
    """What sums of fractions leave behind is never sent to anybody."""
    compared = Compared(database, decimals=2)
    for minute, much in enumerate(("0.1", "0.2")):
        compared.world.source.use("cus_a", START + (70 + minute) * HOUR, D(much))
    compared.settled()
    compared.sink.book("cus_a", START + 70 * HOUR, 500)
    compared.sink.noise = D("1e-14")
    [done] = compared.repair()
    assert done.taken_over == D(500)
    assert compared.balanced()


def test_days_are_compared_as_wholes_where_windows_are(database: Database) -> None:
    """A window of a day needs no hours."""
    compared = Compared(database, window=DAY)
    compared.world.source.use("cus_a", START + 3 * HOUR, 5)
    compared.settled().sink.book("cus_a", START + 3 * HOUR, 2)
    assert compared.said() == [("cus_a", 0, Cause.FOREIGN, D(-2))]
    assert [step for _, step in compared.sink.reads] == [DAY]


def test_what_a_repair_took_over_in_one_window_proves_nothing_in_another(database: Database) -> None:
    """An event in doubt is not believed present because a stranger's, of the same minute and amount, was repaired away.

    What was taken over of an hour stands in one window of it; whoever looks at another one looks at the whole hour.
    """
    compared = Compared(database, window=HOUR / 4)
    doubted = START + 70 * HOUR + HOUR / 2
    compared.world.source.use("cus_a", START + 70 * HOUR, 10)
    compared.settled().sink.book("cus_a", doubted, 4)
    [done] = compared.repair()
    assert done.held is not None
    compared.world.outbox.release([done.held], compared.world.now)
    compared.round()
    compared.later()
    compared.world.source.use("cus_a", doubted, 4)
    compared.sink.fault = lambda event: Answer.UNKNOWN
    compared.world.collect()
    compared.world.deliver()
    compared.world.now += 25 * HOUR
    compared.world.deliver()
    compared.later()
    [event] = compared.world.rows("select id from aggregator.event where state = 'in_doubt'")
    in_doubt = InDoubt(database)
    [open_one] = in_doubt.open(compared.world.registered.feeds[0].sink_id, compared.world.now, DAY, 10)
    figure = compared.sink.total(METER.name, "cus_a", open_one.span)
    [concluded] = decide(open_one, figure)
    assert (concluded.event, concluded.finding) == (event[0], Finding.ABSENT)


def test_what_is_added_up_with_other_meters_is_not_compared(three: Compared) -> None:
    """Nobody is called equal, nobody differs, and why is said once."""
    three.sink.mixed = True
    found, summary = three.compare()
    assert (found, set(summary.unasked)) == ([], {MetersMixed.__doc__})
