"""The states of an event and every step between them: one table, to which all that moves an event is held.

An event is a debt, and its state says who has the next word on it: we (`due`), the sink (`sending`), the sink's own totals
(`in_doubt`), a person (`held`, `refused`), or nobody (`void`, `shadow`). Those that the sink has are `accepted`, and
`confirmed` once its totals show them.

Rules
- No step leads back across the sink. What it may have is sent again only after its totals, or a person, have said that it
  is not there; what it has is never due again, whatever comes of it is another event.
- `void` and `shadow` are ends, and no step leads to `shadow`: what nobody is to see never begins to be sent.
- A step belongs to whoever finds the event in the state that it leaves, by compare-and-set. So an answer that comes after
  the last word changes nothing.
- To stay is no step, and always allowed: a claim that runs out is taken over while the event is `sending`.

The ledger's trigger `event_moves_forward` and the simulated ledger refuse every other step. Tests hold both to the table,
the planner to `PLANNED`, `retry` to what follows `sending`, and the pages for users to all of it.
"""

from enum import StrEnum
from typing import NamedTuple

from aggregator.core.model import State

UNDER_WAY = frozenset({State.DUE, State.SENDING})
"""What the outbox holds."""

PARKED = frozenset({State.HELD, State.REFUSED, State.IN_DOUBT})
"""What waits for a person, or for the sink's own totals."""

BOOKED = frozenset({State.ACCEPTED, State.CONFIRMED})
"""What the sink has."""

BEGINNINGS = {
    State.DUE: "planned, to be sent",
    State.HELD: "planned, and a person is to see it first: it lowers a bill, or its query is not stable",
    State.REFUSED: "planned, though the sink takes nothing like it",
    State.SHADOW: "planned to be compared, and never sent",
    State.CONFIRMED: "found in the sink's own totals by an adoption, or by a repair",
}
"""In which states an event may begin, each with its cause."""

PLANNED = frozenset(BEGINNINGS) - {State.CONFIRMED}
"""In which states it may be planned."""


class Step(NamedTuple):
    """One way from a state to another one, with what causes it."""

    old: State
    new: State
    cause: str
    untried: bool = False
    """Whether only an event may go it that was never tried."""


STEPS = (
    Step(State.DUE, State.SENDING, "claimed, before the first byte leaves"),
    Step(
        State.DUE,
        State.HELD,
        "another customer lost as much in the same window, and both wait for a person",
        untried=True,
    ),
    Step(
        State.DUE, State.REFUSED, "reported as invalid after its answer was lost; or given up, and never sent"
    ),
    Step(State.DUE, State.IN_DOUBT, "given up by a person, though an attempt may have arrived"),
    Step(State.DUE, State.VOID, "withdrawn: its feed begins later, or an adoption takes its slot over"),
    Step(State.SENDING, State.ACCEPTED, "the sink took it, now or before; or its file is written"),
    Step(State.SENDING, State.DUE, "to be sent again: the sink was busy or did not answer, or it never left"),
    Step(
        State.SENDING,
        State.REFUSED,
        "the sink said no for good, or reported it as invalid; or it became too old",
    ),
    Step(State.SENDING, State.IN_DOUBT, "no answer, and too late to send it again, or given up by a person"),
    Step(State.HELD, State.DUE, "released by a person, or the reason to hold it is gone"),
    Step(State.HELD, State.VOID, "replaced by a newer plan, or withdrawn"),
    Step(State.REFUSED, State.DUE, "released by a person"),
    Step(State.REFUSED, State.VOID, "replaced by a newer plan, or withdrawn"),
    Step(State.IN_DOUBT, State.ACCEPTED, "the sink's own totals show it, or a person says so"),
    Step(State.IN_DOUBT, State.DUE, "the sink's own totals lack it, or a person says so"),
    Step(State.IN_DOUBT, State.REFUSED, "reported as invalid"),
    Step(State.IN_DOUBT, State.VOID, "withdrawn: an adoption takes its slot over"),
    Step(State.ACCEPTED, State.CONFIRMED, "the sink's own totals show it, or its file was uploaded"),
    Step(
        State.ACCEPTED, State.REFUSED, "reported as invalid, missing in the sink's own totals, or cancelled"
    ),
    Step(State.CONFIRMED, State.REFUSED, "reported as invalid, or cancelled"),
)
"""Every step that there is."""

_STEPS = {(step.old, step.new): step for step in STEPS}


def may_follow(old: State, new: State, *, untried: bool = False) -> bool:
    """Tell whether an event may be moved; `untried` is whether no attempt of it is on record."""
    step = _STEPS.get((old, new))
    return old is new or (step is not None and (untried or not step.untried))


def following(state: State) -> frozenset[State]:
    """Return where a step leads from a state."""
    return frozenset(step.new for step in STEPS if step.old is state)


class CancellationState(StrEnum):
    """How far it is with an event that a person wants back from its sink. The event itself is booked until it is done."""

    ASKED = "asked"
    TAKEN = "taken"
    DONE = "done"
    REFUSED = "refused"
    LAPSED = "lapsed"


CANCELLATION_STEPS = {
    CancellationState.ASKED: {
        CancellationState.TAKEN: "the sink took it on, or may have",
        CancellationState.DONE: "the sink says that it is done",
        CancellationState.REFUSED: "the sink says no, or nobody could ask it in time",
        CancellationState.LAPSED: "it is done, and an adoption has taken the slot over meanwhile",
    },
    CancellationState.TAKEN: {
        CancellationState.DONE: "the sink's own totals lack the event",
        CancellationState.REFUSED: "a person says that the sink has the event still",
        CancellationState.LAPSED: "the sink's own totals cannot tell",
    },
    CancellationState.LAPSED: {
        CancellationState.DONE: "a person says that the sink has the event no longer",
        CancellationState.REFUSED: "a person says that the sink has the event still",
    },
    CancellationState.DONE: {},
    CancellationState.REFUSED: {},
}
"""What may follow, each with its cause. What nothing follows is settled; to stay is allowed before that."""


def is_settled(state: CancellationState) -> bool:
    """Tell whether nothing more comes of it."""
    return not CANCELLATION_STEPS[state]


def may_go_on(old: CancellationState, new: CancellationState) -> bool:
    """Tell whether a cancellation that stands as `old` may stand as `new` next."""
    return not is_settled(old) and (old is new or new in CANCELLATION_STEPS[old])
