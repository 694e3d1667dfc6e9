"""Two daemons on one ledger and a sink with a rate limit: together they keep to it, and one of them alone has all of it."""

import signal
from collections.abc import Sequence
from typing import NamedTuple

from tests.system.harness import Process, World, until

RATE = 40
"""Events a second: far below what either of the two could send on a busy machine."""

STRETCH_SECONDS = 5.0
"""The shortest time that is judged: a sandbox that stands still for a moment, and then takes what has piled up, makes no
difference to that."""

LOWEST, HIGHEST = 0.7, 1.15
"""Parts of the rate that are taken for all of it: two daemons that do not share come to twice that."""


class Arrival(NamedTuple):
    """When an event arrived at the sandbox, and who sent it."""

    at: float
    owner: str


def arrivals(world: World) -> list[Arrival]:
    """Return what has arrived, in that order, by the sandbox's own record."""
    owners = dict(
        world.ledger(
            """
            select event.identifier, claim.owner::text
              from aggregator.claim cross join unnest(claim.events) as member (id)
              join aggregator.event on event.id = member.id
             order by claim.id
            """
        )
    )
    found: list[Arrival] = []
    while events := world.sandbox.events(limit=1000, offset=len(found)):
        found += [Arrival(each["received_at"], owners[each["identifier"]]) for each in events]
    return sorted(found)


def rate(arrived: Sequence[Arrival]) -> float:
    """Return how many arrived per second."""
    return (len(arrived) - 1) / (arrived[-1].at - arrived[0].at)


def busiest(arrived: Sequence[Arrival]) -> float:
    """Return the highest rate of any stretch of time."""
    highest, first = 0.0, 0
    for last, arrival in enumerate(arrived):
        while arrival.at - arrived[first].at > STRETCH_SECONDS:
            first += 1
        highest = max(highest, (last - first + 1) / STRETCH_SECONDS)
    return highest


def senders(world: World) -> int:
    """Return how many processes hold a share of the limit."""
    return int(world.one("select count(*) from aggregator.rate_share where held > 0"))


def both_send(world: World, daemons: Sequence[Process]) -> int:
    """Wait until each of the daemons holds a share and has sent much; return what had arrived by then."""
    until(lambda: senders(world) == len(daemons), "both hold a share")
    arrived = world.sent()
    until(lambda: world.sent() >= arrived + 8 * RATE, "they send", seen=lambda: daemons[0].err[-500:])
    return world.sent()


def test_two_daemons_keep_to_one_rate_and_the_one_that_is_left_has_all_of_it(world: World) -> None:
    """No stretch of time has more arrivals than the limit allows; after a kill -9 the other sends as fast as both did."""
    world.use_much(customers=60, minutes=60)
    world.sink["rate_limit"] = RATE
    daemons = [world.daemon(), world.daemon()]
    together = both_send(world, daemons)
    daemons[0].kill()
    until(lambda: senders(world) == 1, "what the killed one held is over")
    alone_from = world.sent()
    until(lambda: world.sent() >= alone_from + 8 * RATE, "the other goes on")
    assert daemons[1].stop() == -signal.SIGTERM
    arrived = arrivals(world)

    assert busiest(arrived) <= HIGHEST * RATE
    assert len({each.owner for each in arrived[:together]}) == 2, "both have sent"
    alone = arrived[alone_from + RATE :]
    assert len({each.owner for each in alone}) == 1
    assert rate(alone) >= LOWEST * RATE
    assert world.sandbox.stats()["double_counted"] == 0
    assert not senders(world), "who ends gives back what it has"
