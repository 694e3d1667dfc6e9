"""Combinations of dimensions compared one by one, with a sink that tells them apart: sums would hide what is swapped."""

import datetime as dt
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.core.dimensions import Dimensions
from aggregator.core.drift import Cause
from aggregator.core.model import Span
from aggregator.core.windows import floor
from aggregator.errors import CustomerUnknown
from aggregator.ledger.database import Database
from aggregator.reconciliation.drift_finder import Line
from tests.postgres.test_drift import DAY, Compared, CountingSink, D
from tests.postgres.world import HOUR, METER, START, World

LARGE, NEW, SMALL = ((("model", model),) for model in ("large", "new", "small"))


class ApartSink(CountingSink):
    """A sink that tells what it has of each combination, unless it has no figures for them."""

    tells = True

    def __init__(self) -> None:
        super().__init__()
        self.days: list[tuple[str, int]] = []
        """Over how many days it was asked of whom."""

    def by_combination(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> dict[Dimensions, dict[dt.datetime, Decimal]] | None:
        """Return what was booked of each."""
        if not self.tells:
            return None
        self.reads.append((customer, step))
        self.days.append((customer, (span.end - span.start) // DAY))
        if customer in self.unknown:
            raise CustomerUnknown(f"There is no customer {customer}.")
        found: dict[Dimensions, dict[dt.datetime, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for event in self.identifiers.values():
            if (event.meter, event.customer) == (meter, customer) and event.at in span:
                found[event.dimensions][floor(event.at, step)] += event.delta
        return {each: dict(figures) for each, figures in found.items()}


class Apart(Compared):
    """A meter with a dimension, whose combinations are compared."""

    sink: ApartSink

    def __init__(self, database: Database) -> None:
        self.sink = ApartSink()
        meter = replace(METER, dimensions=("model",), fingerprint="d" * 64)
        self.world = World(database, meter=meter, sinks=[self.sink])
        self.days, self.first = 3, START

    @property
    def line(self) -> Line:
        """What is compared."""
        return super().line._replace(is_apart=True)

    def of_each(self) -> list[tuple[str, Dimensions | None, int, Cause, Decimal]]:
        """Return what differs: customer, combination, hour, cause and amount."""
        return [
            (
                each.place.customer,
                each.place.dimensions,
                (each.place.span.start - START) // HOUR,
                its.cause,
                its.amount,
            )
            for each in self.compare()[0]
            for its in each.differences
        ]

    def exchange(self, customer: str) -> None:
        """Let the sink have 30 of the small model as usage of the large one, in the same hour."""
        self.sink.forget(customer, 30)
        self.book_of(LARGE, customer, 30)

    def book_of(self, combination: Dimensions, customer: str, much: int) -> None:
        """Book what somebody else sends of a combination."""
        self.sink.book(customer, START + 3 * HOUR, much)
        stray = self.sink.identifiers["stray"]
        self.sink.identifiers["stray"] = stray._replace(dimensions=combination)


def two_customers(database: Database) -> Apart:
    """Return two customers with usage of two models on two days, all of it billed."""
    compared = Apart(database)
    for customer in ("cus_a", "cus_b"):
        for hour in (2, 3, 30):
            for model, much in (("large", hour), ("small", 10 * hour)):
                compared.world.source.use(customer, START + hour * HOUR, much, model=model)
    compared.settled()
    return compared


@pytest.fixture
def apart(database: Database) -> Apart:
    """Two customers, all of whose usage is billed."""
    return two_customers(database)


def test_what_agrees_costs_no_more_reads(apart: Apart) -> None:
    """One for all days of a customer, as without dimensions."""
    found, summary = apart.compare()
    assert (found, summary.reads, summary.whole.in_sink) == ([], 2, 770)
    assert apart.sink.reads == [("cus_a", DAY), ("cus_b", DAY)]


def test_what_one_combination_lacks_and_another_has_too_much_of_is_seen(apart: Apart) -> None:
    """Their sum agrees. What is missing is planned anew; what is too much of a combination is for a person."""
    apart.exchange("cus_b")
    assert apart.of_each() == [
        ("cus_b", LARGE, 3, Cause.FOREIGN, -30),
        ("cus_b", SMALL, 3, Cause.MISSING, 30),
    ]
    assert apart.compare()[1].whole.in_sink == 770
    by_hand, anew = apart.repair()
    assert by_hand.left is not None
    assert "put it right there by hand" in by_hand.left
    assert len(anew.planned) == 1
    apart.round()
    apart.later()
    assert apart.of_each() == [("cus_b", LARGE, 3, Cause.FOREIGN, -30)]
    assert apart.balanced()


def test_what_waits_is_of_its_combination(apart: Apart) -> None:
    """Beside a combination that differs, each event on its way is told once."""
    apart.sink.forget("cus_a", 30)
    apart.world.source.use("cus_a", START + 2 * HOUR, 5, model="large")
    apart.world.collect()
    assert apart.of_each() == [
        ("cus_a", LARGE, 2, Cause.PENDING, 5),
        ("cus_a", SMALL, 3, Cause.MISSING, 30),
    ]


def test_what_has_changed_at_the_source_is_of_its_combination(apart: Apart) -> None:
    """So is what the sink lacks on the same day, and what nothing was read of yet."""
    apart.world.source.use("cus_a", START + 2 * HOUR, 5, model="large")
    apart.world.source.use("cus_a", START + 3 * HOUR, 7, model="new")
    apart.sink.forget("cus_a", 20)
    assert apart.of_each() == [
        ("cus_a", LARGE, 2, Cause.LATE, 5),
        ("cus_a", NEW, 3, Cause.LATE, 7),
        ("cus_a", SMALL, 2, Cause.MISSING, 20),
    ]


def test_an_exchange_at_the_source_is_seen_though_its_sum_is_the_same(apart: Apart) -> None:
    """What is the large model's by now, and was read as the small one's."""
    apart.world.source.use("cus_a", START + 2 * HOUR, 5, model="large")
    apart.world.source.use("cus_a", START + 2 * HOUR, -5, model="small")
    assert apart.of_each() == [
        ("cus_a", LARGE, 2, Cause.LATE, 5),
        ("cus_a", SMALL, 2, Cause.CHANGED, -5),
    ]


def test_what_the_sink_has_already_by_the_source_s_word_is_of_its_combination(apart: Apart) -> None:
    """Source and sink agree of it, and the ledger alone lags behind."""
    apart.world.source.use("cus_a", START + 3 * HOUR, 5, model="large")
    apart.book_of(LARGE, "cus_a", 5)
    assert apart.of_each() == [("cus_a", LARGE, 3, Cause.UNEXPLAINED, 0)]


def test_where_the_sink_tells_no_combinations_sums_are_compared(apart: Apart) -> None:
    """Of the source's change, too."""
    apart.sink.tells = False
    apart.world.source.use("cus_a", START + 2 * HOUR, 5, model="large")
    apart.sink.forget("cus_a", 20)
    assert apart.of_each() == [("cus_a", None, 2, Cause.LATE, 5), ("cus_a", None, 2, Cause.MISSING, 20)]


def test_a_sink_without_such_figures_is_asked_for_sums(apart: Apart) -> None:
    """And of a customer whom it does not know nothing is said."""
    apart.sink.unknown.add("cus_b")
    assert apart.of_each() == []
    apart.sink.tells = False
    apart.sink.unknown.clear()
    apart.sink.forget("cus_a", 30)
    assert apart.of_each() == [("cus_a", None, 3, Cause.MISSING, D(30))]
