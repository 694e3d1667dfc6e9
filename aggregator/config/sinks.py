"""Sinks other than Stripe's meter events, as the file describes them.

What can hurt has no default, and a secret shows itself only to who calls the method that ends in `revealed`.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from aggregator.config.block import Block, SecretFile, in_a_file
from aggregator.config.durations import parse_duration
from aggregator.config.values import Duration, WebAddress, at_least, on_this_machine, refuse

# docs.metronome.com, "High-volume ingestion": what an account may send unless Metronome raised it.
EVENTS_PER_SECOND = 5_000

# Nobody's limit: a hundred events go in one request.
LOOPBACK_EVENTS_PER_SECOND = 100_000


def _token(token: SecretStr) -> SecretStr:
    """A header would carry nothing else."""
    if not re.fullmatch(r"[!-~]+", token.get_secret_value()):
        raise refuse("must be an API token, without white space")
    return token


# docs.stripe.com/rate-limits: 25 calls a second in test mode, and 100 in live mode, for all that is asked together.
READS_PER_SECOND = 20

# docs.stripe.com/rate-limits: 500 reads for each transaction of 30 days, and 10,000 a month at least. A hundred customers
# who pay once a month are worth 1,600 a day.
READS_PER_DAY = 10_000


class ApiSink(Block):
    """A service with an API, whose own totals can be read: where it is, and how often it is asked."""

    api_base: WebAddress | None = Field(
        default=None,
        description="Where the API is, when it is not the service's own address, for example the sandbox.",
        examples=["http://127.0.0.1:12111"],
    )
    timeout: Annotated[Duration, at_least("1s")] = Field(
        default=parse_duration("10s"),
        description="How long to wait for the answer to one request.",
        examples=["10s"],
    )
    rate_limit: Annotated[int, Field(ge=1)] | None = None
    reads_per_second: int = Field(
        default=READS_PER_SECOND,
        ge=1,
        description="How often the sink is asked for its totals, per second at most, for all daemons together.",
        examples=[READS_PER_SECOND],
    )
    reads_per_day: int = Field(
        default=READS_PER_DAY,
        ge=1,
        description=(
            "How often it is asked for them per UTC day. After that, comparing pauses until the "
            "next day. Reads that are needed to send, or to settle an event in doubt, are still "
            "made."
        ),
        examples=[READS_PER_DAY],
    )

    @property
    def unlimited(self) -> bool:
        """Whether nobody sets a limit, so that several processes need not share one."""
        return self.rate_limit is None and self.local

    @property
    def local(self) -> bool:
        """Whether it is on this machine, where nobody sets a limit."""
        return self.api_base is not None and on_this_machine(self.api_base)


class MetronomeSink(ApiSink):
    """Metronome's usage events."""

    type: Literal["metronome"] = Field(description="What kind of sink this is.", examples=["metronome"])
    api_key: Annotated[SecretStr, AfterValidator(_token)] = Field(
        description="API token that may send usage events and read billable metrics, customers, usage and invoices.",
        examples=["${METRONOME_TOKEN}"],
    )
    api_key_file: SecretFile | None = in_a_file("api_key", "the token", "/run/secrets/metronome_token")
    quantity_encoding: Literal["text", "number"] = Field(
        description=(
            "How a quantity is written: as `text` in quotes, or as a JSON `number`. The wrong one is billed as zero, so it "
            "has no default: `aggregator check --send-test-event` finds out."
        ),
        examples=["text"],
    )
    self_test_customer: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Ingest alias or id of a customer that is never billed, for `aggregator check --send-test-event`.",
        examples=["aggregator-test"],
    )
    rate_limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=(
            "Events per second at most, for all daemons together. Left out: 5,000, which Metronome raises on request; at an "
            "`api_base` on this machine, as many as it takes."
        ),
        examples=[5000],
    )
    max_in_flight: int = Field(
        default=16,
        ge=1,
        description="How many requests, of up to 100 events each, may wait for their answer at once.",
        examples=[16],
    )

    @property
    def events_per_second(self) -> int:
        """The rate that applies: the one given, or what Metronome allows; on this machine nobody sets a limit."""
        if self.rate_limit is not None:
            return self.rate_limit
        return LOOPBACK_EVENTS_PER_SECOND if self.unlimited else EVENTS_PER_SECOND

    def api_key_revealed(self) -> str:
        """Return the token in clear."""
        return self.api_key.get_secret_value()
