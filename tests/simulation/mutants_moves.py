"""Bugs on purpose in what becomes of usage that moved from one customer to another."""

from collections.abc import Sequence

from tests.simulation import memory_moves, memory_outbox, memory_parked
from tests.simulation.mutation import mutant

Patches = Sequence[tuple[object, str, object]]


@mutant("a new id is billed at once, while what the old one was billed stays")
def new_id_billed_at_once() -> Patches:
    return [(memory_moves, "hold", lambda ledger, feed, lost, planned, now: 0)]


@mutant("one event of a move is released, and the others stay")
def part_of_a_move_released() -> Patches:
    return [(memory_outbox, "whole", lambda tables, events: sorted(events))]


@mutant("one event of a move is dismissed, and the others wait on")
def part_of_a_move_dismissed() -> Patches:
    return [(memory_parked, "whole", lambda tables, events: sorted(events))]


@mutant("an increase waits on for a decrease that waits no more")
def waits_for_nothing() -> Patches:
    return [(memory_moves, "part", lambda ledger, registered, now: None)]


@mutant("what is planned anew for one side of a move does not wait for the other side")
def anew_without_the_other_side() -> Patches:
    return [(memory_moves, "keep", lambda ledger, registered, voided, now: None)]
