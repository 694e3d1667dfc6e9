"""Usage over time, and what a sink has been told at the end: each story once as it is, and again from every interruption.

A story says what the source says, pass after pass; when events are delivered; and when a person lets held corrections
go. Its `events` are what the ledger shows when nothing goes wrong, its `billed` what the sink holds when all is quiet.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.model import Answer, Event, State
from aggregator.core.planner import Policy
from tests.core.life import (
    Book,
    Deliver,
    Key,
    Read,
    Release,
    Step,
    Truth,
    Use,
    World,
    ended,
    history,
    live,
    settle_down,
    states,
)
from tests.core.usage import APPLY, HOUR, MINUTE, POLICY, TODAY, floored, table

CENTS = replace(POLICY, decimals=2)


@dataclass(frozen=True)
class Story:
    """What happens, and what must have come of it."""

    title: str
    steps: Sequence[Step]
    events: str
    billed: str
    policy: Policy = field(default=POLICY)


def unless(customer: str) -> Deliver:
    """Deliver to a sink that does not know this customer."""

    def refuse(event: Event) -> Answer | None:
        return Answer.REFUSED if event.customer == customer else None

    return Deliver(refuse)


def busy(_: Event) -> Answer:
    """Turn everything away for now."""
    return Answer.BUSY


def silence(_: Event) -> Answer:
    """Give no answer, and book nothing."""
    return Answer.UNKNOWN


def unreachable(_: Event) -> Answer:
    """Be away."""
    return Answer.UNSENT


ACME_10 = Read("customer | window | quantity | at \n acme | 10:00 | 10 | 10:42")
ACME_7 = Read("customer | window | quantity | at \n acme | 10:00 | 7 | 10:40")
ACME_6 = Read("customer | window | quantity | at \n acme | 10:00 | 6 | 10:40")
ACME_12 = Read("customer | window | quantity | at \n acme | 10:00 | 12 | 10:58")

STORIES = [
    Story(
        "Each customer's use of a window is one event, stamped with the last use (B8).",
        [
            Read(
                """
                customer | window | quantity | at
                acme     | 10:00  | 10       | 10:42
                acme     | 11:00  | 3        | 11:59:59.999999
                bolt     | 10:00  | 250      |
                """
            ),
            Deliver(),
        ],
        """
        customer | window | revision | delta | total | at       | state
        acme     | 10:00  | 0        | 10    | 10    | 10:42:00 | accepted
        acme     | 11:00  | 0        | 3     | 3     | 11:59:59 | accepted
        bolt     | 10:00  | 0        | 250   | 250   | 10:59:59 | accepted
        """,
        "acme 13, bolt 250",
    ),
    Story(
        "Reading the same again, as a second and third backfill does, sends nothing (B13).",
        [ACME_10, Deliver(), ACME_10, Deliver(), ACME_10, Deliver()],
        """
        customer | window | revision | delta | state
        acme     | 10:00  | 0        | 10    | accepted
        """,
        "acme 10",
    ),
    Story(
        "A row that came late is sent as the difference, a minute earlier (B7).",
        [ACME_10, Deliver(), ACME_12, Deliver()],
        """
        customer | window | revision | delta | total | at       | state
        acme     | 10:00  | 0        | 10    | 10    | 10:42:00 | accepted
        acme     | 10:00  | 1        | 2     | 12    | 10:41:00 | accepted
        """,
        "acme 12",
    ),
    Story(
        "A change waits while the event before it is not settled, and is found again by the next pass.",
        [ACME_10, ACME_12, ACME_12, Deliver(), ACME_12, Deliver()],
        """
        customer | window | revision | delta | total | at       | state
        acme     | 10:00  | 0        | 10    | 10    | 10:42:00 | accepted
        acme     | 10:00  | 1        | 2     | 12    | 10:41:00 | accepted
        """,
        "acme 12",
    ),
    Story(
        "A decrease is held for a person; the sink keeps what it has (B14).",
        [ACME_10, Deliver(), ACME_7, Deliver(), ACME_7, Deliver()],
        """
        customer | window | revision | delta | total | at       | state
        acme     | 10:00  | 0        | 10    | 10    | 10:42:00 | accepted
        acme     | 10:00  | 1        | -3    | 7     | 10:41:00 | held
        """,
        "acme 10",
    ),
    Story(
        "A held decrease goes out once a person says so (B14).",
        [ACME_10, Deliver(), ACME_7, Release(), Deliver()],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -3    | 7     | accepted
        """,
        "acme 7",
    ),
    Story(
        "A decrease goes out at once where the meter says so (B14).",
        [ACME_10, Deliver(), ACME_7, Deliver()],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -3    | 7     | accepted
        """,
        "acme 7",
        APPLY,
    ),
    Story(
        "A held decrease is replaced when more is taken away: one correction stands, for all of it.",
        [ACME_10, Deliver(), ACME_7, ACME_6, Release(), Deliver()],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -3    | 7     | void
        acme     | 10:00  | 2        | -4    | 6     | accepted
        """,
        "acme 6",
    ),
    Story(
        "A held decrease is withdrawn when the rows come back, and nothing is sent.",
        [ACME_10, Deliver(), ACME_7, ACME_10, Release(), Deliver()],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -3    | 7     | void
        """,
        "acme 10",
    ),
    Story(
        "A held decrease that later use outweighs becomes an increase, and needs nobody's word.",
        [ACME_10, Deliver(), ACME_7, ACME_12, Deliver()],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -3    | 7     | void
        acme     | 10:00  | 2        | 2     | 12    | accepted
        """,
        "acme 12",
    ),
    Story(
        "A change waits while a released correction is under way.",
        [ACME_10, Deliver(), ACME_7, Release(), ACME_12, Deliver(), ACME_12, Deliver()],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -3    | 7     | accepted
        acme     | 10:00  | 2        | 5     | 12    | accepted
        """,
        "acme 12",
    ),
    Story(
        "A customer deleted from the application after billing is held at what was billed (B14).",
        [
            Read("customer | window | quantity \n acme | 10:00 | 10 \n bolt | 10:00 | 4 \n bolt | 11:00 | 5"),
            Deliver(),
            ACME_10,
            Deliver(),
        ],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        bolt     | 10:00  | 0        | 4     | 4     | accepted
        bolt     | 11:00  | 0        | 5     | 5     | accepted
        bolt     | 10:00  | 1        | -4    | 0     | held
        bolt     | 11:00  | 1        | -5    | 0     | held
        """,
        "acme 10, bolt 9",
    ),
    Story(
        "A row that moves from one window to another moves its quantity with it.",
        [
            ACME_10,
            Deliver(),
            Read("customer | window | quantity \n acme | 10:00 | 6 \n acme | 11:00 | 4"),
            Deliver(),
        ],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -4    | 6     | accepted
        acme     | 11:00  | 0        | 4     | 4     | accepted
        """,
        "acme 10",
        APPLY,
    ),
    Story(
        "What is too small to bill is carried to the customer's next window, and nobody else's (B16).",
        [
            Read("customer | window | quantity \n acme | 10:00 | 0.4 \n bolt | 10:00 | 0.9"),
            Deliver(),
            Read(
                """
                customer | window | quantity
                acme     | 10:00  | 0.4
                acme     | 11:00  | 0.4
                acme     | 12:00  | 0.4
                bolt     | 10:00  | 0.9
                """
            ),
            Deliver(),
        ],
        """
        customer | window | revision | delta | total | state
        acme     | 12:00  | 0        | 1     | 1     | accepted
        """,
        "acme 1, bolt 0",
    ),
    Story(
        "Decimals are billed as far as the meter declares them, and carried beyond (B16).",
        [
            Read("customer | window | quantity \n acme | 10:00 | 0.126 \n acme | 11:00 | 2.5"),
            Deliver(),
            Read("customer | window | quantity \n acme | 10:00 | 0.126 \n acme | 11:00 | 2.504"),
            Deliver(),
        ],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 0.12  | 0.12  | accepted
        acme     | 11:00  | 0        | 2.5   | 2.5   | accepted
        acme     | 11:00  | 1        | 0.01  | 2.51  | accepted
        """,
        "acme 2.63",
        CENTS,
    ),
    Story(
        "A correction of fractions takes a whole unit back and carries the rest (B16).",
        [
            Read("customer | window | quantity \n acme | 10:00 | 10.4"),
            Deliver(),
            Read("customer | window | quantity \n acme | 10:00 | 9.8"),
            Deliver(),
            Read("customer | window | quantity \n acme | 10:00 | 9.8 \n acme | 11:00 | 0.3"),
            Deliver(),
        ],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | -1    | 9     | accepted
        acme     | 11:00  | 0        | 1     | 1     | accepted
        """,
        "acme 10",
        APPLY,
    ),
    Story(
        "An answer that was lost is asked for again with the same bytes, and booked once (B1, B2).",
        [ACME_10, Deliver(lost=True), ACME_12, Deliver(), ACME_12, Deliver(lost=True), Deliver()],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | 2     | 12    | accepted
        """,
        "acme 12",
    ),
    Story(
        "A sink that is busy, silent or away costs time and nothing else (B3).",
        [
            ACME_10,
            Deliver(busy),
            Deliver(silence),
            Deliver(unreachable),
            ACME_12,
            Deliver(),
            ACME_12,
            Deliver(),
        ],
        """
        customer | window | revision | delta | total | state
        acme     | 10:00  | 0        | 10    | 10    | accepted
        acme     | 10:00  | 1        | 2     | 12    | accepted
        """,
        "acme 12",
    ),
    Story(
        "A customer whom the sink does not know stands by name, and the others go out (B11, B21).",
        [
            Read("customer | window | quantity \n acme | 10:00 | 10 \n typo | 10:00 | 4 \n zeta | 10:00 | 5"),
            unless("typo"),
        ],
        """
        customer | window | revision | delta | state
        acme     | 10:00  | 0        | 10    | accepted
        typo     | 10:00  | 0        | 4     | refused
        zeta     | 10:00  | 0        | 5     | accepted
        """,
        "acme 10, typo 0, zeta 5",
    ),
    Story(
        "A number with too many digits for the sink stands by name, and the others go out (B16).",
        [
            Read("customer | window | quantity \n acme | 10:00 | 1234567890123456 \n bolt | 10:00 | 5"),
            Deliver(),
        ],
        """
        customer | window | revision | delta            | state
        acme     | 10:00  | 0        | 1234567890123456 | refused
        bolt     | 10:00  | 0        | 5                | accepted
        """,
        "acme 0, bolt 5",
    ),
]


