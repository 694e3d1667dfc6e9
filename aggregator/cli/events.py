"""`aggregator events`: look at what waits for a person, and decide."""

from pathlib import Path

import click

from aggregator.cli.common import config_option, json_option, load_config, write_json
from aggregator.errors import UsageError


@click.group()
def events() -> None:
    """Decide about events that are held or refused (`aggregator status` lists them)."""


@events.command()
@click.argument("ids", nargs=-1, type=int, required=True, metavar="ID...")
@config_option
@json_option
def release(config_path: Path, *, ids: tuple[int, ...], as_json: bool) -> None:
    """Send held or refused events: the same bytes under the same identifier."""
    from aggregator.clock import utcnow
    from aggregator.wiring import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator events") as ledger:
        released = ledger.outbox.release(ids, utcnow())
    missing = sorted(set(ids) - set(released))
    if as_json:
        write_json({"released": sorted(released), "not_waiting": missing})
    else:
        click.echo(f"{len(released)} event(s) released; the daemon or `aggregator run --once` sends them.")
    if missing:
        raise UsageError(f"Not held or refused: {', '.join(map(str, missing))}; see `aggregator status`.")
