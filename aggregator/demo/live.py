"""Watching the daemon while rows arrive: until the last window is read, late rows too, and nothing waits to be sent.

Rules
- What is shown comes from the ledger's own reports and from the sandbox, never from the daemon's memory.
- Every wait asks again and again, has an end, and says what it waited for in vain.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from aggregator.core import windows
from aggregator.core.model import Span
from aggregator.demo.processes import Background, DemoFailed, wait_seconds
from aggregator.demo.story import Story
from aggregator.demo.traffic import Traffic
from aggregator.ledger.reports import FeedStatus, Reports
from aggregator.runtime.clock import monotonic, utcnow
from aggregator.sandbox import ControlClient

WINDOW = dt.timedelta(minutes=1)

LEAST_SECONDS = 8.0
"""Rows arrive at least for so long."""

LOOK_SECONDS = 0.5

PATIENCE_SECONDS = 120.0
"""How long the daemon may take for what it does within ten seconds on a machine that has nothing else to do."""


def closing_time(now: dt.datetime, seconds: float) -> dt.datetime:
    """Return the minute's end that is nearest to `seconds` from now: a window can only be read when it is over."""
    nearest = windows.floor(now + dt.timedelta(seconds=seconds) + WINDOW / 2, WINDOW)
    too_soon = nearest - now < dt.timedelta(seconds=LEAST_SECONDS)
    return nearest + WINDOW if too_soon else nearest


@dataclass
class Live:
    """The daemon at work, as seen from outside."""

    story: Story
    daemon: Background
    reports: Reports
    sandbox: ControlClient
    traffic: Traffic
    mark: dt.datetime

    def watch_until(self, instant: dt.datetime) -> None:
        """Show what happens until an instant."""
        while (left := (instant - utcnow()).total_seconds()) > 0:
            self._look()
            wait_seconds(min(left, LOOK_SECONDS))

    def read_up_to(self, instant: dt.datetime, patience_seconds: float) -> bool:
        """Wait until every meter is read up to an instant; False if it takes longer than that."""
        return self._until(lambda rows: all(row.mark >= instant for row in rows), patience_seconds)

    def settled(self, end: dt.datetime, since: dt.datetime) -> None:
        """Wait until every meter is read up to `end`, was read after `since`, and has nothing left to send.

        Raises DemoFailed if that does not come.
        """

        def holds(rows: list[FeedStatus]) -> bool:
            return all(
                row.mark >= end and row.last_run_at and row.last_run_at > since and not row.due + row.sending
                for row in rows
            )

        if not self._until(holds, PATIENCE_SECONDS):
            raise DemoFailed(
                f"{PATIENCE_SECONDS:g} s after the last row not everything is read and sent; see {self.daemon.log}."
            )

    def _until(self, holds: Callable[[list[FeedStatus]], bool], patience_seconds: float) -> bool:
        until = monotonic() + patience_seconds
        while not holds(self._look()):
            if monotonic() >= until:
                return False
            wait_seconds(LOOK_SECONDS)
        return True

    def _look(self) -> list[FeedStatus]:
        """Read how things stand, and show it."""
        self.daemon.must_run()
        rows = self.reports.status()
        mark = min(row.mark for row in rows)
        if mark > self.mark:
            self._report_windows(Span(self.mark, mark), rows)
            self.mark = mark
        waiting = sum(row.due + row.sending for row in rows)
        self.story.now(
            f"{utcnow():%H:%M:%S}Z  {self.traffic.rows:,} rows over {self.traffic.connections} connections | "
            f"read up to {mark:%H:%M} | {waiting:,} waiting | sandbox holds {self._accepted():,} events"
        )
        return rows

    def _report_windows(self, span: Span, rows: list[FeedStatus]) -> None:
        events = sum(self.reports.known_events(row.meter, span) for row in rows)
        count = windows.count(span, WINDOW)
        which = (
            f"window {span.start:%H:%M}" if count == 1 else f"windows {span.start:%H:%M} to {span.end:%H:%M}"
        )
        self.story.say(f"{utcnow():%H:%M:%S}Z  {which} read: {events:,} events")

    def _accepted(self) -> int:
        return int(self.sandbox.stats()["accepted"])
