"""Bugs on purpose in usage that is kept apart by a dimension."""

import datetime as dt
from decimal import Decimal

from aggregator.core.dimensions import Dimensions
from aggregator.core.planner import Identifiers
from tests.simulation import memory_passes
from tests.simulation.apart import customer_of
from tests.simulation.mutation import mutant


@mutant("the events of all combinations of a slot have one identifier")
def identifier_without_dimensions() -> list[tuple[object, str, object]]:
    real = Identifiers.of

    def of(
        self: Identifiers, customer: str, start: dt.datetime, revision: int, dimensions: Dimensions = ()
    ) -> str:
        return real(self, customer, start, revision)

    return [(Identifiers, "of", of)]


@mutant("the fractions of all combinations of a customer are kept in one place")
def carry_without_dimensions() -> list[tuple[object, str, object]]:
    real = memory_passes._carry

    def carry(carries: dict[tuple[int, str], Decimal], key: tuple[int, str], amount: Decimal) -> None:
        real(carries, (key[0], customer_of(key[1])), amount)

    return [(memory_passes, "_carry", carry)]


@mutant("what is read is compared with the slot of the customer, whatever the combination")
def compared_without_dimensions() -> list[tuple[object, str, object]]:
    def named(customer: str, dimensions: Dimensions) -> str:
        return customer

    return [(memory_passes, "named", named)]
