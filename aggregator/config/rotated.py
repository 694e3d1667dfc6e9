"""Secrets that stand in files of their own, read again: whoever rotates a password writes the file, and restarts nothing."""

from pydantic import SecretStr, ValidationError

from aggregator.config.documents import LONGEST_SECRET, read_value
from aggregator.config.file_sinks import S3Sink
from aggregator.config.models import Ledger, Source, StripeSink
from aggregator.config.sinks import MetronomeSink
from aggregator.config.web import Web

Keyed = StripeSink | MetronomeSink | S3Sink

KEYS = ("api_key", "access_key_id", "secret_access_key")
"""What lets a sink in, each of which may stand in a file of its own."""

LONGEST_URL = 10_000
"""More than any URL; what is longer is another file."""


def url_now(block: Source | Ledger) -> str | None:
    """Return the URL that `url_file` holds now; None without such a file, or if it holds nothing that can be used."""
    if block.url_file is None:
        return None
    try:
        text = read_value(block.url_file, LONGEST_URL)
        return type(block).model_validate({"url": text}).url_revealed()
    except (OSError, ValueError, ValidationError):
        return None


def keys_now(block: Keyed) -> Keyed:
    """Return a sink as configured, with the keys that its files hold now.

    Raises OSError if one of them cannot be read, and ValueError, in words, if what they hold does not fit the sink: a key of
    the other mode above all.
    """
    files = {key: path for key in KEYS if (path := getattr(block, f"{key}_file", None)) is not None}
    if not files:
        return block
    needed = _needed(block)
    held = {key: secret for key in KEYS if (secret := getattr(block, key, None)) is not None}
    fresh = {
        key: read_value(files[key], LONGEST_SECRET) if key in files else secret.get_secret_value()
        for key, secret in held.items()
    }
    try:
        type(block).model_validate(needed | fresh)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        raise ValueError(f"`{place}` {wrong['msg']}") from None
    return block.model_copy(update={key: SecretStr(text) for key, text in fresh.items()})


def webhook_secrets_now(block: StripeSink) -> tuple[str, ...] | None:
    """Return the secrets that `webhook_secret_file` holds now; None without it, or if it holds none that can be used."""
    if block.webhook_secret_file is None:
        return None
    try:
        text = read_value(block.webhook_secret_file, LONGEST_SECRET)
        fresh = type(block).model_validate(_needed(block) | {"webhook_secret": text})
    except (OSError, ValueError):
        return None
    return fresh.webhook_secrets_revealed() or None


def token_secrets_now(block: Web) -> tuple[str, ...] | None:
    """Return the secrets that `token_secret_file` holds now; None without it, or if it holds none that can be used."""
    if block.token_secret_file is None:
        return None
    try:
        fresh = Web.model_validate({"token_secret": read_value(block.token_secret_file, LONGEST_SECRET)})
    except (OSError, ValueError):
        return None
    return fresh.token_secrets_revealed() or None


def _needed(block: Keyed) -> dict[str, object]:
    """Return what a block cannot be made without."""
    return {name: getattr(block, name) for name, key in type(block).model_fields.items() if key.is_required()}
