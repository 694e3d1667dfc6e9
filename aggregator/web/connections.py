"""How many connections a listener keeps, and for how long: whoever holds one without saying anything makes room for others.

Rules
- A head is short, has few lines and comes soon, and so does a body. Then the connection belongs to whoever answers.
- One connection too many costs the oldest of those that have not said all of their request. So a crowd of slow ones keeps
  out neither a delivery nor a probe, which say all at once.
- What is being answered is not cut off before `ANSWER_SECONDS`.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LONGEST_HEAD = 16 * 1024
"""Bytes of request line and headers that may wait for the rest. A delivery's head has less than one KiB."""

HEAD_SECONDS = 5.0
BODY_SECONDS = 15.0
"""More than a body may take by the clock of whoever reads it, who says so first."""

ANSWER_SECONDS = 60.0
"""Far more than a delivery takes: asking Stripe and writing to the ledger have bounds of their own."""

MOST_CONNECTIONS = 128
LOOK_SECONDS = 0.5

PATIENCE = {h11.IDLE: HEAD_SECONDS, h11.SEND_BODY: BODY_SECONDS}
"""How long a caller may be in each state of a request; in all others it waits for us."""


class Crowd:
    """The connections of one listener, oldest first."""

    def __init__(self) -> None:
        self._all: dict[Connection, None] = {}
        self._looking = False

    def enter(self, new: "Connection") -> None:
        """Let one in, at the expense of the oldest that has not said all, or of itself."""
        self._all[new] = None
        if len(self._all) > MOST_CONNECTIONS:
            self._drop(next((each for each in self._all if each.unfinished), new))
        if not self._looking:
            self._looking = True
            new.loop.call_later(LOOK_SECONDS, self._look, new.loop)

    def leave(self, gone: "Connection") -> None:
        """Forget one."""
        self._all.pop(gone, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Drop those whose time is over, and look again as long as there are any."""
        now = loop.time()
        for each in [each for each in self._all if each.overdue(now)]:
            self._drop(each)
        self._looking = bool(self._all)
        if self._looking:
            loop.call_later(LOOK_SECONDS, self._look, loop)

    def _drop(self, connection: "Connection") -> None:
        self.leave(connection)
        connection.transport.abort()


class Together:
    """A transport that writes what comes in one step of the loop together: head and body of an answer in one call.

    Each call of the system wakes whoever waits for the answer, and costs more than all else about a small one.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of this step."""
        if data:
            if not self._parts:
                self._loop.call_soon(self._flush)
            self._parts.append(data)

    def close(self) -> None:
        """Write what there is, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class Connection(H11Protocol):
    """One connection of the crowd. Where it stands is h11's to say (h11.readthedocs.io, "Connection state")."""

    crowd: Crowd

    def connection_made(self, transport: Any) -> None:
        """Take one in."""
        super().connection_made(Together(transport, self.loop))  # type: ignore[arg-type]  # it passes all else on
        self._note()
        self.crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let it go."""
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take note if that brought the request further."""
        super().data_received(data)
        if self.conn.their_state is not self._state:
            self._note()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._note()

    @property
    def unfinished(self) -> bool:
        """Whether the caller has not said all of its request."""
        return self.conn.their_state in PATIENCE

    def overdue(self, now: float) -> bool:
        """Tell whether it has taken longer than it may."""
        return now - self._since > PATIENCE.get(self.conn.their_state, ANSWER_SECONDS)

    def _note(self) -> None:
        self._state, self._since = self.conn.their_state, self.loop.time()


def protocol() -> type[Connection]:
    """Return a kind of connection whose crowd is its own, for one server."""
    return type("Bounded", (Connection,), {"crowd": Crowd()})
