"""`aggregator plan`: what a change of the configuration would do. Writes nothing but the plan."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import (
    config_option,
    from_option,
    json_option,
    load_config,
    span_between,
    to_option,
)
from aggregator.cli.printing import json_text, say, show_rows, write_json, write_raw
from aggregator.errors import AggregatorError, UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.core.model import Span
    from aggregator.plan.document import Plan
    from aggregator.plan.reading import MeterFigures

MOVERS = 10
FIGURES = "meter sinks before> after> difference> differ> new> gone> unmapped_rows>=unmapped"


@click.command()
@click.option(
    "--against",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Compare with this configuration file instead of the ledger. No source or ledger is asked.",
)
@from_option("Start of the past range to read. Without it: the last complete day.")
@to_option("End of that range. Without it: the end of the last complete day.")
@click.option("--no-source", is_flag=True, help="Only say what changes; read no source.")
@click.option(
    "--customers",
    type=click.IntRange(0),
    default=MOVERS,
    show_default=True,
    help="How many customers to name for each meter: those who differ most. 0 for none.",
)
@click.option(
    "--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a comment on a pull request."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the plan to a file for `aggregator apply`.",
)
@click.option("--exit-code", "tells", is_flag=True, help="Exit with 3 if anything changes.")
@config_option
@json_option
def plan(
    config_path: Path,
    *,
    against: Path | None,
    start: dt.datetime | None,
    end: dt.datetime | None,
    no_source: bool,
    customers: int,
    as_markdown: bool,
    out: Path | None,
    tells: bool,
    as_json: bool,
) -> None:
    """Show what your configuration would change, and what it would have billed for a past range.

    If a meter would bill something else, its source is read twice: by the current configuration and by the new one.
    Nothing is billed and nothing is written.

    Exits with 1 if it fails, for example because a changed query cannot be run.
    """
    if as_json and as_markdown:
        raise UsageError("Give --json or --markdown, not both.")
    config = load_config(config_path)
    if against is not None:
        made = _between_files(config, against, start, end, out)
    else:
        made = _against_ledger(config, start, end, ask_sources=not no_source, movers=customers)
    _show(made, as_json=as_json, as_markdown=as_markdown)
    if made.failed:
        raise AggregatorError(
            f"The new definition cannot be read: {', '.join(made.failed)}. No plan was written."
        )
    if out is not None:
        _write(made, out)
    if tells and made.changes:
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _between_files(
    config: "Config", against: Path, start: dt.datetime | None, end: dt.datetime | None, out: Path | None
) -> "Plan":
    from aggregator.runtime.clock import utcnow
    from aggregator.wiring.plans import between_files

    if start is not None or end is not None or out is not None:
        raise UsageError("--against compares two files and asks nobody: leave out --from, --to and --out.")
    return between_files(config, load_config(against), f"the file {against}", utcnow())


def _against_ledger(
    config: "Config", start: dt.datetime | None, end: dt.datetime | None, *, ask_sources: bool, movers: int
) -> "Plan":
    from aggregator.wiring.opening import open_ledger
    from aggregator.wiring.plans import NAME, against_ledger

    if start is None and end is not None:
        raise UsageError("--to is where the range ends; also give --from, where it begins.")
    if start is not None and not ask_sources:
        raise UsageError("--no-source reads no range: leave out --from and --to.")
    with open_ledger(config, may_migrate=True, name=NAME) as ledger:
        span = None if start is None else _span(start, end, ledger.instant())
        return against_ledger(config, ledger, span, ask_sources=ask_sources, movers=movers)


def _span(start: dt.datetime, end: dt.datetime | None, now: dt.datetime) -> "Span":
    """Return the range that is asked for. Raises UsageError if it is empty, or not over."""
    from aggregator.core.windows import DAY, floor

    if end is not None and end > now:
        raise UsageError("--to lies in the future: only a past range can be compared.")
    return span_between(start, end or floor(now, DAY), "--to" if end else "today")


def _show(made: "Plan", *, as_json: bool, as_markdown: bool) -> None:
    from aggregator.plan.document import as_json as plan_json
    from aggregator.plan.markdown import markdown

    if as_json:
        write_json(plan_json(made))
    elif as_markdown:
        write_raw(markdown(made))
    else:
        _say(made)


def _say(made: "Plan") -> None:
    """Print the plan for people."""
    from aggregator.plan.markdown import heading, headline

    say(f"{headline(made)}, compared with {made.against}.")
    for line in changed_lines(made):
        say(line)
    if made.span is not None:
        say()
        show_rows(heading(made.span), FIGURES, [_row(each) for each in made.figures])
    for each in made.figures:
        _say_movers(each)
    for note in made.notes:
        say(note)


def changed_lines(made: "Plan") -> Iterator[str]:
    """Yield what changes, and from when on, line by line."""
    before = None
    for change in made.changes:
        if before != (change.what, change.name):
            before = change.what, change.name
            yield f"{change.what} {change.name}"
        yield f"  {change.text}; holds {change.holds}"
        if change.means:
            yield f"    {change.means}"
        yield from (f"    {line}" for line in change.query_lines())


def _row(figures: "MeterFigures") -> dict[str, object]:
    from aggregator.plan.markdown import signed, sinks, unmapped

    found = figures.comparison
    row: dict[str, object] = {"meter": figures.meter, "sinks": sinks(figures)}
    if found is None:
        return row | dict.fromkeys(("before", "after", "difference", "differ", "new", "gone", "unmapped"))
    return row | {
        "before": found.before and found.before.billed,
        "after": found.after and found.after.billed,
        "difference": signed(found.difference),
        "differ": found.differing,
        "new": found.new,
        "gone": found.gone,
        "unmapped": unmapped(found),
    }


def _say_movers(figures: "MeterFigures") -> None:
    from aggregator.plan.markdown import signed

    for note in figures.notes:
        say(f"{figures.meter}: {note}.")
    if figures.comparison is None or not figures.comparison.movers:
        return
    show_rows(
        f"{figures.meter}: customers that differ most",
        "customer before> after> difference>",
        [{**each._asdict(), "difference": signed(each.difference)} for each in figures.comparison.movers],
    )


def _write(made: "Plan", out: Path) -> None:
    from aggregator.plan.document import as_json

    try:
        out.write_text(json_text(as_json(made), indent=2) + "\n")
    except OSError as error:
        raise AggregatorError(f"The plan cannot be written to {out}: {error.strerror}.") from None
    say(f"The plan is in {out}; `aggregator apply {out}` makes it hold.", err=True)
