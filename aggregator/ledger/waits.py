"""What this process waits for in the ledger: transactions that take longer than they should, and what holds them up.

Rules
- A commit, or the way into a transaction, is short whatever the transaction does: one that lasts is said, and readiness
  turns.
- What happens inside a transaction may take minutes, as a pass over a million customers does. It is slow only if the server
  says that it waits, or does not say anything any more.
- The server is asked on a connection of its own, and nothing is written there: what waits for a standby is a commit that
  wrote something.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NamedTuple

import psycopg

from aggregator.runtime.clock import monotonic

SLOW_SECONDS = 10.0
"""A commit takes milliseconds and a busy server's a second or two. A failover is over, or has failed, in less than the 30
seconds after which most load balancers take a process away; so it is said in time for a person to see it first."""

# The sessions of one role see each other without any further right. What a server does for a parallel query, or reads from
# its disk, counts as work (postgresql.org/docs/current/monitoring-stats.html, "wait_event").
WAITING = """
select application_name, wait_event_type, wait_event, extract(epoch from clock_timestamp() - query_start)::float8
  from pg_stat_activity
 where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
   and starts_with(application_name, 'aggregator') and state = 'active'
   and (wait_event_type in ('Lock', 'LWLock', 'BufferPin') or wait_event = 'SyncRep')
   and query_start < clock_timestamp() - make_interval(secs => %(seconds)s)
 order by query_start
"""

SYNC_REP = "SyncRep"
"""A commit that a synchronous standby has to confirm."""


class Waiting(NamedTuple):
    """One session of ours that waits in the ledger's server."""

    process: str
    kind: str
    event: str
    seconds: float

    def __str__(self) -> str:
        what = f"{self.kind}: {self.event}"
        if self.event == SYNC_REP:
            what = (
                "SyncRep: the synchronous standby of the ledger's server does not confirm commits; bring it back, or "
                "take it out of synchronous_standby_names"
            )
        return f"{self.process} has waited for {self.seconds:.0f} s in the ledger ({what})."


class Phase(StrEnum):
    """Where a transaction stands."""

    OPENING = "opened"
    WORKING = "worked on"
    COMMITTING = "committed"


class _Transaction:
    def __init__(self, now: float) -> None:
        self.phase = Phase.OPENING
        self.since = now


class Underway:
    """The transactions that are under way in one process, and since when each is where it stands."""

    def __init__(self, elapsed: Callable[[], float] = monotonic) -> None:
        self._elapsed = elapsed
        self._open: set[_Transaction] = set()
        self._lock = threading.Lock()
        self._found: str | None = None

    @contextmanager
    def transaction(self) -> Iterator[Callable[[Phase], None]]:
        """Count a transaction for as long as the block lasts; it says by the function that is given where it stands."""
        mine = _Transaction(self._elapsed())

        def stands(phase: Phase) -> None:
            mine.phase, mine.since = phase, self._elapsed()

        with self._lock:
            self._open.add(mine)
        try:
            yield stands
        finally:
            with self._lock:
                self._open.discard(mine)

    def overdue(self) -> bool:
        """Tell whether any transaction has stood where it stands for too long, so that the server should be asked why."""
        return bool(self._late(tuple(Phase)))

    def found(self, said: str | None) -> None:
        """Note what the server said of our sessions when it was asked, None if none of them waits."""
        self._found = said

    def slow(self) -> str | None:
        """Say what takes too long, and what the server said of it; None if nothing does."""
        late = self._late((Phase.OPENING, Phase.COMMITTING))
        if not late:
            return self._found if self._late((Phase.WORKING,)) else None
        phase, seconds = late[0]
        sentence = f"A transaction of the ledger has waited for {seconds:.0f} s to be {phase}."
        return f"{sentence} {self._found}" if self._found else sentence

    def _late(self, phases: Collection[Phase]) -> list[tuple[Phase, float]]:
        """Return what has stood in one of these phases for too long, the longest first."""
        now = self._elapsed()
        with self._lock:
            found = [(each.phase, now - each.since) for each in self._open]
        late = [(phase, seconds) for phase, seconds in found if phase in phases and seconds > SLOW_SECONDS]
        return sorted(late, key=lambda each: -each[1])


def ask(connection: psycopg.Connection[tuple[Any, ...]], longer_than_seconds: float) -> list[Waiting]:
    """Return the sessions of ours that have waited in the server for so long, the longest first."""
    with connection.transaction():
        connection.execute("set local statement_timeout = '10s'")
        return [Waiting._make(row) for row in connection.execute(WAITING, {"seconds": longer_than_seconds})]
