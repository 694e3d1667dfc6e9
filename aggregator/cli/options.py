"""What commands take: the configuration, times and ranges, how much to show, and why a person decides."""

import datetime as dt
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.core.model import Span

Command = TypeVar("Command", bound=Callable[..., Any])

FIRST_WINDOW = "Start of the first window (UTC unless you give a zone)."
ENDS_TODAY = "End of the last window. Without it: the end of today."

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default="aggregator.yaml",
    envvar="AGGREGATOR_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
deciding_option = click.option(
    "--reason", metavar="TEXT", help="Why, in your own words. It goes on record together with your name."
)
some_ids_argument = click.argument("ids", nargs=-1, type=int, required=True, metavar="ID...")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for programs instead of a table."
)
first_time_option = click.option(
    "--first-time",
    is_flag=True,
    help="Send even if a sink holds usage that this ledger never sent, because you know that both should be billed.",
)


class Instant(click.ParamType[dt.datetime]):
    """An instant with its zone, or a date or time that is read as UTC."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        """Return an aware UTC datetime, or fail with what to write."""
        if isinstance(value, dt.datetime):
            return value
        try:
            instant = dt.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time; write 2026-11-01 or 2026-11-01T06:00Z.", param, ctx)
        return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant.astimezone(dt.UTC)


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


def from_option(text: str = FIRST_WINDOW, *, required: bool = False) -> Callable[[Command], Command]:
    """Let a command take `start`."""
    return click.option("--from", "start", type=Instant(), required=required, help=text)


def to_option(text: str = ENDS_TODAY, *, required: bool = False) -> Callable[[Command], Command]:
    """Let a command take `end`."""
    return click.option("--to", "end", type=Instant(), required=required, help=text)


def period_options(command: Command) -> Command:
    """Let a command take `start` and `end`, or a month as `period`; `span_of_period` says what they come to."""
    month = click.option(
        "--period",
        type=Month(),
        metavar="MONTH",
        help=(
            "A month in UTC, such as 2026-11, instead of --from and --to. Without any of them: the "
            "current month."
        ),
    )
    return from_option()(to_option()(month(command)))


def limit_option(
    text: str, *, default: int = 50, least: int = 0, most: int | None = None
) -> Callable[[Command], Command]:
    """Let a command take `limit`: how much to show."""
    within = click.IntRange(least, most)
    return click.option("--limit", type=within, default=default, show_default=True, help=text)


def load_config(path: Path) -> "Config":
    """Load the configuration with this process's environment. Raises ConfigError."""
    from aggregator.config import load

    return load(path, os.environ)


def somebody() -> str:
    """Name who runs this, for the record."""
    import getpass
    import socket

    try:
        return f"{getpass.getuser()} on {socket.gethostname()}"
    except (KeyError, OSError):  # a container may know no name for its user
        return f"user {os.getuid()} on {socket.gethostname()}"


def known_meters(config: "Config", names: Sequence[str]) -> list[str]:
    """Return the named meters, or all if none is named. Raises UsageError for one that is not configured."""
    for name in names:
        if name not in config.meters:
            known = ", ".join(sorted(config.meters)) or "none"
            raise UsageError(f"There is no meter {name} in the configuration; it has: {known}.")
    return list(names) or sorted(config.meters)


def span_of_period(
    start: dt.datetime | None, end: dt.datetime | None, period: "Span | None", now: dt.datetime
) -> "Span":
    """Return the time that is meant; each of its ends that is not given is a midnight. Raises UsageError."""
    from aggregator.core.usage import month_of

    if period is not None:
        if start is not None or end is not None:
            raise UsageError("--period is a range already: give either that, or --from and --to.")
        return period
    if start is None:
        if end is not None:
            raise UsageError("--to is where the range ends; also give --from, where it begins.")
        return month_of(now)
    return span_until_today_ends(start, end, now)


def span_between(start: dt.datetime, end: dt.datetime, called: str = "--to") -> "Span":
    """Return the range up to an end, which is called so. Raises UsageError if it is empty."""
    from aggregator.core.model import Span

    span = Span(start, end)
    if start >= end:
        raise UsageError(f"The range {span} is empty; give --from a time before {called}.")
    return span


def span_until_today_ends(start: dt.datetime, end: dt.datetime | None, now: dt.datetime) -> "Span":
    """Return the range, which without an end goes up to the next midnight. Raises UsageError if it is empty."""
    from aggregator.core.windows import DAY, floor

    if end is not None:
        return span_between(start, end)
    midnight = floor(now, DAY) + DAY
    return span_between(start, midnight, f"{midnight:%Y-%m-%dT%H:%MZ}, the end of today")


def refuse_parts_of_days(start: dt.datetime, end: dt.datetime, *, when: str = "") -> None:
    """Raise UsageError if a range does not consist of whole UTC days."""
    from aggregator.core.windows import DAY, floor, is_boundary

    for name, instant in (("--from", start), ("--to", end)):
        if not is_boundary(instant, DAY):
            day = f"{floor(instant, DAY):%Y-%m-%d}"
            raise UsageError(
                f"{when}{name} must be the start of a UTC day, such as {day}, since sinks are asked "
                "for whole days."
            )
