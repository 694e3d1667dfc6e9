"""What a sink tells beside its verdicts, as values: that it found events invalid, or took one back. Pure.

Rules
- A message is known by the sink's own name for it. Taking it twice has the effect of once.
- What cannot be understood is a value, too: it is put on record and said, and does not hold up what comes after it.
"""

import datetime as dt
from typing import NamedTuple

from aggregator.core.model import Answer, Report


class Notification(NamedTuple):
    """One message of a sink: its name there, what it is about, when the sink made it, and of whose account it speaks."""

    id: str
    kind: str
    created_at: dt.datetime
    account: str | None = None


class Unimported(NamedTuple):
    """A file, or rows of one, that a sink could not import."""

    files: tuple[str, ...]
    """The names of files that it mentions, without their folders."""
    reason: str


class ParsedNotification(NamedTuple):
    """What a message says. `trouble` is set if that could not be made out, or not all of it."""

    notification: Notification
    reports: tuple[Report, ...] = ()
    unimported: tuple[Unimported, ...] = ()
    trouble: str | None = None
    totals_late: bool | None = None
    """Whether it says that the sink's totals are late, or that they are not any more; None if it is about something else."""

    def __str__(self) -> str:
        parts = [
            f"{report.meter or 'no meter of ours'}: {report.rejected} invalid, {len(report.named)} named"
            for report in self.reports
        ]
        parts += [
            f"{', '.join(each.files) or 'a file'} not imported: {each.reason}" for each in self.unimported
        ]
        parts += [self.trouble] if self.trouble else []
        if self.totals_late is not None:
            parts.append("its totals are late" if self.totals_late else "its totals are on time again")
        return "; ".join(parts) or "nothing of ours"


class CancelResult(NamedTuple):
    """What a sink said when it was asked to take an event back; `complete` if it is done, beyond having been taken."""

    answer: Answer
    complete: bool
    reason: str


def late_since(at: dt.datetime) -> str:
    """Say what a sink says of its totals being late."""
    return f"it says that its totals are late since {at:%Y-%m-%d %H:%M} UTC"
