"""Sessions of the meter event stream: a token that is good for a while, for the account whose key asked for it.

From docs.stripe.com/api/v2/billing/meter-event-stream: the token is the Bearer of the stream's calls; there is no renewal,
a sender asks for a new session. A token that has run out gets `billing_meter_event_session_expired`.
"""

from secrets import token_hex
from typing import NamedTuple

from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.journal import Record
from aggregator.sandbox.keys import bearer, masked
from aggregator.sandbox.paging import Row
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.times import instant

# A token that nobody remembers is refused like a wrong key, not as one that has run out.
MAX_SESSIONS = 10_000

EXPIRED_URL = "https://docs.stripe.com/error-codes#billing-meter-event-session-expired"


class Session(NamedTuple):
    """One session; times are unix seconds."""

    id: str
    authentication_token: str
    account: str
    livemode: bool
    created: float
    expires_at: float

    def json(self) -> Row:
        """Return the object as Stripe shows it."""
        return {
            "id": self.id,
            "object": "v2.billing.meter_event_session",
            "authentication_token": self.authentication_token,
            "created": instant(self.created),
            "expires_at": instant(self.expires_at),
            "livemode": self.livemode,
        }


class Sessions:
    """The sessions of a sandbox, all accounts and both modes; the oldest are forgotten."""

    def __init__(self) -> None:
        self._by_token: dict[str, Session] = {}

    def open(self, account: str, now: float, rules: Rules, *, livemode: bool) -> Session:
        """Make a session."""
        mode = "live" if livemode else "test"
        name, token = f"mes_{mode}_{token_hex(8)}", f"mest_{mode}_{token_hex(24)}"
        session = Session(name, token, account, livemode, now, now + rules.session_seconds)
        self.keep(session)
        return session

    def keep(self, session: Session) -> None:
        """Remember a session."""
        self._by_token[session.authentication_token] = session
        while len(self._by_token) > MAX_SESSIONS:
            del self._by_token[next(iter(self._by_token))]

    def find(self, authorization: bytes) -> Session:
        """Return the session of an Authorization header. Raise ApiError when there is none such."""
        token = bearer(authorization)
        session = self._by_token.get(token)
        if session is None:
            message = (
                f"The token {masked(token)} is of no meter event session. Create one and send its token."
            )
            raise ApiError(401, message, reason="bad_session")
        return session

    def restore(self, record: Record) -> None:
        """Take a session back from the state file."""
        self.keep(Session(**record))


def refuse_expired(session: Session, now: float, rules: Rules) -> None:
    """Raise ApiError when a session has run out."""
    if now >= session.expires_at:
        raise ApiError(
            rules.session_expired_status,
            "The meter event session has expired. Create a new one.",
            reason="session_expired",
            kind="temporary_session_expired",
            code="billing_meter_event_session_expired",
            doc_url=EXPIRED_URL,
        )
