"""What a setting may be: small questions that `rules` and `settings` ask of values from JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

# Seconds: a number, or the least and the most of a range.
Seconds = float | tuple[float, float]
SECONDS_WANTED = "a number of seconds, 0 or more, or [least, most]"


def require(holds: object, name: str, wanted: str) -> None:
    """Raise ValueError, which names the setting and what it must be, unless something holds."""
    if not holds:
        raise ValueError(f"{name} must be {wanted}.")


def refuse_unknown(data: Mapping[str, Any], kind: Any) -> None:
    """Raise ValueError for a name that is no field of a dataclass."""
    known = [each.name for each in fields(kind)]
    unknown = [name for name in data if name not in known]
    if unknown:
        raise ValueError(f"Unknown: {', '.join(unknown)}. Known: {', '.join(known)}.")


def with_pairs(data: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the data with `[least, most]` as a pair, as ranges have it."""
    pairs = set(names)
    return {
        name: tuple(value) if name in pairs and isinstance(value, list) else value
        for name, value in data.items()
    }


def at_least_zero(value: object) -> bool:
    """Say whether this is a number, 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def is_count(value: object) -> bool:
    """Say whether this is a whole number, 0 or more."""
    return isinstance(value, int) and at_least_zero(value)


def is_seconds(value: object) -> bool:
    """Say whether this is a number of seconds or a range of them."""
    if not isinstance(value, tuple):
        return at_least_zero(value)
    return len(value) == 2 and all(map(at_least_zero, value)) and value[0] <= value[1]


def is_names(value: object) -> bool:
    """Say whether this is a list of texts."""
    return isinstance(value, list | tuple | frozenset) and all(isinstance(each, str) for each in value)
