"""The secrets that sign customers' tokens, as they are by now: whoever rotates them writes a file, and restarts nothing.

Rules
- A token that none of the secrets signed may be signed by one that is new in the file: it is read again, at most every
  `READ_AGAIN_SECONDS`, however often somebody knocks.
- A file that holds nothing of use changes nothing: somebody is just writing it. What is no longer in it counts no more once
  it is read.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from contextlib import suppress

from aggregator.runtime.clock import monotonic
from aggregator.web.tokens import NotGood, Scope, scope_of

READ_AGAIN_SECONDS = 5.0


class TokenSecrets:
    """Knows the tokens that it signed. `now` gives the secrets as they are by now, None for as they were.

    It is asked by one thread, that of the listener.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        now: Callable[[], Sequence[str] | None] = lambda: None,
        elapsed: Callable[[], float] = monotonic,
    ) -> None:
        self._secrets = tuple(secrets)
        self._now = now
        self._elapsed = elapsed
        self._read_again_at: float | None = None

    def scope(self, token: str, now: dt.datetime) -> Scope:
        """Return what a token lets one read. Raises NotGood."""
        try:
            return self._scope(token, now)
        except NotGood:
            if not self._is_read_again():
                raise
            return self._scope(token, now)

    def _scope(self, token: str, now: dt.datetime) -> Scope:
        for secret in self._secrets:
            with suppress(NotGood):
                return scope_of(secret, token, now)
        raise NotGood

    def _is_read_again(self) -> bool:
        """Take the secrets as they are by now, unless that was done just now; tell whether they are others."""
        elapsed, before = self._elapsed(), self._secrets
        if self._read_again_at is not None and elapsed - self._read_again_at < READ_AGAIN_SECONDS:
            return False
        self._read_again_at = elapsed
        self._secrets = tuple(self._now() or before)
        return self._secrets != before
