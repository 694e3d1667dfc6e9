"""`aggregator usage`: how much was used, and what became of it."""

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.cli.common import Instant, config_option, json_option, load_config
from aggregator.cli.completion import MeterName
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.collection.usage import MeterSource
    from aggregator.config import Config
    from aggregator.core.model import Span
    from aggregator.ledger.ledger import Ledger


class Month(click.ParamType["Span"]):
    """A month in UTC."""

    name = "month"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Span":
        """Return the span, or fail with what to write."""
        from aggregator.core.usage import month

        try:
            return month(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a month; write 2026-11.", param, ctx)


@click.command()
@click.argument("meter", type=MeterName(), metavar="[METER]", required=False)
@click.option("--customer", help="Only of this customer.")
@click.option(
    "--from", "start", type=Instant(), help="Start of the first window (UTC unless you give a zone)."
)
@click.option("--to", "end", type=Instant(), help="End of the last window. Without it: the end of today.")
@click.option(
    "--period",
    type=Month(),
    metavar="MONTH",
    help="A month in UTC, such as 2026-11, instead of --from and --to. Without any of them: the present one.",
)
@click.option(
    "--by", type=click.Choice(["hour", "day", "month", "customer"]), help="Print a line for each of them."
)
@click.option(
    "--live", is_flag=True, help="Also ask the source what it has by now in windows that are not read yet."
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="How many lines of each table to show; 0 for all. CSV and JSON have all of them.",
)
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
    """Show how much was used of METER, or of all meters, and what became of it, for each sink. Writes nothing.

    Each unit that was used is billed, under way, held, refused, dismissed, in shadow, carried, unmapped or, with --live, in
    an open window. A table leaves out what is zero on every line. Only --live asks the source.
    """
    from aggregator.cli import usage_output
    from aggregator.collection.usage import Question, ask
    from aggregator.core.usage import By

    if as_csv and as_json:
        raise UsageError("Say either --csv or --json.")
    config = load_config(config_path)
    with ExitStack() as stack:
        with _opened(config, live=live) as (ledger, source_of):
            at = ledger.instant()
            question = Question(
                span_asked(start, end, period, at), at, By(by) if by else None, meter, customer
            )
            found = list(ask(ledger.usage, question, config.meters, stack, source_of))
        if as_csv:
            usage_output.write_csv(question, found)
        elif as_json:
            usage_output.write_json(question, found, live=live)
        else:
            usage_output.show(question, found, limit, live=live)


def span_asked(
    start: dt.datetime | None, end: dt.datetime | None, period: "Span | None", now: dt.datetime
) -> "Span":
    """Return the time that is meant; each of its ends that is not given is a midnight. Raises UsageError."""
    from aggregator.core.model import Span
    from aggregator.core.usage import month_of
    from aggregator.core.windows import DAY, floor

    if period is not None:
        if start is not None or end is not None:
            raise UsageError("--period is a range already: give either that, or --from and --to.")
        return period
    if start is None:
        if end is not None:
            raise UsageError("--to says where the range ends; say with --from where it begins.")
        return month_of(now)
    until = floor(now, DAY) + DAY if end is None else end
    if start >= until:
        before = "--to" if end is not None else f"{until:%Y-%m-%dT%H:%MZ}, the end of today"
        raise UsageError(f"The range {Span(start, until)} is empty; give --from a time before {before}.")
    return Span(start, until)


@contextmanager
def _opened(
    config: "Config", *, live: bool
) -> "Iterator[tuple[Ledger, Callable[[str], MeterSource | None] | None]]":
    """Open the ledger, and the sources only if they are to be asked."""
    from aggregator.wiring.app import build, open_ledger

    name = "aggregator usage"
    if live:
        with build(config, name=name, looks=True) as app:
            yield app.ledger, app.meter_source
    else:
        with open_ledger(config, may_migrate=True, name=name) as ledger:
            yield ledger, None
