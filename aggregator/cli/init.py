"""`aggregator init`: a commented configuration to start from."""

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from aggregator.cli.options import config_option
from aggregator.cli.printing import say
from aggregator.errors import UsageError

URL = "APP_DATABASE_URL"
"""The variable that a starter configuration takes the source's URL from."""


@click.command()
@click.option(
    "--from-table",
    "table",
    metavar="TABLE",
    help=f"Write a meter over this table of the database that {URL} leads to, such as app.api_requests.",
)
@click.option("--when", metavar="COLUMN", help="The column that says when something was used.")
@click.option("--customer", metavar="COLUMN", help="The column that says who used it.")
@click.option(
    "--quantity", metavar="COLUMN", help="The column that says how much. Without one, rows are counted."
)
@config_option
def init(
    config_path: Path, *, table: str | None, when: str | None, customer: str | None, quantity: str | None
) -> None:
    """Write a starter configuration with comments; never over an existing file.

    With --from-table, its meter reads a table of yours: columns are chosen by their names and types, and it is said why. A
    customer's id at Stripe is looked for in the table that a foreign key leads to as well. Nothing is written to the
    database.
    """
    from aggregator.config import starter

    if config_path.exists():
        raise UsageError(f"{config_path} exists already; remove it, or name another file with --config.")
    chosen = {
        what: column
        for what, column in (("when", when), ("customer", customer), ("quantity", quantity))
        if column is not None
    }
    if table is None:
        if chosen:
            raise UsageError(
                f"`--{next(iter(chosen))}` names a column: say of which table, with `--from-table`."
            )
        config_path.write_text(starter())
        say(f"Wrote {config_path}. Edit it, then run `aggregator check`.")
        return
    text, reasons = _over(table, chosen)
    config_path.write_text(text)
    say(f"Wrote {config_path}, with a meter over {table}:")
    for reason in reasons:
        say(f"- {reason}")
    say("Read the query, correct what is not so, then run `aggregator check`, which tries it out.")


def _over(table: str, chosen: dict[str, str]) -> tuple[str, Sequence[str]]:
    """Return a configuration with a meter over a table, and what was assumed of it. Raises UsageError or SourceError."""
    import datetime as dt

    from aggregator.config import starter
    from aggregator.config.starter import meter_of_table
    from aggregator.core.table_guess import guess
    from aggregator.runtime.clock import utcnow
    from aggregator.source import Source

    url = os.environ.get(URL)
    if not url:
        raise UsageError(
            f"To look at {table}, its database is needed: set {URL} to its URL, such as `postgresql://reader@host/app`."
        )
    month = utcnow().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    with closing(Source("app", url, statement_timeout=dt.timedelta(seconds=30))) as source:
        try:
            found = guess(source.shape(table), chosen)
        except LookupError as error:
            raise UsageError(f"{error}.") from None
        meter = meter_of_table(table, found, source.kind, source.quoted, month)
    return starter(meter=meter, timezone="UTC" if found.when.kind == "local" else None), found.reasons
