"""Adoption where a window of ours holds several of the hours of which the sink keeps the newest number: it matters in which
of them the number lies.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from aggregator.core.model import (
    Answer,
    Decreases,
    Event,
    Span,
    WriteModel,
)
from aggregator.core.windows import floor
from aggregator.errors import LedgerError, LedgerStopped
from aggregator.ledger.database import Database
from tests.fakes import LIMITS
from tests.postgres.restore import Backup, PinnedWorld, StripeLike, back_up, restore
from tests.postgres.test_adoption import everything, quiet_down, use
from tests.postgres.world import HOUR, METER, MINUTE, START

HOURLY = replace(LIMITS, write_model=WriteModel.OVERWRITE, newest_of=HOUR)


class Hourly(StripeLike):
    """A sink that keeps, of each UTC hour of a customer, the number that it received last."""

    def _book(self, event: Event, now: dt.datetime) -> Answer:
        answer = super()._book(event, now)
        used, kept = self.most(event.customer), sum(self.hours(event.customer).values())
        assert kept <= used, f"{event.customer} is billed {kept} of {used}"
        return answer

    def hours(self, customer: str) -> dict[dt.datetime, Decimal]:
        """Return what is kept of a customer."""
        return {
            floor(event.at, HOUR): event.total for _, event in self.bookings if event.customer == customer
        }

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Return what is kept of the span, step by step."""
        self.calls += 1
        steps: dict[dt.datetime, Decimal] = {}
        for hour, total in self.hours(customer).items():
            if hour in span:
                steps[floor(hour, step)] = steps.get(floor(hour, step), Decimal(0)) + total
        return {start: much for start, much in steps.items() if much}


class WideWorld(PinnedWorld):
    """A daemon whose windows are longer than an hour, on a sink that keeps the newest number of each hour."""

    def __init__(self, database: Database, directory: Path, window: dt.timedelta) -> None:
        meter = replace(METER, window=window, decreases=Decreases.APPLY, shrink_guard=Decimal(1))
        super().__init__(database, directory, meter=meter, sinks=[Hourly(lambda: self.now, limits=HOURLY)])
        feeds = tuple(feed._replace(model=WriteModel.OVERWRITE) for feed in self.registered.feeds)
        self.registered = self.registered._replace(feeds=feeds)
        self.collection.registered = self.registered
        assert self.identity.check(self.now) is None
        self.hourly.most = lambda customer: self.source.totals().get(customer, Decimal(0))

    @property
    def hourly(self) -> Hourly:
        """The one sink."""
        assert isinstance(self.sink, Hourly)
        return self.sink

    def hours(self, customer: str = "cus_1") -> dict[int, Decimal]:
        """Return what the sink has of a customer, by hours since the start."""
        return {int((hour - START) / HOUR): total for hour, total in self.hourly.hours(customer).items()}

    def cycle(self) -> None:
        """Read and send once the first window has ended."""
        self.at(self.meter.window / HOUR, 10)
        self.collect()
        self.deliver()

    def lose(self, backup: Backup, *, passes: bool = False) -> None:
        """Put a backup back, and let a daemon find out; with `passes`, once it has planned everything anew."""
        restore(self.database, backup)
        if passes:
            self.collect()
            with pytest.raises(LedgerStopped):
                self.deliver()
        assert self.identity.check(self.now, stops=True)

    def stamped(self) -> dt.datetime | None:
        """Return where the customer's first slot is stamped."""
        found: dt.datetime | None = self.one(
            "select stamped_at from aggregator.slot where customer = 'cus_1' and window_start = %s", START
        )
        return found


