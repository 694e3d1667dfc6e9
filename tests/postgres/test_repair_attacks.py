"""Lives in which all goes wrong that a repair could make worse: none of them bills twice, or lowers anything by itself.

What is compared may be old by the time it is put right; answers are lost, events vanish at the sink, somebody else sends,
the source changes its mind, and people release and dismiss what waits.
"""

import datetime as dt
from decimal import Decimal
from random import Random

import pytest

from aggregator.core.model import Answer, Decreases, Event, Span, Verdict
from aggregator.core.readbacks import Finding
from aggregator.ledger.database import Database
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.ledger.review.parked import Choice, ParkedEvents
from aggregator.reconciliation.drift_finder import Found
from aggregator.reconciliation.reconciler import Reconciler
from tests.postgres.test_drift import Compared, CountingSink
from tests.postgres.world import HOUR, MINUTE, START

CUSTOMERS = ("cus_a", "cus_b")
STEPS = 40
SEEDS = 8
PROOFS = 12
"""So many rounds of waiting, comparing and releasing bring any life to rest."""


class Watched(CountingSink):
    """A sink that looks at each event that comes: how high the customer stands then, and who has let a decrease go.

    What has come shows in its totals only after a while.
    """

    def __init__(self, life: "Life", lag: dt.timedelta) -> None:
        super().__init__()
        self.life, self.lag = life, lag
        self.came: dict[str, dt.datetime] = {}

    def _take(self, event: Event) -> Verdict:
        before = len(self.identifiers)
        verdict = super()._take(event)
        if len(self.identifiers) > before:
            self.came[event.identifier] = self.life.world.now
            self.life.has_come(event)
        return verdict

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> dict[dt.datetime, Decimal]:
        """Return what shows by now."""
        whole, until = self.identifiers, self.life.world.now - self.lag
        self.identifiers = {
            name: event for name, event in whole.items() if self.came.get(name, until) <= until
        }
        try:
            return super().breakdown(meter, customer, span, step)
        finally:
            self.identifiers = whole


