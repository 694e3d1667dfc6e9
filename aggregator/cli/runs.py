"""`aggregator runs`: what each pass and each delivery did, what failed, what waits, and how to try again."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.cli.completion import MeterName
from aggregator.cli.options import Instant, config_option, json_option, limit_option, load_config
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.core.shown import counted, shown
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from aggregator.core.history import DeliveryRecord, History, PassRecord, Wait

MOST_SHOWN = 1_000
"""What an eye can go through, and a bounded amount to look up."""

LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

PASSES = "at id#=pass meter kind windows took> rows> changed> planned> held> refused> waiting>=deferred times> error"
DELIVERIES = (
    "at id#=delivery sink state took> events> accepted> again> refused> in_doubt> no_answer> file reason"
)
OPTIONAL = {
    "held",
    "refused",
    "waiting",
    "times",
    "again",
    "in_doubt",
    "no_answer",
    "file",
    "reason",
    "error",
}
"""Columns that a table has only if something stands in them."""


class Since(click.ParamType[dt.datetime | dt.timedelta]):
    """An instant, or how long ago."""

    name = "since"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dt.datetime | dt.timedelta:
        """Return an instant or a duration, or fail with what to write."""
        from aggregator.config.durations import parse_duration

        try:
            return parse_duration(str(value))
        except ValueError:
            pass
        try:
            return Instant().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is neither a time nor a duration; write 2026-11-01, or 2d for two days ago.",
                param,
                ctx,
            )


@click.command()
@click.argument("meter", type=MeterName(), metavar="[METER]", required=False)
@click.option("--failed", is_flag=True, help="Only what failed.")
@click.option(
    "--since", type=Since(), metavar="TIME", help="Only from this time on, or for this long back, such as 2d."
)
@limit_option("How many passes, and how many deliveries, to show.", default=20, least=1, most=MOST_SHOWN)
@config_option
@json_option
def runs(
    config_path: Path,
    *,
    meter: str | None,
    failed: bool,
    since: dt.datetime | dt.timedelta | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what each pass and delivery of METER, or of all meters, did, what failed, and what waits.

    The newest come first. Passes in a row that found nothing, or failed in the same way, share one line that says how
    many there were. For everything that waits, it says what happens by itself, and which command tries again.
    """
    from aggregator.ledger.history import Asked
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator runs") as ledger:
        now = ledger.instant()
        if meter is not None:
            _check_known(meter, config.meters, ledger.records.meters())
        start = now - since if isinstance(since, dt.timedelta) else since or LONG_AGO
        found = ledger.records.history(Asked(meter, limit, start, failed), now)
    if as_json:
        write_json(figures(found))
        return
    _show(found, limit, failed=failed)


def _check_known(meter: str, configured: "Collection[str]", known: "Collection[str]") -> None:
    """Raise UsageError for a meter that neither the configuration nor the ledger has."""
    if meter not in configured and meter not in known:
        names = ", ".join(sorted({*configured, *known})) or "none"
        raise UsageError(
            f"There is no meter {meter}, neither in the configuration nor in the ledger; there are: {names}."
        )


def figures(found: "History") -> dict[str, object]:
    """Return all of it for programs."""
    return {
        "as_of": found.as_of,
        "passes": [_pass(each) for each in found.passes],
        "deliveries": [_delivery(each) for each in found.deliveries],
        "waits": [_wait(each) for each in found.waits],
    }


def _pass(each: "PassRecord") -> dict[str, object]:
    fields = each._asdict()
    span = fields.pop("span")
    return {**fields, "from": span.start, "to": span.end}


def _delivery(each: "DeliveryRecord") -> dict[str, object]:
    return {**each._asdict(), "no_answer": each.no_answer, "state": each.state, "seconds": each.seconds}


def _wait(each: "Wait") -> dict[str, object]:
    fields = each._asdict()
    span = fields.pop("windows")
    windows = {} if span is None else {"from": span.start, "to": span.end}
    return {**fields, **windows, "what_to_do": each.what_to_do, "commands": list(each.commands)}


def _show(found: "History", limit: int, *, failed: bool) -> None:
    """Print two tables, and what waits."""
    what = "failed" if failed else "newest"
    passes = [
        {**_pass(each), "pass": each.id, "windows": each.span, "took": _took(each.seconds)}
        for each in found.passes
    ]
    deliveries = [
        {**_delivery(each), "delivery": each.id, "took": _took(each.seconds)} for each in found.deliveries
    ]
    if passes:
        show_rows(
            f"passes, {what} first" if not failed else "failed passes", _columns(PASSES, passes), passes
        )
    if deliveries:
        title = f"deliveries, {what} first" if not failed else "failed deliveries"
        show_rows(title, _columns(DELIVERIES, deliveries), deliveries)
    if not passes and not deliveries:
        say("Nothing has failed in that time." if failed else "Nothing was read or sent in that time.")
    elif limit in (len(passes), len(deliveries)):
        say(f"The newest {limit} are shown of each; see --limit and --since.")
    if not found.waits:
        say("Nothing waits.")
        return
    say()
    for line in map(_waiting, found.waits):
        say(line)


def _columns(columns: str, rows: list[dict[str, object]]) -> str:
    """Return the columns that are worth their width."""

    def used(column: str) -> bool:
        name, _, key = column.partition("=")
        name = name.rstrip(">#")
        values = {row[key or name] for row in rows}
        return name not in OPTIONAL or bool(values - {None, 0} if name != "times" else values - {1})

    return " ".join(filter(used, columns.split()))


def _took(seconds: float | None) -> str:
    """Write how long something took, short times exactly enough to compare them."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.2f}s"
    return shown(dt.timedelta(seconds=round(seconds)))


def _waiting(wait: "Wait") -> str:
    """Say what waits, since when, why, and what to do."""
    from aggregator.core.history import WaitKind

    whose = wait.meter + (f" to {wait.sink}" if wait.sink else "")
    what = {
        WaitKind.FAILED: f"{counted(wait.number, 'pass', 'passes')} failed in a row",
        WaitKind.UNREAD: f"{counted(wait.number, 'window')} could not be read",
        WaitKind.GUARDED: f"{counted(wait.number, 'window')} shrank, to be read a second time",
    }.get(wait.kind, f"{counted(wait.number, 'event is', 'events are')} {wait.kind}")
    since = f" since {shown(wait.since)}" if wait.since else ""
    later = f", next at {shown(wait.next_at)}" if wait.next_at else ""
    reason = f": {wait.reason}." if wait.reason else "."
    return f"{whose}: {what}{since}{later}{reason.replace('..', '.')} {wait.what_to_do}"
