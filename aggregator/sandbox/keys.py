"""API keys: the prefix says the mode, the sandbox takes any.

A key is a Bearer token or the user name of Basic authentication (docs.stripe.com/api/authentication). `sk_test_` and
`rk_test_` mean test mode, `sk_live_` and `rk_live_` live mode. Which keys are revoked (401) or lack permission (403) is
set while the sandbox runs, and which may do everything but read the account, as a restricted key may be set up
(docs.stripe.com/keys/restricted-api-keys).
"""

import binascii
from base64 import b64decode

from aggregator.sandbox.errors import ApiError

TEST = ("sk_test_", "rk_test_")
LIVE = ("sk_live_", "rk_live_")


class Keys:
    """The keys that are not let in."""

    def __init__(self) -> None:
        self.revoked: frozenset[str] = frozenset()
        self.restricted: frozenset[str] = frozenset()
        self.no_account: frozenset[str] = frozenset()

    def livemode(self, authorization: bytes) -> bool:
        """Return the mode of the key in an Authorization header. Raise ApiError when it is not let in."""
        key = _key(authorization)
        if not key:
            raise _unauthorized("No API key was given. Send 'Authorization: Bearer sk_test_...'.")
        if key in self.revoked or not key.startswith(TEST + LIVE):
            raise _unauthorized(f"Invalid API Key provided: {_masked(key)}")
        if key in self.restricted:
            raise _forbidden(key)
        return key.startswith(LIVE)

    def require_account(self, authorization: bytes) -> None:
        """Raise ApiError when the key in an Authorization header may not read the account."""
        key = _key(authorization)
        if key in self.no_account:
            raise _forbidden(key)


def _key(authorization: bytes) -> str:
    scheme, _, rest = authorization.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return b64decode(rest).decode("latin-1").partition(":")[0]
    except binascii.Error:
        return ""


def _masked(key: str) -> str:
    """Return enough of a key to know it by, and no more."""
    return f"{key[:8]}****{key[-4:]}" if len(key) > 16 else f"{key[:8]}****"


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, reason="bad_key")


def _forbidden(key: str) -> ApiError:
    message = f"The key {_masked(key)} does not have the permissions for this call."
    return ApiError(403, message, reason="restricted_key")
