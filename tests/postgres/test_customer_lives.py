"""Lives with a mapping: ids come late, change, double and vanish, through kills, two daemons and ledgers that are set back.

What is billed in the end is said by a second, simple account of the rules of docs/customers.md.
"""

import datetime as dt
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.mapping import Mapping
from aggregator.core.customers import Difference, Listed, Moved
from aggregator.core.model import Decreases, Span
from aggregator.errors import AggregatorError, InvariantBroken, SourceUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.review.parked import ParkedEvents
from aggregator.runtime import failpoints
from tests.fakes import FakeSink, FakeSource
from tests.postgres.accounts import EVERY, Accounts
from tests.postgres.restore import Backup, back_up, restore
from tests.postgres.world import HOUR, METER, MINUTE, START

SEEDS = range(1, 6)
STEPS = 80
KEYS = tuple("abcdefghijkl")
MOST_CALM_ROUNDS = 12
"""In how many rounds all must be billed once nothing goes wrong: some things are believed at the second read only."""

ALWAYS = dt.datetime.min.replace(tzinfo=dt.UTC)
EVER = dt.datetime.max.replace(tzinfo=dt.UTC)


class Died(BaseException):
    """A process has ended."""


@dataclass
class Rule:
    """Who is billed for which windows of a key, by the declared rule alone."""

    moved: Moved
    past: dt.timedelta
    held: dict[str, list[tuple[dt.datetime, dt.datetime, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Of each key, its customers: from when, to before when, who. The gaps between are nobody's."""
    looked_at: dt.datetime | None = None
    doubted: tuple[dt.datetime, int] | None = None

    def customer(self, key: str, start: dt.datetime) -> str | None:
        """Return whose a window is that begins at `start`."""
        return next((who for since, until, who in self.held[key] if since <= start < until), None)

    def now_of(self, key: str) -> str | None:
        """Return who is billed for what begins from now on."""
        return next((who for _, until, who in self.held[key] if until == EVER), None)

    def is_paced(self, now: dt.datetime) -> bool:
        """Tell whether somebody has just read the list."""
        return self.looked_at is not None and self.looked_at > now - EVERY / 2

    def look(self, rows: dict[str, str | None], now: dt.datetime) -> None:
        """Let a list hold from now, unless it is to be doubted."""
        self.looked_at = now
        before = {key: who for key in self.held if (who := self.now_of(key))}
        after = {key: who for key, who in rows.items() if who}
        lost = [key for key in before if key not in after]
        changed = [key for key in before if key in after and after[key] != before[key]]
        difference = Difference(len(before), len(after), len(lost), len(changed))
        said = self.doubted[1] if self.doubted and self.doubted[0] <= now - EVERY / 2 else None
        if difference.doubt(said) is not None:
            if self.doubted is None or self.doubted[1] != difference.differing:
                self.doubted = (now, difference.differing)
            return
        self.doubted = None
        for key in lost:
            self._cut(key, now)
        for key in changed:
            starts = now - self.past if self.moved is Moved.ALL else now
            self._cut(key, starts)
            self.held[key].append((starts, EVER, after[key]))
        for key in after.keys() - before.keys():
            since = max((until for _, until, _ in self.held[key]), default=ALWAYS)
            self.held[key].append((since, EVER, after[key]))

    def _cut(self, key: str, at: dt.datetime) -> None:
        self.held[key] = [(since, min(until, at), who) for since, until, who in self.held[key] if since < at]


class Interrupted(MappedSource):
    """A source in whose reads something else may happen: before keys are looked up, and after."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def _resolved(self, mapping: str | None, batch: Any) -> Any:
        self.meanwhile()
        found = super()._resolved(mapping, batch)
        self.meanwhile()
        return found


class Life:
    """One life: two daemons over one ledger, an application, a list of customers, a sink, and a person."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.chance = random.Random(seed)
        moved = Moved.ALL if seed % 3 else Moved.FUTURE
        self.decreases = Decreases.APPLY if seed % 4 == 0 else Decreases.HOLD
        self.rule = Rule(moved, self.chance.choice([6 * HOUR, dt.timedelta(days=35)]))
        self.source, self.sink = FakeSource(), FakeSink()
        self.sink.lost_after_booking = lambda _: self.chance.random() < 0.1
        self.now = START + MINUTE
        self.list: dict[str, str | None] = {key: f"cus_{key}" for key in KEYS[:10]}
        self.next_id = 0
        self.seen: Counter[str] = Counter()
        self.kill_in: int | None = None
        self.inside = False
        self.backup: tuple[Backup, Rule, int] | None = None
        self.daemons = [self.daemon(), self.daemon()]

    def daemon(self) -> Accounts:
        """Start a daemon."""
        meter = replace(METER, decreases=self.decreases)
        daemon = Accounts(self.database, self.rule.moved, meter=meter, source=self.source, sinks=[self.sink])
        daemon.mapping = Mapping(
            "accounts",
            daemon._read,
            daemon.customers,
            moved=self.rule.moved,
            every=EVERY,
            past=self.rule.past,
        )
        source: Any = self.source
        source.name = "app"
        interrupted = Interrupted(
            source, daemon.customers, lambda: daemon.meters.definitions(daemon.registered)
        )
        interrupted.meanwhile = self.meanwhile
        daemon.collection.source = interrupted
        daemon.now = self.now
        return daemon

    @property
    def may_hold(self) -> bool:
        """Whether usage that moves waits for a person."""
        return self.rule.moved is Moved.ALL and self.decreases is Decreases.HOLD

    # What happens.

    def live(self) -> None:
        """Let everything happen, and then nothing bad any more."""
        doings = (
            [self.use] * 6 + [self.change] * 3 + [self.look] * 4 + [self.collect] * 5 + [self.deliver] * 4
        )
        doings += [self.release, self.set_back]
        for _ in range(STEPS):
            self.now += self.chance.randrange(1, 25) * MINUTE
            self.chance.choice(doings)()
            self.check_on_the_way()
        self.calm()
        self.check_at_the_end()

    def use(self) -> None:
        """Let keys use something, some of it a while ago."""
        for _ in range(4):
            at = max(START, self.now - self.chance.choice([1, 30, 200]) * MINUTE)
            self.source.use(self.chance.choice(KEYS), at, self.chance.randrange(1, 10))

    def new_id(self) -> str:
        """Return an id that nobody had."""
        self.next_id += 1
        return f"new_{self.next_id}"

    def change(self) -> None:
        """Change the list."""
        key = self.chance.choice(KEYS)
        what = self.chance.choice(["comes", "changes", "changes", "joins", "vanishes"])
        if what == "vanishes":
            self.list.pop(key, None)
        elif what == "joins":
            self.list[key] = self.chance.choice([who for who in self.list.values() if who] or [self.new_id()])
        elif what == "comes":
            self.list[key] = self.list.get(key) or self.new_id()
        else:
            self.list[key] = self.new_id()
        self.seen[what] += 1

    def look(self, daemon: Accounts | None = None) -> None:
        """Let a daemon read the list: as it is, empty, with two customers of one key, or not at all."""
        index = self.chance.randrange(2)
        daemon = daemon or self.daemons[index]
        flaw = self.chance.choice([None] * 8 + ["empty", "double", "broken"])
        rows = {} if flaw == "empty" else dict(self.list)
        daemon.listed = [Listed(key, who, None) for key, who in rows.items()]
        daemon.broken = SourceUnreachable("gone") if flaw == "broken" else None
        doubled = [key for key, who in rows.items() if who]
        if flaw == "double" and doubled:
            daemon.listed.append(Listed(doubled[0], "cus_other", None))
        failed = flaw == "broken" or (flaw == "double" and doubled)
        paced = self.rule.is_paced(self.now)
        point = self.guarded(daemon, lambda: daemon.mapping.run_once(self.now))
        if paced or point in {"customers_read", "customers_written"}:
            return
        self.seen[flaw or "list read"] += 1
        if failed:
            self.rule.looked_at = self.now
        else:
            self.rule.look(rows, self.now)

    def meanwhile(self) -> None:
        """Let the other daemon read the list in the middle of a read."""
        if not self.inside and self.chance.random() < 0.2:
            self.inside = True
            self.seen["list read in a read"] += 1
            kill, self.kill_in = self.kill_in, None
            self.look()
            self.inside, self.kill_in = False, kill

    def collect(self) -> None:
        """Let a daemon read what is due."""
        daemon = self.chance.choice(self.daemons)
        self.guarded(daemon, daemon.collect)

    def deliver(self) -> None:
        """Let a daemon send what is due."""
        daemon = self.chance.choice(self.daemons)
        self.guarded(daemon, daemon.deliver)

    def guarded(self, daemon: Accounts, doing: Callable[[], object]) -> str | None:
        """Let a daemon do something; return where it was killed, if it was, and put another one in its place."""
        daemon.now = self.now
        if self.kill_in is None and not self.inside and self.chance.random() < 0.2:
            self.kill_in = self.chance.randrange(5)
        try:
            doing()
        except InvariantBroken:
            raise
        except AggregatorError:
            self.seen["failed"] += 1
        except Died as died:
            self.seen["killed"] += 1
            daemon.execute("update aggregator.meter set lease_owner = null, lease_until = null")
            self.daemons[self.daemons.index(daemon)] = self.daemon()
            return str(died)
        finally:
            self.kill_in = None
        return None

    def passing(self, name: str) -> None:
        """Kill whoever passes a point, if it is time."""
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                raise Died(name)

    def release(self) -> None:
        """Let go all that waits for a person."""
        events = [event for (event,) in self.daemons[0].rows("select event_id from aggregator.parked")]
        self.seen["released"] += len(events)
        self.seen["moved"] += len(ParkedEvents(self.database).moved(100))
        self.daemons[0].outbox.release(events, self.now)

    def set_back(self) -> None:
        """Set the ledger back, if nothing was sent since it was backed up; else back it up."""
        if self.backup is not None and self.backup[2] == len(self.sink.received):
            self.seen["set back"] += 1
            restore(self.database, self.backup[0])
            self.rule = deepcopy(self.backup[1])
            self.daemons = [self.daemon(), self.daemon()]
            self.backup = None
        else:
            self.backup = (back_up(self.database), deepcopy(self.rule), len(self.sink.received))

    def calm(self) -> None:
        """Let nothing go wrong until all is quiet. One key need not get an id."""
        self.chance = random.Random(0)
        self.sink.lost_after_booking = lambda _: False
        self.inside = True
        daemon = self.daemons[0]
        for key in KEYS[:11]:
            self.list[key] = self.list.get(key) or self.new_id()
        for key in KEYS[11:]:
            self.list.setdefault(key, None)
        for number in range(MOST_CALM_ROUNDS):
            daemon.now = self.now = self.now + HOUR
            daemon.listed, daemon.broken = [Listed(key, who, None) for key, who in self.list.items()], None
            daemon.mapping.run_once(self.now)
            self.rule.look(self.list, self.now)
            daemon.collect()
            daemon.backfill(Span(START, START + (self.now - START) // HOUR * HOUR))
            daemon.deliver()
            self.release()
            daemon.deliver()
            self.check_on_the_way()
            if number and self.booked() == self.truth()[0]:
                return

    # What must be.

    def truth(self) -> tuple[dict[tuple[str, dt.datetime], Decimal], dict[tuple[str, dt.datetime], Decimal]]:
        """Return what is to be billed by customer and window, and what waits by key and window."""
        billed: dict[tuple[str, dt.datetime], Decimal] = defaultdict(Decimal)
        waits: dict[tuple[str, dt.datetime], Decimal] = defaultdict(Decimal)
        for key, at, quantity in self.source.uses:
            assert key is not None, "every use is of a key"
            start = START + (at - START) // HOUR * HOUR
            customer = self.rule.customer(key, start)
            (billed if customer else waits)[customer or key, start] += quantity
        return dict(billed), dict(waits)

    def booked(self) -> dict[tuple[str, dt.datetime], Decimal]:
        """Return what the sink holds, by customer and window."""
        return {(customer, start): much for (_, customer, start), much in self.sink.slots.items() if much}

    def check_on_the_way(self) -> None:
        """Nothing is billed twice, also while a part of it waits."""
        if self.daemons[0].one("select count(*) from aggregator.outbox"):
            return
        used: dict[dt.datetime, Decimal] = defaultdict(Decimal)
        for _, at, quantity in self.source.uses:
            used[START + (at - START) // HOUR * HOUR] += quantity
        sent: dict[dt.datetime, Decimal] = defaultdict(Decimal)
        for (_, start), much in self.booked().items():
            sent[start] += much
        over = {start: (much, used[start]) for start, much in sent.items() if much > used[start]}
        assert over == {}, "more is billed of a window than was used in it"
        if self.rule.moved is Moved.FUTURE:
            right, _ = self.truth()
            wrong = {key: much for key, much in self.booked().items() if much > right.get(key, 0)}
            assert wrong == {}, "somebody is billed for a window that is not theirs"

    def check_at_the_end(self) -> None:
        """All is billed by the rule, and what nobody has waits under its key."""
        billed, waits = self.truth()
        assert self.booked() == billed
        found = self.daemons[0].rows(
            "select customer, window_start, sum(quantity) from aggregator.unmapped where waits group by 1, 2"
        )
        assert {(key, start): much for key, start, much in found} == waits
        self.daemons[0].check_balance()


def lived(database: Database, seed: int, patch: pytest.MonkeyPatch) -> Life:
    """Live the life of a seed."""
    life = Life(database, seed)
    patch.setattr(failpoints, "passing", life.passing)
    life.live()
    return life


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_with_a_mapping_ends_with_all_billed_by_its_rule(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whoever was killed, set back, late or listed twice: per customer and window, what the rule says, and never more."""
    life = lived(database, seed, monkeypatch)
    assert life.seen["list read"] > 5, life.seen
    assert bool(life.seen["released"]) == life.may_hold, life.seen
