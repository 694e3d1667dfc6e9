"""`aggregator parity`: whether two sinks of a meter were given the same."""

import datetime as dt
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.completion import MeterName
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import (
    config_option,
    from_option,
    json_option,
    limit_option,
    load_config,
    refuse_parts_of_days,
    span_between,
    to_option,
)
from aggregator.cli.printing import json_text, say, show_rows, write_raw
from aggregator.core.shown import counted, shown
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from aggregator.adoption.parity import Compared, Parity
    from aggregator.config import Config
    from aggregator.core.model import Span
    from aggregator.ledger.parity import Side
    from aggregator.sinks.protocol import Destination

AT_ONCE = 500
"""How many differences stand in one table: a longer list goes on in the next one, so that memory stays bounded."""

COLUMNS = "customer from sink planned> accepted> under_way> waiting> shadow> says>"


@click.command()
@click.argument("meter", type=MeterName(), metavar="METER")
@click.option("--between", metavar="A,B", help="The two sinks. Not needed if the meter has exactly two.")
@from_option(required=True)
@to_option("End of the last window. Without it: now, or with --ask the start of today.")
@click.option(
    "--by",
    type=click.Choice(["day", "window"]),
    default="day",
    show_default=True,
    help="Compare the sums of each day, or each window.",
)
@click.option(
    "--ask", is_flag=True, help="Also ask the sinks themselves what they have counted, for whole UTC days."
)
@limit_option("How many differences to show; 0 for all.")
@config_option
@json_option
def parity(
    config_path: Path,
    *,
    meter: str,
    between: str | None,
    start: dt.datetime,
    end: dt.datetime | None,
    by: str,
    ask: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Compare what was planned for two sinks of METER, per customer and day, and show where they differ. Writes nothing.

    Events that are held, refused or in shadow count as planned. Exits with 3 if something differs.
    """
    from contextlib import ExitStack

    from aggregator.adoption.parity import Parity, compare
    from aggregator.ledger.parity import Place
    from aggregator.runtime.disk_list import DiskList
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    span = _span(start, end, by=by, ask=ask)
    with ExitStack() as stack:
        kept = stack.enter_context(DiskList[Place]())
        with open_ledger(config, may_migrate=True, name="aggregator parity") as ledger:
            feeds = ledger.parity.feeds(meter)
            names = _pair(config, meter, between, list(feeds))
            between_two = ledger.parity.places(feeds[names[0]], feeds[names[1]], span, by_day=by == "day")
            kept.keep(between_two)
        sinks = [_asked(config, name, stack) if ask else None for name in names]
        result = Parity()
        found = result.counting(compare(kept.all(), meter, span, sinks))
        show = _report_json if as_json else _show
        show(found, result, names, f"{meter} {span}", limit)
        if ask and not as_json:
            for name, sink in zip(names, sinks, strict=True):
                if sink is None:
                    say(f"{name} cannot be read back, so it was not asked.")
    if result.different:
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _span(start: dt.datetime, end: dt.datetime | None, *, by: str, ask: bool) -> "Span":
    """Return the time that is meant. Raises UsageError."""
    from aggregator.core.windows import DAY, floor
    from aggregator.runtime.clock import utcnow

    if ask and by == "window":
        raise UsageError("--ask goes with --by day: sinks are asked by UTC days.")
    until = end or (floor(utcnow(), DAY) if ask else utcnow())
    if ask:
        refuse_parts_of_days(start, until, when="With --ask, ")
    if end is not None:
        return span_between(start, end)
    return span_between(start, until, f"{until:%Y-%m-%dT%H:%MZ}, up to which it is compared without --to")


def _pair(config: "Config", meter: str, between: str | None, known: list[str]) -> tuple[str, str]:
    """Return the names of the two sinks. Raises UsageError."""
    configured = config.meters[meter].sinks if meter in config.meters else ()
    if not known and meter not in config.meters:
        config.meter(meter)
    names = (
        [name.strip() for name in between.split(",")]
        if between
        else list(configured if len(configured) == 2 else known)
    )
    if len(names) != 2 or names[0] == names[1]:
        raise UsageError(
            f"Name the two sinks with --between A,B. {meter} feeds or fed: {', '.join(known) or 'none yet'}."
        )
    for name in names:
        if name not in known:
            raise UsageError(
                f"Nothing of {meter} was ever planned for a sink {name}; the ledger knows: {', '.join(known) or 'none yet'}."
            )
    return names[0], names[1]


def _asked(config: "Config", name: str, stack: "ExitStack") -> "Destination | None":
    """Return a sink to be asked; None if it cannot be read back. Raises UsageError if it is no longer configured."""
    from aggregator.wiring.sinks import build_sink

    if name not in config.sinks:
        raise UsageError(
            f"Sink {name} is no longer in the configuration, so it cannot be asked; leave out --ask."
        )
    sink = build_sink(config, name)
    stack.callback(sink.close)
    return sink if sink.limits.proof is not None else None


def _figures(side: "Side", says: object) -> dict[str, object]:
    return {"planned": side.planned, **side._asdict(), "says": says}


def _sinks(each: "Compared", names: tuple[str, str]) -> dict[str, dict[str, object]]:
    """Return what each of the two sinks has."""
    sides = (each.place.one, each.one_says), (each.place.other, each.other_says)
    return {name: _figures(*side) for name, side in zip(names, sides, strict=True)}


def _show(
    found: "Iterable[Compared]", result: "Parity", names: tuple[str, str], title: str, limit: int
) -> None:
    listed = 0
    differences = iter(found)
    while some := list(islice(differences, min(AT_ONCE, limit - listed) if limit else AT_ONCE)):
        listed += len(some)
        rows = (
            {"customer": each.place.customer, "from": each.place.start, "sink": sink, **figures}
            for each in some
            for sink, figures in _sinks(each, names).items()
        )
        show_rows(title, COLUMNS, rows)
    for _ in differences:
        pass
    if result.different > listed:
        say(f"{result.different - listed:,} more differ; see --limit.")
    for name, side, said in zip(names, result.sums, result.says, strict=True):
        parts = [
            f"{shown(much)} {what}" for what, much in zip(side._fields[:4], side[:4], strict=True) if much
        ]
        line = f"{name}: {shown(side.planned)} planned" + (
            f" ({', '.join(parts).replace('_', ' ')})" if parts else ""
        )
        if side.turned_away:
            line += f"; {counted(side.turned_away, 'event')} of its shadow would have been held or refused"
        say(line + (f"; it says {shown(said)} itself." if said is not None else "."))
    say(
        f"{counted(result.places, 'time')} of customers compared, {counted(result.different, 'differs', 'differ')}."
        if result.different
        else f"Equal: {counted(result.places, 'time')} of customers compared, none differs."
    )


def _report_json(
    found: "Iterable[Compared]", result: "Parity", names: tuple[str, str], title: str, limit: int
) -> None:
    """Write one object piece by piece, so that a long list never stands in memory."""
    write_raw(f'{{"compared": {json_text(title)}, "differences": [')
    for number, each in enumerate(found):
        if limit and number >= limit:
            continue
        entry = {
            "customer": each.place.customer,
            "from": each.place.start,
            "sinks": _sinks(each, names),
        }
        write_raw((",\n" if number else "\n") + json_text(entry))
    sums = {
        name: _figures(side, says) for name, side, says in zip(names, result.sums, result.says, strict=True)
    }
    rest = {
        "places": result.places,
        "different": result.different,
        "equal": not result.different,
        "sinks": sums,
    }
    write_raw("], " + json_text(rest)[1:] + "\n")
