"""`aggregator web`: the page and the API alone, on a ledger; and tokens for customers."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.cli.completion import CustomerName, MeterName
from aggregator.cli.help import Commands
from aggregator.cli.options import config_option, json_option, load_config
from aggregator.cli.printing import say, write_json
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.wiring.app import App

LOOPBACK = "127.0.0.1:8080"


class Duration(click.ParamType[dt.timedelta]):
    """A duration such as `1h`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.timedelta:
        """Return the duration, or fail with what to write."""
        from aggregator.config.durations import parse_duration

        if isinstance(value, dt.timedelta):
            return value
        try:
            return parse_duration(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a duration; write 1h, 30m or 7d.", param, ctx)


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--listen", metavar="HOST:PORT", default=LOOPBACK, show_default=True, help="Where to listen.")
@config_option
@click.pass_context
def web(context: click.Context, config_path: Path, *, listen: str) -> None:
    """Serve a web page that shows what is in the ledger, and an API for a customer's own usage.

    Without a subcommand, it runs until you stop it. It reads no source and sends nothing. For that, use
    `aggregator run`, which serves the same page with --web. Only this machine can see the page, unless you set
    `web: operator_token`. SIGHUP reloads the configuration. It also answers /metrics, /livez and /readyz, for
    Prometheus and probes.
    """
    if context.invoked_subcommand is None:
        _serve(config_path, listen)
    elif context.get_parameter_source("config_path") is not click.core.ParameterSource.DEFAULT:
        context.obj = config_path


def _serve(config_path: Path, listen: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    from aggregator.daemon.page_alone import PageAlone
    from aggregator.runtime import log
    from aggregator.web.listener import Address
    from aggregator.web.serving import access_of
    from aggregator.wiring.app import build

    log.configure(verbose=False)
    config = load_config(config_path)
    address = Address(listen)
    access_of(address, config)

    @contextmanager
    def building() -> Iterator["App"]:
        with build(load_config(config_path), name="aggregator web", looks=True) as app:
            yield app

    def begun(config: "Config") -> None:
        say(f"{config.web.public_url or address.url} shows the ledger until you press Ctrl-C.")

    try:
        PageAlone(building, address).run(begun)
    finally:
        address.close()


@web.command()
@click.option("--customer", type=CustomerName(), required=True, help="The customer whose usage may be read.")
@click.option(
    "--for",
    "lasts",
    type=Duration(),
    required=True,
    help="How long the token is valid, such as 1h; at most 31d.",
)
@click.option(
    "--meter",
    "meters",
    type=MeterName(),
    multiple=True,
    help="Only this meter. Repeat it for more meters.",
)
@config_option
@json_option
@click.pass_context
def token(
    context: click.Context,
    config_path: Path,
    *,
    customer: str,
    lasts: dt.timedelta,
    meters: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print a token with which a customer's own usage can be read, and nothing else, until it expires.

    Give it to the page of your product that shows usage. The page calls `GET /api/usage?customer=...` with
    `Authorization: Bearer TOKEN`.
    """
    from aggregator.runtime.clock import utcnow
    from aggregator.web.tokens import Scope, issue

    config = load_config(context.obj or config_path)
    secrets = config.web.token_secrets_revealed()
    if not secrets:
        raise UsageError(
            "No token can be signed: set `web: {token_secret: ${AGGREGATOR_TOKEN_SECRET}}` in the configuration "
            "(`openssl rand -hex 24` prints a secret)."
        )
    if not customer or "\0" in customer:
        raise UsageError("Name the customer whose usage may be read.")
    unknown = [name for name in meters if name not in config.meters]
    if unknown:
        known = ", ".join(sorted(config.meters))
        raise UsageError(f"There is no meter {unknown[0]} in the configuration; it has: {known}.")
    now = utcnow()
    try:
        text = issue(secrets[0], Scope(customer, meters or None), now, lasts)
    except ValueError as error:
        raise UsageError(f"Not for so long: {error}.") from None
    if as_json:
        write_json(
            {"token": text, "customer": customer, "meters": list(meters) or None, "until": now + lasts}
        )
    else:
        say(text)
