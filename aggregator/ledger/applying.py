"""What the ledger goes by, as a plan is made of it; and another configuration made to hold, while nobody else changes it.

Rules
- What a plan is compared with is read in the transaction that makes its configuration hold, after everybody else who
  registers meters: so nothing can come in between. It holds as a whole, with who applied it and why, or not at all.
- The mark, leases and whatever else moves while nobody changes anything is not part of it.
"""

import datetime as dt
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aggregator.core.model import Definition, Meter
from aggregator.core.renaming import Memory, renames
from aggregator.ledger import configurations, meter_names
from aggregator.ledger.configurations import Configuration
from aggregator.ledger.configurations import Meters as Settings
from aggregator.ledger.database import Connection, Part
from aggregator.ledger.meters import Registered, definitions_of, only_looking, register_all
from aggregator.ledger.review.decisions import LONGEST_REASON, Decider
from aggregator.runtime import failpoints
from aggregator.runtime.redact import storable

FIND_IDENTITY = "select ledger_id::text, generation from aggregator.identity"

FIND_METERS = "select id, name, read, start_at, formerly from aggregator.meter order by name"

FIND_FEEDS = """
select meter.name, sink.name, feed.since, feed.until, feed.shadow
  from aggregator.feed
  join aggregator.meter on meter.id = feed.meter_id
  join aggregator.sink on sink.id = feed.sink_id
 order by 1, 2
"""

NOTE_APPLIED = """
insert into aggregator.configuration (host, process, meters, blocks, applied_by, reason)
values (%(host)s, %(process)s, %(meters)s::jsonb, %(blocks)s::jsonb, %(who)s, %(reason)s)
"""


class MeterInForce(NamedTuple):
    """A meter as the ledger has it."""

    id: int
    read: str
    start_at: dt.datetime
    formerly: tuple[str, ...]
    definitions: tuple[Definition, ...]
    feeds: tuple[tuple[object, ...], ...]
    """Of each: its sink, since and until when it bills, and whether it is in shadow."""


class LedgerState(NamedTuple):
    """All that a ledger goes by when it is read and billed, as it was configured."""

    ledger_id: str
    generation: int
    meters: Mapping[str, MeterInForce]
    configuration: Configuration | None
    memory: Memory

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.configuration.meters if self.configuration else {}

    @property
    def blocks(self) -> Settings:
        """Those of sources, sinks and mappings; empty where they are not known."""
        return self.configuration.blocks if self.configuration else {}


class Looked(NamedTuple):
    """What registering some meters would make of a ledger."""

    state: LedgerState
    """As it is."""
    registered: Mapping[str, Registered]
    definitions: Mapping[str, tuple[Definition, ...]]
    """As they would be."""
    renamed: Mapping[str, str]
    """By the old name, the new one."""


class Applying(Part):
    """The verbs of a plan."""

    def look(self, meters: Sequence[Meter]) -> Looked:
        """Return what the ledger goes by, and what it would with these meters; nothing is written. Raises MeterRefused."""
        with only_looking(self._database) as connection:
            return _registered(connection, meters)

    def apply(
        self,
        meters: Sequence[Meter],
        settings: Settings,
        blocks: Settings,
        decider: Decider,
        check: Callable[[LedgerState], None],
    ) -> Looked:
        """Make these meters hold, and write down who wanted it; `check` raises if the ledger is not what was planned for.

        Raises MeterRefused as a start does. In any case nothing of it holds then.
        """
        values = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "meters": json.dumps(settings),
            "blocks": json.dumps(blocks),
            "who": storable(decider.who)[:LONGEST_REASON],
            "reason": storable(decider.reason or "").strip()[:LONGEST_REASON] or None,
        }
        with self._database.transaction() as connection:
            looked = _registered(connection, meters, check)
            connection.execute(NOTE_APPLIED, values)
            failpoints.passing("plan_applied")
        failpoints.passing("plan_committed")
        return looked


def _registered(
    connection: Connection, meters: Sequence[Meter], check: Callable[[LedgerState], None] = lambda _: None
) -> Looked:
    connection.execute(meter_names.TAKE_TURNS)
    state = _state(connection)
    check(state)
    renamed = renames(meter_names.wanted(meters), state.memory)
    registered = register_all(connection, meters)
    definitions = {name: definitions_of(connection, each.id) for name, each in registered.items()}
    return Looked(state, registered, definitions, renamed)


def _state(connection: Connection) -> LedgerState:
    [[ledger_id, generation]] = connection.execute(FIND_IDENTITY).fetchall()
    feeds: dict[str, list[tuple[object, ...]]] = {}
    for meter, *feed in connection.execute(FIND_FEEDS).fetchall():
        feeds.setdefault(meter, []).append(tuple(feed))
    meters = {
        name: MeterInForce(
            meter, read, start_at, tuple(formerly), definitions_of(connection, meter), _of(feeds, name)
        )
        for meter, name, read, start_at, formerly in connection.execute(FIND_METERS).fetchall()
    }
    configuration, _ = configurations.newest(connection)
    return LedgerState(ledger_id, generation, meters, configuration, meter_names.memory(connection))


def _of(feeds: Mapping[str, Iterable[tuple[object, ...]]], name: str) -> tuple[tuple[Any, ...], ...]:
    return tuple(feeds.get(name, ()))
