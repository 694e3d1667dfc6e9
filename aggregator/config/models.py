"""The configuration as frozen values. One model per block of the file; one field per key.

Rules
- What can hurt has no default: the mode of a sink, the first instant that is billed, the window.
- A secret is a SecretStr: it shows itself only to who calls the method that ends in `revealed`.
- A field comes after the fields it is compared with, so that each comparison is a validator of its own and
  one mistake does not hide another.
- The choice between `KEY` and `KEY_file` is made by `load`; here KEY holds the value, wherever it came from.
"""

from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from aggregator.config.block import Block, SecretFile, in_a_file
from aggregator.config.customers import CustomerMapping
from aggregator.config.durations import parse_duration
from aggregator.config.file_sinks import CsvSink, DirectorySink, S3Sink
from aggregator.config.meter import Meter
from aggregator.config.monitoring import Monitoring
from aggregator.config.sinks import ApiSink, MetronomeSink
from aggregator.config.source_files import SourceFiles, files_of_duckdb
from aggregator.config.values import (
    API_KEY,
    ArchivePlace,
    DatabaseUrl,
    Duration,
    Interval,
    Months,
    PostgresUrl,
    SigningSecrets,
    StripeKey,
    ZoneOfColumns,
    at_least,
    at_most,
    refuse,
)
from aggregator.config.web import Web
from aggregator.core.archive import LEAST_KEPT
from aggregator.errors import UsageError

# Stripe's limits on calls to the metering endpoints, per second and account; test mode has the lower one.
# https://docs.stripe.com/rate-limits
CALLS_PER_SECOND = {"live": 1_000, "test": 25}

# What the stream takes in live mode, in events per second (the same page); in test mode its requests count as calls do.
STREAM_EVENTS_PER_SECOND = 10_000

# Calls for connected accounts count against the ordinary limit.
# https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api
CONNECT_CALLS_PER_SECOND = {"live": 100, "test": 25}


# Nobody's limit: whatever answers on this machine, as the sandbox does, takes what it can.
LOOPBACK_PER_SECOND = 10_000


def _kept_somewhere(keep: int | None, info: ValidationInfo) -> int | None:
    if keep is None:
        return None
    if keep < LEAST_KEPT:
        raise refuse(
            f"is too short: `{LEAST_KEPT}mo` is the least, so that all can be billed and compared before"
        )
    if info.data.get("archive") is None:
        raise refuse("needs `archive`: say where months go that leave the ledger")
    return keep


class Ledger(Block):
    """The database that remembers what was billed. Without `url`: a private embedded Postgres in the state directory."""

    url: PostgresUrl | None = Field(
        default=None,
        description="`postgresql://` URL of the database (Postgres 14 or later) that remembers what was billed.",
        examples=["${LEDGER_URL}"],
    )
    url_file: SecretFile | None = in_a_file("url", "the URL", "/run/secrets/ledger_url")
    lease: Annotated[Duration, at_least("5s")] = Field(
        default=parse_duration("2m"),
        description="How long a process keeps a meter without renewing its lease, before another process takes over.",
        examples=["2m"],
    )
    migrate: bool = Field(
        default=True,
        description="Whether every command that opens the ledger first upgrades its tables to this version.",
        examples=[True],
    )

    failover: Literal["may_lose", "one_host", "lossless"] = Field(
        default="may_lose",
        description="What holds in your setup when a standby takes over as the ledger's server. `may_lose`: it may lack the"
        " latest commits, so nothing is sent before `aggregator adopt`. `lossless`: it never lacks any, as with a"
        " synchronous standby (`synchronous_standby_names`) or replicated storage. `one_host`: only one host ever sends"
        " from this ledger and keeps its `state_dir`, so its own last claim shows what was lost.",
        examples=["lossless"],
    )
    archive: ArchivePlace | None = Field(
        default=None,
        description="Where months go that leave the ledger: a directory, relative to this file, which every host can reach;"
        " or a bucket, as `s3://BUCKET/FOLDER/`, with the credentials and the region that boto3 finds.",
        examples=["s3://acme-archive/aggregator/"],
    )
    keep: Annotated[Months | None, AfterValidator(_kept_somewhere)] = Field(
        default=None,
        description="How long a month stays in the ledger once it is over. Then it goes to `archive`, if nothing of it"
        " waits. At least `3mo`. Left out: for ever.",
        examples=["18mo"],
    )

    def url_revealed(self) -> str | None:
        """Return the URL in clear, None for the embedded ledger."""
        return self.url.get_secret_value() if self.url else None


