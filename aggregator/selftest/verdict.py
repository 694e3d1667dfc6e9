"""What it came to: source, ledger and sandbox side by side, to the unit. Pure.

Rules
- Lost and doubled are counted window by window: one unit lost in a window and one doubled in the next are two faults.
- What the sandbox has booked and what the ledger says it sent are compared event by event as well.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.selftest.killing import Struck
from aggregator.selftest.watch import ZERO, Content
from aggregator.selftest.world import Slot

Who = tuple[str, str]
"""A meter, and a customer of it."""


class Booked(NamedTuple):
    """What the ledger holds of a customer: what was read, what is billed."""

    read: Decimal
    billed: Decimal


class Sent(NamedTuple):
    """One event as the ledger has it."""

    content: Content
    revision: int
    state: str


@dataclass(frozen=True)
class Sides:
    """What each side says when all is quiet.

    `nobody` is usage without a customer, by meter; `aside` is the ledger's word for it.
    """

    used: Mapping[Slot, Decimal]
    ledger: Mapping[Who, Booked]
    sent: Mapping[str, Sent]
    held: Mapping[Slot, Decimal]
    contents: Mapping[str, Content]
    totals: Mapping[Who, Decimal]
    nobody: Mapping[str, Decimal]
    aside: Mapping[str, Decimal]


class Difference(NamedTuple):
    """A customer of a meter whom the three sides do not agree about."""

    meter: str
    customer: str
    used: Decimal
    read: Decimal
    billed: Decimal
    held: Decimal
    lost: Decimal
    doubled: Decimal


@dataclass
class Verdict:
    """What one world, or several together, came to."""

    customers: int = 0
    used: Decimal = ZERO
    events: int = 0
    corrections: int = 0
    lost: Decimal = ZERO
    doubled: Decimal = ZERO
    two_contents: int = 0
    over: int = 0
    differences: list[Difference] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, nothing doubled, never over, nothing else wrong; and there was something to compare."""
        return self.events > 0 and not (
            self.lost or self.doubled or self.two_contents or self.over or self.differences or self.wrong
        )

    def add(self, other: "Verdict") -> None:
        """Take another world into account."""
        for name in vars(other):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def judge(sides: Sides) -> Verdict:
    """Compare the sides."""
    verdict = Verdict(used=sum(sides.used.values(), ZERO), events=len(sides.contents))
    compared = _customers(sides)
    verdict.customers = len(compared)
    verdict.differences = [each for each in compared if _differs(each)]
    verdict.lost = sum((each.lost for each in compared), ZERO)
    verdict.doubled = sum((each.doubled for each in compared), ZERO)
    verdict.corrections = sum(each.revision > 0 for each in sides.sent.values())
    _compare_events(sides, verdict)
    for meter in sorted(sides.nobody.keys() | sides.aside.keys()):
        used, aside = sides.nobody.get(meter, ZERO), sides.aside.get(meter, ZERO)
        if used != aside:
            verdict.wrong.append(f"{meter}: {used} used without a customer, {aside} unmapped in the ledger")
    return verdict


def _customers(sides: Sides) -> list[Difference]:
    """Put the sides together, a line for each customer of each meter whom any of them knows."""
    lost: dict[Who, Decimal] = defaultdict(lambda: ZERO)
    doubled: dict[Who, Decimal] = defaultdict(lambda: ZERO)
    used: dict[Who, Decimal] = defaultdict(lambda: ZERO)
    for slot in sides.used.keys() | sides.held.keys():
        who = slot.meter, slot.customer
        apart = sides.used.get(slot, ZERO) - sides.held.get(slot, ZERO)
        used[who] += sides.used.get(slot, ZERO)
        lost[who] += max(apart, ZERO)
        doubled[who] += max(-apart, ZERO)
    nothing = Booked(ZERO, ZERO)
    return [
        Difference(
            *who,
            used[who],
            *sides.ledger.get(who, nothing),
            sides.totals.get(who, ZERO),
            lost[who],
            doubled[who],
        )
        for who in sorted(used.keys() | sides.ledger.keys() | sides.totals.keys())
    ]


def _differs(each: Difference) -> bool:
    return bool(each.lost or each.doubled) or len({each.used, each.read, each.billed, each.held}) > 1


def _compare_events(sides: Sides, verdict: Verdict) -> None:
    """Find identifiers with two contents, strangers in the sandbox, and what the ledger believes to have arrived."""
    for identifier, content in sides.contents.items():
        sent = sides.sent.get(identifier)
        if sent is None:
            whose = f"{content.value} for {content.customer} of {content.meter}"
            verdict.wrong.append(
                f"the sandbox has booked {identifier}, which the ledger does not know: {whose}"
            )
        else:
            verdict.two_contents += sent.content != content
    for identifier, sent in sides.sent.items():
        if sent.state == "accepted" and identifier not in sides.contents:
            verdict.wrong.append(
                f"the ledger says that {identifier} was accepted; the sandbox does not know it"
            )
    states = Counter(sent.state for sent in sides.sent.values() if sent.state != "accepted")
    verdict.wrong += [
        f"{count:,} events are {state} in the ledger" for state, count in sorted(states.items())
    ]


@dataclass
class Outcome:
    """What one world, or several together, went through and came to."""

    struck: Struck = field(default_factory=Struck)
    verdict: Verdict = field(default_factory=Verdict)
    rows: int = 0
    calls: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing at all was wrong."""
        return self.verdict.good and not self.struck.wrong

    @property
    def wrong(self) -> list[str]:
        """What was wrong besides the figures."""
        return self.struck.wrong + self.verdict.wrong

    def add(self, other: "Outcome") -> None:
        """Take another world into account."""
        self.struck.add(other.struck)
        self.verdict.add(other.verdict)
        self.rows += other.rows
        self.calls += other.calls
