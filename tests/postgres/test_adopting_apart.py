"""Adoption of a ledger whose usage is kept apart by dimensions: each combination ends as the source has it, billed once."""

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.cli.adopt import adopt
from aggregator.core.dimensions import Dimensions, of_mapping
from aggregator.core.model import Answer, Event, Meter, Span
from aggregator.core.windows import floor
from aggregator.errors import CustomerUnknown, LedgerError, LedgerStopped
from aggregator.ledger.database import Database
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from tests.postgres.restore import (
    DAY,
    FATES,
    LAG,
    Backup,
    PinnedWorld,
    StripeLike,
    any_use,
    back_up,
    half_hours,
    restore,
)
from tests.postgres.test_checks_apart import laboratory
from tests.postgres.world import HOUR, METER, MINUTE, START

pytestmark = pytest.mark.usefixtures("says_what_changed")

BY_MODEL = replace(METER, dimensions=("model",), fingerprint="d" * 64)
LARGE, SMALL, HUGE = ((("model", name),) for name in ("large", "small", "huge"))

Place = tuple[str, Dimensions]


class ApartLike(StripeLike):
    """A sink that tells combinations apart, unless it has no figures for them; and that nobody bills too much by."""

    tells = True
    unknown: str | None = None

    def __init__(self, clock: Callable[[], dt.datetime]) -> None:
        super().__init__(clock)
        self.most_of: Callable[[Place], Decimal] = lambda place: Decimal("Infinity")

    def _book(self, event: Event, now: dt.datetime) -> Answer:
        answer = super()._book(event, now)
        place = event.customer, event.dimensions
        assert self.of()[place] <= self.most_of(place), f"{place} is billed {self.of()[place]}"
        return answer

    def of(self) -> dict[Place, Decimal]:
        """Return what is booked of each combination."""
        sums: dict[Place, Decimal] = defaultdict(Decimal)
        for _, event in self.bookings:
            sums[event.customer, event.dimensions] += event.delta
        return sums

    def by_combination(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[Dimensions, Mapping[dt.datetime, Decimal]] | None:
        """Return what was counted so far of each."""
        assert step in (HOUR, DAY)
        assert not (span.start - START) % step
        assert not (span.end - START) % step
        if not self.tells:
            return None
        if customer == self.unknown:
            raise CustomerUnknown(f"Nobody is called {customer}.")
        self.calls += 1
        found: dict[Dimensions, dict[dt.datetime, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for at, event in self.bookings:
            if (event.meter, event.customer) == (meter, customer) and event.at in span:
                found[event.dimensions][floor(event.at, step)] += (
                    event.delta if at <= self.clock() - LAG else 0
                )
        return found


class ApartWorld(PinnedWorld):
    """A daemon on such a sink."""

    @property
    def apart(self) -> ApartLike:
        """The one sink."""
        assert isinstance(self.sink, ApartLike)
        return self.sink


def begin(database: Database, directory: Path, meter: Meter = BY_MODEL) -> ApartWorld:
    """Begin with an empty ledger, on a sink that is never given more of a combination than was used of it."""
    sink = ApartLike(lambda: START)
    world = ApartWorld(database, directory / "state", meter=meter, sinks=[sink])
    assert world.identity.check(world.now) is None
    return watched(world)


def watched(world: ApartWorld) -> ApartWorld:
    """Let the sink keep this daemon's time, and see that nothing is billed twice."""
    world.apart.clock = lambda: world.now
    world.apart.most_of = lambda place: used(world).get(place, Decimal(0))
    return world


def used(world: ApartWorld) -> dict[Place, Decimal]:
    """Return what the source has of each combination."""
    sums: dict[Place, Decimal] = defaultdict(Decimal)
    for customer, _, quantity, values in world.source.kept_apart:
        sums[str(customer), of_mapping({name: str(value) for name, value in values.items()})] += quantity
    return sums


def use(world: ApartWorld, hour: int, model: str, quantity: int | str, customer: str = "cus_1") -> None:
    """Let a customer use something of a model in an hour."""
    world.source.use(customer, START + hour * HOUR + 10 * MINUTE, Decimal(quantity), model=model)


def cycle(world: ApartWorld, hours: float) -> None:
    """Let a daemon read and send, so many hours after the start."""
    world.at(hours, 10)
    world.collect()
    world.deliver()


def lose(world: ApartWorld, backup: Backup) -> None:
    """Put a backup back, and let a daemon find out."""
    restore(world.database, backup)
    use(world, int((world.now - START) / HOUR) - 1, "large", 1, "cus_straw")
    world.collect()
    with pytest.raises(LedgerStopped):
        world.deliver()


def quiet_down(world: ApartWorld) -> None:
    """Let a daemon go on without faults until nothing is left to do."""
    world.like.fate = lambda event: "book"
    for _ in range(4):
        world.now += 35 * MINUTE
        world.like.land()
        world.collect()
        world.deliver()


def equal(world: ApartWorld) -> None:
    """Assert that the sink has what the source says of each combination, and that the ledger says so too."""
    world.check_balance()
    unit = Decimal(1).scaleb(-world.meter.decimals)
    truth = {place: much.quantize(unit, ROUND_FLOOR) for place, much in used(world).items()}
    assert {place: much for place, much in world.apart.of().items() if much} == {
        place: much for place, much in truth.items() if much
    }
    in_ledger = world.rows(
        "select slot.customer, combination.dimensions, sum(slot.total) from aggregator.slot"
        "  join aggregator.combination on combination.id = slot.combination group by 1, 2"
    )
    assert {(who, of_mapping(named)): much for who, named, much in in_ledger} == truth
    open_events = "select count(*) from aggregator.event where state not in ('accepted', 'confirmed', 'void')"
    assert world.one(open_events) == 0


@pytest.fixture(scope="module")
def sandbox() -> Iterator[RunningSandbox]:
    """One server for both sinks."""
    with running(SandboxOptions(meters=(MeterSpec("tokens"),))) as server:
        yield server


@pytest.fixture
def world(database: Database, tmp_path: Path) -> ApartWorld:
    """An empty ledger."""
    return begin(database, tmp_path)


def test_what_a_lost_future_sent_of_each_combination_is_taken_over(world: ApartWorld) -> None:
    """Also of one, and of a customer, that the restored ledger has never heard of. Only what is missing is sent."""
    use(world, 0, "large", 5)
    use(world, 0, "small", 7)
    cycle(world, 1)
    backup = back_up(world.database)
    use(world, 0, "large", 100)
    use(world, 1, "small", 20)
    use(world, 1, "huge", 3)
    use(world, 1, "huge", 4, "cus_2")
    cycle(world, 2)
    lose(world, backup)
    use(world, 0, "small", 2)
    [compared] = world.adopt()
    assert (compared.customers, compared.taken_over, compared.missing) == (3, 127, 0)
    assert world.rows(
        "select event.customer, dimensions ->> 'model', delta, total, state::text from aggregator.event"
        "  join aggregator.combination on combination.id = event.combination where attempts = 0 and state <> 'void'"
        " order by 1, 2, 3"
    ) == [
        ("cus_1", "huge", 3, 3, "confirmed"),
        ("cus_1", "large", 100, 105, "confirmed"),
        ("cus_1", "small", 20, 20, "confirmed"),
        ("cus_2", "huge", 4, 4, "confirmed"),
    ]
    assert world.one("select count(*) - count(distinct identifier) from aggregator.event") == 0
    sent = len(world.like.received)
    quiet_down(world)
    assert {(each.customer, each.dimensions, each.delta) for each in world.like.received[sent:]} == {
        ("cus_1", SMALL, 2),
        ("cus_straw", LARGE, 1),
    }
    equal(world)


def test_what_one_combination_has_too_much_is_no_credit_for_another(world: ApartWorld) -> None:
    """Their sum agrees with source and ledger. What lacks is sent, and what is too much waits for a person."""
    use(world, 0, "large", 50)
    use(world, 0, "small", 50)
    cycle(world, 1)
    backup = back_up(world.database)
    for index, (at, event) in enumerate(world.like.bookings):
        by = 30 if event.dimensions == LARGE else -30
        world.like.bookings[index] = at, event._replace(delta=event.delta + by)
    world.apart.most_of = lambda place: Decimal(80)
    world.now += HOUR
    lose_by_hand(world, backup)
    [compared] = world.adopt()
    assert (compared.taken_over, compared.missing) == (30, 30), "they do not come to nothing"
    assert compared.windows == 2
    quiet_down(world)
    assert world.apart.of()["cus_1", SMALL] == 50
    assert world.apart.of()["cus_1", LARGE] == 80
    assert world.rows(
        "select delta, state::text, dimensions from aggregator.event"
        "  join aggregator.combination on combination.id = combination where state = 'held'"
    ) == [(-30, "held", dict(LARGE))]
    world.check_balance()


def lose_by_hand(world: ApartWorld, backup: Backup) -> None:
    """Put a backup back, of which a person knows."""
    restore(world.database, backup)
    world.adoption().stop(world.now)


def test_what_only_the_sink_has_of_a_combination_is_taken_over(world: ApartWorld) -> None:
    """Neither ledger nor source knows it any more: it may be taken back once somebody agrees."""
    use(world, 0, "large", 5)
    cycle(world, 1)
    backup = back_up(world.database)
    use(world, 0, "huge", 9)
    cycle(world, 2)
    world.source.kept_apart.pop()
    lose(world, backup)
    [compared] = world.adopt()
    assert compared.taken_over == 9
    assert (
        world.one('select count(*) from aggregator.combination where dimensions = \'{"model": "huge"}\'') == 1
    )
    quiet_down(world)
    assert world.rows(
        "select delta, dimensions from aggregator.event join aggregator.combination on combination.id = combination"
        " where state = 'held'"
    ) == [(-9, dict(HUGE))]
    world.check_balance()


def test_each_combination_keeps_its_own_fraction(world: ApartWorld) -> None:
    """What is carried of one is never billed with another."""
    for hour in range(4):
        for model in ("large", "small"):
            use(world, hour, model, "0.4")
    backup = back_up(world.database)
    cycle(world, 4)
    assert world.apart.of() == {("cus_1", LARGE): 1, ("cus_1", SMALL): 1}
    lose(world, backup)
    world.adopt()
    quiet_down(world)
    assert world.apart.of() == {("cus_1", LARGE): 1, ("cus_1", SMALL): 1, ("cus_straw", LARGE): 1}
    assert world.rows("select amount from aggregator.carry") == [(Decimal("0.6"),)] * 2
    equal(world)


def test_adopting_again_changes_nothing_and_costs_one_read_for_each_customer(world: ApartWorld) -> None:
    """A second adoption finds what the first one wrote: the days of all combinations come by one answer."""
    backup = back_up(world.database)
    for hour in range(3):
        for model in ("large", "small"):
            use(world, hour, model, hour + 1)
            use(world, hour, model, hour + 1, "cus_2")
    cycle(world, 3)
    lose(world, backup)
    world.adopt()
    tables = ("slot", "event", "outbox", "parked", "carry", "combination")
    before = [world.rows(f"select * from aggregator.{each} order by 1, 2") for each in tables]
    world.adoption().stop(world.now)
    world.now = START + 2 * DAY
    world.like.calls = 0
    [compared] = world.adopt()
    assert (compared.windows, compared.taken_over, compared.missing) == (0, 0, 0)
    assert [world.rows(f"select * from aggregator.{each} order by 1, 2") for each in tables] == before
    assert world.like.calls == 3
    quiet_down(world)
    equal(world)


def test_a_sink_without_such_figures_needs_a_word_and_says_why(world: ApartWorld) -> None:
    """Its metric has no group key: each customer of the meter is to be named."""
    use(world, 0, "large", 5)
    cycle(world, 1)
    backup = back_up(world.database)
    use(world, 1, "large", 6)
    cycle(world, 2)
    world.apart.tells = False
    lose(world, backup)
    with pytest.raises(
        LedgerError,
        match=r"cus_1, cus_straw: .*api_requests to fake: .*one figure for all combinations.*--leave",
    ):
        world.adopt()
    world.apart.tells = True
    world.adopt()
    quiet_down(world)
    equal(world)


def test_a_customer_whom_the_sink_does_not_know_is_left_with_all_combinations(world: ApartWorld) -> None:
    """The others are taken over."""
    use(world, 0, "large", 5)
    use(world, 0, "small", 5, "cus_new")
    backup = back_up(world.database)
    cycle(world, 1)
    world.apart.unknown = "cus_new"
    lose(world, backup)
    with pytest.raises(LedgerError, match=r"cus_new: .*Nobody is called cus_new.*--leave"):
        world.adopt()
    [compared] = world.adopt(leave=["cus_new"])
    assert (compared.customers, compared.taken_over) == (2, 5)
    world.check_balance()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"dimensions": ("token_type",)}, "by some that the meter no longer has"),
        ({"window": 30 * MINUTE}, "but the windows are shorter"),
    ],
)
def test_what_no_combination_has_a_figure_for_needs_a_word(
    database: Database, tmp_path: Path, changed: dict[str, object], why: str
) -> None:
    """Before a read is made: of former dimensions, and of windows within an hour."""
    world = begin(database, tmp_path)
    use(world, 0, "large", 5)
    cycle(world, 1)
    world.registered = world.meters.register(
        [replace(world.meter, fingerprint="e" * 64, **changed)]  # type: ignore[arg-type]
    )[world.meter.name]
    world.like.calls = 0
    world.adoption().stop(world.now)
    with pytest.raises(LedgerError, match=rf"cus_1: .*{why}.*--leave"):
        world.adopt()
    assert world.like.calls == 0