class Life:
    """One life: a ledger and a sink, and what happens to them by chance.

    In a strict one the source never says less, and nobody else sends too much: then the sink never holds more than was used.
    """

    def __init__(self, database: Database, seed: int) -> None:
        self.chance = Random(seed)
        self.strict = seed % 2 == 0
        window = self.chance.choice((HOUR, HOUR / 4))
        decreases = self.chance.choice((Decreases.HOLD, Decreases.APPLY))
        self.compared = Compared(database, window=window, decreases=decreases)
        self.world = self.compared.world
        self.sink = Watched(self, self.chance.choice((0, 20)) * HOUR)
        self.compared.sink = self.sink
        self.world.sinks["fake"] = self.sink
        self.lowers = decreases is Decreases.APPLY
        self.strangers = Decimal(0)
        self.highest = dict.fromkeys(CUSTOMERS, Decimal(0))
        self.released: set[int] = set()
        self.found: list[Found] = []
        self.strays = 0
        self.repaired = 0
        self.wrong: list[str] = []
        for who in CUSTOMERS:  # whom the ledger does not know nobody asks about
            self.world.source.use(who, START + HOUR, 1)
            self.highest[who] = Decimal(1)
        self.compared.settled()

    def holds(self, customer: str) -> Decimal:
        """Return what the sink holds of a customer, whoever has sent it."""
        its = (event.delta for event in self.sink.identifiers.values() if event.customer == customer)
        return sum(its, Decimal(0))

    def truth(self, customer: str) -> Decimal:
        """Return what the source says of a customer."""
        return self.world.source.totals().get(customer, Decimal(0))

    def has_come(self, event: Event) -> None:
        """Look at what the sink takes. What is wrong is kept: who sends takes an exception for a lost answer."""
        most = self.highest[event.customer] + self.strangers
        if event.delta > 0 and self.holds(event.customer) > most:
            self.wrong.append(f"{event} was billed twice: {self.holds(event.customer)} of {most}")
        let_go = (self.lowers and not self._guarded(event)) or event.id in self.released
        if event.delta < 0 and not let_go:
            self.wrong.append(f"{event} lowers what was billed, and nobody has let it go")

    def _guarded(self, event: Event) -> bool:
        [(reason,)] = self.world.rows(
            "select coalesce(reason, '') from aggregator.event where id = %s", event.id
        )
        return "reconciliation" in reason

    def use(self) -> None:
        """Let somebody use something, somewhere in the days that are compared."""
        for _ in range(self.chance.randrange(1, 4)):
            who, much = self.chance.choice(CUSTOMERS), self.chance.choice((1, 2, 2, 5))
            self.world.source.use(who, START + self.chance.randrange(68, 71) * HOUR + self._minutes(), much)
            self.highest[who] = max(self.highest[who], self.truth(who))

    def _minutes(self) -> dt.timedelta:
        return MINUTE * self.chance.choice((0, 20, 50))

    def lose_usage(self) -> None:
        """Let a row vanish from the source."""
        if self.world.source.uses and not self.strict:
            self.world.source.uses.pop(self.chance.randrange(len(self.world.source.uses)))

    def stray(self) -> None:
        """Let somebody else send more, or less, than nothing."""
        if not self.sink.identifiers:
            return
        self.strays += 1
        much = self.chance.choice((-2, -1) if self.strict else (-2, -1, 1, 2, 5))
        at = START + self.chance.randrange(68, 71) * HOUR + self.chance.choice((5, 25, 59)) * MINUTE
        self.sink.book(self.chance.choice(CUSTOMERS), at, much, f"stray_{self.strays}")
        self.strangers += max(much, 0)

    def vanish(self) -> None:
        """Let the sink lose an event of ours."""
        ours = [name for name in self.sink.identifiers if not name.startswith("stray")]
        if ours:
            del self.sink.identifiers[self.chance.choice(ours)]

    def round(self) -> None:
        """Read and send, with answers that are lost before or after the event was booked."""
        unlucky = self.chance.random() < 0.3
        self.sink.fault = lambda event: Answer.UNKNOWN if unlucky and self.chance.random() < 0.4 else None
        self.sink.lost_after_booking = lambda event: unlucky and self.chance.random() < 0.4
        self.world.collect()
        self.world.deliver()
        self.sink.fault, self.sink.lost_after_booking = lambda event: None, lambda event: False

    def wait(self) -> None:
        """Let time pass."""
        self.world.now += self.chance.choice((1, 5, 24, 27, 30)) * HOUR

    def compare(self) -> None:
        """Compare, and remember what came of it."""
        self.found = self.compared.compare(every_hour=True)[0]

    def repair(self) -> None:
        """Put right what was compared last, however long ago that was; now and then twice."""
        for _ in range(self.chance.choice((1, 1, 2))):
            self.repaired += sum(done.left is None for done in self.compared.repair(self.found))

    def decide(self) -> None:
        """Release some of what is held, and leave the rest at that."""
        held = [each.event for each in ParkedEvents(self.world.database).waiting(Choice(state="held"), 100)]
        some = [event for event in held if self.chance.random() < 0.6]
        self.let_go(some)
        ParkedEvents(self.world.database).dismiss(
            [event for event in held if event not in some], self.world.now
        )

    def let_go(self, events: list[int]) -> None:
        """Release events."""
        self.released |= set(self.world.outbox.release(events, self.world.now))

    def settle_doubts(self) -> None:
        """Read the sink back for what is in doubt."""
        in_doubt = InDoubt(self.world.database)
        Reconciler(in_doubt, self.sink, self.world.registered.feeds[0].sink_id).run_once(self.world.now)

    def rest(self) -> None:
        """Let everything come to an end: wait, settle, compare, repair, decide, as often as it takes."""
        parked = ParkedEvents(self.world.database)
        for _ in range(PROOFS):
            self.world.now += 30 * HOUR
            self.world.collect()
            self.world.deliver()
            self.settle_doubts()
            self.world.now += 30 * HOUR
            self.compare()
            self.repair()
            waiting = parked.waiting(Choice(dismissed=True), 100)
            if not self.found and not waiting:
                return
            self.let_go([each.event for each in waiting if each.state in ("held", "refused")])
            for each in waiting:  # where somebody else's usage lies beside it, only a person can tell
                there = each.identifier in self.sink.identifiers
                finding = Finding.PRESENT if there else Finding.ABSENT
                parked.settle_by_hand([each.event], finding, self.world.now)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_repair_bills_twice_or_lowers_anything_by_itself(database: Database, seed: int) -> None:
    """Whatever happens, and in the end the sink holds what the source says; one more repair does nothing."""
    life = Life(database, seed)
    steps = [
        life.use,
        life.use,
        life.lose_usage,
        life.stray,
        life.vanish,
        life.vanish,
        life.decide,
        life.settle_doubts,
    ]
    for _ in range(STEPS):
        usual = life.chance.choice([life.round, life.wait, life.compare, life.repair])
        life.chance.choice([usual, life.chance.choice(steps)])()
    life.rest()
    assert life.wrong == []
    assert life.repaired, "nothing was ever repaired, so that nothing was tried"
    assert life.compared.said() == []
    assert [life.holds(each) for each in CUSTOMERS] == [life.truth(each) for each in CUSTOMERS]
    received = len(life.sink.received)
    life.compare()
    assert (life.compared.repair(life.found), life.found) == ([], [])
    life.compared.round()
    assert len(life.sink.received) == received
    life.world.check_balance()
