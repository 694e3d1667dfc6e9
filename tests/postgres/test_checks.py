"""The check that never sleeps: every accepted event is compared once, within what a sink may be asked."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from aggregator.core.model import Answer, Event, Span
from aggregator.ledger.database import Database
from aggregator.ledger.drift import DriftReport
from aggregator.ledger.reads import Reads
from aggregator.ledger.review.checks import Checks, Coverage
from aggregator.reconciliation.checker import Checked, Checker
from aggregator.reconciliation.drift_finder import Line
from aggregator.sinks.read_allowance import BLOCK, ReadAllowance
from tests.postgres.test_drift import Compared
from tests.postgres.world import HOUR, METER, START

D = Decimal


def checker(
    compared: Compared,
    *,
    at_once: int = 500,
    may_ask: Callable[[], bool] = lambda: True,
    late: Callable[[], str | None] = lambda: None,
) -> Checker:
    """Return what checks the one sink."""
    world = compared.world
    feed = world.registered.feeds[0]

    def line(_: int, span: Span) -> Line:
        return compared.line._replace(span=span)

    return Checker(
        Checks(world.database),
        DriftReport(world.database),
        compared.sink,
        feed.sink_id,
        {feed.id: METER.name},
        line,
        may_ask=may_ask,
        late=late,
        at_once=at_once,
    )


def coverage(compared: Compared) -> Coverage:
    """Return how much was compared."""
    [found] = Checks(compared.world.database).coverage()
    return found


def check(compared: Compared, **settings: object) -> Checked:
    """Let rounds run until there is no more to do."""
    whole = Checked()
    body = checker(compared, **settings)  # type: ignore[arg-type]
    for _ in range(20):
        part = body.run_once(compared.world.now)
        whole.add_counts(part)
        whole.found += part.found
        if not part.more:
            return whole
    raise AssertionError("a check does not come to an end")


@pytest.fixture
def sent(database: Database) -> Compared:
    """Four customers with two events each, all of them sent just now."""
    compared = Compared(database)
    for number in range(4):
        for hour in (2, 30):
            compared.world.source.use(f"cus_{number}", START + hour * HOUR, hour + number)
    compared.world.at(73)
    compared.round()
    return compared


def test_events_are_checked_once_their_totals_must_be_there(sent: Compared) -> None:
    """Not before, and each of them once: a second round asks nothing."""
    assert check(sent).customers == 0
    assert coverage(sent).listed == 0
    sent.world.now += 27 * HOUR
    done = check(sent)
    assert (done.customers, done.events, done.reads, done.differing) == (4, 8, 4, 0)
    assert coverage(sent)[1:3] == (8, 8)
    assert coverage(sent).oldest is None
    reads = len(sent.sink.reads)
    assert check(sent).customers == 0
    assert len(sent.sink.reads) == reads


def test_what_differs_goes_on_record_and_leaves_it_once_it_is_put_right(sent: Compared) -> None:
    """Nothing is put right by itself; what was repaired is compared again with the next event of the customer."""
    sent.sink.book("cus_1", START + 2 * HOUR, 500)
    sent.sink.forget("cus_2", 32)
    sent.world.now += 27 * HOUR
    done = check(sent)
    assert (done.differing, done.needs_person) == (2, True)
    assert "the rest is not ours" in " ".join(done.found)
    found = coverage(sent)
    assert (found.places, found.lacks, found.beyond) == (2, D(32), D(500))
    before = len(sent.sink.received)
    sent.round()
    assert len(sent.sink.received) == before
    [done_right, _] = sorted(sent.repair(), key=lambda each: each.held is None)
    assert done_right.held is not None
    sent.world.outbox.release([done_right.held], sent.world.now)
    sent.round()
    sent.world.now += 27 * HOUR
    check(sent)
    assert coverage(sent).places == 0


def test_who_was_suspicious_comes_first(sent: Compared) -> None:
    """Then by the age of what is unchecked; a round takes a few customers."""
    sent.world.execute("update aggregator.event_at_rest set attempts = 2 where customer = 'cus_3'")
    sent.world.now += 27 * HOUR
    body = checker(sent, at_once=1)
    assert body.run_once(sent.world.now).more
    assert [customer for customer, _ in sent.sink.reads] == ["cus_3"]
    found = coverage(sent)
    assert (found.listed, found.checked, found.customers) == (8, 2, 3)
    assert found.oldest is not None
    assert sent.world.now - found.oldest > 26 * HOUR


def test_nothing_is_asked_while_totals_are_late(sent: Compared) -> None:
    """What they lack they may yet have; what is unchecked stays so, and its age is seen."""
    sent.sink.forget("cus_0", 2)
    sent.world.now += 27 * HOUR
    done = checker(sent, late=lambda: "summaries are delayed").run_once(sent.world.now)
    assert (done.late, done.customers, sent.sink.reads) == ("summaries are delayed", 0, [])
    assert coverage(sent).unchecked == 8


def test_what_may_not_be_asked_waits(sent: Compared) -> None:
    """With the day's reads used up, the others are looked at the next day, and no event is struck off."""
    sent.world.now += 27 * HOUR
    allowed = iter([True, True, True, False, False, False, False, False])
    checker(sent, may_ask=lambda: next(allowed, False)).run_once(sent.world.now)
    found = coverage(sent)
    assert found.checked < found.listed == 8
    assert found.checked == 2 * len(sent.sink.reads)


def test_what_was_not_settled_yet_is_not_passed_over(database: Database) -> None:
    """An event whose answer was lost, and that is taken by another attempt, is checked once, and first."""
    compared = Compared(database)
    for number in range(2):
        compared.world.source.use(f"cus_{number}", START + 2 * HOUR, 5)
    compared.world.at(73)

    def lost(event: Event) -> Answer | None:
        return Answer.UNKNOWN if event.customer == "cus_0" else None

    compared.sink.fault = lost
    compared.round()
    compared.sink.fault = lambda event: None
    compared.world.deliver_later()
    compared.world.now += 27 * HOUR
    check(compared)
    found = coverage(compared)
    assert (found.listed, found.checked) == (2, 2)


def test_a_customer_whom_the_sink_does_not_know_is_looked_at_again(sent: Compared) -> None:
    """Nothing is concluded of them, and nobody else waits."""
    sent.sink.unknown.add("cus_1")
    sent.world.now += 27 * HOUR
    done = check(sent)
    assert (done.customers, done.waiting) == (3, 1)
    sent.sink.unknown.clear()
    assert check(sent).customers == 0
    sent.world.now += 7 * HOUR
    assert check(sent).customers == 1


def test_all_processes_count_the_reads_of_a_day_together(sent: Compared) -> None:
    """What one has used, another does not have; and what is not declared has no end."""
    sink = sent.world.registered.feeds[0].sink_id
    reads = Reads(sent.world.database)

    def allowance(per_day: int | None) -> ReadAllowance:
        return ReadAllowance(100.0, per_day, lambda much: reads.book(sink, much))

    one, other = allowance(4 * BLOCK), allowance(4 * BLOCK)
    for _ in range(2 * BLOCK):
        one.take()
    assert (one.left, other.left) == (True, True)
    for _ in range(BLOCK + 1):
        other.take()
    assert not other.left
    assert one.reads == 2 * BLOCK
    assert allowance(None).left
    assert reads.today() == {"fake": 5 * BLOCK}
