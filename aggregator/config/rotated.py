"""Secrets that stand in files of their own, read again: whoever rotates a password writes the file, and restarts nothing."""

import re

from pydantic import ValidationError

from aggregator.config.documents import read_text
from aggregator.config.models import Ledger, Source

LONGEST_URL = 10_000
"""More than any URL; what is longer is another file."""


def url_now(block: Source | Ledger) -> str | None:
    """Return the URL that `url_file` holds now; None without such a file, or if it holds nothing that can be used."""
    if block.url_file is None:
        return None
    try:
        text = re.sub(r"\r?\n\Z", "", read_text(block.url_file, LONGEST_URL))
        return type(block).model_validate({"url": text}).url_revealed()
    except (OSError, ValueError, ValidationError):
        return None
