"""`aggregator ledger`: how large the ledger is, and the months that leave it for an archive."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.help import Commands
from aggregator.cli.options import config_option, json_option, load_config
from aggregator.cli.printing import answer, say, show_rows, write_json
from aggregator.core.shown import counted, shown
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.ledger.archives import Archive
    from aggregator.ledger.ledger import Ledger

TABLES = "table size>=shown_size rows>"
ARCHIVES = "meter month slots> events> size>=shown_size state file=name"
MOST_TABLES = 12
TRIES = 5
"""How often what changed meanwhile is archived anew."""

UNITS = ("bytes", "kB", "MB", "GB", "TB")


class Month(click.ParamType[dt.datetime]):
    """A month, such as 2026-03."""

    name = "month"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        """Return when it begins, or fail with what to write."""
        try:
            return dt.datetime.strptime(str(value), "%Y-%m").replace(tzinfo=dt.UTC)
        except ValueError:
            self.fail(f"{value!r} is no month; write it as 2026-03.", param, ctx)


@click.group(cls=Commands)
def ledger() -> None:
    """Look at the size of the ledger, and archive months that are closed."""


@ledger.command()
@config_option
@json_option
def size(config_path: Path, *, as_json: bool) -> None:
    """Show what each table takes, and which months are archived where."""
    config = load_config(config_path)
    with _opened(config) as opened:
        tables, archives = opened.archives.sizes(), opened.archives.listed()
    whole = sum(table.bytes for table in tables)
    rows = [{**archive._asdict(), "state": _state(archive)} for archive in archives]
    if as_json:
        write_json({"bytes": whole, "tables": [table._asdict() for table in tables], "archives": rows})
        return
    largest = [table for table in tables if table.bytes][:MOST_TABLES]
    show_rows("tables", TABLES, ({**table._asdict(), "shown_size": _bytes(table.bytes)} for table in largest))
    say(f"The ledger takes {_bytes(whole)} in all.")
    if archives:
        shown_rows = [
            {**row, "month": _month(row["month"]), "shown_size": _bytes(row["bytes"])} for row in rows
        ]
        show_rows("archived months", ARCHIVES, shown_rows)
    elif config.ledger.keep is None:
        say(
            "Every month stays in the ledger: `ledger.keep` and `ledger.archive` would let old ones leave it."
        )


@ledger.command()
@click.argument("meters", nargs=-1, metavar="[METER]...")
@click.option(
    "--restored",
    is_flag=True,
    help="Archive months again, too, that `aggregator ledger restore` brought back.",
)
@config_option
@json_option
def archive(config_path: Path, *, meters: tuple[str, ...], restored: bool, as_json: bool) -> None:
    """Archive every month that is older than `ledger.keep` and closed, of each METER or of all.

    The daemon does the same by itself, once an hour. Exits 1 if something went wrong, and 3 if a month stays open because
    something of it waits.
    """
    from aggregator.wiring.archiving import archiver_of, needed_place

    config = load_config(config_path)
    if config.ledger.keep is None:
        raise UsageError("`ledger.keep` does not say how long a month stays in the ledger, such as `18mo`.")
    with _opened(config) as opened:
        place = needed_place(opened)
        _known(opened, meters)
        if restored:
            for each in opened.archives.listed(meters or None):
                opened.archives.let_go(each.meter, each.month)
        archiver = archiver_of(opened, config.ledger.keep)
        whole = archiver.run_once(opened.now(), meters or None)
        for _ in range(TRIES):
            if not whole.more:
                break
            before, whole = whole, archiver.run_once(opened.now(), meters or None)
            whole.add_counts(before)
    written, removed = counted(whole.written, "month"), counted(whole.removed, "month")
    lines = [f"{written} written to {place.where}, and {removed} removed from the ledger.", *whole.waits]
    answer({**whole.figures(), "waits": whole.waits, "troubles": whole.troubles}, *lines, as_json=as_json)
    for trouble in whole.troubles:
        say(trouble, err=True)
    if whole.troubles:
        raise SystemExit(ExitCode.FAILED)
    if whole.waits:
        raise SystemExit(ExitCode.WORK_LEFT)


@ledger.command()
@click.argument("meters", nargs=-1, metavar="[METER]...")
@config_option
@json_option
def verify(config_path: Path, *, meters: tuple[str, ...], as_json: bool) -> None:
    """Read the archives of each METER, or of all, again, and compare every row with what left the ledger.

    Exits 1 if a file is not there, or does not hold what was removed.
    """
    from aggregator.archive.reader import trouble_of
    from aggregator.wiring.archiving import needed_place

    config = load_config(config_path)
    with _opened(config) as opened:
        place = needed_place(opened)
        _known(opened, meters)
        archives = opened.archives.listed(meters or None)
        troubles = {each.name: trouble_of(place, opened.archives, each) for each in archives}
        known = {each.name for each in opened.archives.listed()}
        strange = sorted(place.names() - known)
    wrong = {name: trouble for name, trouble in troubles.items() if trouble is not None}
    right = len(troubles) - len(wrong)
    said = f"{counted(right, 'archive')} of {len(troubles):,} hold what left the ledger, to the last row."
    if as_json:
        write_json({"archives": len(troubles), "wrong": wrong, "unknown": strange})
    else:
        say(said)
        for name in strange:
            say(
                f"{name} lies there too, and this ledger does not know it: it is another ledger's, or was given up."
            )
    for trouble in wrong.values():
        say(trouble, err=True)
    if wrong:
        raise SystemExit(ExitCode.FAILED)


@ledger.command()
@click.argument("meter")
@click.argument("month", type=Month())
@config_option
@json_option
def restore(config_path: Path, *, meter: str, month: dt.datetime, as_json: bool) -> None:
    """Bring the MONTH of METER back into the ledger from its archive, such as 2026-03.

    You need this only to change something of it by hand, or to move the archive: `usage`, `explain`, `statement` and
    `reconcile` read archives as they are. It stays until `aggregator ledger archive --restored`.
    """
    from aggregator.archive.reader import bring_back
    from aggregator.wiring.archiving import needed_place

    config = load_config(config_path)
    with _opened(config) as opened:
        place = needed_place(opened)
        _known(opened, (meter,))
        found = next((each for each in opened.archives.listed([meter]) if each.month == month), None)
        if found is None:
            raise UsageError(
                f"{_month(month)} of {meter} is not archived; `aggregator ledger size` lists what is."
            )
        done = bring_back(place, opened.archives, found)
    said = (
        f"{_month(month)} of {meter} is in the ledger again: {counted(found.slots, 'slot')} and "
        f"{counted(found.events, 'event')}."
        if done
        else f"{_month(month)} of {meter} is in the ledger already."
    )
    answer({"meter": meter, "month": _month(month), "restored": done}, said, as_json=as_json)


@contextmanager
def _opened(config: "Config") -> Iterator["Ledger"]:
    from aggregator.wiring.opening import open_ledger

    with open_ledger(config, may_migrate=True, name="aggregator ledger") as opened:
        yield opened


def _known(opened: "Ledger", meters: tuple[str, ...]) -> None:
    known = {each.name for each in opened.archives.meters()}
    for meter in meters:
        if meter not in known:
            raise UsageError(
                f"The ledger knows no meter {meter}; it knows: {', '.join(sorted(known)) or 'none'}."
            )


def _state(archive: "Archive") -> str:
    """Say how far a month is on its way."""
    if archive.restored_at is not None:
        return f"brought back {shown(archive.restored_at)}"
    if archive.removed_at is not None:
        return f"archived {shown(archive.removed_at)}"
    if archive.verified_at is not None:
        return f"removed up to {shown(archive.removed_until)}"
    return "written, to be read back"


def _month(month: object) -> str:
    return f"{month:%Y-%m}" if isinstance(month, dt.datetime) else str(month)


def _bytes(size: object) -> str:
    """Return a number of bytes as people read it."""
    amount, unit = float(str(size)), 0
    while amount >= 10_000 and unit + 1 < len(UNITS):
        amount, unit = amount / 1_000, unit + 1
    return f"{amount:,.0f} {UNITS[unit]}"
