"""What it came to: source, ledger and sandbox side by side, to the unit. Pure.

Rules
- Lost and doubled are counted window by window: one unit lost in a window and one doubled in the next are two faults.
- What the sandbox has booked and what the ledger says it sent are compared event by event as well.
- Whether source, ledger and the sandbox's own totals agree is for `aggregator reconcile`, which anybody runs: whatever it
  finds is wrong. Its sums must be those of the two witnesses here, so that it cannot have looked at too little.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from aggregator.selftest.killing import Struck
from aggregator.selftest.watch import ZERO, Content
from aggregator.selftest.world import Slot

Who = tuple[str, str]
"""A meter, and a customer of it."""


class Reconciled(NamedTuple):
    """What `aggregator reconcile` says: what differs, in sentences, and of each meter the sums of source and sandbox."""

    found: Sequence[str]
    source: Mapping[str, Decimal]
    in_sink: Mapping[str, Decimal]
    unmapped: Mapping[str, tuple[Decimal, Decimal]]
    """By the source, and by the ledger."""


class Sent(NamedTuple):
    """One event as the ledger has it."""

    content: Content
    revision: int
    state: str


@dataclass(frozen=True)
class Sides:
    """What each side says when all is quiet. `nobody` is usage without a customer, by meter."""

    used: Mapping[Slot, Decimal]
    sent: Mapping[str, Sent]
    held: Mapping[Slot, Decimal]
    contents: Mapping[str, Content]
    nobody: Mapping[str, Decimal]
    reconciled: Reconciled


class Difference(NamedTuple):
    """A customer of a meter of whom the sandbox holds something else than was used."""

    meter: str
    customer: str
    used: Decimal
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
    verdict.differences = [each for each in compared if each.lost or each.doubled]
    verdict.lost = sum((each.lost for each in compared), ZERO)
    verdict.doubled = sum((each.doubled for each in compared), ZERO)
    verdict.corrections = sum(each.revision > 0 for each in sides.sent.values())
    _compare_events(sides, verdict)
    _compare_reconciled(sides, verdict)
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
    held: dict[Who, Decimal] = defaultdict(lambda: ZERO)
    for slot, much in sides.held.items():
        held[slot.meter, slot.customer] += much
    return [Difference(*who, used[who], held[who], lost[who], doubled[who]) for who in sorted(used)]


def _compare_reconciled(sides: Sides, verdict: Verdict) -> None:
    """Take over what `aggregator reconcile` has found, and see to it that it has looked at everything."""
    said = sides.reconciled
    verdict.wrong += [f"reconcile: {each}" for each in said.found]
    for name, slots, sums in (("source", sides.used, said.source), ("sandbox", sides.held, said.in_sink)):
        whole: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for slot, much in slots.items():
            whole[slot.meter] += much
        for meter in sorted(whole.keys() | sums.keys()):
            if whole[meter] != sums.get(meter, ZERO):
                verdict.wrong.append(
                    f"reconcile has {sums.get(meter, ZERO)} of {meter} by the {name}, which has {whole[meter]}"
                )
    for meter in sorted(sides.nobody.keys() | said.unmapped.keys()):
        used, unmapped = sides.nobody.get(meter, ZERO), said.unmapped.get(meter, (ZERO, ZERO))
        if unmapped != (used, used):
            source, ledger = unmapped
            verdict.wrong.append(
                f"{meter}: {used} used without a customer; by reconcile {source} in the source, {ledger} in the ledger"
            )


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
