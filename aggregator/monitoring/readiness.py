"""Whether the daemon does its work, and what is amiss: what it noted of its meters and sinks, and further checks.

Rules
- What is amiss with one meter or one sink is told, and the daemon is ready all the same: the others go on, and whoever is
  not ready is taken out of service as a whole, with what Stripe delivers to it.
- It is not ready while the ledger does not serve, while no meter at all is read in time, or while no sink at all takes
  anything: then nothing of it works.
- A check looks and waits for nobody: whoever asks is a probe that soon asks again.
- A meter is late once it was not read well for `LATE_AFTER` beyond when that was due. One that is being read is late after
  `LONG_PASS` only: a first look back may take long.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

LATE_AFTER = timedelta(minutes=5)
LONG_PASS = timedelta(hours=1)


class Reason(NamedTuple):
    """One thing that is amiss: `what` is a word for programs, `of` a meter or a sink, if it is about one."""

    what: str
    of: str | None
    reason: str


class State(NamedTuple):
    """How the daemon is: `ready` may be true although there are reasons, of some meters or sinks."""

    ready: bool
    reasons: list[Reason]


Check = Callable[[datetime], Iterable[Reason]]


@dataclass(slots=True)
class _Meter:
    due_after: Callable[[datetime], datetime | None]
    well_at: datetime
    begun_at: datetime | None = None
    failed: str | None = None
    stopped: bool = False


class Readiness:
    """What was noted, and what else is looked at. Threads may note and ask at any time."""

    def __init__(self, *checks: Check) -> None:
        self._checks = checks
        self._lock = threading.Lock()
        self._meters: dict[str, _Meter] = {}
        self._sinks: dict[str, str | None] = {}
        self._sources: dict[str, bool] = {}
        self._ledger: str | None = None

    def expect(self, meter: str, now: datetime, due_after: Callable[[datetime], datetime | None]) -> None:
        """Expect a meter to be read: `due_after` says when next, after it was read at a time."""
        with self._lock:
            self._meters[meter] = _Meter(due_after, now)

    def expect_sink(self, sink: str) -> None:
        """Expect a sink to take what it is sent."""
        with self._lock:
            self._sinks.setdefault(sink, None)

    def began(self, meter: str, now: datetime) -> None:
        """Note that a meter is being read."""
        with self._lock:
            self._meters[meter].begun_at = now

    def ended(self, meter: str, now: datetime, failed: str | None = None, *, stopped: bool = False) -> None:
        """Note that it was read, or why not; `stopped` if it will not be again."""
        with self._lock:
            progress = self._meters[meter]
            progress.begun_at, progress.failed, progress.stopped = None, failed, stopped
            if failed is None:
                progress.well_at, self._ledger = now, None

    def reached(self, source: str, *, up: bool) -> None:
        """Note whether a source could be reached."""
        with self._lock:
            self._sources[source] = up

    def sources(self) -> dict[str, bool]:
        """Return which sources could be reached when they were last asked."""
        with self._lock:
            return dict(self._sources)

    def halted(self, sink: str, reason: str) -> None:
        """Note that a sink refuses us as a whole."""
        with self._lock:
            self._sinks[sink] = reason

    def resumed(self, sink: str) -> None:
        """Note that it does not any more."""
        with self._lock:
            self._sinks[sink] = None

    def ledger_stopped(self, reason: str) -> None:
        """Note that the ledger is not what it was; a meter that is read well says that it is again."""
        with self._lock:
            self._ledger = reason

    def state(self, now: datetime) -> State:
        """Return whether the daemon is ready, and what is amiss."""
        with self._lock:
            of_ledger = [Reason("ledger", None, self._ledger)] if self._ledger else []
            halted = [
                Reason("halted", sink, reason) for sink, reason in sorted(self._sinks.items()) if reason
            ]
            late = [
                Reason("stopped" if meter.stopped else "late", name, why)
                for name, meter in sorted(self._meters.items())
                if (why := _late(meter, now))
            ]
            none_takes = bool(halted) and len(halted) == len(self._sinks)
            none_is_read = bool(late) and len(late) == len(self._meters)
        checked = [reason for check in self._checks for reason in check(now)]
        ready = not (of_ledger or none_takes or none_is_read or checked)
        return State(ready, [*of_ledger, *halted, *late, *checked])


def _late(meter: _Meter, now: datetime) -> str | None:
    if meter.stopped:
        return meter.failed or "it is not read any more"
    if meter.begun_at is not None:
        over = now - meter.begun_at > LONG_PASS
        return f"a pass that began at {meter.begun_at:%Y-%m-%dT%H:%M:%SZ} has not ended" if over else None
    due = meter.due_after(meter.well_at)
    if due is None or now - due <= LATE_AFTER:
        return None
    why = f": {meter.failed}" if meter.failed else ""
    return f"it was last read at {meter.well_at:%Y-%m-%dT%H:%M:%SZ}{why}"
