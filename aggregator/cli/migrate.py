"""`aggregator migrate`: bring the ledger's schema to this version."""

from pathlib import Path

import click

from aggregator.cli.options import config_option, load_config
from aggregator.cli.printing import say


@click.command()
@config_option
def migrate(config_path: Path) -> None:
    """Create the ledger's tables, or upgrade them to this version. You can run it at any time and from any host."""
    from aggregator.ledger.database import Database, ledger_id_of
    from aggregator.ledger.database import migrate as bring_up
    from aggregator.wiring.opening import ledger_url

    config = load_config(config_path)
    with ledger_url(config) as url:
        bring_up(url)
        with Database(url) as database:
            found = ledger_id_of(database)
    say(f"Ledger {found.ledger_id} is at revision {found.revision}.")
