"""Every event that the sandbox books, held against what the source had said by that moment: never over, not even briefly.

Rules
- Nothing is sampled. The sandbox says when it booked each event; the application database says when each change of usage
  was committed. Both clocks are this machine's.
- Events are looked at while the proof runs, in the order in which they were booked. The source is asked after the sandbox,
  so that whatever it had said by then is in its answer.
- Usage only grows here (`load`), so that what was said by a moment is the sum of what was committed by it.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Self

import psycopg

from aggregator.selftest.world import Connection, Slot, World

LOOK_SECONDS = 0.5
AT_ONCE = 20_000

ZERO = Decimal(0)

GROWN = """
select growth.meter, growth.customer, growth.minute,
       extract(epoch from pg_xact_commit_timestamp(growth.xmin))::float8, growth.quantity
  from growth
  join unnest(%s::text[], %s::text[], %s::bigint[]) as slot (meter, customer, minute)
    on growth.meter = slot.meter and growth.customer = slot.customer and growth.minute = slot.minute
"""

Committed = tuple[float, Decimal]
"""When, in unix seconds, and by how much a slot grew."""


class Content(NamedTuple):
    """What an event says, whoever tells it."""

    meter: str
    customer: str
    at: int
    value: Decimal


class Booked(NamedTuple):
    """One event in the sandbox's books."""

    identifier: str
    content: Content
    received_at: float

    @property
    def slot(self) -> Slot:
        """The slot it counts for."""
        return Slot(self.content.meter, self.content.customer, self.content.at // 60)


class Books:
    """What the sandbox has booked so far: by slot, and by identifier."""

    def __init__(self) -> None:
        self.held: dict[Slot, Decimal] = defaultdict(lambda: ZERO)
        self.contents: dict[str, Content] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self.two_contents: set[str] = set()
        self.over: list[str] = []

    def take(self, events: Iterable[Booked], grown: Mapping[Slot, Sequence[Committed]]) -> None:
        """Take in events in the order in which they were booked; `grown` is all that their slots were said to be."""
        for event in events:
            slot = event.slot
            self.held[slot] += event.content.value
            self.counts[event.identifier] += 1
            if self.contents.setdefault(event.identifier, event.content) != event.content:
                self.two_contents.add(event.identifier)
            said = sum((much for at, much in grown.get(slot, ()) if at <= event.received_at), ZERO)
            if self.held[slot] > said:
                self.over.append(
                    f"{slot.customer} of {slot.meter}, minute {slot.minute}: {self.held[slot]} held, {said} used by then"
                )


class Watch:
    """Looks at the sandbox all the time, on a thread of its own. A context manager."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.books = Books()
        self.uncounted: list[str] = []
        self.seen = 0
        self._connection: Connection = psycopg.connect(world.source_url, autocommit=True)
        self._looking = threading.Lock()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()

    def look(self) -> None:
        """Take in all events that are new. Raises what went wrong when it looked before."""
        if self._failure is not None:
            raise self._failure
        with self._looking:
            while found := self._world.sandbox.events(offset=self.seen, limit=AT_ONCE):
                self.seen += len(found)
                self._take(found)

    def _take(self, found: Sequence[Mapping[str, Any]]) -> None:
        events = [_booked(each) for each in found if each["counted"]]
        self.uncounted += [f"{each['identifier']}: {each['reason']}" for each in found if not each["counted"]]
        self.books.take(events, self._grown({event.slot for event in events}))

    def _grown(self, slots: Iterable[Slot]) -> dict[Slot, list[Committed]]:
        columns = [list(column) for column in zip(*slots, strict=True)] or [[], [], []]
        grown: dict[Slot, list[Committed]] = defaultdict(list)
        for meter, customer, minute, at, quantity in self._connection.execute(GROWN, columns):
            grown[Slot(meter, customer, minute)].append((at, quantity))
        return grown

    def _work(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would prove nothing
                self._failure = error
                return


def _booked(event: Mapping[str, Any]) -> Booked:
    content = Content(event["event_name"], event["customer"], event["timestamp"], Decimal(event["value"]))
    return Booked(event["identifier"], content, event["received_at"])
