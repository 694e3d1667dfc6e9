"""What people are told of troubles, and when. Pure.

Rules
- A trouble is told once it has lasted for a while: what passes by itself wakes nobody.
- What is to be told at one time is one message, and between two messages is the least time. Nothing is lost by that: it is
  in the next one.
- Who was told that something began is told when it is over. Of what nobody was told nobody hears.
- Of what lasts, people are reminded.
- A message that could not be sent counts for nothing: the next one says the same.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from aggregator.core.shown import counted

MOST_NAMED = 10
"""Of more troubles at once people read none; the command shows all."""

LONGEST_TEXT = 300
"""Some services cut a message off, others send all of it whatever its length."""


class Trouble(NamedTuple):
    """One thing that is amiss: what tells it from others, what it is in words, and what to run first."""

    key: str
    text: str
    command: str


class Message(NamedTuple):
    """What is to be told at once."""

    begun: tuple[Trouble, ...]
    over: tuple[Trouble, ...]
    lasting: tuple[Trouble, ...]

    @property
    def title(self) -> str:
        """A line that says what it is about."""
        parts = [counted(len(self.begun), "new problem")] * bool(self.begun)
        parts += [f"{len(self.over)} over"] * bool(self.over)
        parts += [f"{len(self.lasting)} still there"] * bool(self.lasting)
        return f"aggregator: {', '.join(parts)}"

    @property
    def body(self) -> str:
        """All of it in words, each trouble with its command; shortened where there are too many."""
        lines: list[str] = []
        for heading, troubles in (("", self.begun), ("Still: ", self.lasting), ("Over: ", self.over)):
            for each in troubles[:MOST_NAMED]:
                text = each.text if len(each.text) <= LONGEST_TEXT else each.text[: LONGEST_TEXT - 3] + "..."
                lines.append(f"{heading}{text}")
                if heading != "Over: ":
                    lines.append(f"  run: {each.command}")
            if len(troubles) > MOST_NAMED:
                lines.append(f"{heading}and {len(troubles) - MOST_NAMED} more: aggregator status")
        return "\n".join(lines)


@dataclass(slots=True)
class _Seen:
    trouble: Trouble
    since: dt.datetime
    sent_at: dt.datetime | None = None
    over: bool = False


@dataclass(slots=True)
class Announcer:
    """Remembers what is amiss and what was told of it. `again` is zero where nobody is reminded."""

    after: dt.timedelta
    again: dt.timedelta
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _said_at: dt.datetime | None = None

    def next_message(self, found: Iterable[Trouble], now: dt.datetime) -> Message | None:
        """Take what is amiss now, and return what is to be told now, if anything is."""
        standing = {trouble.key: trouble for trouble in found}
        for key, trouble in standing.items():
            seen = self._seen.get(key)
            if seen is None:
                self._seen[key] = _Seen(trouble, now)
            else:
                seen.trouble, seen.over = trouble, False
        for key in self._seen.keys() - standing.keys():
            seen = self._seen[key]
            if seen.sent_at is None:
                del self._seen[key]
            else:
                seen.over = True
        if self._said_at is not None and now - self._said_at < self.after:
            return None
        message = Message(
            tuple(
                seen.trouble
                for seen in self._seen.values()
                if seen.sent_at is None and now - seen.since >= self.after
            ),
            tuple(seen.trouble for seen in self._seen.values() if seen.over),
            tuple(
                seen.trouble
                for seen in self._seen.values()
                if self.again
                and not seen.over
                and seen.sent_at is not None
                and now - seen.sent_at >= self.again
            ),
        )
        return message if any(message) else None

    def note_sent(self, message: Message, now: dt.datetime) -> None:
        """Note that a message was sent."""
        self._said_at = now
        for trouble in (*message.begun, *message.lasting):
            if trouble.key in self._seen:
                self._seen[trouble.key].sent_at = now
        for trouble in message.over:
            seen = self._seen.get(trouble.key)
            if seen is not None and seen.over:
                del self._seen[trouble.key]

    def failed(self, now: dt.datetime) -> None:
        """Note that a message could not be sent: another one is not tried before the least time is over."""
        self._said_at = now
