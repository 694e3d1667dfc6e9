"""The configuration of a life, which people change: meters get another name, are removed, are put back or given up.

Rules
- A daemon goes on with the configuration it was started with; it is ended and started anew with the next one when its turn
  comes, up to hours after others. One that is started with one of before may be refused.
- A name changes again only once somebody has started with the one before.
- What waits of a meter that was removed is given up only when no daemon has it in its configuration any more.
"""

import datetime as dt
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aggregator.core.model import Meter
from tests.simulation.conditions import DAY, HOUR
from tests.simulation.memory import EventRow
from tests.simulation.names import renamed

if TYPE_CHECKING:
    from tests.simulation.life import Life


class Configuring:
    """The newest configuration, and which one each daemon has."""

    def __init__(self, life: "Life", meters: list[Meter], random: random.Random) -> None:
        self.meters = meters
        self._life = life
        self._random = random
        self._had: dict[str, list[Meter]] = {}
        self._removed: list[Meter] = []

    def plan(self, start: dt.datetime, end: dt.datetime) -> None:
        """Draw what is changed, and when."""
        scheduler, dice, conditions = self._life.scheduler, self._random.random, self._life.conditions
        for _ in range(conditions.renames):
            scheduler.at(start + (end - start) * (0.1 + 0.8 * dice()), self._rename)
        for _ in range(conditions.removals):
            scheduler.at(start + (end - start) * (0.1 + 0.7 * dice()), self._remove)
        if conditions.removals:
            for days in (1, 2, 4):
                scheduler.at(end + days * DAY, self._give_up)

    def of(self, daemon: str) -> list[Meter]:
        """Return the configuration that a daemon is started with."""
        return self._had.setdefault(daemon, self.meters)

    def _rename(self) -> None:
        life = self._life
        rows = {row.name for row in life.ledger.tables().meters.values()}
        known = [meter for meter in self.meters if meter.name in rows]
        if not known or (life.conditions.restores and life.marks["a meter is renamed"]):
            return
        meter = self._random.choice(known)
        after = replace(meter, name=renamed(meter.name), renamed_from=meter.name)
        life.trace.tell(meter.name, "is called", after.name, "in the configuration")
        life.marks.saw("a meter is renamed")
        self._change([after if each is meter else each for each in self.meters], (0, 2, 30))

    def _remove(self) -> None:
        life, dice = self._life, self._random
        if len(self.meters) < 2 or life.resting:
            return
        meter = dice.choice(self.meters)
        life.trace.tell(meter.name, "is taken out of the configuration")
        life.marks.saw("a meter is removed")
        feeds = self._feeds([meter])
        waits = any(event.feed_id in feeds for event in self._owed())
        life.marks["a meter is removed with a backlog"] += waits
        self._removed.append(meter)
        self._change([each for each in self.meters if each is not meter])
        later = HOUR * dice.choice([2, 5, 12, 30])
        life.scheduler.after(later, dice.choice([self._put_back, self._put_back, self._give_up]))

    def _put_back(self) -> None:
        life = self._life
        if self._removed and not life.resting:
            meter = self._removed.pop()
            life.trace.tell(meter.name, "is put back into the configuration")
            life.marks.saw("a meter is put back")
            self._change([*self.meters, meter])

    def _give_up(self) -> None:
        """Give up what waits of meters that nobody has in its configuration, as a person says by `events give-up`."""
        life = self._life
        if any(meter in had for meter in self._removed for had in self._had.values()):
            return
        given = life.by_hand.outbox.give_up(sorted(self._feeds(self._removed)), life.scheduler.now)
        life.trace.tell("a person gives up:", given)
        life.marks["given up: nothing of it has left"] += given[0]
        life.marks["given up: it may have left"] += given[1]
        life.looked()

    def unconfigured(self) -> set[str]:
        """Return the meters that were removed, by their names."""
        return {meter.name for meter in self._removed}

    def _feeds(self, meters: list[Meter]) -> set[int]:
        tables, names = self._life.ledger.tables(), {meter.name for meter in meters}
        return {feed.id for feed in tables.feeds.values() if tables.meters[feed.meter_id].name in names}

    def _owed(self) -> list[EventRow]:
        tables = self._life.ledger.tables()
        return [tables.events[event] for event in tables.outbox]

    def _change(self, meters: list[Meter], hours: Sequence[float] = (0, 0.1, 2)) -> None:
        """Let each daemon be started anew with this, one after the other, so many hours later."""
        self.meters = meters
        for name in list(self._had):
            later = HOUR * self._random.choice(hours)
            self._life.scheduler.after(later, lambda name=name: self._deploy(name))  # type: ignore[misc]

    def _deploy(self, name: str) -> None:
        life = self._life
        self._had[name] = self.meters
        for daemon in list(life.daemons):
            if daemon.process.name == name and daemon.process.alive and not life.ended:
                life.scheduler.kill(daemon.process)
