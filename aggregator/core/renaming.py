"""Which meter feeds what at a sink, and whether a configuration would bill again what this ledger has billed. Pure.

A sink counts by a name, such as Stripe's event name, in an account. What it counts under one name is one thing, however it
is called here.

Rules
- What a meter fed is fed by another one, or through another sink, only from where the first one ended.
- `renamed_from` says that it is the same meter: it keeps its mark, its slots and its identifiers.
- A name that was given up is not given to another meter: its identifiers would be those of the first one.
- A meter that has sent keeps the name by which the sink counts it: corrections of old windows would go where those are not.
- A meter that has slots keeps the way its source is read: samples and cursors know nothing of what was read without, and
  its old windows would be taken back, or billed again.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from aggregator.core.shown import minute as at


class Outlet(NamedTuple):
    """By what name a sink counts a meter, and in which account; None if the sink does not say."""

    sink: str
    account: str | None
    called: str

    def is_same(self, other: "Outlet") -> bool:
        """Tell whether both are counted as one; without an account a sink is known by its name alone."""
        if None in (self.account, other.account):
            return (self.sink, self.called) == (other.sink, other.called)
        return (self.account, self.called) == (other.account, other.called)

    @property
    def kind(self) -> str:
        """The name without what tells events of one name apart."""
        return self.called.partition("\n")[0]


class Wanted(NamedTuple):
    """A meter as it is configured."""

    name: str
    renamed_from: str | None
    begins: Mapping[str, dt.datetime]
    """By sink, from where a line that is new would bill at the earliest; see `KnownMeter.mark` for those without a word."""
    start_at: dt.datetime
    outlets: Sequence[Outlet]
    read: str = "windows"
    """How its source is read."""


class KnownMeter(NamedTuple):
    """A meter of the ledger, and what it was called before."""

    name: str
    mark: dt.datetime
    formerly: tuple[str, ...]
    read: str = "windows"
    has_slots: bool = False
    """Whether anything of it is on the books."""


class KnownLine(NamedTuple):
    """A meter's line into a sink, as the ledger has it."""

    meter: str
    outlet: Outlet
    until: dt.datetime | None
    """Up to where something was planned that is sent; None if nothing was."""
    has_sent: bool


class Memory(NamedTuple):
    """What a ledger knows of its meters."""

    meters: Mapping[str, KnownMeter]
    lines: Sequence[KnownLine]


def renames(wanted: Iterable[Wanted], memory: Memory) -> dict[str, str]:
    """Return which meters of the ledger get another name: by the old name, the new one."""
    return {
        each.renamed_from: each.name
        for each in wanted
        if each.renamed_from is not None
        and each.renamed_from in memory.meters
        and each.name not in memory.meters
    }


def refusals(wanted: Sequence[Wanted], memory: Memory) -> Iterator[tuple[str, str]]:
    """Yield the meters that would bill again what was billed, each with what to do about it."""
    renamed = renames(wanted, memory)
    own = {(line.meter, line.outlet.sink): line for line in reversed(memory.lines)}
    for each in wanted:
        said = _name(each, memory, renamed) or _read(each, memory, renamed)
        if said is not None:
            yield each.name, said
            continue
        for outlet in each.outlets:
            said = _outlet(each, outlet, memory, renamed, own)
            if said is not None:
                yield each.name, said


def _name(each: Wanted, memory: Memory, renamed: Mapping[str, str]) -> str | None:
    known = memory.meters.get(each.name)
    if known is None and each.name not in renamed.values():
        heir = next((one.name for one in memory.meters.values() if each.name in one.formerly), None)
        if heir is not None:
            return (
                f"Meter {each.name} is the former name of {heir}, whose events keep it in their identifiers: give a new "
                f"meter another name. If this is the configuration of before, {heir} goes on under a newer one."
            )
        if each.renamed_from is not None and memory.meters:
            names = ", ".join(sorted(memory.meters))
            return (
                f"Meter {each.name} has `renamed_from: {each.renamed_from}`, and this ledger knows no such meter; it knows "
                f"{names}. Correct it, or take it away if the meter is new."
            )
    if known is not None and each.renamed_from in memory.meters:
        return (
            f"Meter {each.name} has `renamed_from: {each.renamed_from}`, and this ledger knows both: {each.name} was begun "
            "as a meter of its own. Take `renamed_from` away, and give one of them back the name it had."
        )
    return None


