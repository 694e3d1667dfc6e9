"""API keys: the prefix says the mode, the sandbox takes any.

A key is a Bearer token or the user name of Basic authentication (docs.stripe.com/api/authentication). `sk_test_` and
`rk_test_` mean test mode, `sk_live_` and `rk_live_` live mode. Which keys are revoked (401), which may do nothing (403), and
what any other may do (`permissions`) is set while the sandbox runs.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import NamedTuple

from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.permissions import EVERYTHING, allows, lacking

TEST = ("sk_test_", "rk_test_")
LIVE = ("sk_live_", "rk_live_")
RESTRICTED = ("rk_test_", "rk_live_")


class Key(NamedTuple):
    """A key that is let in."""

    secret: str
    livemode: bool


class Keys:
    """The keys that are not let in, and what others may not do. A key without permissions of its own may do everything."""

    def __init__(self) -> None:
        self.revoked: frozenset[str] = frozenset()
        self.restricted: frozenset[str] = frozenset()
        self.no_account: frozenset[str] = frozenset()
        self.permissions: Mapping[str, frozenset[str]] = {}

    def let_in(self, authorization: bytes) -> Key:
        """Return the key of an Authorization header. Raise ApiError when it is not let in."""
        secret = bearer(authorization)
        if not secret:
            raise _unauthorized("No API key was given. Send 'Authorization: Bearer sk_test_...'.")
        if secret in self.revoked or not secret.startswith(TEST + LIVE):
            raise _unauthorized(f"Invalid API Key provided: {masked(secret)}")
        if secret in self.restricted:
            message = f"The key {masked(secret)} does not have the permissions for this call."
            raise ApiError(403, message, reason="restricted_key")
        return Key(secret, secret.startswith(LIVE))

    def require(self, key: Key, permission: str, account: str) -> None:
        """Raise ApiError when a key may not do something."""
        if not self.permissions and not self.no_account:
            return
        granted = self.permissions.get(key.secret, EVERYTHING)
        if not allows(granted, permission) or (
            permission == "account_read" and key.secret in self.no_account
        ):
            raise lacking(permission, masked(key.secret), account)


def bearer(authorization: bytes) -> str:
    """Return the key or token of an Authorization header; nothing if there is none."""
    scheme, _, rest = authorization.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return b64decode(rest).decode("latin-1").partition(":")[0]
    except binascii.Error:
        return ""


def masked(key: str) -> str:
    """Return enough of a key to know it by, and no more."""
    return f"{key[:8]}****{key[-4:]}" if len(key) > 16 else f"{key[:8]}****"


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, reason="bad_key")
