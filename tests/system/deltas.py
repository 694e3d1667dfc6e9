"""The proof of a cursor that waits: rows are committed in any order, read once, and all of them are billed once.

Writers do what they do in `tests.system.torture`: transactions last for anything from a moment to a minute, and take their
ids all along. The daemon bills them by `read: deltas`, and is killed now and then. Beside it, plain cursors follow the same
table as many jobs do, by id and by time.

    python -m tests.system.deltas --writers 32 --seconds 600

prints what it came to, and exits 1 if a row is lost or doubled, or if the plain cursor lost none.
"""

import sys

from tests.system.harness import World, own_world, show
from tests.system.torture import arguments, torture

QUERY = """
select customer, sum(quantity) as quantity, max(used_at) as at, max(id) as cursor,
       date_trunc('minute', used_at, 'UTC') as window
  from usage where id > :after and id <= :upto group by 1, 5
"""
UPTO = "select max(id) from (select id from usage where id > :after order by id limit 5000) as next"


def read_by_cursor(world: World) -> None:
    """Let the world's meter be read by a cursor; nothing recounts, so that nothing but the cursor finds a row."""
    world.meter["read"] = "deltas"
    world.meter["deltas"] = {"start_after": 0, "upto_query": UPTO}
    world.meter["query"] = QUERY


def passed(world: World) -> tuple[int, int]:
    """Return the last id there is, and up to which one the cursor is."""
    [(last,)] = world.source("select max(id) from usage")
    return int(last), int(world.one("select after from aggregator.cursor"))


def main() -> int:
    """Run it by itself, on a Postgres of its own."""
    given = arguments(__doc__ or "", rows=500_000, seconds=600, kills=10)
    with own_world() as world:
        world.create_usage()
        read_by_cursor(world)
        result = torture(world, **given, patience_seconds=300)
        last, after = passed(world)
    show({**vars(result), "last_id": last, "cursor": after})
    return 0 if result.good and after == last and result.id_cursor_lost_percent > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
