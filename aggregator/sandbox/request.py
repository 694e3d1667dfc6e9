"""One authenticated call, as endpoints see it, and what an endpoint is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from aggregator.sandbox.events import Draft
from aggregator.sandbox.form import Params
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.series import Event
from aggregator.sandbox.sessions import Session
from aggregator.sandbox.store import Account, Store


@dataclass(slots=True)
class Request:
    """One call. `params` is its form or its query, `body` its JSON; `name` is the object's id in the path.

    `key` is its `Idempotency-Key`. `drafts` are the events that it brings, read before anything is decided; `taken` those
    that were accepted.
    """

    store: Store
    account: Account
    params: Params
    body: dict[str, object]
    name: str = ""
    key: str = ""
    session: Session | None = None
    drafts: list[Draft] = field(default_factory=list)
    taken: list[Event] = field(default_factory=list)

    @property
    def now(self) -> int:
        """Return whole unix seconds."""
        return int(self.store.clock.now())

    @property
    def rules(self) -> Rules:
        """Return the rules in force."""
        return self.store.rules


Handler = Callable[[Request], dict[str, object]]


class Endpoint(NamedTuple):
    """What answers a call, and what a key must be allowed to do.

    `read` fills in the drafts of a call that brings events, or refuses it. `streams` says that a session's token is
    wanted in place of a key, and that any number of events comes at once.
    """

    handler: Handler
    permission: str = ""
    read: Callable[[Request], None] | None = None
    streams: bool = False


class Route(NamedTuple):
    """An endpoint and the id found in the path."""

    endpoint: Endpoint
    name: str
