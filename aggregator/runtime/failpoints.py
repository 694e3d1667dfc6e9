"""Named points at which what is remembered changes. `aggregator selftest` kills a process there; otherwise they do nothing.

`AGGREGATOR_KILL_AT=claim_committed:3` ends the process by SIGKILL when it passes that point for the third time. Nothing else
reads the variable, and a name that is not in the list is refused.
"""

import os
import signal
from itertools import count

from aggregator.errors import UsageError

VARIABLE = "AGGREGATOR_KILL_AT"

POINTS = {
    "lease_taken": "a process has taken a meter, and read nothing",
    "reading_begun": "the source's transaction is open",
    "readings_taken": "all readings are spooled, nothing is in the ledger",
    "readings_staged": "inside the pass's transaction, nothing is planned",
    "pass_written": "slots, events and the mark are written, not committed",
    "pass_committed": "the pass is committed, and not yet reported",
    "claim_written": "events are claimed, not committed",
    "claim_committed": "the attempt is on record, nothing has left",
    "event_leaving": "the sink is about to be called",
    "answer_unread": "the sink has answered, and nobody has looked at it",
    "answer_read": "the verdict is known, and not recorded",
    "settle_written": "outcomes are written, not committed",
    "settle_committed": "outcomes are on record",
}
"""Every point, in the order in which a window passes them."""

FILE_POINTS = {
    "file_begun": "a file is claimed, and its bytes are being made",
    "part_uploaded": "a part of a large object is at the store",
    "file_made": "all of a file's bytes are in a temporary file, and nothing lies under its name",
    "file_published": "the file lies under its name, and the ledger has not been told",
}
"""The same for what is recorded in files, between `claim_committed` and `settle_written`. The proof writes none."""

SAMPLE_POINTS = {
    "sample_read": "a sample is spooled, nothing of it is in the ledger",
    "sample_written": "a sample is written, not committed",
    "sample_committed": "a sample is on record, and its windows are not read yet",
}
"""The same for a meter that is sampled, between `lease_taken` and `reading_begun`. The proof has none."""


CURSOR_POINTS = {
    "goal_noted": "up to where rows will be read by a cursor is on record, and none of them is read",
    "deltas_read": "the rows of a stretch are spooled, and the cursor stands where it stood",
    "deltas_added": "they are added and the cursor is moved, not committed",
    "deltas_committed": "they are added, and no pass has seen it",
}
"""The same for what is read by a cursor, between `lease_taken` and `reading_begun`."""

CUSTOMER_POINTS = {
    "customers_read": "a mapping of customers was read, and nothing of it is in the ledger",
    "customers_written": "what it says is written with all that follows from it, not committed",
    "customers_taken_over": "it holds, and no meter has read by it yet",
}
"""The same for a mapping that is read."""

PLAN_POINTS = {
    "plan_applied": "a configuration that was planned is written, not committed",
    "plan_committed": "it holds, and nobody was told",
}
"""The same for a plan that is applied."""

CUTOVER_POINTS = {
    "cutover_written": "customers are to move to another sink from a time on, which is written and not committed",
    "cutover_committed": "it holds, and nobody was told",
}
"""The same for customers who are to move between sinks."""


ARCHIVE_POINTS = {
    "month_closed": "a month is closed for good, and nothing of it is written",
    "archive_made": "the file of a month is made, and does not lie under its name",
    "archive_published": "it lies under its name, and the ledger does not know of it",
    "archive_recorded": "the ledger knows of it, and nobody has read it back",
    "archive_verified": "it was read back, and nothing is removed",
    "archive_day_removed": "a day of it is removed from the ledger, and others are not",
    "month_removed": "all of it is removed, and claims that are spent are not",
    "archive_restored": "a month is brought back",
}
"""The same for a month that is archived."""


def _armed(environment: dict[str, str]) -> tuple[str, int] | None:
    value = environment.get(VARIABLE)
    if value is None:
        return None
    name, _, nth = value.partition(":")
    known = (
        POINTS
        | FILE_POINTS
        | CURSOR_POINTS
        | CUSTOMER_POINTS
        | SAMPLE_POINTS
        | PLAN_POINTS
        | CUTOVER_POINTS
        | ARCHIVE_POINTS
    )
    if name not in known or not (nth or "1").isdigit():
        raise UsageError(f"{VARIABLE}={value} names no point; the points are: {', '.join(known)}.")
    return name, int(nth or "1")


_target = _armed(dict(os.environ))
_passed = count(1)


def passing(name: str) -> None:
    """Say that a point is passed. The process ends here if it was told to."""
    if _target is not None and _target[0] == name and next(_passed) == _target[1]:
        os.kill(os.getpid(), signal.SIGKILL)
