"""A slot of which one event was rejected by the sink, while a later correction of it is held: both wait for a person."""

from aggregator.ledger.doubts import Doubts
from aggregator.model import Rejection
from tests.postgres.world import START, World


def rejected_and_held(world: World) -> None:
    """Let five uses be billed, one of them disappear and be held, and the bill turn out to be rejected."""
    for _ in range(10):
        world.source.use("cus_a", START)
    world.at(1, 6)
    world.collect()
    world.deliver()
    world.source.uses.pop()
    world.at(2, 6)
    world.collect()
    [(identifier, sink)] = world.rows(
        "select identifier, sink_id from aggregator.event join aggregator.feed on feed.id = feed_id where revision = 0"
    )
    Doubts(world.database).reject(sink, [Rejection(identifier, "no such customer")], world.now)


def states(world: World) -> list[tuple[int, int, str]]:
    """Return revision, delta and state of every event."""
    return world.rows("select revision, delta::int, state::text from aggregator.event order by revision")


def test_a_held_correction_is_replaced_once(world: World) -> None:
    """Another change replaces the held correction, and every pass after it finds nothing to plan anew (B5)."""
    rejected_and_held(world)
    world.source.uses.pop()
    for hour in range(3, 8):
        world.at(hour, 6)
        world.collect()
    assert states(world) == [(0, 10, "refused"), (1, -1, "void"), (2, -2, "held")]
    world.check_balance()
