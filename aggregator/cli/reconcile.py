"""`aggregator reconcile`: whether source, ledger and sink say the same, and why not."""

import datetime as dt
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.completion import CustomerName, MeterName
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import (
    config_option,
    from_option,
    json_option,
    known_meters,
    limit_option,
    load_config,
    refuse_parts_of_days,
    span_until_today_ends,
    to_option,
)
from aggregator.core.age_limits import FURTHEST
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.core.model import Span

DAYS = FURTHEST.days
"""How many days are compared unless said otherwise: nothing older can be billed."""


@click.command()
@click.argument("meters", type=MeterName(), nargs=-1, metavar="[METER]...")
@click.option(
    "--customer", type=CustomerName(), help="Only this customer, whether the ledger knows them or not."
)
@from_option(f"First UTC day. Without it: {DAYS} days back, since nothing older can be billed.")
@to_option("End of the last UTC day. Without it: the end of today.")
@click.option(
    "--no-source", is_flag=True, help="Do not ask the sources: compare the ledger with the sinks only."
)
@click.option(
    "--every-hour",
    is_flag=True,
    help=(
        "Ask the sinks for the hours of every day. Otherwise differences within a day that cancel "
        "each other out are not seen."
    ),
)
@click.option(
    "--repair",
    is_flag=True,
    help=(
        "Plan what a sink is missing, and propose decreases where it has too much. Nothing is "
        "lowered without you."
    ),
)
@click.option(
    "--customers",
    "shows",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="For how many customers of each meter and sink to show their figures: those with the most usage.",
)
@limit_option("How many differences to show; 0 for all. CSV and JSON have all of them.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print the differences as CSV for spreadsheets instead of a table."
)
@config_option
@json_option
def reconcile(
    config_path: Path,
    *,
    meters: tuple[str, ...],
    customer: str | None,
    start: dt.datetime | None,
    end: dt.datetime | None,
    no_source: bool,
    every_hour: bool,
    repair: bool,
    shows: int,
    limit: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Compare source, ledger and sink per customer and window, for each METER or for all, and say why they differ.

    It asks sinks for whole UTC days, and for hours only where a day differs. Without --repair, it writes nothing. What
    --repair plans is sent like everything else, by the daemon or `aggregator run --once`.

    Exits with 3 if something differs or is still on its way.
    """
    from aggregator.cli import reconcile_output as output
    from aggregator.wiring import reconciling
    from aggregator.wiring.app import build

    if as_csv and as_json:
        raise UsageError("Give either --csv or --json, not both.")
    config = load_config(config_path)
    names = known_meters(config, list(dict.fromkeys(meters)))
    with ExitStack() as stack:
        with build(config, name="aggregator reconcile", verify=repair, looks=not repair) as app:
            now = app.ledger.now() if repair else app.ledger.instant()
            span = _span(start, end, now)
            question = reconciling.Question(span, names, now, customer, not no_source, every_hour, shows)
            compared = list(reconciling.reconcile(app, question, stack))
            if not compared:
                raise UsageError(
                    "Nothing has been read for these meters yet: `aggregator run` reads them, or "
                    "`aggregator backfill` a range."
                )
            done = [each for one in compared for each in reconciling.repair(app, one, now)] if repair else []
        show = output.write_csv if as_csv else output.write_json if as_json else output.show
        show(question, compared, done if repair else None, limit)
    if any(each.unfinished for each in compared):
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _span(start: dt.datetime | None, end: dt.datetime | None, now: dt.datetime) -> "Span":
    """Return the days that are meant. Raises UsageError."""
    from aggregator.core.windows import DAY, floor

    today = floor(now, DAY)
    since = start or today - DAYS * DAY
    refuse_parts_of_days(since, end or today)
    return span_until_today_ends(since, end, now)
