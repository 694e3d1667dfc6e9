"""The shares of a sink on its event loop, over a ledger that answers as it is told to."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any

import pytest

from aggregator.core.rate_limit import Pace
from aggregator.core.rate_shares import LEASE_SECONDS, Asked
from aggregator.errors import LedgerUnreachable
from aggregator.sinks.dispatch import Pacer
from aggregator.sinks.shared_rate import LULL_SECONDS, SharedRate

SECONDS = 20
LIMIT = 1_000.0


class Far:
    """A ledger, and the time: what is granted is set by hand, and each question is kept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.grant: float | Exception = LIMIT
        self.asked: list[Asked] = []
        self.released = 0
        self.heard = threading.Condition()

    def renew(self, asked: Sequence[Asked]) -> list[float]:
        """Answer a question, on whatever thread."""
        with self.heard:
            self.asked += asked
            self.heard.notify_all()
        if isinstance(self.grant, Exception):
            raise self.grant
        return [self.grant if each.wanted else 0.0 for each in asked]

    def release(self) -> None:
        """Take everything back."""
        self.released += 1

    async def asked_again(self, times: int = 1) -> Asked:
        """Wait until it has been asked so many times more; return the last question."""
        count = len(self.asked) + times

        def wait() -> Asked:
            with self.heard:
                assert self.heard.wait_for(lambda: len(self.asked) >= count, SECONDS)
                return self.asked[count - 1]

        return await asyncio.to_thread(wait)


def on_a_loop(body: Callable[[Far, SharedRate, Pacer], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on an event loop, with a pacer whose own clock stands still."""

    @wraps(body)
    def test() -> None:
        async def run() -> None:
            far = Far()
            shared = SharedRate(far.renew, far.release, lambda: far.now)
            try:
                await body(far, shared, shared.pacer("v1", Pace(LIMIT), lambda: 0.0))
            finally:
                await shared.close()

        asyncio.run(asyncio.wait_for(run(), SECONDS))

    del test.__wrapped__  # its arguments are no fixtures
    return test


@on_a_loop
async def test_nothing_leaves_before_there_is_a_share(far: Far, shared: SharedRate, pacer: Pacer) -> None:
    """While others hold all of it, what is to leave waits, and the ledger is asked again and again."""
    far.grant = 0.0
    coming = asyncio.create_task(pacer.come(1))
    await far.asked_again(2)
    assert not coming.done()
    far.grant = 10.0
    await coming
    assert pacer.pace.calls_per_second == 10


@on_a_loop
async def test_many_events_cost_one_question(far: Far, shared: SharedRate, pacer: Pacer) -> None:
    """As long as the share lasts."""
    for _ in range(20):
        await pacer.come(1)
    assert [(each.limit, each.used) for each in far.asked] == [(LIMIT, 0.0)]


@on_a_loop
async def test_a_share_that_is_not_renewed_is_over(far: Far, shared: SharedRate, pacer: Pacer) -> None:
    """As when the ledger is away, or the process was paused: nothing leaves until the ledger has answered."""
    await pacer.come(1)
    far.grant = LedgerUnreachable("away")
    far.now += LEASE_SECONDS
    coming = asyncio.create_task(pacer.come(1))
    await far.asked_again(2)
    assert not coming.done()
    far.grant = LIMIT
    await coming


@on_a_loop
async def test_while_the_ledger_is_away_what_is_held_is_used(
    far: Far, shared: SharedRate, pacer: Pacer
) -> None:
    """A ledger that stalls for a moment holds nobody up."""
    await pacer.come(1)
    far.grant = LedgerUnreachable("away")
    for _ in range(3):
        far.now += (LEASE_SECONDS - 1) / 3
        await pacer.come(1)
        await far.asked_again()


@on_a_loop
async def test_what_is_lowered_is_put_down_at_once(far: Far, shared: SharedRate, pacer: Pacer) -> None:
    """The others wait for that."""
    await pacer.come(1)
    far.grant = 500.0
    assert (await far.asked_again()).used == LIMIT
    assert (await far.asked_again()).used == 500


@on_a_loop
async def test_a_route_that_nobody_uses_is_given_back(far: Far, shared: SharedRate, pacer: Pacer) -> None:
    """The ledger is told once, and asked again when something is to leave; until then nothing may be used."""
    await pacer.come(1)
    far.now += LULL_SECONDS + 0.1
    last = await far.asked_again()
    assert (last.wanted, last.used) == (0.0, 0.0)
    asked = len(far.asked)
    await pacer.come(1)
    assert [each.used for each in far.asked[asked:]] == [0.0]


@on_a_loop
async def test_who_waited_for_its_pace_wants_all(far: Far, shared: SharedRate, pacer: Pacer) -> None:
    """Who did not wants twice what it used, or a tenth."""
    await pacer.come(1)
    assert (await far.asked_again()).wanted == LIMIT / 10
    far.now += 1.0
    for _ in range(40):
        await pacer.come(1)
    await far.asked_again()
    assert far.asked[-1].wanted == pytest.approx(LIMIT / 10)


@on_a_loop
async def test_closing_gives_everything_back(far: Far, shared: SharedRate, pacer: Pacer) -> None:
    """The others need not wait until it is over."""
    await pacer.come(1)
    await shared.close()
    assert far.released == 1


@on_a_loop
async def test_what_nobody_foresaw_is_raised_where_it_is_waited_for(
    far: Far, shared: SharedRate, pacer: Pacer
) -> None:
    """A bug must not become a silence."""
    far.grant = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await pacer.come(1)
