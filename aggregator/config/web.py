"""The block of the page and the API: who may look, who may decide, and whose tokens are good."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema

from aggregator.config.block import Block, SecretFile
from aggregator.config.values import WebAddress, refuse

SHORTEST_TOKEN = 24
SHORTEST_SECRET = 32
MOST_SECRETS = 8
"""In characters: what is guessed neither by a person nor by a machine that asks as fast as it may."""


def unguessable(least: int) -> AfterValidator:
    """Refuse a secret that is too short, or has white space."""

    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value().strip()
        if len(text) < least or re.search(r"\s", text):
            raise refuse(
                f"must have {least} characters at least, and no white space: `openssl rand -hex 24` prints one"
            )
        return SecretStr(text)

    return AfterValidator(check)


def unguessable_each(least: int, most: int) -> AfterValidator:
    """Refuse several secrets if one of them is too short, or if there are too many; keep them apart by commas."""

    def check(value: SecretStr) -> SecretStr:
        texts = secrets_in(value)
        if not texts or any(len(text) < least for text in texts):
            raise refuse(
                f"must have {least} characters at least, each of them: `openssl rand -hex 24` prints one"
            )
        if len(texts) > most:
            raise refuse(f"are more than {most}: leave out the oldest")
        return SecretStr(",".join(texts))

    return AfterValidator(check)


def secrets_in(value: SecretStr | None) -> tuple[str, ...]:
    """Return secrets that stand in one text, with commas, white space or lines between them."""
    text = value.get_secret_value() if value else ""
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


def _origin(value: str) -> str:
    """Refuse what a browser would never name as the origin of a page."""
    parts = urlsplit(value)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.netloc
        or value != f"{parts.scheme}://{parts.netloc}"
    ):
        raise refuse(
            "must be an origin, such as `https://app.example.com`: without a path, and without `/` at the end"
        )
    return value


Origin = Annotated[
    str, AfterValidator(_origin), WithJsonSchema({"type": "string", "pattern": "^https?://[^/]+$"})
]


class Web(Block):
    """The page and the API of `run --web` and `aggregator web`."""

    operator_token: Annotated[SecretStr, unguessable(SHORTEST_TOKEN)] | None = Field(
        default=None,
        description=(
            "The token that people sign in with. Without it, nobody can decide anything on the "
            "page, and only this machine can look."
        ),
        examples=["${AGGREGATOR_WEB_TOKEN}"],
    )
    operator_token_file: SecretFile | None = Field(
        default=None,
        description="File that holds the token, instead of `operator_token`; relative to this file.",
        examples=["/run/secrets/web_token"],
    )
    token_secret: Annotated[SecretStr, unguessable_each(SHORTEST_SECRET, MOST_SECRETS)] | None = Field(
        default=None,
        description=(
            "The secret that signs the tokens of `aggregator web token`, with which a customer's "
            "own usage can be read. You can give several, separated by commas: the first one signs, "
            "and tokens that any of them signed are valid."
        ),
        examples=["${AGGREGATOR_TOKEN_SECRET}"],
    )
    token_secret_file: SecretFile | None = Field(
        default=None,
        description="File that holds the secret, instead of `token_secret`; relative to this file.",
        examples=["/run/secrets/token_secret"],
    )
    public_url: WebAddress | None = Field(
        default=None,
        description=(
            "The address of the page, if a web server with TLS is in front of it. Then everybody "
            "must sign in."
        ),
        examples=["https://usage.example.com"],
    )
    allow_origins: tuple[Origin, ...] = Field(
        default=(),
        strict=False,
        description="Origins of your own pages whose scripts may read the API with a customer's token.",
        examples=[["https://app.example.com"]],
    )

    def operator_token_revealed(self) -> str | None:
        """Return the token in clear."""
        return self.operator_token.get_secret_value() if self.operator_token else None

    def token_secrets_revealed(self) -> tuple[str, ...]:
        """Return the secrets in clear, the one that signs first; none if no token is good."""
        return secrets_in(self.token_secret)


WEB_SECRETS = ("operator_token", "token_secret")
"""Which keys may stand in a file of their own."""
