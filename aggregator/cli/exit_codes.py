"""How a command ends, for whoever started it: the same codes for every command.

A signal ends a process with 128 and its number, as shells have it.
"""

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with; which of them a command has to tell, and when, its help says."""

    DONE = 0
    FAILED = 1
    WRONG_CALL = 2
    WORK_LEFT = 3
    PERSON_NEEDED = 4


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "something failed",
    ExitCode.WRONG_CALL: "the command line or the configuration is wrong",
    ExitCode.WORK_LEFT: "something is left to do, or something differs",
    ExitCode.PERSON_NEEDED: "a person is needed",
}
"""What each means of any command."""


def gravest(codes: Iterable[ExitCode]) -> ExitCode:
    """Return how all of it ended: a failure wins, since the rest may look otherwise after it, then the highest."""
    found = set(codes)
    return ExitCode.FAILED if ExitCode.FAILED in found else max(found, default=ExitCode.DONE)