def billed(world: World) -> str:
    """Write what the sink holds of each customer the ledger knows."""
    customers = sorted(world.book.used())
    return ", ".join(f"{customer} {world.sink.booked[customer].normalize():f}" for customer in customers)


def told(story: Story, *dies_at: int, goes_on: bool = False) -> World:
    """Let a story happen, dying where it is said, and let it come to rest."""
    world = World(Book(story.policy))
    live(world, story.steps, frozenset(dies_at), goes_on=goes_on)
    settle_down(world, released=any(isinstance(step, Release) for step in story.steps))
    ended(world)
    return world


def moments(story: Story) -> range:
    """Return all the moments at which a process telling the story may die."""
    return range(1, live(World(Book(story.policy)), story.steps) + 1)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.title)
def test_story_as_told(story: Story) -> None:
    """Undisturbed, a story leaves the events in the ledger, and in the sink the sums, that it says."""
    world = World(Book(story.policy))
    live(world, story.steps)
    wanted = table(story.events)
    assert [{name: row[name] for name in wanted[0]} for row in history(world)] == wanted
    assert billed(world) == story.billed
    settle_down(world)
    assert [{name: row[name] for name in wanted[0]} for row in history(world)] == wanted, "it was over"


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.title)
def test_story_from_every_interruption(story: Story) -> None:
    """A story that is interrupted, at any one or two moments, ends with the same sums (B1, B3)."""
    every = moments(story)
    for once in every:
        assert billed(told(story, once)) == story.billed, f"died at moment {once}"
    for twice in combinations(every, 2):
        assert billed(told(story, *twice)) == story.billed, f"died at moments {twice}"


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.title)
def test_story_goes_on_without_us(story: Story) -> None:
    """A process that dies comes back to a source that has moved on: the sink still ends with the floor of what it says."""
    for once in moments(story):
        told(story, once, goes_on=True)


