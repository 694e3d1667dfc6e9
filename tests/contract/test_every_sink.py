"""What every sink does, whatever it talks to: the same trials for each of `CASES`.

Events go out again here as the ledger would let them: judged by `retry`, with the same bytes, until they are settled. What
counts is what the far side has booked then: each event once.
"""

import threading
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from aggregator.core import retry
from aggregator.core.model import (
    Answer,
    Event,
    EventId,
    State,
    Verdict,
)
from aggregator.errors import SinkHalted
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import RunningSandbox, SandboxOptions, running
from tests.contract.cases import CASES, HOUR_AGO, METERS, Case, Fault, Stage, replaces
from tests.contract.events import about_to_leave, always, until_halted

ROUNDS = 5
"""More than any trial here needs."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[RunningSandbox]:
    """One sandbox for all cases that need one."""
    with running(SandboxOptions(meters=METERS)) as sandbox:
        yield sandbox


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, sandbox: RunningSandbox, tmp_path: Path) -> Iterator[Case]:
    """One sink after the other, each with a far side that is as at the start."""
    with CASES[request.param].put_up(Stage(sandbox, tmp_path)) as case:
        yield case


def usage(case: Case, *names: str, delta: Decimal | int = 1) -> list[Event]:
    """Events that are about to be sent for the first time, one per name."""
    return [about_to_leave(HOUR_AGO, case.customer(name), delta) for name in names]


def send(case: Case, events: Sequence[Event]) -> dict[EventId, Verdict]:
    """Send events; return one verdict on each, after a look that there is just one, and that it gives nothing away."""
    verdicts = list(case.sink.send(events, always))
    assert sorted(verdict.event for verdict in verdicts) == sorted(event.id for event in events)
    for verdict in verdicts:
        assert case.secret not in f"{verdict.reason} {verdict.request_id}"
    return {verdict.event: verdict for verdict in verdicts}


def deliver(case: Case, events: Sequence[Event]) -> list[list[Answer]]:
    """Send events until each is settled, as delivery would; return the answers that each has got."""
    told: dict[EventId, list[Answer]] = {event.id: [] for event in events}
    left = list(events)
    for _ in range(ROUNDS):
        now, again = utcnow(), []
        verdicts = send(case, left) if left else {}
        for event in left:
            verdict = verdicts[event.id]
            told[event.id].append(verdict.answer)
            outcome = retry.judge(verdict, event, now, now, case.sink.limits_for(event.meter).write_model)
            assert outcome.state in {State.ACCEPTED, State.DUE, State.REFUSED}, outcome
            if outcome.state is State.DUE:
                again.append(event._replace(attempts=event.attempts + 1, exposed_at=outcome.exposed_at))
        left = again
    assert not left, f"not settled after {ROUNDS} rounds"
    return [told[event.id] for event in events]


def sums(events: Sequence[Event]) -> dict[str, Decimal]:
    """What the far side must have of these events."""
    return {
        event.customer: sum((e.delta for e in events if e.customer == event.customer), Decimal())
        for event in events
    }


def struck_by(*faults: Fault) -> list[tuple[str, Fault]]:
    """Every case with each of these faults that it can have."""
    return [(name, fault) for name, entry in CASES.items() for fault in faults if fault in entry.faults]


# -- what goes well -------------------------------------------------------------------------------


def test_events_are_accepted_and_booked(case: Case) -> None:
    """Each event is accepted, and its customer's total is its quantity."""
    events = usage(case, "cus_1", "cus_2", "cus_3", delta=7)
    assert deliver(case, events) == [[Answer.ACCEPTED]] * 3
    assert case.booked() == sums(events)


def test_nothing_to_send_is_nothing_said(case: Case) -> None:
    """An empty send is no error, and no request."""
    assert send(case, []) == {}
    assert case.booked() == {}