class Source(Block):
    """An application database, which is only ever read."""

    url: DatabaseUrl = Field(
        description="SQLAlchemy URL of the database, with a role that may only read.",
        examples=["${APP_DATABASE_URL}"],
    )
    url_file: SecretFile | None = in_a_file("url", "the URL", "/run/secrets/app_database_url")
    statement_timeout: Annotated[Duration, at_least("1s")] = Field(
        default=parse_duration("60s"),
        description="How long one query may run before it is stopped.",
        examples=["60s"],
    )
    wait_for_writers: Annotated[Duration, at_most("1d", "what comes later is found by reading again")] = (
        Field(
            default=parse_duration("15m"),
            description=(
                "How long a window waits, on Postgres, for transactions that may still write into it. `0s`: not at all."
            ),
            examples=["15m"],
        )
    )
    freshness: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description=(
            "A select that returns one timestamp, up to which the source certainly has all rows, such as the last "
            "heartbeat's. Use it for a standby, a logical subscriber, foreign tables or a warehouse. Nothing after it is "
            "read."
        ),
        examples=["select max(beat_at) as fresh_until from heartbeat"],
    )
    row_security: Literal["refused", "allowed"] = Field(
        default="refused",
        description=(
            "Whether row-level security of Postgres may decide which rows the role sees. `refused`: a query that a policy "
            "would filter fails, since hidden rows would not be billed. `allowed`: the policies show the role every row "
            "that should be billed."
        ),
        examples=["allowed"],
    )
    accepts: tuple[Literal["several_states", "unproven_bounds"], ...] = Field(
        default=(),
        strict=False,
        description=(
            "Risks that you accept with a database that cannot do better. `several_states`: a query "
            "without a `window` column runs several times for a span, and each run may see another "
            "state of the data. `unproven_bounds`: the database does not show that `:start` arrives "
            "as the instant that was meant, so each query converts its bounds itself."
        ),
        examples=[["several_states"]],
    )
    timezone: Annotated[Literal["UTC"], ZoneOfColumns] | None = Field(
        default=None,
        description="`UTC` means that columns without a time zone hold UTC. Convert anything else in the query.",
        examples=["UTC"],
    )
    files: Annotated[dict[str, SourceFiles], AfterValidator(files_of_duckdb)] = Field(
        default={},
        description=(
            "Folders of Parquet and CSV files, under the names that queries use, with `url: duckdb://`."
        ),
        examples=[{"usage": {"path": "/var/lib/usage/**/*.parquet"}}],
    )

    def url_revealed(self) -> str:
        """Return the URL in clear."""
        return self.url.get_secret_value()


def _mode_of_the_key(mode: str, info: ValidationInfo) -> str:
    key = info.data.get("api_key")
    prefix = API_KEY.match(key.get_secret_value()) if isinstance(key, SecretStr) else None
    if prefix and prefix[1] != mode:
        raise refuse(
            f"is `{mode}`, but the key is a {prefix[1]} key: use a {mode} key, or write `mode: {prefix[1]}`"
        )
    return mode


class StripeReports(Block):
    """How you get what Stripe finds invalid later."""

    poll: Interval = Field(
        default=parse_duration("5m"),
        description="How often Stripe is asked for its reports on invalid events, or `off`.",
        examples=["1m", "off"],
    )


def _only_for_auto(above: int, info: ValidationInfo) -> int:
    if info.data.get("transport", "auto") == "auto":
        return above
    raise refuse(
        "is for `transport: auto` only, which decides by it: take it out, or write `transport: auto`"
    )


def _one_or_each(accounts: str | None, info: ValidationInfo) -> str | None:
    if accounts and info.data.get("stripe_account"):
        raise refuse(
            "and `stripe_account` exclude one another: one account for all, or each customer its own"
        )
    return accounts


