"""Who may look and who may decide: hosts, sessions, and what a form must bring with it.

Rules
- Whoever is on this machine may look. From elsewhere, and to decide in any case, one must have signed in with the operator's
  token. What a web server passed on comes from elsewhere, whoever connected.
- A session is a signed cookie and nothing on the server: another token, and all of them are over. It is renewed while it is
  used, whatever is done, and ends a while after that.
- A form counts only if it was sent from a page of ours: the browser says so (`Sec-Fetch-Site`, else `Origin`), and it brings
  a word that only pages of this session have.
- What is secret is compared in constant time, and guessed slowly.
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from aggregator.web.application import Refused

LASTS = dt.timedelta(hours=12)
"""How long a session lasts without being used."""

MOST_WRONG = 10
WRONG_WITHIN_SECONDS = 60.0
"""So many wrong tokens in this time, from wherever they come; then nobody signs in for the rest of it."""

LONGEST_NAME = 80
PASSED_ON = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of a web server that passes calls on."""

LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
PATH_OF_OURS = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path on this server: what begins with `//` or `/\\` leads a browser to another."""


class Session(NamedTuple):
    """Somebody who signed in: by what name, until when, and the session's own number."""

    who: str
    ends: int
    number: str


@dataclass
class Access:
    """Decides who may do what. `open` says that only this machine reaches us."""

    operator_token: str | None
    open: bool
    host: str
    public_url: str | None = None
    _wrong: list[float] = field(default_factory=list)

    @property
    def everybody_looks(self) -> bool:
        """Whether one may look without having signed in."""
        return self.open and self.public_url is None

    @property
    def secure(self) -> bool:
        """Whether the way to us is by TLS."""
        return (self.public_url or "").startswith("https:")

    @property
    def cookie(self) -> str:
        """The name of the cookie: browsers keep one that is called so to this host, and to TLS."""
        return "__Host-aggregator" if self.secure else "aggregator"

    def session(self, request: Request, now: dt.datetime) -> Session | None:
        """Return who asks; None for nobody that we know."""
        key = self._key("session")
        text, _, signature = request.cookies.get(self.cookie, "").rpartition(".")
        if key is None or not text.isascii() or not signature.isascii():
            return None
        if not hmac.compare_digest(_mac(key, text), signature):
            return None
        who, ends, number = text.split(".")
        session = Session(urlsafe_b64decode(who + "=" * (-len(who) % 4)).decode(), int(ends), number)
        return session if now.timestamp() < session.ends else None

    def check_host(self, request: Request) -> None:
        """Refuse a name that is not ours: a page elsewhere may lead its own name to this machine, and read us by it."""
        if not self.everybody_looks:
            return
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if host not in LOCAL_NAMES | {self.host}:
            raise Refused(421, f"{host[:100]} is not an address of this page: name it in `web: public_url`")

    def may_look(self, request: Request, session: Session | None) -> bool:
        """Tell whether whoever asks may look."""
        passed_on = any(name in request.headers for name in PASSED_ON)
        return session is not None or (self.everybody_looks and not passed_on)

    def is_operator(self, bearer: str) -> bool:
        """Tell whether this is the operator's token."""
        return self.operator_token is not None and hmac.compare_digest(
            hashlib.sha256(bearer.encode()).digest(), hashlib.sha256(self.operator_token.encode()).digest()
        )

    def sign_in(self, token: str, who: str, now: dt.datetime, elapsed: float) -> Session | None:
        """Return a new session; None if the token is wrong. Raises Refused after too many wrong ones."""
        self._wrong = [each for each in self._wrong if elapsed - each < WRONG_WITHIN_SECONDS]
        if len(self._wrong) >= MOST_WRONG:
            raise Refused(429, "too many wrong tokens: wait a minute", {"retry-after": "60"})
        if not self.is_operator(token.strip()):
            self._wrong.append(elapsed)
            return None
        name = " ".join(who.split())[:LONGEST_NAME]
        return Session(name, int((now + LASTS).timestamp()), secrets.token_urlsafe(12))

    def keep(self, response: Response, session: Session, now: dt.datetime) -> None:
        """Have the browser keep a session, from now on as long as a new one."""
        key = self._key("session")
        assert key is not None
        ends = int((now + LASTS).timestamp())
        who = urlsafe_b64encode(session.who.encode()).decode().rstrip("=")
        text = f"{who}.{ends}.{session.number}"
        response.set_cookie(
            self.cookie,
            f"{text}.{_mac(key, text)}",
            max_age=int(LASTS.total_seconds()),
            secure=self.secure,
            httponly=True,
            samesite="lax",
        )

    def forget(self, response: Response) -> None:
        """Have the browser forget its session."""
        response.delete_cookie(self.cookie, secure=self.secure, httponly=True, samesite="lax")

    def form_token(self, session: Session) -> str:
        """Return what the forms of a session's pages bring with them."""
        key = self._key("form")
        assert key is not None
        return _mac(key, session.number)

    def check_form(self, session: Session, token: str) -> None:
        """Refuse a form that is not of a page of this session."""
        if not hmac.compare_digest(self.form_token(session).encode(), token.encode()):
            raise Refused(403, "this form is of another session: go back, reload the page and try again")

    def check_sender(self, request: Request) -> None:
        """Refuse what was not sent from a page of ours."""
        sender = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin", "")
        ours = {f"http://{request.headers.get('host', '')}", (self.public_url or "").rstrip("/")} - {""}
        if self.secure:
            ours = {(self.public_url or "").rstrip("/")}
        good = origin in ours if sender is None else sender == "same-origin"
        if not good:
            raise Refused(403, "this was not sent from a page of ours")

    def _key(self, purpose: str) -> bytes | None:
        """Return the key for a purpose, made of the operator's token: with another token, nothing signed is good."""
        if self.operator_token is None:
            return None
        return hmac.new(
            self.operator_token.encode(), f"aggregator {purpose}".encode(), hashlib.sha256
        ).digest()


def path_of_ours(path: str) -> str:
    """Return a path to go on to, if it is one on this server; else the first page."""
    return path if PATH_OF_OURS.fullmatch(path) else "/"


def _mac(key: bytes, text: str) -> str:
    return urlsafe_b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode().rstrip("=")
