"""From the facts of a window to sentences that a person can forward, in the order of time. Pure.

Rules
- Each sentence says what happened, to which thing, and who did it: a pass, the sink, a person. None says more than what is
  on record: what is overwritten, such as when an event was first accepted that was rejected later, is not guessed.
- Numbers are written in full, instants in UTC to the second.
"""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

from aggregator.core import dimensions as apart_by
from aggregator.core.explanation import Decided, EventFact, Evidence, Now, Sentence, WindowFacts
from aggregator.core.model import ZERO, Span, State
from aggregator.core.planner import plain, subtract
from aggregator.core.shown import counted
from aggregator.core.states import BOOKED

KINDS = {"live": "Pass", "backfill": "Backfill", "adoption": "Adoption", "repair": "Repair"}
"""What a pass is called in a sentence, by its kind."""

LATER = dt.datetime.max.replace(tzinfo=dt.UTC)

ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def sentences(facts: WindowFacts, now: Now | None = None) -> list[Sentence]:
    """Tell the story of a window: what happened, in the order of time, and then how it stands."""
    happened: list[Sentence] = []
    before: EventFact | None = None
    for event in facts.events:
        happened += _event(facts, event, before)
        before = event
    happened += filter(None, map(_withdrawn, facts.events))
    happened.sort(key=lambda each: each.at or LATER)
    return [*happened, *(Sentence(None, text) for text in (*_stands(facts), *_says_now(facts, now)))]


def headline(facts: WindowFacts) -> str:
    """Name the window in one line."""
    kept_apart = f", {apart_by.shown(facts.dimensions)}" if facts.dimensions else ""
    return f"{facts.meter} for {facts.customer}{kept_apart}, {span_in_words(facts.window)}, to {facts.sink}"


def balance(facts: WindowFacts) -> str:
    """Say what was used, and what became of it, as a sum."""
    if facts.quantity is None:
        return "nothing is on record"
    parts = {
        "billed": facts.billed,
        "under way": facts.under_way,
        "held or refused": facts.waiting,
        "in shadow": facts.sum_of(State.SHADOW),
        "carried": facts.carried,
    }
    if facts.last:
        return (
            f"{amount(facts.quantity)} used, {amount(facts.billed)} billed as the last number of this window"
        )
    shown = [f"{amount(number)} {name}" for name, number in parts.items() if number or name == "billed"]
    return f"{amount(facts.quantity)} used = " + " + ".join(shown)


def amount(number: Decimal) -> str:
    """Write a number for a person: all of its digits, thousands apart."""
    whole, _, fraction = plain(number).partition(".")
    return f"{int(whole):,}" + (f".{fraction}" if fraction else "") if whole != "-0" else plain(number)


def digest(checksum: int) -> str:
    """Write a checksum."""
    return f"{checksum & 0xFFFFFFFFFFFFFFFF:016x}"


def signed(number: Decimal) -> str:
    """Write a change, with its sign."""
    return ("+" if number > 0 else "") + amount(number)


