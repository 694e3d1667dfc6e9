"""`aggregator usage`: how much was used, and what became of it."""

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.cli.completion import CustomerName, MeterName
from aggregator.cli.options import (
    config_option,
    json_option,
    limit_option,
    load_config,
    period_options,
    span_of_period,
)
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.collection.usage import MeterSource
    from aggregator.config import Config
    from aggregator.core.model import Span
    from aggregator.ledger.ledger import Ledger


class WordOrDimension(click.Choice[str]):
    """One of some words, which a shell completes, or the name of a dimension: which there are is for the ledger to say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return it as it is."""
        return str(value)


@click.command()
@click.argument("meter", type=MeterName(), metavar="[METER]", required=False)
@click.option("--customer", type=CustomerName(), help="Only this customer.")
@period_options
@click.option(
    "--by",
    type=WordOrDimension(["hour", "day", "month", "customer"]),
    metavar="[hour|day|month|customer|DIMENSION]",
    help="Print one line for each hour, day, month or customer, or for each value of a dimension of METER.",
)
@click.option("--live", is_flag=True, help="Also ask the source about windows that have not been read yet.")
@limit_option("How many lines of each table to show; 0 for all. CSV and JSON have all of them.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV for spreadsheets instead of a table.")
@config_option
@json_option
def usage(
    config_path: Path,
    *,
    meter: str | None,
    customer: str | None,
    start: dt.datetime | None,
    end: dt.datetime | None,
    period: "Span | None",
    by: str | None,
    live: bool,
    limit: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show how much was used of METER, or of all meters, and what happened to it at each sink. Writes nothing.

    Each unit is counted once: as billed, under way, held, refused, dismissed, in shadow, carried, unmapped or, with
    --live, in an open window. A table leaves out columns that are zero on every line. Only --live asks the source.
    """
    from aggregator.cli import usage_output
    from aggregator.collection.usage import Question, ask
    from aggregator.core.usage import By

    if as_csv and as_json:
        raise UsageError("Give either --csv or --json, not both.")
    config = load_config(config_path)
    with ExitStack() as stack:
        with _opened(config, live=live) as (ledger, source_of):
            at = ledger.instant()
            span = span_of_period(start, end, period, at)
            word = By(by) if by and by in [*By] else None
            dimension = by if word is None else None
            question = Question(span, at, word, meter, customer, bool(config.customers), dimension)
            by_customer = question.by is By.CUSTOMER and bool(config.customers)
            names = ledger.customers.names if by_customer else None
            found = list(ask(ledger.usage, question, config.meters, stack, source_of, names))
            called = ledger.customers.names([customer]) if customer else {}
        if as_csv:
            usage_output.write_csv(question, found)
        elif as_json:
            usage_output.write_json(question, found, live=live)
        else:
            usage_output.show(question, found, limit, live=live, name=called.get(customer or ""))


@contextmanager
def _opened(
    config: "Config", *, live: bool
) -> "Iterator[tuple[Ledger, Callable[[str], MeterSource | None] | None]]":
    """Open the ledger, and the sources only if they are to be asked."""
    from aggregator.wiring.app import build
    from aggregator.wiring.opening import open_ledger

    name = "aggregator usage"
    if live:
        with build(config, name=name, looks=True) as app:
            yield app.ledger, app.meter_source
    else:
        with open_ledger(config, may_migrate=True, name=name) as ledger:
            yield ledger, None
