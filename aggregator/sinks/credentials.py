"""Who is calling, and by which key: one that is never repeated, though whoever answers may send back what was sent."""

from aggregator.runtime.redact import storable

APP_NAME = "usage-aggregator"
"""The name of the distribution, which a far side can look up."""

REMEMBERED = 2
"""The key, and the one before it: an answer may still hold that."""


class Credentials:
    """The key to call with, and what to hide."""

    def __init__(self, key: str) -> None:
        self._keys: tuple[str, ...] = (key,)

    @property
    def key(self) -> str:
        """The key to call with now."""
        return self._keys[0]

    def use(self, key: str) -> None:
        """Call with another key from now on."""
        self._keys = tuple(dict.fromkeys([key, *self._keys]))[:REMEMBERED]

    def hide(self, text: str) -> str:
        """Return what somebody else wrote, without our keys, and fit to be stored and shown."""
        for key in self._keys:
            text = text.replace(key, "[key]")
        return storable(text)
