"""Bugs on purpose in what becomes of meters that get another name, or are removed."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aggregator.core import renaming
from aggregator.core.model import State
from aggregator.delivery.sender import Sender
from aggregator.sinks.files.formats import Format
from tests.simulation.memory import MemoryMeters
from tests.simulation.memory_in_doubt import MemoryInDoubt
from tests.simulation.memory_outbox import MemoryOutbox
from tests.simulation.mutation import mutant

Patches = Sequence[tuple[object, str, object]]


def _nobody(*_: object) -> Iterator[tuple[str, str]]:
    return iter(())


@mutant("a meter that has another name is a new one, and begins at its start")
def renamed_is_new() -> Patches:
    def renames(wanted: Iterable[Any], memory: Any) -> dict[str, str]:
        return {}

    return [(renaming, "renames", renames), (renaming, "refusals", _nobody)]


@mutant("a configuration of before begins the meter again under the name it had")
def former_name_begins_anew() -> Patches:
    def name(each: Any, memory: Any, renamed: Mapping[str, str]) -> None:
        return None

    return [(renaming, "_name", name), (renaming, "_outlet", lambda *_: None)]


@mutant("the mark of a meter is lost with its name")
def mark_lost_with_the_name() -> Patches:
    real = MemoryMeters._rename

    def rename(self: MemoryMeters, old: str, new: str) -> None:
        real(self, old, new)
        row = next(row for row in self._ledger.tables.meters.values() if row.name == new)
        row.mark = row.start_at

    return [(MemoryMeters, "_rename", rename)]


@mutant("whoever has a meter under its former name goes on with it")
def former_name_goes_on() -> Patches:
    real = MemoryMeters.acquire

    def acquire(self: MemoryMeters, registered: Any) -> Any:
        name = self._ledger.tables.meters[registered.id].name
        lease = real(self, registered._replace(meter=replace(registered.meter, name=name)))
        return None if lease is None else lease._replace(registered=registered)

    return [(MemoryMeters, "acquire", acquire)]


@mutant("a report of a meter under its former name is about nothing")
def report_under_a_former_name_lost() -> Patches:
    def feed_called(self: MemoryInDoubt, sink_id: int, meter: str) -> int | None:
        tables = self._ledger.tables
        found = (feed.id for feed in tables.feeds.values() if tables.meters[feed.meter_id].name == meter)
        return next(found, None)

    return [(MemoryInDoubt, "_feed_called", feed_called)]


@mutant("a file is named after what its meter is called now")
def file_named_after_the_meter() -> Patches:
    return [(Format, "called", lambda self, meter: meter)]


@mutant("what is owed of a meter that was removed is sent all the same")
def removed_is_sent() -> Patches:
    real = Sender.__init__

    def init(self: Sender, *values: Any, feeds: Any = None, **named: Any) -> None:
        real(self, *values, **named)

    return [(Sender, "__init__", init)]


@mutant("what may have left before it was given up counts as never sent")
def given_up_counts_as_never_sent() -> Patches:
    real = MemoryOutbox.give_up

    def give_up(self: MemoryOutbox, feeds: Sequence[int], now: dt.datetime) -> tuple[int, int]:
        done = real(self, feeds, now)
        tables = self._ledger.tables
        for event, row in tables.parked.items():
            if row.feed_id in feeds and row.state is State.IN_DOUBT and row.since == now:
                tables.events[event].exposed_at = None
                tables.events[event].state = row.state = State.REFUSED
        return done

    return [(MemoryOutbox, "give_up", give_up)]


@mutant("what waits of a meter that was removed is forgotten with it")
def given_up_is_forgotten() -> Patches:
    real = MemoryOutbox.give_up

    def give_up(self: MemoryOutbox, feeds: Sequence[int], now: dt.datetime) -> tuple[int, int]:
        done = real(self, feeds, now)
        parked = self._ledger.tables.parked
        for event in [event for event, row in parked.items() if row.feed_id in feeds and row.since == now]:
            del parked[event]
        return done

    return [(MemoryOutbox, "give_up", give_up)]
