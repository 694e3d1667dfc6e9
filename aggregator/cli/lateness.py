"""`aggregator lateness`: how late usage arrives, and which `delay` would wait for it."""

import datetime as dt
from pathlib import Path
from typing import Any

import click

from aggregator.cli.completion import MeterName
from aggregator.cli.options import config_option, json_option, known_meters, load_config
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.core.shown import duration


@click.command()
@click.argument("meters", nargs=-1, type=MeterName(), metavar="[METER]...")
@click.option("--days", default=14, show_default=True, help="How many days back to look.")
@config_option
@json_option
def lateness(config_path: Path, *, meters: tuple[str, ...], days: int, as_json: bool) -> None:
    """Show how late usage arrives after the end of its window, for each METER or for all.

    Late usage is billed by corrections, so nothing is lost. If you set a longer `delay`, there are fewer corrections.
    """
    from aggregator.config import format_duration
    from aggregator.core.lateness import suggest
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    names = known_meters(config, meters)
    with open_ledger(config, may_migrate=True, name="aggregator lateness") as ledger:
        found = ledger.reports.lateness(ledger.instant() - dt.timedelta(days=days))
    rows: list[dict[str, Any]] = [
        {"meter": name, "within_seconds": step, "slots": late.slots, "quantity": late.quantity}
        for name in names
        for step, late in sorted(found.get(name, {}).items())
    ]
    suggested = {name: suggest(found.get(name, {}), config.meters[name].delay) for name in names}
    if as_json:
        write_json({"steps": rows, "suggested_settle_seconds": suggested})
        return
    if not rows:
        say("Nothing was read in that time.")
        return
    show_rows(
        f"when usage was found, last {days} days",
        "meter found slots> quantity>",
        ({**row, "found": _found(row["within_seconds"])} for row in rows),
    )
    for name, longer in suggested.items():
        if longer:
            say(
                f"{name}: `delay: {format_duration(longer)}` would have waited for nearly all; it is "
                f"{format_duration(config.meters[name].delay)} now."
            )


def _found(step: int) -> str:
    return f"within {duration(dt.timedelta(seconds=step))}" if step else "in time"