def test_same_bytes_after_a_death_in_delivery() -> None:
    """A process dies after the byte and before the answer; the next sends the same, and the sink says it has it (B1, B2)."""
    world = World(Book())
    live(world, [ACME_10])
    # The second moment of a delivery is after the first event was sent.
    for moment, _ in enumerate(Deliver().perform(world), 1):
        if moment == 2:
            break
    assert states(world) == [State.SENDING]
    assert world.sink.booked["acme"] == 10
    live(world, [Deliver()])
    assert states(world) == [State.ACCEPTED]
    assert world.sink.booked["acme"] == 10


def test_held_fraction_is_lent() -> None:
    """A held correction has given its fraction to the carry already: less than a unit is billed before it is applied."""
    world = World(Book())
    live(
        world,
        [
            Read("customer | window | quantity \n acme | 10:00 | 10.4"),
            Read("customer | window | quantity \n acme | 10:00 | 10.4"),
            Deliver(),
            Read("customer | window | quantity \n acme | 10:00 | 9.8"),
            Read("customer | window | quantity \n acme | 10:00 | 9.8 \n acme | 11:00 | 0.3"),
            Deliver(),
        ],
    )
    assert world.sink.booked["acme"] == 11
    assert world.book.meter_state(State.HELD)["acme"] == -1
    live(world, [Release(), Deliver()])
    assert world.sink.booked["acme"] == 10


