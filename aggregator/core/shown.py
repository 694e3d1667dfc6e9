"""How values are written for people: exact numbers with separators, instants in UTC, durations in two units. Pure."""

import datetime as dt
from decimal import Decimal


def shown(value: object) -> str:
    """Write a value for a person."""
    match value:
        case None:
            return "-"
        case dt.datetime():
            return f"{value:%Y-%m-%d %H:%M}" + (f":{value:%S}" if value.second else "")
        case Decimal():
            return _grouped(value)
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case dt.timedelta():
            return duration(value)
        case _:
            return str(value)


def minute(instant: dt.datetime) -> str:
    """Write an instant in UTC as it is given to a command or in the configuration: `2026-11-01T06:00Z`."""
    return f"{instant:%Y-%m-%dT%H:%MZ}"


def called(customer: str, name: str | None) -> str:
    """Name a customer for a person: by name, if there is one, and by id in any case."""
    return customer if name is None else f"{name} ({customer})"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Write how many things there are: `1 customer`, `1,204 customers`; `several` where that is not the name and an s."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _grouped(value: Decimal) -> str:
    whole, _, fraction = format(value, "f").partition(".")
    fraction = fraction.rstrip("0")
    sign = "-" if whole.startswith("-") else ""
    return f"{sign}{int(whole.lstrip('-') or 0):,}" + (f".{fraction}" if fraction else "")


def duration(value: dt.timedelta) -> str:
    """Write a duration with its two largest units: `3d 4h`, `5m 10s`."""
    seconds = int(value.total_seconds())
    if seconds < 0:
        return "-" + duration(-value)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
