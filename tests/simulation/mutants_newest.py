"""Bugs on purpose where a customer is billed for the newest window."""

from typing import Any

from aggregator.core import planner
from aggregator.core.model import EventId, WriteModel
from tests.simulation import memory_outbox, memory_passes
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.mutation import mutant


@mutant("a customer's windows leave in any order")
def order_ignored() -> list[tuple[object, str, object]]:
    def nobody(self: MemoryOutbox) -> set[EventId]:
        return set()

    return [(MemoryOutbox, "_behind", nobody)]


@mutant("a correction of an old window stands last, where the sink goes by arrival")
def newer_not_said_again() -> list[tuple[object, str, object]]:
    return [(memory_passes, "note_newer", lambda *_: None)]


@mutant("what was held and leaves only now stands last, where the sink goes by arrival")
def held_stands_last() -> list[tuple[object, str, object]]:
    return [(part, "note_newer_than", lambda *_: None) for part in (memory_outbox, memory_passes)]


@mutant("what is to be sent again is left to whichever pass comes by")
def said_again_by_chance() -> list[tuple[object, str, object]]:
    return [(memory_passes, "waiting", lambda *_: None)]


@mutant("a zero is not said where nothing of the window has arrived")
def zero_not_said() -> list[tuple[object, str, object]]:
    real = planner._decide_last

    def decide(change: Any, *rest: Any) -> Any:
        decision = real(change, *rest)
        event = decision.event
        silent = event is not None and not (event.total or event.delta or change.again)
        return decision._replace(event=None) if silent else decision

    return [(planner, "_decide_last", decide)]


@mutant("later revisions of a window have earlier instants, as where numbers add up")
def instants_go_back() -> list[tuple[object, str, object]]:
    real = planner.stamp
    return [(planner, "stamp", lambda *one, **other: real(*one, **other | {"model": WriteModel.DELTA}))]


@mutant("parts of a unit flow from one window to the next")
def windows_add_up() -> list[tuple[object, str, object]]:
    real = planner._decide_last

    def decide(change: Any, carry: Any, unit: Any, policy: Any) -> Any:
        decision = real(change, carry, unit, policy)
        return decision._replace(carry=change.now % unit)

    return [(planner, "_decide_last", decide)]