def test_a_ledger_in_front_of_metronome_is_adopted_by_the_command(
    ledger_url: str, tmp_path: Path, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink holds more of one combination than the restored ledger knows: only what is missing of another is sent."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    with laboratory(ledger_url, tmp_path, sandbox, sinks="metronome") as lab:
        lab.metronome.add_metric("tokens", filters=[{"name": "model"}], group_keys=[["model"]])
        lab.use(tmp_path, {"large": 100, "small": 40})
        lab.fill()
        backup = back_up(lab.app.ledger.database)
        lab.use(tmp_path, {"large": 25})
        lab.pass_over()
        restore(lab.app.ledger.database, backup)
        lab.use(tmp_path, {"small": 2})
        command = ["--config", str(tmp_path / "aggregator.yaml"), "--quiet", "0s"]
        for more in (["--stop"], ["--yes"]):
            ran = CliRunner().invoke(adopt, [*command, *more])
            assert ran.exit_code == 0, ran.output
        lab.pass_over()
        sent = [each["properties"] for each in lab.metronome.events()]
        assert sorted((each["model"], each["quantity"]) for each in sent) == [
            ("large", "100"), ("large", "25"), ("small", "2"), ("small", "40"),
        ]  # fmt: skip
        lab.again()
        assert lab.check("metronome").differing == 0


def use_by_chance(world: ApartWorld, chance: random.Random, *, whole: bool) -> None:
    """Use something of some model, some of it late."""
    for _ in range(chance.randrange(4)):
        at, quantity = any_use(world.now, chance, whole=whole)
        model = chance.choice(("large", "small", "huge"))
        world.source.use(f"cus_{chance.randrange(2)}", at, quantity, model=model)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_restore_point(
    fresh_databases: Callable[[], Database], tmp_path: Path, seed: int
) -> None:
    """Restored at any moment, with requests in the air and answers lost: no combination is ever billed too much."""
    chance = random.Random(seed)
    whole = seed % 3 > 0
    world = begin(fresh_databases(), tmp_path)
    world.like.fate = lambda event: chance.choice(FATES)
    backups: list[Backup] = []
    adopted = 0
    for _ in range(3):
        backups += [
            back_up(world.database)
            for _ in half_hours(world, chance, 20, partial(use_by_chance, world, chance, whole=whole))
            if chance.random() < 0.3
        ]
        restore(world.database, chance.choice(backups))
        try:
            for _ in half_hours(world, chance, 8, partial(use_by_chance, world, chance, whole=whole)):
                pass
        except LedgerStopped:
            world.adopt()
            adopted += 1
    assert adopted
    quiet_down(world)
    world.now += DAY
    quiet_down(world)
    equal(world)
