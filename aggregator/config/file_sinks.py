"""Sinks that write files, as the configuration describes them.

The limits are Stripe's: 5 MB for a file that is uploaded by hand
(docs.stripe.com/billing/subscriptions/usage-based/recording-usage-csv); 1 GB, and advice on when to close a file, for the
import from S3 (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-s3).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from aggregator.config.block import Block, SecretFile, in_a_file
from aggregator.config.durations import parse_duration
from aggregator.config.values import Duration, WebAddress, at_least, at_most, refuse

Directory = Annotated[Path, Field(strict=False)]
WAIT_IS_BOUNDED = "what waits longer may become too old for Stripe"


def _plain_prefix(prefix: str) -> str:
    """A prefix that reads the same everywhere: names must stay below 255 characters with it."""
    if prefix.startswith("/") or "//" in prefix or not prefix.isprintable():
        raise refuse("must be a folder such as `usage/`: without a `/` at its beginning, without `//`")
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


class CsvSink(Block):
    """CSV files for the Dashboard's upload, written to a directory."""

    type: Literal["csv"] = Field(description="What kind of sink this is.", examples=["csv"])
    directory: Directory = Field(
        description="Where files are written; relative to this file. You upload them from there.",
        examples=["/var/lib/aggregator/upload"],
    )
    max_bytes: int = Field(
        default=4_900_000,
        ge=10_000,
        le=4_999_999,
        description="How large a file may be; the Dashboard takes less than 5 MB.",
        examples=[4_900_000],
    )
    close_after: Annotated[Duration, at_least("1s"), at_most("30d", WAIT_IS_BOUNDED)] = Field(
        default=parse_duration("1d"),
        description="How long the daemon lets the oldest event wait for a file to fill. `run --once` does not wait.",
        examples=["1d"],
    )
    exact: bool = Field(
        default=False,
        description=(
            "Write every customer unchanged. Left out: one that a spreadsheet would take for a formula gets an apostrophe "
            "in front, since people open these files."
        ),
        examples=[True],
    )


class _ImportFiles(Block):
    """What files for the import have in common, wherever they are written."""

    format: Literal["jsonl", "csv", "json"] = Field(
        default="jsonl", description="What the files look like.", examples=["jsonl"]
    )
    quantity_encoding: Literal["number", "text"] = Field(
        default="number",
        description="How quantities are written in `jsonl` and `json`: as numbers, as in Stripe's sample, or as text.",
        examples=["number"],
    )
    max_records: int = Field(
        default=1_000_000,
        ge=1,
        le=1_000_000,
        description="How many events a file may hold.",
        examples=[1_000_000],
    )
    max_bytes: int = Field(
        default=900_000_000,
        ge=10_000,
        le=999_999_999,
        description="How large a file may be; the import takes 1 GB.",
        examples=[900_000_000],
    )
    close_after: Annotated[Duration, at_least("1s"), at_most("30d", WAIT_IS_BOUNDED)] = Field(
        default=parse_duration("10s"),
        description="How long the daemon lets the oldest event wait for a file to fill.",
        examples=["10s"],
    )


class DirectorySink(_ImportFiles):
    """Files for the import from S3, written to a directory from which your own job takes them."""

    type: Literal["directory"] = Field(description="What kind of sink this is.", examples=["directory"])
    directory: Directory = Field(
        description="Where files are written; relative to this file.",
        examples=["/var/lib/aggregator/usage"],
    )


def _with_its_secret(secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if (secret is None) != (info.data.get("access_key_id") is None):
        raise refuse(
            "and `access_key_id` belong together: give both, or neither to use the credentials that boto3 finds"
        )
    return secret


class S3Sink(_ImportFiles):
    """Objects in a bucket from which Stripe imports usage."""

    type: Literal["s3"] = Field(description="What kind of sink this is.", examples=["s3"])
    bucket: str = Field(
        min_length=3, max_length=63, description="The bucket that Stripe reads.", examples=["acme-usage"]
    )
    prefix: Annotated[str, AfterValidator(_plain_prefix)] = Field(
        default="",
        max_length=100,
        description="The folder in it, as at Stripe's connector. Left out: the top of the bucket.",
        examples=["usage/"],
    )
    region: str | None = Field(
        default=None,
        min_length=1,
        description="The region of the bucket. Left out: what boto3 finds.",
        examples=["eu-central-1"],
    )
    endpoint_url: WebAddress | None = Field(
        default=None,
        description="Where the store is, when it is not Amazon's own address, for example in a test.",
        examples=["http://127.0.0.1:5000"],
    )
    access_key_id: SecretStr | None = Field(
        default=None,
        description="Key pair, first half. Left out: the credentials that boto3 finds, such as a role.",
        examples=["${AWS_ACCESS_KEY_ID}"],
    )
    access_key_id_file: SecretFile | None = in_a_file("access_key_id", "it", "/run/secrets/aws_access_key_id")
    secret_access_key: Annotated[SecretStr | None, AfterValidator(_with_its_secret)] = Field(
        default=None,
        validate_default=True,
        description="Key pair, second half.",
        examples=["${AWS_SECRET_ACCESS_KEY}"],
    )
    secret_access_key_file: SecretFile | None = in_a_file(
        "secret_access_key", "it", "/run/secrets/aws_secret_access_key"
    )
    timeout: Annotated[Duration, at_least("1s"), at_most("5m", "a stuck call would hold its file")] = Field(
        default=parse_duration("10s"),
        description="How long to wait for the answer to one call.",
        examples=["10s"],
    )

    def keys_revealed(self) -> tuple[str, str] | None:
        """Return the key pair in clear, None to leave it to boto3."""
        if self.access_key_id is None or self.secret_access_key is None:
            return None
        return self.access_key_id.get_secret_value(), self.secret_access_key.get_secret_value()