@pytest.fixture(params=[6, 24])
def world(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> WideWorld:
    return WideWorld(database, tmp_path / "state", request.param * HOUR)


def test_what_was_forgotten_is_overwritten_where_it_lies(world: WideWorld) -> None:
    """A slot that the ledger never knew is stamped in the hour that has its number: what comes late replaces that."""
    backup = back_up(world.database)
    use(world, 3, 10)
    world.cycle()
    world.lose(backup)
    [compared] = world.adopt()
    assert (compared.windows, compared.taken_over, compared.split_windows) == (1, 10, [])
    assert world.stamped() == START + 3 * HOUR
    assert world.one("select at from aggregator.event where state = 'confirmed'") == START + 3 * HOUR
    use(world, 4, 2)
    quiet_down(world)
    assert world.hours() == {3: 12}


def test_what_was_planned_anew_moves_to_where_the_number_lies(world: WideWorld) -> None:
    """Planned again before the stop, a slot has another last use, and another hour, than what was sent and forgotten."""
    backup = back_up(world.database)
    use(world, 3, 10)
    world.cycle()
    use(world, 5, 2)
    world.lose(backup, passes=True)
    assert world.stamped() == START + 5 * HOUR + 10 * MINUTE
    world.adopt()
    assert world.stamped() == START + 3 * HOUR
    quiet_down(world)
    assert world.hours() == {3: 12}


def test_an_hour_that_the_ledger_still_knows_stays(world: WideWorld) -> None:
    """Where only a later revision was forgotten, the slot keeps its instant, and what is taken over has the same."""
    use(world, 3, 10)
    world.cycle()
    backup = back_up(world.database)
    use(world, 4, 2)
    world.collect()
    world.deliver()
    assert world.hours() == {3: 12}
    world.lose(backup)
    [compared] = world.adopt()
    assert (compared.windows, compared.taken_over) == (1, 2)
    at = "select array_agg(at order by revision) from aggregator.event where customer = 'cus_1'"
    assert world.one(at) == [START + 3 * HOUR + 10 * MINUTE] * 2
    use(world, 5, 1)
    quiet_down(world)
    assert world.hours() == {3: 13}


def test_what_the_sink_lacks_is_sent_where_it_was_planned(world: WideWorld) -> None:
    """Where the sink has nothing of a window, no hour of it is better than the one that the ledger knows."""
    use(world, 3, 10)
    world.cycle()
    world.hourly.bookings.clear()
    world.hourly.booked.clear()
    world.adoption().stop(world.now)
    [compared] = world.adopt()
    assert compared.missing == 10
    assert world.stamped() == START + 3 * HOUR + 10 * MINUTE
    quiet_down(world)
    assert world.hours() == {3: 10}


def test_a_stamp_beside_the_number_is_put_right(world: WideWorld) -> None:
    """A slot may agree to the unit and be stamped in a wrong hour: its next total would be billed beside the other."""
    use(world, 3, 10)
    world.cycle()
    world.execute("update aggregator.slot set stamped_at = window_start")
    world.adoption().stop(world.now)
    [compared] = world.adopt()
    assert (compared.windows, compared.taken_over, compared.missing) == (1, 0, 0)
    assert world.rows("select revision, stamped_at from aggregator.slot") == [(1, START + 3 * HOUR)]
    before = everything(world)
    world.adoption().stop(world.now)
    [again] = world.adopt()
    assert (again.windows, everything(world)) == (0, before)
    use(world, 4, 2)
    quiet_down(world)
    assert world.hours() == {3: 12}


def test_numbers_in_several_hours_are_for_a_person(world: WideWorld) -> None:
    """No total replaces two of them. They are named, and nothing is adopted until a person has left one of them."""
    backup = back_up(world.database)
    use(world, 3, 10)
    world.cycle()
    by_hand = world.hourly.received[-1]._replace(identifier="by hand", at=START + 5 * HOUR)
    world.hourly.most = lambda customer: Decimal(14)
    world.hourly._book(by_hand._replace(total=Decimal(4), delta=Decimal(4)), world.now)
    world.lose(backup)
    before = everything(world)
    with pytest.raises(LedgerError, match="Overwrite all but one of each with 0") as refused:
        world.adopt()
    told = "api_requests of cus_1 in fake: 10 in 2026-11-01T03:00Z, 4 in 2026-11-01T05:00Z"
    assert told in str(refused.value)
    with world.adoption().survey(world.now) as survey:
        assert [str(window) for each in survey.compared for window in each.split_windows] == [told]
    assert everything(world) == before
    assert world.one("select generation from aggregator.identity") == 0
    world.hourly._book(by_hand._replace(identifier="zero", total=Decimal(0), delta=Decimal(-4)), world.now)
    world.now += HOUR
    world.adopt()
    use(world, 4, 2)
    quiet_down(world)
    assert world.hours() == {3: 12, 5: 0}
