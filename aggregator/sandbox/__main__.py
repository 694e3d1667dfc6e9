"""The command: `python -m aggregator.sandbox --port 12111 --meter api_requests:sum`."""

from pathlib import Path

import click

from aggregator.sandbox.errors import StateError
from aggregator.sandbox.rules import IDENTIFIER_MEMORY_SECONDS, Rules
from aggregator.sandbox.server import serve
from aggregator.sandbox.settings import FaultSettings, MeterSpec, SandboxOptions, parse_meter


def read_meters(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[MeterSpec, ...]:
    """Read `event_name:formula[:window]` as often as it is given, or say what is wrong with it."""
    try:
        return tuple(map(parse_meter, texts))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


SECONDS = click.FloatRange(min=0)


@click.command("sandbox", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=12111,
    show_default=True,
    help="Listen on this port; 0 takes a free one and prints it.",
)
@click.option(
    "--meter",
    "meters",
    metavar="NAME:FORMULA[:WINDOW]",
    callback=read_meters,
    multiple=True,
    help="Create a meter for the events of this name, such as api_requests:sum:hour. Repeat it for more meters.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep everything in this file, so that a restart loses nothing. Without it: in memory only.",
)
@click.option(
    "--account",
    default="acct_sandbox",
    show_default=True,
    help="The id of the account that all keys belong to.",
)
@click.option(
    "--strict-customers",
    is_flag=True,
    help="Accept only customers that were created. Without it: every cus_... and acct_... exists.",
)
@click.option(
    "--sync-customer-errors",
    is_flag=True,
    help="Answer 400 to an unknown customer. Without it: answer 200, and report the event later.",
)
@click.option(
    "--sync-value-errors",
    is_flag=True,
    help="Answer 400 to an unreadable value. Without it: answer 200, and report the event later.",
)
@click.option(
    "--identifier-memory",
    type=SECONDS,
    default=IDENTIFIER_MEMORY_SECONDS,
    show_default=True,
    help="For how many seconds to refuse an identifier that was used already.",
)
@click.option(
    "--processing-delay",
    type=SECONDS,
    default=0.0,
    help="After how many seconds to show an event in summaries.",
)
@click.option("--latency", type=SECONDS, default=0.0, help="After how many seconds to process each event.")
@click.option(
    "--rate-limit",
    type=click.FloatRange(min=0, min_open=True),
    help="How many events per second to take before answering 429. Without it: no limit.",
)
def command(
    *,
    host: str,
    port: int,
    meters: tuple[MeterSpec, ...],
    state: Path | None,
    account: str,
    strict_customers: bool,
    sync_customer_errors: bool,
    sync_value_errors: bool,
    identifier_memory: float,
    processing_delay: float,
    latency: float,
    rate_limit: float | None,
) -> None:
    """Run a local server that stands in for Stripe's metering endpoints, to try things out without Stripe.

    It bills nobody, and any key works: sk_test_... for test mode, sk_live_... for live mode. To use it, set
    `api_base: http://127.0.0.1:12111` in a sink. It serves Metronome as well, at `/metronome` below that address.

    It runs until you press Ctrl-C. While it runs, you can let calls fail, shift its clock and read its totals:
    docs/sandbox.md shows how.
    """
    rules = Rules(
        strict_customers=strict_customers,
        sync_customer_errors=sync_customer_errors,
        sync_value_errors=sync_value_errors,
        identifier_memory_seconds=identifier_memory,
        processing_delay_seconds=processing_delay,
    )
    faults = FaultSettings(latency_seconds=latency, rate_limit_per_second=rate_limit)
    options = SandboxOptions(
        host=host, port=port, meters=meters, state=state, account=account, rules=rules, faults=faults
    )
    try:
        serve(options)
    except (OSError, StateError) as error:
        raise click.ClickException(_message(error, host, port)) from error


def _message(error: OSError | StateError, host: str, port: int) -> str:
    if isinstance(error, StateError):
        return str(error)
    return f"The sandbox cannot listen on {host}:{port}: {error.strerror}. Choose another --port."


if __name__ == "__main__":
    command()