def _read(each: Wanted, memory: Memory, renamed: Mapping[str, str]) -> str | None:
    before = next((old for old, new in renamed.items() if new == each.name), each.name)
    known = memory.meters.get(before)
    if known is None or not known.has_slots or known.read == each.read:
        return None
    return report_read(each.name, known.read, each.read, known.mark)


def report_read(meter: str, before: str, now: str, mark: dt.datetime) -> str:
    """Say why a meter cannot be read in another way than before, and what to do."""
    return (
        f"Meter {meter} is read by `read: {before}`, and is to be read by `read: {now}`: its old windows would be read "
        "again by what has not counted them, and taken back or billed twice. Set it back, end it with "
        f"`bill_until: {at(mark)}` at its sinks, and let a new meter with that `read` and `start_at: {at(mark)}` follow."
    )


def _outlet(
    each: Wanted,
    outlet: Outlet,
    memory: Memory,
    renamed: Mapping[str, str],
    lines: Mapping[tuple[str, str], KnownLine],
) -> str | None:
    """Say why a meter may not feed an outlet; `lines` are those of the ledger, by meter and sink."""
    before = next((old for old, new in renamed.items() if new == each.name), each.name)
    own = lines.get((before, outlet.sink))
    if own is not None and own.outlet.called == outlet.called:
        return None
    if own is not None and own.has_sent and own.outlet.kind != outlet.kind:
        return (
            f"Meter {each.name} was sent to sink {outlet.sink} as {own.outlet.kind}, and is to go there as {outlet.kind}: "
            "corrections of what was sent would go where that is not. Set it back; what is to be counted under the new name "
            f"is a new meter, with `start_at: {at(memory.meters[before].mark)}` or later."
        )
    begin = _begin(each, outlet.sink, before, memory)
    for line in memory.lines:
        if line is own or line.until is None or begin >= line.until or not line.outlet.is_same(outlet):
            continue
        place = f"{outlet.kind} in {outlet.account or f'sink {outlet.sink}'}"
        if line.meter == before:
            return (
                f"Meter {each.name} is to feed {place} through sink {outlet.sink}, and did so through {line.outlet.sink} up "
                f"to {at(line.until)}: the same usage would be billed again. Call it {line.outlet.sink} again, or let it "
                f"begin with `bill_from: {at(line.until)}` or later."
            )
        return (
            f"Meter {each.name} is to feed {place}, which meter {line.meter} of this ledger fed up to {at(line.until)}: the "
            f"same usage would be billed again. If it is the same meter, say `renamed_from: {line.meter}`; if it is another "
            f"one, let it begin there, with `start_at: {at(line.until)}` or later."
        )
    return None


def follows(wanted: Sequence[Wanted], memory: Memory) -> Iterator[tuple[str, str]]:
    """Yield the new meters that go on where another one ended, with a word on it."""
    for each in wanted:
        if each.name in memory.meters:
            continue
        for outlet in each.outlets:
            for line in memory.lines:
                if line.until is not None and line.meter != each.renamed_from and line.outlet.is_same(outlet):
                    fed = f"which {line.meter} fed up to {at(line.until)}"
                    yield each.name, f"it feeds {outlet.kind} from {at(each.start_at)} on, {fed}"


def _begin(each: Wanted, sink: str, before: str, memory: Memory) -> dt.datetime:
    given = each.begins.get(sink)
    known = memory.meters.get(before)
    if given is not None:
        return max(given, each.start_at)
    return each.start_at if known is None else max(known.mark, each.start_at)
