"""`aggregator adopt`: let a ledger that was set back, copied or lost go on, from what the sinks have counted."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.completion import CustomerName
from aggregator.cli.options import config_option, json_option, load_config
from aggregator.cli.printing import answer, say, show_rows, write_json
from aggregator.core.shown import counted, shown

if TYPE_CHECKING:
    from aggregator.adoption.adopter import Adopter, Situation
    from aggregator.adoption.survey import Compared, Left, SplitWindow
    from aggregator.ledger.identity import LedgerIdentity
    from aggregator.runtime.clock import Clock

COLUMNS = "meter sink from customers> windows> taken_over> missing> withdrawn>"


@click.command()
@click.option("--yes", is_flag=True, help="Do it. Without this, the command only compares and reports.")
@click.option(
    "--stop",
    "stops",
    is_flag=True,
    help=(
        "Stop the ledger, because you know that it was set back. Adopt it later, when nothing has "
        "been sent for a while."
    ),
)
@click.option(
    "--nothing-lost",
    is_flag=True,
    help="Carry on after a failover that lost no commit, such as a planned switchover. Nothing is compared.",
)
@click.option(
    "--quiet",
    default="2h",
    show_default=True,
    help="How long it must be since anything was sent, because requests may still be on their way.",
)
@click.option(
    "--without-readback",
    multiple=True,
    metavar="SINK",
    help=(
        "Believe the ledger for a sink that cannot be read back. First look up what has arrived at the sink."
    ),
)
@click.option(
    "--leave",
    type=CustomerName(),
    multiple=True,
    metavar="CUSTOMER",
    help=(
        "Believe the ledger for a customer whom a sink does not know, or whose combinations of dimensions it does "
        "not tell apart. What was sent for that customer since is sent again."
    ),
)
@config_option
@json_option
def adopt(
    config_path: Path,
    *,
    yes: bool,
    stops: bool,
    nothing_lost: bool,
    quiet: str,
    without_readback: tuple[str, ...],
    leave: tuple[str, ...],
    as_json: bool,
) -> None:
    """Carry on with a ledger that was restored, failed over, copied or replaced, based on what the sinks have counted.

    It compares every window that can still be billed with what the sink itself has counted. With --yes, the ledger
    takes the sink's figures over, and sends what is missing under new identifiers. Stop every other daemon first.
    """
    import threading

    from aggregator.adoption.adopter import Adopter
    from aggregator.config.durations import parse_duration
    from aggregator.errors import UsageError
    from aggregator.wiring.app import build

    config = load_config(config_path)
    try:
        silence = parse_duration(quiet)
    except ValueError as error:
        raise UsageError(f"--quiet {quiet} {error}") from error
    if nothing_lost and (yes or stops):
        raise UsageError(
            "--nothing-lost goes with no other option: it takes nothing over, and stops nothing."
        )
    with build(config, name="aggregator adopt", looks=not yes) as app:
        if nothing_lost:
            _follow(app.ledger.identity, as_json=as_json)
            return
        adoption = Adopter(
            app.ledger,
            app.registered.values(),
            {name: app.taken_in(name) for name in app.registered},
            app.sinks,
            quiet=silence,
            without_readback=without_readback,
            leave=leave,
            wait=threading.Event().wait,
            mappings={name: app.mapping(name).run_once for name in app.config.customers if yes},
        )
        if stops:
            adoption.stop(app.ledger.instant())
        situation = adoption.situation(app.ledger.instant())
        if not as_json:
            _explain(situation)
        compared, left = (
            _work(adoption, app.ledger.now, yes=yes) if situation.reason is not None else ([], [])
        )
    if as_json:
        write_json(
            {
                "stopped": situation.reason,
                "adopt_from": situation.quiet_until,
                "adopted": yes and situation.reason is not None,
                "compared": [_figures(each) for each in compared],
                "left": [each._asdict() for each in left],
                "split_windows": [_numbers(window) for each in compared for window in each.split_windows],
            }
        )
    elif situation.reason is not None:
        _show(compared, left, adopted=yes)


def _follow(identity: "LedgerIdentity", *, as_json: bool) -> None:
    """Go on after a failover on a person's word; what this host knows of its own speaks all the same."""
    from aggregator.errors import LedgerStopped

    trouble = identity.follow()
    if trouble is not None:
        raise LedgerStopped(trouble)
    said = "The ledger carries on, because you say that no commit was lost."
    answer({"stopped": None, "adopted": False}, said, as_json=as_json)


def _work(adoption: "Adopter", clock: "Clock", *, yes: bool) -> "tuple[list[Compared], list[Left]]":
    if yes:
        adoption.ready(clock())
    with adoption.survey(clock()) as survey:
        if yes:
            adoption.adopt(survey, clock())
        return survey.compared, survey.left


def _explain(situation: "Situation") -> None:
    """Say what was found, and what follows."""
    if situation.reason is None:
        say(
            "The ledger was not set back, so there is nothing to adopt. If you know that it was, "
            "give --stop, and adopt it once nothing has been sent for a while."
        )
        return
    say(situation.reason)
    if situation.quiet_until is not None:
        say(f"It can be adopted from {shown(situation.quiet_until)} UTC on.")
    for sink in situation.by_hand:
        say(
            f"Sink {sink} cannot be read back: look there what has arrived, then say --without-readback {sink}."
        )
    for meter, sink in situation.unknown:
        say(
            f"Meter {meter} with sink {sink} is in the ledger and not in the configuration, and is left as it is."
        )


def _show(compared: "list[Compared]", left: "list[Left]", *, adopted: bool) -> None:
    """Say what was compared, and what is to be done."""
    show_rows("compared with the sinks", COLUMNS, map(_figures, compared))
    for each in left:
        say(f"Customer {each.customer} of {each.meter} is left as the ledger has it: {each.reason}")
    split_windows = _name_split_windows(compared)
    words = "--yes, and --leave with the name of each customer that is left," if left else "--yes"
    say(
        "Adopted: the daemon goes on."
        if adopted
        else f"Nothing was changed. {'Then say' if split_windows else 'Say'} {words} to adopt the ledger."
    )


def _name_split_windows(compared: "list[Compared]") -> bool:
    """Name the windows that a person must put right first, and say whether there are any."""
    split_windows = [window for each in compared for window in each.split_windows]
    if split_windows:
        say(
            f"{counted(len(split_windows), 'window has', 'windows have')} numbers in several hours, and a total overwrites "
            "only the one in its own. Overwrite all but one of each with 0 at the sink, by hand:"
        )
    for window in split_windows:
        say(f"  {window}")
    return bool(split_windows)


def _numbers(split_window: "SplitWindow") -> dict[str, object]:
    from aggregator.core.planner import plain

    numbers = {f"{start:%Y-%m-%dT%H:%MZ}": plain(much) for start, much in split_window.numbers}
    return {**split_window._asdict(), "numbers": numbers}


def _figures(compared: "Compared") -> dict[str, object]:
    from aggregator.core.planner import plain

    start: dt.datetime = compared.span.start
    return {
        "meter": compared.meter,
        "sink": compared.sink,
        "from": start,
        "customers": compared.customers,
        "windows": compared.windows,
        "taken_over": Decimal(plain(compared.taken_over)),
        "missing": Decimal(plain(compared.missing)),
        "withdrawn": compared.withdrawn,
    }
