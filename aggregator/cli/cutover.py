"""`aggregator cutover`: customers move from one sink to another, each at a time of their own, and it is proven.

Rules
- A cutover is set only after the new sink was asked whether it stands ready for the customer, unless that is left out by
  name.
- What is set is in the ledger, and processes that run go by it at once; the configuration stays as it is.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aggregator.cli.completion import CustomerName, MeterName
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.help import Commands
from aggregator.cli.options import (
    Instant,
    config_option,
    deciding_option,
    json_option,
    known_meters,
    load_config,
    period_options,
    refuse_parts_of_days,
    somebody,
    span_of_period,
)
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.core.shown import counted, minute
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.core.model import Span
    from aggregator.ledger.ledger import Ledger
    from aggregator.wiring.readiness import Ready

Command = TypeVar("Command", bound=Callable[..., Any])

COLUMNS = "customer from=from_sink to=to_sink at meters passed set_by=made_by reason"

MOST_ASKED = 10_000
"""So many customers are asked about one after the other; more are to be moved in several calls."""


@click.group(cls=Commands)
def cutover() -> None:
    """Move customers from one sink to another, each at a time of their own, and report what both sinks billed."""


def between_sinks(command: Command) -> Command:
    """Let a command take both sinks."""
    old = click.option(
        "--from-sink", "old", required=True, metavar="SINK", help="The sink that bills before that time."
    )
    new = click.option(
        "--to-sink", "new", required=True, metavar="SINK", help="The sink that bills from that time on."
    )
    return old(new(command))


def moving(command: Command) -> Command:
    """Let a command take customers, by name, from a file, or all others."""
    named = click.argument("customers", nargs=-1, metavar="[CUSTOMER]...", type=CustomerName())
    file = click.option(
        "--file",
        "file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="A file of customers, one per line.",
    )
    everybody = click.option(
        "--all",
        "everybody",
        is_flag=True,
        help="All customers without a cutover of their own, including future ones.",
    )
    return named(file(everybody(command)))


def at_time(command: Command) -> Command:
    """Let a command take the instant, and whether both are sent what lies before."""
    at = click.option(
        "--at",
        type=Instant(),
        required=True,
        help="The time from which the new sink bills: the start of a billing period, and of a window.",
    )
    parallel = click.option(
        "--parallel",
        is_flag=True,
        help="Also send earlier usage to the new sink, which makes no invoice of it.",
    )
    return at(parallel(command))


@cutover.command()
@moving
@between_sinks
@at_time
@config_option
@json_option
def check(
    config_path: Path,
    *,
    customers: tuple[str, ...],
    file: Path | None,
    everybody: bool,
    old: str,
    new: str,
    at: dt.datetime,
    parallel: bool,
    as_json: bool,
) -> None:
    """Ask the new sink whether it is ready for each CUSTOMER, and say what is missing. Changes nothing.

    For Metronome it checks that a billable metric sums each meter, and that the customer has an ingest alias, a
    contract in effect at that time, and the billable status that it needs.

    \b
    Exit codes:
      0  nothing is in the way
      1  the sink could not be asked
      4  a person is needed: what is missing is said
    """
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator cutover") as ledger:
        whose = _whose(customers, file, everybody=everybody)
        asked, refused = _asked(config, ledger, whose, (old, new), at, parallel=parallel)
    missing = [*refused, *asked.missing]
    if as_json:
        write_json({"ready": not missing, "missing": missing, "unseen": asked.unseen})
    else:
        _say_ready(asked, refused, new)
    if missing:
        raise click.exceptions.Exit(ExitCode.PERSON_NEEDED)


@cutover.command("set")
@moving
@between_sinks
@at_time
@click.option("--unchecked", is_flag=True, help="Do not ask the new sink whether it is ready.")
@deciding_option
@config_option
def set_cutover(
    config_path: Path,
    *,
    customers: tuple[str, ...],
    file: Path | None,
    everybody: bool,
    old: str,
    new: str,
    at: dt.datetime,
    parallel: bool,
    unchecked: bool,
    reason: str | None,
) -> None:
    """Move each CUSTOMER to the new sink from a given time on, for all meters that feed both sinks.

    Windows that begin before that time go to the old sink, later ones to the new one, corrections included. No window
    from that time on may have been read yet. Until that happens, you can change or withdraw the cutover. You can run
    this command twice.

    If the new sink is not ready, it sets nothing and exits with 4: see `aggregator cutover check`.
    """
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator cutover") as ledger:
        whose = _whose(customers, file, everybody=everybody)
        if not unchecked:
            asked, refused = _asked(config, ledger, whose, (old, new), at, parallel=parallel)
            if refused:
                raise UsageError("\n".join(refused))
            _say_ready(asked, [], new)
            if asked.missing:
                say("Nothing was set.")
                raise click.exceptions.Exit(ExitCode.PERSON_NEEDED)
        meters = sorted(config.meters)
        done = ledger.cutovers.set(
            old, new, meters, at, whose, parallel=parallel, by=somebody(), reason=reason
        )
    who = "Everybody else" if whose is None else counted(len(whose), "customer")
    was = "" if done else " That was set already."
    say(f"{who}: {old} bills until {minute(at)}, {new} from then on.{was}")


@cutover.command()
@moving
@between_sinks
@config_option
def withdraw(
    config_path: Path, *, customers: tuple[str, ...], file: Path | None, everybody: bool, old: str, new: str
) -> None:
    """Leave each CUSTOMER with the old sink after all, as long as no window after the cutover has been read."""
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator cutover") as ledger:
        whose = _whose(customers, file, everybody=everybody)
        gone = ledger.cutovers.withdraw(old, new, sorted(config.meters), whose)
    say(f"Withdrawn: {counted(gone, 'cutover')}. Customers without a cutover are billed as before.")


@cutover.command("list")
@config_option
@json_option
def list_cutovers(config_path: Path, *, as_json: bool) -> None:
    """List which customers move or have moved, when, and who decided it."""
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator cutover") as ledger:
        known = [each._asdict() for each in ledger.cutovers.known()]
    if as_json:
        write_json({"cutovers": known})
        return
    if not known:
        say("No customer moves from one sink to another.")
        return
    rows = (
        {**each, "customer": each["customer"] or "(everybody else)", "meters": ", ".join(each["meters"])}
        for each in known
    )
    show_rows("cutovers", COLUMNS, rows)


@cutover.command()
@click.argument("meters", nargs=-1, metavar="[METER]...", type=MeterName())
@between_sinks
@period_options
@click.option("--customer", type=CustomerName(), help="Only of this customer.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV for spreadsheets.")
@config_option
@json_option
def report(
    config_path: Path,
    *,
    meters: tuple[str, ...],
    old: str,
    new: str,
    start: dt.datetime | None,
    end: dt.datetime | None,
    period: "Span | None",
    customer: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what both sinks and the source have for each customer over a period, ready for signature. Writes nothing.

    It asks each sink for its own figures, by whole UTC days, and reads the source again. The digest covers all lines:
    the same lines have the same digest.

    Exits with 3 if a line is not equal, or if the period has not been read to its end.
    """
    from aggregator.cli import cutover_report
    from aggregator.wiring import parity_report
    from aggregator.wiring.app import build
    from aggregator.wiring.reconciling import Question

    if as_csv and as_json:
        raise UsageError("Give either --csv or --json, not both.")
    config = load_config(config_path)
    names = known_meters(config, list(dict.fromkeys(meters)))
    with ExitStack() as stack:
        with build(config, name="aggregator cutover", looks=True) as app:
            now = app.ledger.instant()
            span = span_of_period(start, end, period, now)
            refuse_parts_of_days(span.start, span.end)
            pairs = parity_report.pairs(app, names, (old, new), span)
            question = Question(span, (), now, customer)
            lines = list(parity_report.lines(app, pairs, question, stack))
            read_until = min(pair.old.mark for pair in pairs)
        found = cutover_report.Report(lines, (old, new), span, now, read_until)
        show = (
            cutover_report.write_csv
            if as_csv
            else cutover_report.write_json
            if as_json
            else cutover_report.show
        )
        show(found)
    if not found.can_be_signed:
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _whose(customers: Sequence[str], file: Path | None, *, everybody: bool) -> list[str] | None:
    """Return who is meant; None for everybody else. Raises UsageError."""
    named = [*customers, *(_lines(file) if file is not None else ())]
    if everybody == bool(named):
        raise UsageError("Name customers, give them in a --file, or use --all.")
    return None if everybody else list(dict.fromkeys(named))


