"""Where files lie, and who imports them: a file appears under its name whole or not at all, and is imported once.

The importer knows no identifiers, as the Dashboard does not: what lies in two files is billed twice.
"""

import datetime as dt
import json
import random
from collections.abc import Callable
from decimal import Decimal

from aggregator.model import Event
from tests.simulation.climate import HOUR
from tests.simulation.hub import Hub


class Place:
    """The store. `book` is told of every record that the importer reads."""

    def __init__(self, hub: Hub, random: random.Random, book: Callable[[Event], None]) -> None:
        self.files: dict[str, bytes] = {}
        self.told: dict[str, Event] = {}
        """What was ever written down, by identifier."""
        self.imported: dict[str, bytes] = {}
        self._hub = hub
        self._random = random
        self._book = book

    def publish(self, name: str, content: bytes) -> bytes | None:
        """Give a file its name, unless something has it; return what has."""
        before = self.files.setdefault(name, content)
        return None if before is content else before

    def open(self) -> None:
        """Import what lies there and was not imported, from now on and for ever."""
        for name in sorted(self.files.keys() - self.imported.keys()):
            self.imported[name] = self.files[name]
            for line in self.files[name].decode().splitlines():
                self._import(json.loads(line, parse_float=Decimal, parse_int=Decimal))
        delay: dt.timedelta = HOUR * (1 + 20 * self._random.random())
        self._hub.after(delay, self.open)

    def _import(self, record: dict[str, object]) -> None:
        event, payload = self.told[str(record["identifier"])], record["payload"]
        assert isinstance(payload, dict)
        said = (record["event_name"], payload["stripe_customer_id"], payload["value"], record["timestamp"])
        assert said == (event.meter, event.customer, event.delta, int(event.at.timestamp())), (record, event)
        self._book(event)
