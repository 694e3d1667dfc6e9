"""What usage is kept apart by besides its customer: one value for each dimension of a meter, such as a model and a region.

Rules
- Values are text. A dimension is known by its name, and names stand in alphabetical order, however a file lists them.
- The values of one row together are its combination. The number of a combination is made of its names and values, so that
  every process and every ledger comes to the same one: readings can be written down before the ledger is asked.
- Without dimensions there is one combination, the empty one, whose number is 0.
"""

from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from hashlib import sha256

Dimensions = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""

NUMBER_BYTES = 8
"""What a bigint holds: among a million combinations two come to the same number once in ten million ledgers, and there the
ledger refuses the second."""


@lru_cache(maxsize=65_536)
def number(dimensions: Dimensions) -> int:
    """Return the number of a combination: 0 without dimensions, else a hash of names and values, in 64 bits with a sign."""
    if not dimensions:
        return 0
    return int.from_bytes(sha256(named(dimensions).encode()).digest()[:NUMBER_BYTES], "big", signed=True) or 1


@lru_cache(maxsize=65_536)
def named(dimensions: Dimensions) -> str:
    """Write names and values so that no two combinations run together into the same text; nothing without dimensions."""
    return "".join(f"{len(text)}:{text}" for pair in dimensions for text in pair)


def shown(dimensions: Dimensions) -> str:
    """Write a combination for people: `model=large, region=eu`."""
    return ", ".join(f"{name}={value}" for name, value in dimensions)


def column(name: str, taken: Container[str]) -> str:
    """Return the heading of a dimension's column: its name, unless another column beside it has that."""
    return f"dimension_{name}" if name in taken else name


def of_mapping(values: Mapping[str, str]) -> Dimensions:
    """Return the combination that a mapping of names to values is."""
    return tuple(sorted(values.items()))


def too_many(meter: str, combinations: Iterable[Dimensions], most: int) -> str:
    """Say that a meter has more combinations than it may, which dimension is to blame, and what to do."""
    values: dict[str, set[str]] = {}
    for each in combinations:
        for name, value in each:
            values.setdefault(name, set()).add(value)
    name = max(values, key=lambda name: len(values[name]))
    return (
        f"Meter {meter}: its dimensions come to more than {most:,} combinations; `{name}` alone has {len(values[name]):,} "
        "values. Each is billed by an event of its own, so nothing was planned: take a column with fewer values, or, if "
        "they are meant, raise `max_combinations`."
    )
