"""What drivers and libraries say, made fit to be kept, logged and shown. Pure.

Rules
- A secret is replaced where it stands as one: after `password=`, before the `@` of a URL, and wherever else a text holds it,
  unless it is so short that ordinary words hold it, too.
- The text can be stored: no NUL, no broken characters, not too long. It may repeat a row, or a whole statement.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"

LONGEST = 2_000
"""Enough for any driver's message; the rest of a longer one is a row or a statement that it repeats."""

IN_A_WORD = 8
"""A secret of this length is replaced in the middle of a longer word as well: no ordinary word holds it by chance."""

AS_A_WORD = 4
"""A shorter one only as a word of its own; and one that is shorter than this only where its place says that it is one."""

PLACES = re.compile(
    r"(?i)(password\s*=\s*'?|bearer\s+|\b(?:[sr]k_(?:test|live)|whsec)_)([^\s'&;\"]+)|(://[^:/@\s]*:)([^@\s]+)(?=@)"
)
"""Where a text shows by itself that a secret stands there: a keyword of a connection string, a header, the beginning of a
key, or a URL's user part."""


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return the text on one line, without the secrets, and fit to be stored."""
    text = PLACES.sub(lambda found: (found[1] or found[3]) + HIDDEN, text)
    for secret in _spellings(secrets):
        if len(secret) >= IN_A_WORD:
            text = text.replace(secret, HIDDEN)
        elif len(secret) >= AS_A_WORD:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return storable(text)


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Return each secret as it is and as a URL writes it, the longest first."""
    found: set[str] = set()
    for secret in filter(None, secrets):
        found |= {secret, quote(secret, safe=""), quote_plus(secret), unquote(secret)}
    return sorted(found, key=lambda each: (-len(each), each))


def storable(text: str) -> str:
    """Return a text that any database takes: control characters and broken text escaped, and not too long."""
    shown = " ".join(text.split())
    if not shown.isprintable():
        shown = "".join(
            each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode()
            for each in shown
        )
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + " ..."


def named(error: BaseException) -> str:
    """Return an error's kind and its text, for errors whose text alone says nothing."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
