"""Which configuration of the meters is in force, since when, and what it was before."""

import datetime as dt
import json
import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

from aggregator.core.model import EPOCH
from aggregator.ledger.database import Connection, Part

Meters = Mapping[str, Mapping[str, str]]

# Two processes that load the same thing at the same time may both write it down: it is the same thing.
NOTE = """
insert into aggregator.configuration (host, process, meters, blocks)
select %(host)s, %(process)s, %(meters)s::jsonb, %(blocks)s::jsonb
 where not exists (
    select from (select meters, blocks from aggregator.configuration order by id desc limit 1) as latest
     where latest.meters = %(meters)s::jsonb and latest.blocks = %(blocks)s::jsonb)
"""

LATEST = """
select loaded_at, host, process, meters, applied_by, reason, blocks from aggregator.configuration order by id desc limit 2
"""

# A meter's first definition holds since the epoch: for ever.
DEFINED_SINCE = """
select meter.name, max(definition.since)
  from aggregator.definition join aggregator.meter on meter.id = definition.meter_id
 group by 1 having max(definition.since) > %(beginning)s
"""


class Configuration(NamedTuple):
    """One configuration, as a process took it over: the settings of each meter by key."""

    loaded_at: dt.datetime
    host: str
    process: int
    meters: Meters
    applied_by: str | None = None
    """Who applied a plan of it; None where a process took it over by itself when it started."""
    reason: str | None = None
    blocks: Mapping[str, Mapping[str, str]] = {}
    """The settings of each source, sink and mapping, such as `sink stripe`, secrets apart; empty where nobody noted them."""

    def describe(self) -> str:
        """Say by whom it holds."""
        if self.applied_by is None:
            return f"loaded by process {self.process} on {self.host}"
        return f"applied by {self.applied_by}{f' ({self.reason})' if self.reason else ''}"


class Configurations(Part):
    """The verbs about configurations."""

    def note(self, meters: Meters, blocks: Meters) -> None:
        """Write down that this process works by these settings, unless the last one that was written down said the same.

        `blocks` are those of sources, sinks and mappings. No secret may be in them.
        """
        values = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "meters": json.dumps(meters),
            "blocks": json.dumps(blocks),
        }
        self._run(NOTE, values)

    def latest(self) -> tuple[Configuration | None, Configuration | None]:
        """Return the one that is in force, and the one before it; None where there is none."""
        with self._database.transaction() as connection:
            return newest(connection)

    def defined_since(self) -> dict[str, dt.datetime]:
        """Return from which window on each meter's newest definition holds, of those that have had another before."""
        return dict(self._rows(DEFINED_SINCE, {"beginning": EPOCH}))


def newest(connection: Connection) -> tuple[Configuration | None, Configuration | None]:
    """Return the configuration in force, and the one before it, within a transaction; None where there is none."""
    found = [Configuration._make(row) for row in connection.execute(LATEST).fetchall()]
    return (found[0] if found else None), (found[1] if len(found) > 1 else None)