def test_many_events_of_one_customer_do_not_meet(case: Case) -> None:
    """They go one after the other: none is turned away, and all count."""
    events = usage(case, *["cus_1"] * 12)
    if replaces(case):
        events = [event._replace(total=Decimal(number + 1)) for number, event in enumerate(events)]
    assert deliver(case, events) == [[Answer.ACCEPTED]] * 12
    assert case.booked() == {case.customer("cus_1"): 12}


def test_more_events_than_any_request_takes(case: Case) -> None:
    """Several hundred at once are all booked, whatever a request can hold."""
    events = usage(case, *(f"cus_{number}" for number in range(250)))
    assert deliver(case, events) == [[Answer.ACCEPTED]] * 250
    assert case.booked() == sums(events)


def test_several_threads_may_send_at_once(case: Case) -> None:
    """Batches that share customers end up booked in full."""
    batches = [usage(case, "cus_1", "cus_2", f"cus_{number}a") for number in range(3)]
    if replaces(case):
        batches = [[event for event in batch if event.customer.endswith("a")] for batch in batches]
    threads = [threading.Thread(target=deliver, args=(case, batch)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert case.booked() == sums([event for batch in batches for event in batch])


# -- what goes wrong on the way -------------------------------------------------------------------


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(("case", "fault"), struck_by(*Fault), indirect=["case"])
def test_a_fault_at_any_place_costs_nothing_and_doubles_nothing(case: Case, fault: Fault, index: int) -> None:
    """Whichever of some events it strikes, sent again as retry has it all of them are booked once."""
    deliver(case, usage(case, "cus_before"))
    events = usage(case, "cus_1", "cus_2", "cus_3", "cus_4", delta=3)
    case.strike(fault, events[index].customer)
    told = deliver(case, events)
    assert all(answers[-1] in {Answer.ACCEPTED, Answer.DUPLICATE} for answers in told)
    assert case.booked() == sums(events) | {case.customer("cus_before"): 1}


@pytest.mark.parametrize(
    ("case", "fault"),
    struck_by(Fault.DROPPED_AFTER, Fault.ERROR_AFTER, Fault.DROPPED_BEFORE, Fault.ERROR_BEFORE),
    indirect=["case"],
)
def test_no_usable_answer_is_unknown(case: Case, fault: Fault) -> None:
    """Whether it was done or not: neither accepted nor refused."""
    (event,) = usage(case, "cus_1")
    case.strike(fault, event.customer)
    assert send(case, [event])[event.id].answer is Answer.UNKNOWN


@pytest.mark.parametrize(("case", "fault"), struck_by(Fault.DROPPED_AFTER), indirect=["case"])
def test_a_lost_answer_is_found_out_by_sending_again(case: Case, fault: Fault) -> None:
    """The far side has the identifier already, and counts it once."""
    (event,) = usage(case, "cus_1", delta=5)
    case.strike(fault, event.customer)
    recognised = {Answer.DUPLICATE} if case.tells_duplicates else {Answer.DUPLICATE, Answer.ACCEPTED}
    assert send(case, [event])[event.id].answer is Answer.UNKNOWN
    again = event._replace(attempts=2, exposed_at=utcnow())
    assert send(case, [again])[event.id].answer in recognised
    assert case.booked() == sums([event])


@pytest.mark.parametrize(("case", "fault"), struck_by(Fault.TOO_MANY), indirect=["case"])
def test_too_many_requests_is_busy(case: Case, fault: Fault) -> None:
    """Turned away before anything was done: nothing is exposed by it."""
    (event,) = usage(case, "cus_1")
    case.strike(fault, event.customer)
    assert send(case, [event])[event.id].answer is Answer.BUSY
    assert case.booked() == {}


@pytest.mark.parametrize(("case", "fault"), struck_by(Fault.EXPIRED), indirect=["case"])
def test_what_has_expired_is_renewed_within_the_same_send(case: Case, fault: Fault) -> None:
    """Nobody notices: the events are accepted at once."""
    deliver(case, usage(case, "cus_0"))
    events = usage(case, "cus_1", "cus_2")
    case.strike(fault, events[0].customer)
    assert deliver(case, events) == [[Answer.ACCEPTED]] * 2


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(3))
def test_a_refused_customer_holds_nobody_up(case: Case, index: int) -> None:
    """Whichever of several it is, the others are booked; where no event has an answer of its own, it is not refused yet."""
    events = usage(case, "cus_1", "cus_2", "cus_3", delta=2)
    bad = events[index]
    case.refuse(bad.customer)
    told = deliver(case, events)
    expected = Answer.REFUSED if case.sink.limits.answers else Answer.ACCEPTED
    assert told[index][-1] in {expected, Answer.REFUSED}
    assert [told[place] for place in range(3) if place != index] == [[Answer.ACCEPTED]] * 2
    assert case.booked() == sums([event for event in events if event is not bad])


HALTED = [(name, how) for name, entry in CASES.items() for how in entry.halts]
LIFTED = [
    (name, how) for name, how in HALTED if how != "403" and not {"stream", "connect"} & set(name.split())
]
"""A 403 may be about something that is not asked for on the way back; a session, and a connected account, may be known for
a second more as they were."""


@pytest.mark.parametrize(("case", "how"), HALTED, indirect=["case"])
def test_a_sink_that_is_refused_as_a_whole_halts(case: Case, how: str) -> None:
    """It says so at the end, in words for a person; no event has left, and it stays so."""
    case.halt(how)
    for _ in range(2):
        verdicts, said = until_halted(case.sink, usage(case, "cus_1", "cus_2"))
        assert {verdict.answer for verdict in verdicts} <= {Answer.UNSENT}
        assert case.secret not in f"{said} {verdicts}"
    assert case.booked() == {}


@pytest.mark.parametrize(("case", "how"), LIFTED, indirect=["case"])
def test_a_halted_sink_comes_back_when_it_is_asked_to(case: Case, how: str) -> None:
    """As long as it is refused it stays as it is, and asking books nothing; then it sends again."""
    case.halt(how)
    events = usage(case, "cus_1")
    until_halted(case.sink, events)
    with pytest.raises(SinkHalted):
        case.sink.resume()
    verdicts, _ = until_halted(case.sink, events)
    assert {verdict.answer for verdict in verdicts} <= {Answer.UNSENT}
    case.relent()
    case.sink.resume()
    assert deliver(case, events) == [[Answer.ACCEPTED]]
    assert case.booked() == sums(events)


# -- what must not leave --------------------------------------------------------------------------


def test_what_may_no_longer_leave_is_unsent(case: Case) -> None:
    """A claim that might run out lets nothing go."""
    events = usage(case, "cus_1", "cus_2")
    verdicts = list(case.sink.send(events, lambda: False))
    assert [verdict.answer for verdict in verdicts] == [Answer.UNSENT] * 2
    assert case.booked() == {}


def test_nothing_leaves_after_stop(case: Case) -> None:
    """A sink that was told to stop gives everything back."""
    deliver(case, usage(case, "cus_0"))
    case.sink.stop()
    events = usage(case, "cus_1", "cus_2")
    assert {verdict.answer for verdict in send(case, events).values()} == {Answer.UNSENT}
    assert case.booked() == {case.customer("cus_0"): 1}


def test_stop_in_the_middle_leaves_no_event_without_a_word(case: Case) -> None:
    """What had left is booked and accepted, what had not is unsent: nothing is in between."""
    events = usage(case, *(f"cus_{number}" for number in range(150)))
    asked = threading.Event()

    def may_leave() -> bool:
        if not asked.is_set():
            asked.set()
            case.sink.stop()
        return True

    verdicts = {verdict.event: verdict.answer for verdict in case.sink.send(events, may_leave)}
    assert verdicts.keys() == {event.id for event in events}
    assert set(verdicts.values()) <= {Answer.ACCEPTED, Answer.UNSENT}
    assert case.booked() == sums([event for event in events if verdicts[event.id] is Answer.ACCEPTED])