KEYS: list[Key] = [(customer, TODAY + hour * HOUR) for customer in ("acme", "bolt") for hour in (10, 11, 12)]
WHOLE = st.integers(0, 20).map(Decimal)
FRACTIONS = st.integers(-300, 2000).map(lambda number: Decimal(number) / 100)
FAULTS: list[Step] = [Deliver(busy), Deliver(silence), Deliver(unreachable), Deliver(lost=True)]


def truths(quantities: st.SearchStrategy[Decimal]) -> st.SearchStrategy[Truth]:
    """Return anything a source may say of two customers and three windows."""
    return st.dictionaries(st.sampled_from(KEYS), quantities.map(Use))


def lives(quantities: st.SearchStrategy[Decimal]) -> st.SearchStrategy[list[Step]]:
    """Return anything that may happen."""
    readings = truths(quantities).map(Read)
    return st.lists(
        st.one_of(readings, readings, st.just(Deliver()), st.sampled_from([*FAULTS, Release()])), max_size=12
    )


@settings(max_examples=300)
@given(
    st.one_of(lives(WHOLE), lives(FRACTIONS)),
    st.sets(st.integers(1, 60), max_size=6),
    st.sampled_from([POLICY, APPLY, CENTS, replace(APPLY, decimals=1)]),
    st.booleans(),
)
def test_any_life(steps: list[Step], dies_at: set[int], policy: Policy, goes_on: bool) -> None:
    """Whatever the source says and whatever dies, ledger and sink balance at every moment and agree in the end.

    At every moment: deltas and carry are what was used; the sink lacks exactly the events it was not given; and where uses
    are whole units, it never holds more of a slot than the source ever said.
    """
    world = World(Book(policy))
    live(world, steps, frozenset(dies_at), goes_on=goes_on)
    settle_down(world)
    ended(world)
    settle_down(world, released=True)
    ended(world)


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.integers(0, 500).map(lambda number: Decimal(number) / 100)),
        max_size=12,
    ),
    st.sets(st.integers(1, 12)),
    st.sampled_from([POLICY, CENTS, replace(POLICY, decimals=1)]),
)
def test_any_split(parts: list[tuple[Key, Decimal]], passes: set[int], policy: Policy) -> None:
    """However use is spread over windows and passes, its floor is billed: less than a unit short, and never over."""
    world, truth, used = World(Book(policy)), Truth(), dict.fromkeys(("acme", "bolt"), Decimal(0))
    for number, (key, quantity) in enumerate(parts, 1):
        truth[key] = Use(truth.get(key, Use(Decimal(0))).quantity + quantity)
        used[key[0]] += quantity
        if number in passes:
            live(world, [Read(dict(truth)), Deliver()])
            assert all(
                world.sink.booked[name] <= floored(most, policy.decimals) for name, most in used.items()
            )
    live(world, [Read(dict(truth)), Deliver()])
    assert {name: world.sink.booked[name] for name in used} == {
        name: floored(most, policy.decimals) for name, most in used.items()
    }


