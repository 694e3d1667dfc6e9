"""Bugs on purpose in how reports reach the ledger."""

import datetime as dt
from contextlib import suppress
from typing import Any

from aggregator import intake
from aggregator.errors import SinkUnreachable
from tests.simulation.mutation import mutant


@mutant("what appears late in a list is never asked for again")
def no_overlap() -> list[tuple[object, str, object]]:
    return [(intake, "OVERLAP", dt.timedelta(0))]


@mutant("a message that could not be read just now counts as heard")
def heard_without_taking() -> list[tuple[object, str, object]]:
    real = intake.Intake._take_all

    def take_all(self: Any, *values: Any) -> None:
        with suppress(SinkUnreachable):
            real(self, *values)

    return [(intake.Intake, "_take_all", take_all)]
