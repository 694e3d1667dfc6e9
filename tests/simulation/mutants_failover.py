"""Bugs on purpose in how a ledger is known that lost commits under several hosts."""

import datetime as dt
from typing import Any

from aggregator.core import retry
from aggregator.ledger import identity
from tests.simulation import life
from tests.simulation.memory_identity import Disk, MemoryIdentity
from tests.simulation.mutation import mutant


@mutant("hosts compare counts of claims only: the one that goes on has counted fewer than the one that died")
def only_counts_compared() -> list[tuple[object, str, object]]:
    return [
        (MemoryIdentity, "_has", lambda self, known: True),
        (identity, "failed_over", lambda found, failover: None),
        (retry, "forgotten", lambda verdict, event: None),
    ]


@mutant("a server on another timeline is taken for the one it was")
def timeline_not_compared() -> list[tuple[object, str, object]]:
    return [(identity, "failed_over", lambda found, failover: None)]


@mutant("nothing is kept beside the ledger, and its server does not say that it was promoted")
def nothing_kept_beside() -> list[tuple[object, str, object]]:
    real = life.InMemory.verbs

    def verbs(self: Any, owner: Any, disk: Disk) -> Any:
        return real(self, owner, Disk())

    return [(life.InMemory, "verbs", verbs), (identity, "failed_over", lambda found, failover: None)]


@mutant("a ledger that is set back to when it was stopped already has been quiet since then")
def stopped_since_the_backup() -> list[tuple[object, str, object]]:
    def stop(self: MemoryIdentity, reason: str, now: dt.datetime, *, failover: bool = False) -> None:
        self.stopped_seen = True
        row = self._ledger.tables.identity
        if row.stopped_at is None:
            row.stopped_at, row.stopped_reason = now, reason

    return [(MemoryIdentity, "stop", stop)]


@mutant("that there is one host is believed, whoever else has claimed anything")
def one_host_believed() -> list[tuple[object, str, object]]:
    real = MemoryIdentity.pinned
    return [
        (MemoryIdentity, "pinned", lambda self: real(self)._replace(alone=True)),
        (retry, "forgotten", lambda verdict, event: None),
    ]


@mutant("where one host is declared, nothing is compared with what it keeps beside the ledger")
def one_host_not_compared() -> list[tuple[object, str, object]]:
    real = identity._mismatch

    def mismatch(found: Any, known: Any, **named: Any) -> str | None:
        return None if found.alone else real(found, known, **named)

    return [(identity, "_mismatch", mismatch), (retry, "forgotten", lambda verdict, event: None)]


@mutant("a failover stops everything, whatever was declared")
def declaration_ignored() -> list[tuple[object, str, object]]:
    real = identity.failed_over
    return [(identity, "failed_over", lambda found, failover: real(found, "may_lose"))]
