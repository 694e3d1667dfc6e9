"""What passes and deliveries did, and what waits: one record each, with what to do about it. Pure.

Rules
- A record says what happened, and of whom; nothing in it is decided here.
- Whatever waits names the command by which a person goes on, or says that it goes on by itself, and when.
"""

import datetime as dt
import shlex
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from aggregator.core.model import Span


class PassRecord(NamedTuple):
    """What a pass did; of a row of passes that found nothing, or failed in the same way, the newest, for all of them."""

    id: int
    meter: str
    kind: str
    """`live`, `backfill` or `adoption`."""
    span: Span
    at: dt.datetime
    seconds: float
    rows: int
    changed: int
    planned: int
    held: int
    refused: int
    deferred: int
    error: str | None
    since: dt.datetime
    """When the first of the row began, and how many they are."""
    times: int


class DeliveryState(StrEnum):
    """How a delivery ended, as far as it has."""

    DONE = "done"
    UNDER_WAY = "under way"
    IN_PART = "in part"  # some of its events were not taken
    FAILED = "failed"  # none of them was
    NO_ANSWER = "no answer"  # its process ended, or gave events back: they go out again


class DeliveryRecord(NamedTuple):
    """What became of the events that were sent together: each of them stands in exactly one of the counts."""

    id: int
    sink: str
    at: dt.datetime
    settled_at: dt.datetime | None
    events: int
    accepted: int
    again: int
    """What the sink did not take for now, or did not answer, so that it is sent again."""
    refused: int
    in_doubt: int
    under_way: int
    file: str | None
    """The file that it became, for a sink that takes files."""
    reason: str | None
    """What was said of those that were not taken: of one of them, if that differs."""

    @property
    def no_answer(self) -> int:
        """Of how many nothing is recorded: they were given back, or their process ended. They go out again."""
        return self.events - self.accepted - self.again - self.refused - self.in_doubt - self.under_way

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is not over, or if it never was."""
        return None if self.settled_at is None else (self.settled_at - self.at).total_seconds()

    @property
    def state(self) -> DeliveryState:
        """How it ended."""
        if self.under_way:
            return DeliveryState.UNDER_WAY
        if self.again or self.refused or self.in_doubt:
            return DeliveryState.IN_PART if self.accepted else DeliveryState.FAILED
        return DeliveryState.NO_ANSWER if self.no_answer else DeliveryState.DONE


class WaitKind(StrEnum):
    """Why something waits."""

    FAILED = "failed"  # the latest pass of the meter
    UNREAD = "unread"  # windows that the source could not give
    GUARDED = "guarded"  # windows that shrank so much that a second reading must confirm it
    DUE = "due"  # events to be sent
    HELD = "held"
    REFUSED = "refused"
    IN_DOUBT = "in doubt"


class Wait(NamedTuple):
    """What waits of one meter, or of its feed to one sink, for one reason."""

    kind: WaitKind
    meter: str
    sink: str | None
    number: int
    """Passes that failed, windows, or events."""
    since: dt.datetime | None
    next_at: dt.datetime | None
    """When it is tried again by itself, if that is known."""
    reason: str | None
    windows: Span | None = None
    """Which windows, if it is windows that wait."""

    @property
    def commands(self) -> tuple[str, ...]:
        """What to type, to look at it or to try again."""
        by_state = ("--meter", self.meter, "--state")
        match self.kind:
            case WaitKind.FAILED:
                return command("check"), command("run", "--once")
            case WaitKind.UNREAD:
                assert self.windows is not None, "it is windows that are unread"
                start, end = (f"{each:%Y-%m-%dT%H:%MZ}" for each in self.windows)
                return (command("backfill", self.meter, "--from", start, "--to", end),)
            case WaitKind.GUARDED:
                return (command("events", "list", *by_state, "held"),)
            case WaitKind.DUE:
                return (command("run", "--once"),)
            case WaitKind.HELD | WaitKind.REFUSED:
                state = self.kind.value
                return command("events", "list", *by_state, state), command(
                    "events", "release", *by_state, state
                )
            case WaitKind.IN_DOUBT:
                return (command("events", "list", *by_state, "in_doubt"),)

    @property
    def what_to_do(self) -> str:
        """Say how it goes on, and how a person tries again."""
        first, *others = (f"`{each}`" for each in self.commands)
        match self.kind:
            case WaitKind.FAILED:
                tries = f"{others[0]} tries again now, and {first} tries query and source"
                return f"Its windows stay due, for each later pass; {tries}."
            case WaitKind.UNREAD:
                return f"Tried again by itself; {first} does so now."
            case WaitKind.GUARDED:
                return f"Believed once another reading says the same; nothing to do. {first} shows what is held meanwhile."
            case WaitKind.DUE:
                return f"Sent by itself, by the daemon or by {first}."
            case WaitKind.HELD:
                return f"{first} lists them; if they are right, {others[0]} sends them."
            case WaitKind.REFUSED:
                return f"{first} lists them; once it is fixed what the reason says, {others[0]} sends them again."
            case WaitKind.IN_DOUBT:
                return f"Settled by itself by the sink's own totals; {first} lists them."


class History(NamedTuple):
    """What passes and deliveries did, the newest first, and what waits."""

    as_of: dt.datetime
    passes: Sequence[PassRecord]
    deliveries: Sequence[DeliveryRecord]
    waits: Sequence[Wait]


def command(*words: str) -> str:
    """Return a command line of ours that can be pasted into a shell."""
    return shlex.join(("aggregator", *words))