@settings(max_examples=50)
@given(truths(FRACTIONS), truths(FRACTIONS), st.permutations(["acme", "bolt"]))
def test_order_of_customers(first: Truth, second: Truth, order: list[str]) -> None:
    """What is planned for a customer does not depend on who stands before."""
    world = World(Book(APPLY))
    live(world, [Read(first), Deliver()])
    world.truth = second
    sorted_, shuffled = world.book.changes(second), []
    for customer in order:
        shuffled += [change for change in sorted_ if change.customer == customer]
    world.book.commit(decisions := world.book.decide(sorted_))
    again = {decision.change.slot: decision for decision in world.book.decide(shuffled)}
    assert all(again[decision.change.slot] == decision for decision in decisions)


@settings(max_examples=50)
@given(truths(FRACTIONS), truths(FRACTIONS))
def test_fixed_point(first: Truth, second: Truth) -> None:
    """Planning what is committed plans nothing; planning what is not gives the same names and numbers each time."""
    world = World(Book())
    live(world, [Read(first), Deliver()])
    once, again = world.book.plan(second), world.book.plan(second)
    # Only the numbers reserved in the ledger differ, which no sink ever sees.
    assert [one.event and one.event[1:] for one in once] == [one.event and one.event[1:] for one in again]
    world.book.commit(again)
    assert world.book.plan(second) == []


def test_too_old_is_refused_when_it_has_waited_too_long() -> None:
    """An event that could not be delivered for five weeks is set down by name, and not sent (B19)."""
    world = World(Book())
    live(world, [ACME_10, Deliver(unreachable)])
    world.now += dt.timedelta(days=35)
    live(world, [Deliver()])
    assert states(world) == [State.REFUSED]
    assert world.sink.booked["acme"] == 0
    ended(world)


def test_no_answer_for_a_day_is_in_doubt() -> None:
    """An event whose answer was lost is not sent again once the sink may have forgotten it; it waits for proof (B4)."""
    world = World(Book())
    live(world, [ACME_10, Deliver(lost=True)])
    world.now += dt.timedelta(hours=20) + MINUTE
    world.sink.bytes.clear()  # the sink has forgotten
    for _ in Deliver().perform(world):
        pass
    assert states(world) == [State.IN_DOUBT]
    assert world.sink.booked["acme"] == 10
    assert [decision.deferred for decision in world.book.plan({KEYS[0]: Use(Decimal(12))})] == [True]
