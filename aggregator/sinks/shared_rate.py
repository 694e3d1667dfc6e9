"""What a sink may send while other processes send to the same one: its shares of the routes' limits, kept alive meanwhile.

Lives on the sink's event loop; the ledger is asked on a thread of its own.

Rules
- Nothing leaves by a route without a share. One that is not renewed in time, because the ledger does not answer or this
  process was paused, is over.
- The ledger is asked for all routes together, once a second, and at once for a route that comes into use. A route that
  nobody uses for a while is given back, and costs nothing.
- A route has one pacer: two would each take a part of the limit for the same calls.
- A ledger that does not answer is asked again for as long as it takes, and what it said is kept for whoever waits.
- A pace that was lowered, because the far side said so, is lowered within its share: if all processes are told, all of them
  slow down.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from aggregator.core.rate_limit import Pace
from aggregator.core.rate_shares import LEAST_WANTED, RENEW_SECONDS, Asked, Share
from aggregator.errors import LedgerError
from aggregator.runtime.clock import boottime
from aggregator.sinks.dispatch import Pacer

SOON_SECONDS = 0.2
"""How soon the ledger is asked again while others are to make room, or it did not answer; and how soon what waits for the
pace heeds a change."""

LULL_SECONDS = 2.0
"""A route that nothing left by for so long is given back."""

RELEASE_SECONDS = 2.0
"""How long closing waits for the ledger: what is not given back is over by itself."""

LOWERED = 0.99
"""Below this part of what was used, a share was lowered: less is noise of the arithmetic."""


class SharedRate:
    """The shares of one sink. `renew` asks the ledger, and returns what may be used of each; `release` gives all back.

    `elapsed` is a clock that goes on while the machine sleeps, in seconds.
    """

    def __init__(
        self,
        renew: Callable[[Sequence[Asked]], Sequence[float]],
        release: Callable[[], None],
        elapsed: Callable[[], float] = boottime,
    ) -> None:
        self.elapsed = elapsed
        self.unanswered: str | None = None
        """Why the ledger did not answer last, if it did not."""
        self._renew = renew
        self._release = release
        self._paced: set[str] = set()
        self._in_use: dict[SharedPacer, None] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._holds = False

    def pacer(
        self, route: str, pace: Pace, monotonic: Callable[[], float], *, by_event: bool = False
    ) -> Pacer:
        """Return what paces a route, once, on the event loop; `pace` is that of the whole limit."""
        assert route not in self._paced, f"route {route} is paced already"
        self._paced.add(route)
        return SharedPacer(self, route, pace, monotonic, by_event=by_event)

    async def answer(self, pacer: "SharedPacer") -> None:
        """Wait for the ledger's next answer about a route. Raises what nobody foresaw."""
        if pacer not in self._in_use:
            self._in_use[pacer] = None
            self._soon.set()
        if self._task is None or self._task.done():
            self._thread = self._thread or ThreadPoolExecutor(1, "rate-shares")
            self._task = asyncio.create_task(self._keep(self._thread))
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    async def close(self) -> None:
        """Give everything back: nothing more leaves."""
        self._paced.clear()
        self._in_use.clear()
        if self._task is None or self._thread is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self._holds:
            with suppress(LedgerError, TimeoutError):
                released = asyncio.get_running_loop().run_in_executor(self._thread, self._release)
                await asyncio.wait_for(released, RELEASE_SECONDS)
        self._thread.shutdown(wait=False)
        self._thread = None

    async def _keep(self, thread: ThreadPoolExecutor) -> None:
        """Renew the shares of what is in use, until nothing is."""
        try:
            while self._in_use:
                pause = await self._renewed(thread)
                self._say(None)
                with suppress(TimeoutError):
                    # Up to Python 3.11, `wait_for` swallows a cancellation that comes with the event: closing would wait.
                    async with asyncio.timeout(pause):
                        await self._soon.wait()
        except Exception as error:
            self._say(error)
            raise

    async def _renewed(self, thread: ThreadPoolExecutor) -> float:
        """Ask the ledger once; return for how many seconds that is enough."""
        self._soon.clear()
        began, pacers = self.elapsed(), list(self._in_use)
        asked = [pacer.asks(began) for pacer in pacers]
        for pacer, ask in zip(pacers, asked, strict=True):
            if not ask.wanted:
                del self._in_use[pacer]
        try:
            shares = await asyncio.get_running_loop().run_in_executor(thread, self._renew, asked)
        except LedgerError as error:
            self.unanswered = str(error)
            return SOON_SECONDS
        self.unanswered = None
        pause = RENEW_SECONDS
        for pacer, ask, share in zip(pacers, asked, shares, strict=True):
            if ask.wanted:
                pacer.answered(began, share)
                if share < ask.used * LOWERED:
                    pause = 0.0  # others get the rest once the ledger has it down that less is used
                elif not share:
                    pause = min(pause, SOON_SECONDS)
        self._holds = bool(self._in_use)
        return pause

    def _say(self, error: Exception | None) -> None:
        """Tell who waits that the ledger has answered, or what broke."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


class SharedPacer(Pacer):
    """The pace of a route within its share."""

    def __init__(
        self,
        shared: SharedRate,
        route: str,
        pace: Pace,
        monotonic: Callable[[], float],
        *,
        by_event: bool = False,
    ) -> None:
        super().__init__(pace, monotonic, by_event=by_event)
        self._shared = shared
        self._route = route
        self._limit = pace.calls_per_second
        self._share = Share()
        self._coming = 0
        """How much waits to leave."""
        self._waited = False
        """Whether something had to wait for its pace since the ledger was last asked."""
        self._left = 0.0
        """What has left since then."""
        self._asked_at = self._used_at = shared.elapsed()

    @property
    def obstacle(self) -> str | None:
        """Why the ledger grants no share, if it does not even answer."""
        why = self._shared.unanswered
        if why is None or self._share.at(self._shared.elapsed()):
            return None
        return f"the ledger does not say how much of the rate limit may be used here: {why}"

    async def come(self, events: int) -> None:
        """Wait until a request with so many events may leave. Raises what broke while the ledger was asked."""
        self._coming += 1
        try:
            await self._held()
            seconds = self.pace.take(self._monotonic(), self.counted(events))
            while seconds > 0:
                self._waited = True
                await asyncio.sleep(min(seconds, SOON_SECONDS))
                await self._held()
                seconds = self.pace.due(self._monotonic())
        finally:
            self._coming -= 1
        self._left += self.counted(events)
        self._used_at = self._shared.elapsed()

    async def _held(self) -> None:
        """Wait until there is a share."""
        while not self._share.at(self._shared.elapsed()):
            await self._shared.answer(self)

    def asks(self, now: float) -> Asked:
        """Return what is asked of the ledger; after a lull nothing is wanted, and nothing more may be used."""
        used = self._share.at(now)
        if not self._coming and now - self._used_at > LULL_SECONDS:
            self._share.answered(now, 0.0)
            return Asked(self._route, self._limit, 0.0, 0.0)
        seconds = max(SOON_SECONDS, now - self._asked_at)
        wanted = self._limit if self._waited else max(2 * self._left / seconds, LEAST_WANTED * self._limit)
        self._asked_at, self._left, self._waited = now, 0.0, False
        return Asked(self._route, self._limit, min(self._limit, wanted), used)

    def answered(self, asked_at: float, share: float) -> None:
        """Go on with what was granted."""
        self._share.answered(asked_at, share)
        if share:
            self.pace.limit(self._monotonic(), share)