class StripeSink(ApiSink):
    """Stripe's meter events."""

    type: Literal["stripe"] = Field(description="What kind of sink this is.", examples=["stripe"])
    api_key: StripeKey = Field(
        description="Secret or restricted key that may write meter events and read meters and summaries.",
        examples=["${STRIPE_API_KEY}"],
    )
    api_key_file: SecretFile | None = in_a_file("api_key", "the key", "/run/secrets/stripe_api_key")
    mode: Annotated[Literal["live", "test"], AfterValidator(_mode_of_the_key)] = Field(
        description="`live` bills real customers, `test` does not. Must match the key; has no default.",
        examples=["test"],
    )
    transport: Literal["v1", "v2", "stream", "auto"] = Field(
        default="v1",
        description=(
            "How events go: one per call (`v1`, `v2`), a hundred per request without an answer on each (`stream`), or "
            "`auto`: by `v1`, and by the stream while many wait."
        ),
        examples=["auto"],
    )
    stream_above: Annotated[int, Field(ge=1), AfterValidator(_only_for_auto)] = Field(
        default=10_000,
        description="With `transport: auto`: while more events than this wait, they are sent by the stream.",
        examples=[10_000],
    )
    stripe_account: Annotated[str, Field(pattern=r"^acct_[A-Za-z0-9]+$")] | None = Field(
        default=None,
        description="The connected account that gets everything, if it is not the key's own account.",
        examples=["acct_1ABC"],
    )
    accounts: Annotated[Literal["by_customer"] | None, AfterValidator(_one_or_each)] = Field(
        default=None,
        description=(
            "`by_customer`: each customer has their own connected account, and the query returns "
            "`acct_.../cus_...`."
        ),
        examples=["by_customer"],
    )
    rate_limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=(
            "Calls per second at most, per account and for all daemons together; for the stream, events per second. Left "
            "out: what Stripe allows; no limit if `api_base` is on this machine."
        ),
        examples=[100],
    )
    max_in_flight: int = Field(
        default=256, ge=1, description="How many calls may wait for their answer at once.", examples=[256]
    )
    totals_by: Literal["event_summaries", "meter_usage"] = Field(
        default="event_summaries",
        description=(
            "How totals are first looked at by `aggregator reconcile` and the daemon's check: by `event_summaries`, one "
            "meter at a time, or by `meter_usage`, all meters of a customer at once, which is in preview at Stripe. What "
            "differs is read again by event summaries, and only they are judged."
        ),
        examples=["meter_usage"],
    )
    reports: StripeReports = Field(
        default=StripeReports(),
        description="How Stripe is asked for its reports on invalid events.",
        examples=[{"poll": "1m"}],
    )
    webhook_secret: SigningSecrets | None = Field(
        default=None,
        description=(
            "Signing secret of the event destination at Stripe that sends to `run --web`. Separate several by commas."
        ),
        examples=["${STRIPE_WEBHOOK_SECRET}"],
    )
    webhook_secret_file: SecretFile | None = in_a_file(
        "webhook_secret", "the secret", "/run/secrets/stripe_webhook_secret"
    )

    @property
    def calls_per_second(self) -> int:
        """The rate of calls that applies: the one given, or what Stripe allows in this mode, for this kind of account.

        On this machine nobody sets a limit, whatever the mode of the key.
        """
        if self.unlimited:
            return LOOPBACK_PER_SECOND
        allowed = CONNECT_CALLS_PER_SECOND if self._connected else CALLS_PER_SECOND
        return self.rate_limit or allowed[self.mode]

    @property
    def stream_by_event(self) -> bool:
        """Whether events count for the stream's rate, rather than requests."""
        return self.rate_limit is not None or self.local or (self.mode == "live" and not self._connected)

    @property
    def stream_per_second(self) -> int:
        """The rate of the stream that applies, in events or in requests."""
        if self.rate_limit is None and self.stream_by_event and not self.local:
            return STREAM_EVENTS_PER_SECOND
        return self.calls_per_second

    @property
    def _connected(self) -> bool:
        return self.stripe_account is not None or self.accounts is not None

    def api_key_revealed(self) -> str:
        """Return the key in clear."""
        return self.api_key.get_secret_value()

    def webhook_secrets_revealed(self) -> tuple[str, ...]:
        """Return the signing secrets in clear; none if no webhook is set up."""
        text = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        return tuple(text.replace(",", " ").split())


