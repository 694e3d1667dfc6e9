"""A small world with a history: four months, billed as they went, with corrections, failed tries and a dismissed event."""

import datetime as dt
import uuid
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aggregator.archive.archiver import Archiver
from aggregator.archive.places import Directory, Place
from aggregator.archive.reader import ArchiveReader
from aggregator.core.explanation import WindowFacts
from aggregator.core.model import Answer, Meter, Span
from aggregator.core.usage import By
from aggregator.ledger.archived import Archived
from aggregator.ledger.archives import Archives
from aggregator.ledger.database import Database
from aggregator.ledger.drift import DriftReport, FeedLine
from aggregator.ledger.facts import Facts
from aggregator.ledger.parity import PlannedUsage
from aggregator.ledger.usage import UsageReport
from aggregator.ledger.usage_windows import UsageWindows
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.conftest import TEMPLATE
from tests.postgres.world import METER, World

DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 7, 1, tzinfo=dt.UTC)
"""The world's clock is at the beginning of November: July and August are older than two months, and September is."""

CUSTOMERS = ("cus_ada", "cus_bob", "cus_Zoë")
WHOLE = Span(START, dt.datetime(2026, 11, 1, tzinfo=dt.UTC))
HISTORIC = replace(METER, window=6 * HOUR, start_at=START, revisit=10 * DAY)


def historic(database: Database, meter: Meter = HISTORIC) -> World:
    """Return a world that has billed four months, a few days at a time."""
    world = World(database, meter=meter)
    for number in range((WHOLE.end - WHOLE.start) // DAY):
        for place, customer in enumerate(CUSTOMERS):
            if (number + place) % 3:
                apart = dict.fromkeys(meter.dimensions, f"large {number % 2}")
                at = START + number * DAY + (number % 4) * 6 * HOUR + place * HOUR
                world.source.use(customer, at, Decimal(number * 7 + place) / 4 + 1, **apart)
    tries = iter(range(10**6))
    world.sink.fault = lambda _event: Answer.BUSY if next(tries) % 11 == 0 else None
    for number in range(5, (WHOLE.end - WHOLE.start) // DAY + 1, 5):
        world.now = START + number * DAY + HOUR
        world.source.use("cus_late", world.now - 7 * DAY, Decimal(3))
        if number % 20 == 0:
            world.source.use("cus_ada", world.now - 8 * DAY, Decimal("2.5"))
        if number == 30:
            world.sink.refused = {"cus_bob"}
        world.collect()
        world.deliver()
        if number == 30:
            world.sink.refused = set()
            world.execute("update aggregator.parked set dismissed_at = %s where state = 'refused'", world.now)
        world.deliver_later()
    world.now = WHOLE.end + HOUR
    world.sink.fault = lambda _event: None
    world.collect()
    world.deliver()
    return world


def after_history(database: Database, meter: Meter = HISTORIC) -> World:
    """Return a world on a ledger that has that behind it."""
    world = World(database, meter=meter)
    world.now = WHOLE.end + 2 * HOUR
    return world


@pytest.fixture(scope="session")
def lived(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A ledger of four months, made once by each worker: each test has a copy."""
    name = f"lived_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} template {TEMPLATE}")
    with Database(postgres.url(name)) as database:
        historic(database)
    yield name
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


class History:
    """The ledger's archives of such a world, and its questions."""

    def __init__(self, world: World, place: Place, keep: int = 2) -> None:
        self.world = world
        self.place = place
        self.archives = Archives(world.database)
        archived = Archived(ArchiveReader(place))
        self.usage = UsageReport(world.database, archived)
        self.facts = Facts(world.database, archived)
        self.drift = DriftReport(world.database, archived)
        self.parity = PlannedUsage(world.database, archived)
        self.windows = UsageWindows(world.database)
        self.archiver = Archiver(self.archives, place, keep, lambda: self.ledger_id)

    @property
    def ledger_id(self) -> str:
        """As identifiers begin."""
        return str(self.world.one("select ledger_id::text from aggregator.identity"))

    def answers(self, span: Span = WHOLE) -> Iterator[tuple[str, Any]]:
        """Yield what each question of the reports is answered."""
        [feed] = self.usage.feeds(None, span)
        for by in (None, *By):
            yield f"usage by {by}", list(self.usage.lines(feed, span, by))
            for customer in CUSTOMERS:
                yield (
                    f"usage of {customer} by {by}",
                    list(self.usage.lines(feed, span, by, customer=customer)),
                )
            yield (
                f"customers by {by}",
                [found.lines for found in self.usage.of_customers(span, CUSTOMERS, by).feeds],
            )
        yield "of one customer", self.usage.of_customer(feed, span, "cus_ada", By.DAY)
        yield "some customers", self.usage.some_customers(feed, span, 2, 1)
        yield "slots by hour", self.windows.slots(feed.id, span)
        [explained] = self.facts.feeds()
        for customer in (*CUSTOMERS, "cus_late", "cus_nobody"):
            known = self.facts.known(explained, customer, span)
            yield f"stories of {customer}", known
            starts = [start for start, _ in known.with_story]
            yield f"windows of {customer}", self.facts.windows(explained, customer, starts)
            yield f"entries of {customer}", list(self.facts.entries(explained, customer, span))
            yield f"events of {customer}", self.drift.customer(feed.id, customer, span)
            yield f"combinations of {customer}", self.drift.combinations(feed.id, customer, span)
        line = FeedLine(feed.id, feed.meter_id, feed.since, feed.until)
        yield "days", list(self.drift.days(line, span))
        yield "days of some", list(self.drift.days(line, span, customers=["cus_ada"]))
        for by_day in (True, False):
            yield f"parity by {by_day}", list(self.parity.places(feed.id, 0, span, by_day=by_day))
        yield "out of balance", self.drift.unbalanced(feed.id, None, 10)

    def left(self) -> dict[str, int]:
        """Return how many slots each month has in the ledger."""
        return dict(
            self.world.rows(
                "select to_char(window_start, 'YYYY-MM'), count(*) from aggregator.slot group by 1 order by 1"
            )
        )


def in_directory(world: World, directory: Path) -> History:
    """Return the archives of a world in a directory."""
    return History(world, Directory(directory))


def without_claims(answers: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Return answers by question, but for the claims that events went by: those go with the last event of theirs."""
    return {
        question: [_without_claims(each) for each in answer] if question.startswith("windows of") else answer
        for question, answer in answers
    }


def _without_claims(facts: WindowFacts) -> WindowFacts:
    return facts._replace(events=[event._replace(delivery=None) for event in facts.events])
