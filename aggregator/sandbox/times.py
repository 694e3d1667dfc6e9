"""Times as version 2 of the API writes them: RFC 3339, with a zone."""

import re
from datetime import UTC, datetime
from functools import lru_cache

INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def instant(seconds: float) -> str:
    """Return unix seconds as RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=4096)
def read_instant(text: str) -> float | None:
    """Return unix seconds of an RFC 3339 time, whole ones as an int; None when it is not one. A batch repeats itself."""
    if not INSTANT.fullmatch(text):
        return None
    try:
        seconds = datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return int(seconds) if seconds.is_integer() else seconds
