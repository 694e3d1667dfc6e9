"""The dictionary of combinations: which values of which dimensions the numbers in slots and events stand for.

Rules
- A number is made of what it stands for, and so never changes: whoever knows it need not ask again.
- What a pass brings that is new is added by the pass itself, in its transaction. So does an adoption with what a ledger has
  forgotten. Nothing else ever adds one.
- More of them than the meter allows are refused before anything is planned: a column that is different in each row would
  make an event of each, and none of them could be taken back.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from aggregator.core import dimensions as apart_by
from aggregator.core.dimensions import Dimensions
from aggregator.core.model import Event
from aggregator.errors import InvariantBroken, QueryRejected
from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Registered

KNOWN = "select id, dimensions from aggregator.combination where meter_id = %(meter_id)s"

ADD = "insert into aggregator.combination (meter_id, id, dimensions) values (%(meter_id)s, %(id)s, %(dimensions)s)"

NAMED = "select distinct id, dimensions from aggregator.combination where id = any(%(ids)s::bigint[])"

Known = Mapping[int, Dimensions]
"""Combinations by their number; 0 is the empty one."""


def known_to(connection: Connection, registered: Registered, seen: Mapping[Dimensions, int]) -> Known:
    """Return the combinations of a meter, with those that were seen just now. Raises QueryRejected for too many.

    InvariantBroken if a number stands for two of them.
    """
    return _with_seen(registered, _of_meter(connection, registered.id), seen)


def take_in(connection: Connection, registered: Registered, seen: Mapping[Dimensions, int]) -> Known:
    """Do the same, and add to the dictionary what is new; the meter is held."""
    before = _of_meter(connection, registered.id)
    known = _with_seen(registered, before, seen)
    _add(connection, registered.id, before, seen)
    return known


def together(connection: Connection, meter_id: int, seen: Mapping[Dimensions, int]) -> Known:
    """Return the combinations of a meter, with those that were seen, however many. Raises InvariantBroken as `known_to`."""
    return {0: (), **_beside(_of_meter(connection, meter_id), seen)}


def remember(connection: Connection, meter_id: int, some: Iterable[Dimensions]) -> None:
    """Add to the dictionary what is new of some combinations, however many; the meter is held."""
    seen = {each: apart_by.number(each) for each in some if each}
    if seen:
        _add(connection, meter_id, _of_meter(connection, meter_id), seen)


def _add(connection: Connection, meter_id: int, before: Known, seen: Mapping[Dimensions, int]) -> None:
    new = [
        {"meter_id": meter_id, "id": number, "dimensions": Jsonb(dict(combination))}
        for combination, number in seen.items()
        if number not in before
    ]
    if new:
        connection.cursor().executemany(ADD, new)


def _of_meter(connection: Connection, meter_id: int) -> Known:
    return _known(connection.execute(KNOWN, {"meter_id": meter_id}).fetchall())


def _known(rows: Iterable[tuple[int, Mapping[str, str]]]) -> Known:
    return {number: apart_by.of_mapping(values) for number, values in rows}


def _beside(before: Known, seen: Mapping[Dimensions, int]) -> Known:
    known = dict(before)
    for combination, number in seen.items():
        if known.setdefault(number, combination) != combination:
            raise InvariantBroken(
                f"{apart_by.shown(combination)} and {apart_by.shown(known[number])} have one number; nothing was written."
            )
    return known


def _with_seen(registered: Registered, before: Known, seen: Mapping[Dimensions, int]) -> Known:
    known = _beside(before, seen)
    most = registered.meter.max_combinations
    if len(known) > max(most, len(before)):
        raise QueryRejected(apart_by.too_many(registered.meter.name, known.values(), most))
    return {0: (), **known}


def of_meter(connection: Connection, meter_id: int) -> Known:
    """Return all combinations that a meter ever had, and the empty one."""
    return {0: (), **_of_meter(connection, meter_id)}


def named(connection: Connection, numbers: Iterable[int]) -> Known:
    """Return what numbers stand for, of whichever meters."""
    asked = {number for number in numbers if number}
    if not asked:
        return {0: ()}
    known = _known(connection.execute(NAMED, {"ids": list(asked)}).fetchall())
    assert known.keys() == asked, "the dictionary has every number that stands in a slot"
    return {0: (), **known}


def events(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Event]:
    """Make events of rows whose last column is the number of their combination."""
    known = named(connection, {row[-1] for row in rows})
    return [Event._make((*row[:-1], known[row[-1]])) for row in rows]