def _lines(file: Path) -> Iterator[str]:
    """Yield the customers of a file. Raises UsageError if it cannot be read."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.") from error
    yield from (line.strip() for line in text.splitlines() if line.strip())


def _asked(
    config: "Config",
    ledger: "Ledger",
    whose: list[str] | None,
    sinks: tuple[str, str],
    at: dt.datetime,
    *,
    parallel: bool,
) -> "tuple[Ready, list[str]]":
    """Ask the new sink; return that, and what of the ledger is in the way. Raises UsageError or SinkError."""
    from aggregator.core.cutover import obstacles
    from aggregator.wiring import readiness

    old, new = sinks
    for sink in sinks:
        if sink not in config.sinks:
            known = ", ".join(sorted(config.sinks))
            raise UsageError(f"There is no sink {sink} in the configuration; it has: {known}.")
    crossings = ledger.cutovers.crossings(old, new, config.meters)
    refused = obstacles(at, crossings, sinks, parallel=parallel)
    meters = [each.meter for each in crossings]
    customers = whose if whose is not None else ledger.cutovers.unmoved(old, meters, MOST_ASKED + 1)
    if len(customers) > MOST_ASKED:
        raise UsageError(
            f"More than {MOST_ASKED:,} customers would have to be checked: move them in parts, with "
            "--file, or use --unchecked."
        )
    now = ledger.instant()
    return readiness.ask(config, new, meters, customers, at, now, parallel=parallel), refused


def _say_ready(asked: "Ready", refused: Sequence[str], sink: str) -> None:
    """Say what is missing, and what was not seen."""
    for said in (*refused, *asked.missing):
        say(f"missing: {said}")
    for said in asked.unseen:
        say(f"to see to: {said}")
    customers = counted(len(asked.customers), "customer")
    if not refused and not asked.missing:
        say(f"{sink} is ready: {customers} checked, nothing is missing.")
