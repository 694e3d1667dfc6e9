"""The block of monitoring: who may read the figures, where we say that we live, and who is told of troubles."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from aggregator.config.block import Block, SecretFile
from aggregator.config.durations import parse_duration
from aggregator.config.values import Duration, Interval, at_least, refuse
from aggregator.config.web import SHORTEST_TOKEN, unguessable


def _address(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not text.startswith(("http://", "https://")) or any(each.isspace() for each in text):
        raise refuse("must be an address such as `https://hc-ping.com/your-check`")
    return SecretStr(text)


def _collector(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise refuse("must be an address such as `http://127.0.0.1:4318`")
    if "@" in parts.netloc:
        raise refuse(
            "must hold no password: what lets us in stands in the variable `OTEL_EXPORTER_OTLP_HEADERS`"
        )
    if parts.path.rstrip("/").endswith("/v1/traces"):
        raise refuse("stands without `/v1/traces`, which is added to it")
    return value


def _services(value: SecretStr) -> SecretStr:
    if any("://" not in each for each in value.get_secret_value().split()):
        raise refuse(
            "must be addresses as apprise writes them, such as `slack://...` or `mailto://...`, with white space between two"
        )
    return value


class Monitoring(Block):
    """Whoever watches aggregator: Prometheus, a dead man's switch, people."""

    scrape_token: Annotated[SecretStr, unguessable(SHORTEST_TOKEN)] | None = Field(
        default=None,
        description="The bearer token that Prometheus sends to read `/metrics` from another machine.",
        examples=["${AGGREGATOR_SCRAPE_TOKEN}"],
    )
    scrape_token_file: SecretFile | None = Field(
        default=None,
        description="File that holds the token, instead of `scrape_token`; relative to this file.",
        examples=["/run/secrets/scrape_token"],
    )
    heartbeat_url: Annotated[SecretStr, AfterValidator(_address)] | None = Field(
        default=None,
        description=(
            "An address that is called regularly while everything works. The service there raises "
            "the alarm when no call comes."
        ),
        examples=["${HEARTBEAT_URL}"],
    )
    heartbeat_url_file: SecretFile | None = Field(
        default=None,
        description="File that holds the address, instead of `heartbeat_url`; relative to this file.",
        examples=["/run/secrets/heartbeat_url"],
    )
    heartbeat_every: Annotated[Duration, at_least("1s")] = Field(
        default=parse_duration("1m"),
        description="How often it is called.",
        examples=["1m"],
    )
    notify: Annotated[SecretStr, AfterValidator(_services)] | None = Field(
        default=None,
        description=(
            "Who gets a message when there is a problem: apprise addresses, separated by white space."
        ),
        examples=["${NOTIFY}"],
    )
    notify_file: SecretFile | None = Field(
        default=None,
        description="File that holds them, instead of `notify`; relative to this file.",
        examples=["/run/secrets/notify"],
    )
    notify_after: Duration = Field(
        default=parse_duration("5m"),
        description=(
            "How long a problem must last before a message is sent, and the least time between two messages."
        ),
        examples=["5m"],
    )
    notify_again: Interval = Field(
        default=parse_duration("1d"),
        description="How often people are reminded of a problem that lasts, or `off`.",
        examples=["1d", "off"],
    )

    opentelemetry: bool = Field(
        default=False,
        description=(
            "Whether each pass and each claim is sent as a span to an OpenTelemetry collector. It "
            "needs the extra `opentelemetry`; the `OTEL_` variables set everything else."
        ),
        examples=[True],
    )
    opentelemetry_endpoint: Annotated[str, AfterValidator(_collector)] | None = Field(
        default=None,
        description=(
            "Where that collector takes OTLP over HTTP, without `/v1/traces`. Left out: "
            "`OTEL_EXPORTER_OTLP_ENDPOINT`, if it is set; otherwise `http://localhost:4318`."
        ),
        examples=["http://127.0.0.1:4318"],
    )

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if self.opentelemetry_endpoint is not None and not self.opentelemetry:
            raise refuse(
                "has no effect alone: set `opentelemetry: true` as well", within="opentelemetry_endpoint"
            )
        return self

    def scrape_token_revealed(self) -> str | None:
        """Return the token in clear."""
        return self.scrape_token.get_secret_value() if self.scrape_token else None

    def sign_of_life_url(self) -> str | None:
        """Return the address in clear."""
        return self.heartbeat_url.get_secret_value() if self.heartbeat_url else None

    def services_revealed(self) -> tuple[str, ...]:
        """Return the addresses in clear; none if nobody is told."""
        return tuple(self.notify.get_secret_value().split()) if self.notify else ()


MONITORING_SECRETS = ("scrape_token", "heartbeat_url", "notify")
"""Which keys may stand in a file of their own."""
