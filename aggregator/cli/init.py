"""`aggregator init`: a commented configuration to start from."""

from pathlib import Path

import click

from aggregator.cli.options import config_option
from aggregator.cli.printing import say
from aggregator.errors import UsageError


@click.command()
@config_option
def init(config_path: Path) -> None:
    """Write a starter configuration with comments; never over an existing file."""
    from aggregator.config import starter

    if config_path.exists():
        raise UsageError(f"{config_path} exists already; remove it, or name another file with --config.")
    config_path.write_text(starter())
    say(f"Wrote {config_path}. Edit it, then run `aggregator check`.")
