"""One authenticated call, as endpoints see it, and what an endpoint is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from aggregator.sandbox.events import Draft
from aggregator.sandbox.form import Params
from aggregator.sandbox.refusals import Refuse
from aggregator.sandbox.reports import Invalid
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.sent import Sent
from aggregator.sandbox.series import Event
from aggregator.sandbox.sessions import Session
from aggregator.sandbox.store import Account, Store
from aggregator.sandbox.validation import NO_METER


@dataclass(slots=True)
class Request:
    """One call. `params` is its form or its query, `body` its JSON; `name` is the object's id in the path.

    `key` is its `Idempotency-Key`, `version` its `Stripe-Version`. `drafts` are the events that it brings, read before
    anything is decided; `taken` those that were accepted.
    """

    store: Store
    account: Account
    params: Params
    body: dict[str, object]
    name: str = ""
    key: str = ""
    version: str = ""
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

    def draft(self, sent: Sent, message: str, refuse: Refuse) -> None:
        """Find the meter of the one event that the call brings; refuse it, with this message, if there is none."""
        draft = self.account.events.draft(sent)
        if draft.meter is None:
            error = refuse(Invalid(NO_METER, message), sent, None, self.rules)
            assert error is not None
            raise error
        self.drafts = [draft]

    def take(self, refuse: Refuse, write: Callable[[float], object]) -> dict[str, object]:
        """Take that event, and return what both versions answer of it; `write` is how they write an instant."""
        (draft,) = self.drafts
        now = self.store.clock.now()
        event = self.account.events.take(draft, now, self.rules, refuse, self.key)
        assert event is not None
        self.taken = [event]
        return {
            "created": write(now),
            "event_name": event.event_name,
            "identifier": event.identifier,
            "livemode": self.account.livemode,
            "payload": draft.sent.payload,
            "timestamp": write(event.timestamp),
        }


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