FileSink = CsvSink | DirectorySink | S3Sink
Sink = StripeSink | MetronomeSink | FileSink
SINK_TYPES: dict[str, type[Sink]] = {
    "stripe": StripeSink,
    "metronome": MetronomeSink,
    "csv": CsvSink,
    "directory": DirectorySink,
    "s3": S3Sink,
}

SINK_SECRETS = {
    "stripe": {"api_key": True, "webhook_secret": False},
    "metronome": {"api_key": True},
    "s3": {"access_key_id": False, "secret_access_key": False},
}
"""Which keys of a sink may stand in a file of their own, and whether they are needed."""


class Config(Block):
    """The whole configuration, all files together. Every name in it resolves, because `load` checked."""

    state_dir: Path = Field(
        default=Path(".aggregator"),
        description="Where local state and the embedded ledger live; relative to this file.",
        examples=["/var/lib/aggregator"],
    )
    ledger: Ledger = Field(
        default=Ledger(),
        description=(
            "The database that remembers what was billed. Left out: a private embedded Postgres in the state directory."
        ),
        examples=[{"url": "${LEDGER_URL}"}],
    )
    web: Web = Field(
        default=Web(),
        description="The page and the API: who may look, and who may decide.",
        examples=[{"operator_token": "${AGGREGATOR_WEB_TOKEN}"}],
    )
    monitoring: Monitoring = Field(
        default=Monitoring(),
        description="How Prometheus, a dead man's switch and people watch aggregator.",
        examples=[{"heartbeat_url": "${HEARTBEAT_URL}"}],
    )
    sources: dict[str, Source] = Field(
        description="The application databases, by name.", examples=[{"app": {"url": "${APP_DATABASE_URL}"}}]
    )
    sinks: dict[str, Sink] = Field(
        description="Where events go, by name.",
        examples=[{"stripe": {"type": "stripe", "api_key": "${STRIPE_API_KEY}", "mode": "test"}}],
    )
    customers: dict[str, CustomerMapping] = Field(
        default={},
        description="Mappings from your own keys to billing customers, by name, for meters whose queries return keys.",
        examples=[
            {
                "accounts": {
                    "source": "app",
                    "query": "select id as key, stripe_customer_id as customer, name from account",
                    "moved": "future",
                }
            }
        ],
    )
    meters: dict[str, Meter] = Field(
        description="What is billed, by name.",
        examples=[{"api_requests": {"source": "app", "sinks": ["stripe"], "window": "1h"}}],
    )

    def polls(self, sink: str) -> timedelta | None:
        """Return how often a sink is asked what it found invalid; None if it is not, or cannot be."""
        configured = self.sinks[sink]
        return configured.reports.poll if isinstance(configured, StripeSink) else None

    @property
    def imports(self) -> bool:
        """Whether files are written that Stripe imports by itself."""
        return any(isinstance(sink, S3Sink | DirectorySink) for sink in self.sinks.values())

    def meter(self, name: str) -> Meter:
        """Return the meter of this name; UsageError names the one that may have been meant."""
        if name in self.meters:
            return self.meters[name]
        near = get_close_matches(name, self.meters, 1)
        hint = f"did you mean {near[0]}?" if near else f"the meters are: {', '.join(sorted(self.meters))}"
        raise UsageError(f"there is no meter {name}; {hint}")


class File(Config):
    """What one file may hold. Included files hold all of it but `state_dir`, `ledger`, `web` and `monitoring`."""

    include: tuple[str, ...] = Field(
        default=(),
        description="More files to read, as paths or patterns relative to this file.",
        examples=[["meters/*.yaml"]],
    )
    defaults: dict[str, object] = Field(
        default={},
        description=(
            "Keys for the meters that do not set them themselves: for this file's and, from the top file, for those "
            "of included files without `defaults`."
        ),
        examples=[{"source": "app", "sinks": ["stripe"], "window": "1h"}],
    )
