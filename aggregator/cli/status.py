"""`aggregator status`: how every meter stands."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.common import config_option, json_option, load_config, show_table, shown, write_json

if TYPE_CHECKING:
    from aggregator.ledger.reports import Standing

COLUMNS = {
    "meter": "left",
    "sink": "left",
    "mark": "left",
    "lag": "right",
    "due": "right",
    "sending": "right",
    "refused": "right",
    "held": "right",
    "in doubt": "right",
    "unmapped": "right",
    "last run": "right",
}


@click.command()
@config_option
@json_option
@click.option(
    "--limit", default=10, show_default=True, help="How many waiting events and unmapped customers to list."
)
def status(config_path: Path, *, as_json: bool, limit: int) -> None:
    """Show each meter: how far it is read, what is due, and what waits for a person."""
    from aggregator.clock import utcnow
    from aggregator.wiring import open_ledger

    config = load_config(config_path)
    now = utcnow()
    with open_ledger(config, may_migrate=True, name="aggregator status") as ledger:
        standings = ledger.reports.status()
        parked = ledger.reports.parked(limit)
        aside = ledger.reports.aside(limit)
    if as_json:
        write_json(
            {
                "meters": [
                    {**row._asdict(), "lag_seconds": (now - row.mark).total_seconds()} for row in standings
                ],
                "parked": [row._asdict() for row in parked],
                "unmapped": [row._asdict() for row in aside],
            }
        )
        return
    if not standings:
        click.echo("The ledger knows no meter yet; `aggregator run` registers those of the configuration.")
        return
    show_table("meters", COLUMNS, (_row(row, now) for row in standings))
    for row in {row.meter: row for row in standings if row.error}.values():
        click.echo(f"Last error of {row.meter}, at {shown(row.error_at)}: {row.error}")
    for row in {row.sink: row for row in standings if row.halted}.values():
        click.echo(f"Sink {row.sink} is halted: {row.halted}")
    if parked:
        show_table(
            "events that wait for a person (`aggregator events release ID` sends one)",
            {
                "id": "right",
                "meter": "left",
                "customer": "left",
                "window": "left",
                "rev": "right",
                "delta": "right",
                "state": "left",
                "reason": "left",
            },
            (
                (str(e.event), e.meter, e.customer, e.window_start, e.revision, e.delta, e.state, e.reason)
                for e in parked
            ),
        )
    if aside:
        show_table(
            "usage that can be billed to nobody",
            {
                "meter": "left",
                "reason": "left",
                "customer": "left",
                "rows": "right",
                "quantity": "right",
                "windows": "left",
            },
            (
                (
                    a.meter,
                    a.reason,
                    a.customer,
                    a.rows,
                    a.quantity,
                    f"{shown(a.first_window)} .. {shown(a.last_window)}",
                )
                for a in aside
            ),
        )


def _row(row: "Standing", now: dt.datetime) -> tuple[object, ...]:
    return (
        row.meter,
        row.sink,
        row.mark,
        now - row.mark,
        row.due,
        row.sending,
        row.refused,
        row.held,
        row.in_doubt,
        row.unmapped_rows,
        now - row.last_run_at if row.last_run_at else None,
    )