def moment(instant: dt.datetime) -> str:
    """Write an instant to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S}Z"


def span_in_words(span: Span) -> str:
    """Write a window: the day once, if it ends on the same one."""
    same = span.end.date() == span.start.date() or (span.end - span.start) <= dt.timedelta(days=1)
    end = f"{span.end:%H:%M}" if same and span.end.time() != dt.time() else f"{span.end:%Y-%m-%d %H:%M}"
    return f"{span.start:%Y-%m-%d %H:%M} to {end} UTC"


def _event(facts: WindowFacts, event: EventFact, before: EventFact | None) -> Iterator[Sentence]:
    """Tell of one event: how it was planned, sent, answered, and what became of it."""
    yield Sentence(event.planned_at, _planned(facts, event, before))
    for each in event.tries:
        yield Sentence(each.at, _try(facts, event, each.state, each.reason, each.request_id))
    yield from _taken(facts, event)
    if event.rejected_at is not None:
        yield Sentence(
            event.rejected_at,
            f"{facts.sink} reported event {event.id} as invalid, which it had accepted before: {event.rejected_reason}.",
        )
    for decided in event.decided:
        yield Sentence(decided.at, _decided(facts, event, decided))
    for request in event.cancelling:
        if all(each.verb != "cancel" for each in event.decided):
            yield Sentence(request.asked_at, f"{facts.sink} was to take event {event.id} back.")
        if request.settled_at is not None:
            yield Sentence(request.settled_at, _cancelled(facts, event, request.state, request.answer))
    parked = event.parked
    known = any(each.verb == "dismiss" for each in event.decided)
    if parked is not None and parked.dismissed_at is not None and not known:
        yield Sentence(parked.dismissed_at, f"A person dismissed event {event.id}: nothing of it is billed.")


def _withdrawn(event: EventFact) -> Sentence | None:
    """Say when an event was withdrawn: behind what took its place at the same instant."""
    if event.state is not State.VOID or event.settled_at is None:
        return None
    return Sentence(event.settled_at, f"Event {event.id} was withdrawn: {event.reason}.")


def _planned(facts: WindowFacts, event: EventFact, before: EventFact | None) -> str:
    """Say what was read, and what was planned for it."""
    by = event.planned_by
    who = "A pass" if by is None else f"{KINDS[by.kind]} {by.id}"
    if by is not None and by.kind == "adoption":
        return f"{who} found {amount(event.total)} in the sink's own totals, and took it over as event {event.id}."
    if by is not None and by.kind == "repair":
        return f"{_repaired(who, event)}{_initially(event)}"
    read = f"{who} read the window"
    if before is None:
        read += f": the source said {amount(event.quantity)} for {facts.customer}"
    elif event.quantity == before.quantity:
        read += f" again: the source said {amount(event.quantity)}, as before"
    else:
        read += f" again: the source now said {amount(event.quantity)}, where it had said {amount(before.quantity)}"
    kept = next((each for each in facts.evidence if each.pass_id == _pass_id(event)), None)
    return f"{read}{_of_all(kept)}. {_owed(facts, event)}{_initially(event)}"


def _repaired(who: str, event: EventFact) -> str:
    """Say what a repair took over from the sink, or proposed: it reads no window, and bills nothing by itself."""
    steps = (
        f"{signed(event.delta)}, from {amount(subtract(event.total, event.delta))} to {amount(event.total)}"
    )
    if event.state is State.CONFIRMED and not event.attempts:
        differs = "found the sink's own totals differ from what was accepted"
        return f"{who} {differs}, and took that over as event {event.id}: {steps}."
    return f"{who} proposed to take back what the sink has too much: event {event.id}, stamped {moment(event.at)}, {steps}."


def _pass_id(event: EventFact) -> int | None:
    return None if event.planned_by is None else event.planned_by.id


def _of_all(kept: Evidence | None) -> str:
    """Say what was read of all customers together."""
    if kept is None:
        return ""
    return f" (of all customers: {counted(kept.rows, 'row')}, {amount(kept.quantity)} in all, checksum {kept.digest})"


def _owed(facts: WindowFacts, event: EventFact) -> str:
    """Say what an event is to change."""
    name = f"event {event.id}" if event.revision == 0 else f"event {event.id}, correction {event.revision}"
    stamped = f"stamped {moment(event.at)}"
    booked = subtract(event.total, event.delta)
    if facts.last:
        return f"That was planned as {name}, {stamped}: the number is to be {amount(event.total)}."
    if not event.delta:
        return f"Where the window stands was planned to be said once more: {name}, {stamped}, {amount(event.total)}."
    rest = subtract(event.quantity, event.total)
    carried = f" What is too small to bill ({amount(rest)}) is carried to a later window." if rest > 0 else ""
    if rest < 0:
        carried = f" Of it, {amount(-rest)} had been carried from other windows."
    if event.revision == 0:
        return f"It was planned as {name}, {stamped}: {amount(event.delta)} to bill.{carried}"
    steps = f"{signed(event.delta)}, from {amount(booked)} to {amount(event.total)}"
    return f"So {name}, {stamped}, was planned: {steps}.{carried}"


def _initially(event: EventFact) -> str:
    """Say if it was not simply to be sent, as far as that is known still."""
    reason = event.parked.reason if event.parked else event.reason
    match event.state:
        case State.HELD:
            return f" It was held for a person: {reason}."
        case State.SHADOW:
            return (
                f" It was planned in shadow, and is never sent{f' ({event.reason})' if event.reason else ''}."
            )
        case State.REFUSED if not event.attempts and event.exposed_at is None:
            return f" It was refused before it was sent: {reason}."
        case _:
            return ""


def _try(
    facts: WindowFacts, event: EventFact, state: State, reason: str | None, request_id: str | None
) -> str:
    """Say how a try went that did not end well."""
    because = f": {reason}" if reason else ""
    request = f" (request {request_id})" if request_id else ""
    match state:
        case State.REFUSED:
            return f"{facts.sink} refused event {event.id} for good{because}{request}."
        case State.IN_DOUBT:
            return f"Event {event.id} had no answer for too long to be sent again safely: it is in doubt{because}{request}."
        case _:
            return f"{facts.sink} did not take event {event.id} for now{because}{request}. It was to be sent again."


def _taken(facts: WindowFacts, event: EventFact) -> Iterator[Sentence]:
    """Say when the sink took it; of what turned out later not to count, when it was sent."""
    by = f" by {event.transport}" if event.transport else ""
    where = f" in file {event.file}" if event.file else ""
    request = f" (request {event.request_id})" if event.request_id else ""
    which = f", at the {_ordinal(event.attempts)} try" if event.attempts > 1 else ""
    what = signed(event.delta) if event.revision and not facts.last else amount(event.total)
    taken = f"{facts.sink} accepted event {event.id}{by}{where}{which}: {what}{request}."
    if event.state in BOOKED and event.attempts and event.settled_at is not None:
        seen = " Its own totals show it." if event.state is State.CONFIRMED else ""
        yield Sentence(event.settled_at, f"{taken}{seen}")
        return
    found_later = event.parked is not None and event.parked.was_accepted
    if (found_later or event.rejected_at is not None) and event.attempted_at is not None:
        yield Sentence(event.attempted_at, taken)
    if found_later and event.rejected_at is None and event.parked is not None:
        yield Sentence(event.parked.since, f"Event {event.id} was found not to count: {event.parked.reason}.")


def _decided(facts: WindowFacts, event: EventFact, decided: Decided) -> str:
    """Say what a person decided, who it was, and why."""
    counted = event.rejected_at is not None or (event.parked is not None and event.parked.was_accepted)
    done = {
        "release": f"released event {event.id}, to be {'planned anew' if counted else 'sent'}",
        "dismiss": f"dismissed event {event.id}: nothing of it is billed",
        "cancel": f"asked {facts.sink} to take event {event.id} back",
        "mark-accepted": f"said that {facts.sink} has event {event.id}",
        "mark-missing": f"said that {facts.sink} does not have event {event.id}",
        "give-up": f"gave event {event.id} up: nothing of it is sent",
        "confirm": f"confirmed the file that holds event {event.id}",
        "reject": f"said that event {event.id} was not taken from its file",
        "move": f"said that event {event.id} is in no file at the former place, so that it is written anew",
    }[decided.verb]
    return f"{decided.who} {done}{f' ({decided.reason})' if decided.reason else ''}."


def _cancelled(facts: WindowFacts, event: EventFact, state: str, answer: str | None) -> str:
    """Say what became of a request to take an event back."""
    if state == "done":
        return f"{facts.sink} took event {event.id} back."
    return f"{facts.sink} did not take event {event.id} back{f': {answer}' if answer else ''}."


def _ordinal(number: int) -> str:
    return ORDINALS[number] if number < len(ORDINALS) else f"{number}th"


def _stands(facts: WindowFacts) -> Iterator[str]:
    """Say what waits, and why nothing is there that one might look for."""
    for event in facts.events:
        yield from _waits(facts, event)
    if facts.unread is not None:
        yield f"The source could not give this window: {facts.unread}. It is tried again by itself (`aggregator runs`)."
    if facts.unusable is not None:
        yield f"Rows of {facts.customer} in this window cannot be billed, and keep the others waiting: {facts.unusable}."
    if facts.without_value is not None:
        yield (
            f"Rows of {facts.customer} in this window belong to no combination, and are not billed: {facts.without_value}. "
            "Nothing else waits for them."
        )
    if not facts.events:
        yield from _nothing(facts)


def _waits(facts: WindowFacts, event: EventFact) -> Iterator[str]:
    """Say how an event goes on that is not settled."""
    parked = event.parked
    match event.state:
        case State.DUE:
            soon = f" at {moment(event.due_at)} or later" if event.due_at else ""
            yield f"Event {event.id} is due: it is sent to {facts.sink}{soon}."
        case State.SENDING:
            yield f"Event {event.id} is being sent to {facts.sink}, and has no answer yet."
        case State.IN_DOUBT:
            yield f"Event {event.id} is settled by what {facts.sink}'s own totals show; until then it is not sent again."
        case State.HELD | State.REFUSED if parked is not None and parked.dismissed_at is None:
            waits = "waits for a person" if event.state is State.HELD else "is not billed"
            yield f"Event {event.id} ({signed(event.delta)}) {waits}: `aggregator events release {event.id}` sends it."
            if parked.moved_with is not None:
                yield f"Event {parked.moved_with} of another customer waits with it, since usage moved between the two."
        case _:
            return


def _nothing(facts: WindowFacts) -> Iterator[str]:
    """Say why nothing was planned."""
    if facts.bills is not None and facts.window.start not in facts.bills:
        yield f"{facts.sink} does not bill this window: it bills {facts.bills}."
    elif facts.mark <= facts.window.start and facts.quantity is None:
        yield f"{facts.meter} is read up to {moment(facts.mark)}: this window has not been read yet."
    elif facts.quantity is None:
        yield f"The window was read, and the source had nothing of {facts.customer} in it."
    elif facts.quantity:
        yield f"The source said {amount(facts.quantity)}, too small to bill by itself, it is carried to a later window."
    else:
        yield f"The source said nothing of {facts.customer} that could be billed."


def _says_now(facts: WindowFacts, now: Now | None) -> Iterator[str]:
    """Say what the source says now, and whether that is what it said when the window was last read."""
    if now is None:
        return
    if now.trouble is not None:
        yield f"What source {now.source} says now is not known: {now.trouble}"
        return
    last = facts.quantity or ZERO
    yield f"At {moment(now.at)} source {now.source} said {amount(now.quantity)}{_compared(now.quantity, last, facts)}."
    if now.proven_until is not None and now.proven_until < facts.window.end:
        yield f"It has proven to show everything up to {moment(now.proven_until)} only, so that some of it may be missing."
    if not now.customers:
        if facts.evidence and facts.evidence[-1].checksum == now.checksum:
            yield f"Of all customers it said what was last read, to the row of each (checksum {facts.evidence[-1].digest})."
        return
    start, end = (f"{each:%Y-%m-%dT%H:%MZ}" for each in facts.window)
    customers = counted(now.customers, "customer")
    yield (
        f"The source has changed since this window was last read: {customers}, {signed(now.change)}. The next pass that "
        f"reads it books that; `aggregator backfill {facts.meter} --from {start} --to {end}` does so now."
    )


def _compared(quantity: Decimal, last: Decimal, facts: WindowFacts) -> str:
    if facts.quantity is None and facts.mark <= facts.window.start:
        return ", and the window has not been read yet"
    if quantity == last:
        return ", as when it was last read"
    return f", {signed(subtract(quantity, last))} since it was last read"
