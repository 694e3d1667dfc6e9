"""Where files lie, and who imports them: a file appears under its name whole or not at all, and is imported once.

The importer knows no identifiers, as the Dashboard does not: what lies in two files is billed twice. A path says in which
of several places a file lies, and by what name.
"""

import datetime as dt
import json
import random
from collections.abc import Callable, Iterable
from decimal import Decimal

from aggregator.core.model import Event
from tests.simulation.conditions import HOUR
from tests.simulation.names import outward
from tests.simulation.scheduler import Scheduler


class Place:
    """The store. `book` is told of every record that the importer reads, `credit` of each that is undone."""

    def __init__(
        self,
        scheduler: Scheduler,
        random: random.Random,
        book: Callable[[Event], None],
        credit: Callable[[str], None],
    ) -> None:
        self.files: dict[str, bytes] = {}
        self.begun: dict[str, Event] = {}
        """What lies in the files, by identifier."""
        self.imported: dict[str, bytes] = {}
        self._scheduler = scheduler
        self._random = random
        self._book = book
        self._credit = credit

    def publish(self, path: str, content: bytes, events: Iterable[Event]) -> bytes | None:
        """Give a file its name, unless something has it; return what has."""
        before = self.files.setdefault(path, content)
        if before is content:
            self.begun.update((event.identifier, outward(event)) for event in events)
        return None if before is content else before

    def put_away(self, path: str) -> list[str]:
        """Take a file away, and undo what was billed by it; return the identifiers in it."""
        identifiers = identifiers_in(self.files.pop(path))
        if self.imported.pop(path, None) is not None:
            for each in identifiers:
                self._credit(each)
        return identifiers

    def open(self) -> None:
        """Import what lies there and was not imported, from now on and for ever."""
        for path in sorted(self.files.keys() - self.imported.keys(), key=name_of):
            self.upload(path)
        delay: dt.timedelta = HOUR * (1 + 20 * self._random.random())
        self._scheduler.after(delay, self.open)

    def upload(self, path: str) -> None:
        """Import one file."""
        self.imported[path] = self.files[path]
        for line in self.files[path].decode().splitlines():
            self._import(json.loads(line, parse_float=Decimal, parse_int=Decimal))

    def _import(self, record: dict[str, object]) -> None:
        event, payload = self.begun[str(record["identifier"])], record["payload"]
        assert isinstance(payload, dict)
        said = (record["event_name"], payload["stripe_customer_id"], payload["value"], record["timestamp"])
        assert said == (event.meter, event.customer, event.delta, int(event.at.timestamp())), (record, event)
        self._book(event)


def identifiers_in(content: bytes) -> list[str]:
    """Return the identifiers of the records of a file."""
    return [json.loads(line)["identifier"] for line in content.decode().splitlines()]


def name_of(path: str) -> str:
    """Return by what name a file lies: names sort by when their events were planned, wherever they lie."""
    return path.rpartition("/")[2]
