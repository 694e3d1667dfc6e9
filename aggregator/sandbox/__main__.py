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


@click.command("sandbox")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=12111, show_default=True, help="0 takes a free one."
)
@click.option(
    "--meter",
    "meters",
    callback=read_meters,
    multiple=True,
    help="Meter to make: event_name:formula[:window]. Repeatable.",
)
@click.option(
    "--state", type=click.Path(dir_okay=False, path_type=Path), help="File that makes the state last."
)
@click.option(
    "--account", default="acct_sandbox", show_default=True, help="Id of the account the keys belong to."
)
@click.option("--strict-customers", is_flag=True, help="Only customers that were created exist.")
@click.option("--sync-customer-errors", is_flag=True, help="Answer 400 to an unknown customer, not 200.")
@click.option("--sync-value-errors", is_flag=True, help="Answer 400 to an unreadable value, not 200.")
@click.option(
    "--identifier-memory",
    type=SECONDS,
    default=IDENTIFIER_MEMORY_SECONDS,
    show_default=True,
    help="Seconds for which an identifier is refused a second time.",
)
@click.option(
    "--processing-delay", type=SECONDS, default=0.0, help="Seconds until an event shows in summaries."
)
@click.option("--latency", type=SECONDS, default=0.0, help="Seconds each event waits before it is processed.")
@click.option(
    "--rate-limit", type=click.FloatRange(min=0, min_open=True), help="Events per second; 429 beyond."
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
    """Serve a local stand-in for Stripe's metering endpoints."""
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
        raise click.ClickException(_told(error, host, port)) from error


def _told(error: OSError | StateError, host: str, port: int) -> str:
    if isinstance(error, StateError):
        return str(error)
    return f"The sandbox cannot listen on {host}:{port}: {error.strerror}. Choose another --port."


if __name__ == "__main__":
    command()
