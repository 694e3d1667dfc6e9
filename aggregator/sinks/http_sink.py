"""What all sinks over HTTP do alike: several threads send, one event loop on a thread of its own makes the calls.

Rules
- Nothing is imported, opened or started before the first use: a library alone takes most of a second.
- A send lasts no longer than an event may wait for its turn, and a few requests' timeouts.
- Once halted, a sink stays halted until `resume` finds that its key is taken.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from aggregator.core.model import Answer, Event, Verdict
from aggregator.core.rate_limit import Pace
from aggregator.errors import SinkHalted, SinkUnreachable
from aggregator.runtime.clock import monotonic
from aggregator.sinks.dispatch import Batch, Dispatcher, Pacer
from aggregator.sinks.event_loop import LazyLoop
from aggregator.sinks.read_allowance import ReadAllowance
from aggregator.sinks.shared_rate import SharedRate

PATIENCE = dt.timedelta(minutes=1)
"""How long an event may wait for its turn before it is given back: far less than a claim in the ledger lasts."""

READ_PATIENCE_SECONDS = 15.0
"""How long a figure waits for a ledger that does not answer: several times as long as one that stalls for a moment."""

BATCH_SECONDS = 5
"""A batch is as many events as leave within this time, at most as many as a sink bears: a slow sink holds few."""

LEAST_BATCH = 20

Far = TypeVar("Far")
Result = TypeVar("Result")


class Client(Protocol):
    """A pool of connections. Made, used and closed on one event loop."""

    def use_key(self, api_key: str) -> None:
        """Make every call from now on with this key; those that are under way end with the one they began with."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class Connection(NamedTuple, Generic[Far]):
    """What is open while a sink is in use: by what it calls, what lets events leave, and what the far side can be asked."""

    client: Client
    dispatcher: Dispatcher
    far: Far


class HttpSink(Generic[Far]):
    """Sends events by what `_connect` opens."""

    def __init__(self, name: str, api_key: str) -> None:
        self.name = name
        self._api_key = api_key
        self._loop = LazyLoop(f"sink-{name}", self._connect, self._shut)
        self._shared: SharedRate | None = None
        self._reads: ReadAllowance | None = None
        self._read_pacer: Pacer | None = None
        self._stopped = False
        self._unopened: str | None = None
        """Why it could not be opened, if that halts it."""

    def share_rate(self, shared: SharedRate) -> None:
        """Keep to its shares of the rate limits, from the first event on: others send to the same account."""
        self._shared = shared

    def limit_reads(self, allowance: ReadAllowance) -> None:
        """Ask for figures no more often than this, and have each of them counted."""
        self._reads = allowance

    def send(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> Iterator[Verdict]:
        """Send events and yield a verdict on each as it arrives. Raises SinkHalted, at the end, once the sink is halted."""
        halted = self._halted
        if events and not (self._stopped or halted):
            halted = yield from self._send(events, may_leave)
        else:
            yield from (Verdict(event.id, Answer.UNSENT, halted) for event in events)
        if halted:
            raise SinkHalted(halted)

    def use_key(self, api_key: str) -> None:
        """Make every call from now on with another key of the same account and mode; who calls has asked whose it is."""
        self._api_key = api_key
        self._loop.open()
        self._loop.post(lambda connection: connection.client.use_key(api_key))

    def stop(self) -> None:
        """Begin nothing new: what has not left is UNSENT from now on, what has left is waited for."""
        self._stopped = True
        self._loop.post(lambda connection: connection.dispatcher.stop())

    def close(self) -> None:
        """Wait for what has left, then give back connections and thread. Doing it twice does no harm."""
        self.stop()
        self._loop.close()

    @property
    def _halted(self) -> str | None:
        """Why the sink is refused as a whole."""
        connection = self._loop.now
        return self._unopened or (connection.dispatcher.halted if connection else None)

    async def _connect(self) -> Connection[Far]:
        """Open what is needed to send, on the loop. Raises SinkHalted if a person has to act before that can be done."""
        raise NotImplementedError

    def _pacer(
        self, route: str, pace: Pace, monotonic: Callable[[], float], *, by_event: bool = False
    ) -> Pacer:
        """Return what paces a route, whose limit is shared if the sink's are."""
        if self._shared is not None:
            return self._shared.pacer(route, pace, monotonic, by_event=by_event)
        return Pacer(pace, monotonic, by_event=by_event)

    async def _shut(self, connection: Connection[Far]) -> None:
        try:
            await connection.dispatcher.close()
            if self._shared is not None:
                await self._shared.close()
            self._read_pacer = None
        finally:
            await connection.client.close()

    def _ask(self, question: Callable[[Far], Coroutine[Any, Any, Result]]) -> Result:
        """Have something asked of the far side; return or raise what comes of it."""
        return self._loop.ask(lambda connection: question(connection.far))

    def _read(self, question: Callable[[Far], Coroutine[Any, Any, Result]], reads: int = 1) -> Result:
        """Have a figure asked for, which takes so many calls, once it is its turn; return or raise what comes of it."""
        allowance = self._reads
        if allowance is None:
            return self._ask(question)
        allowance.take(reads)

        async def paced(far: Far) -> Result:
            if self._read_pacer is None:  # made on the loop: many threads ask at once
                self._read_pacer = self._pacer("reads", Pace(allowance.per_second), monotonic)
            for _ in range(reads):
                await _turn(self._read_pacer)
            return await question(far)

        return self._ask(paced)

    async def _turn_for_more(self) -> None:
        """Count one more call that a figure takes, and wait until it is its turn. Called while one is read, on the loop."""
        allowance, pacer = self._reads, self._read_pacer
        if allowance is not None and pacer is not None:
            await asyncio.to_thread(allowance.take)
            await _turn(pacer)

    def _resumed(self) -> None:
        """Send again after having been halted."""
        self._loop.ask(lambda connection: connection.dispatcher.resume())
        self._unopened = None

    def _send(
        self, events: Sequence[Event], may_leave: Callable[[], bool]
    ) -> Generator[Verdict, None, str | None]:
        """Yield the verdicts; return why the sink is halted, if it is by then."""
        try:
            dispatcher = self._loop.open().dispatcher
        except SinkHalted as halted:
            self._unopened = str(halted)
            yield from (Verdict(event.id, Answer.UNSENT, self._unopened) for event in events)
            return self._unopened
        if self._stopped:
            self.stop()  # it may have come while there was no dispatcher to be told
        batch = Batch(events, may_leave)
        self._loop.ask(lambda connection: connection.dispatcher.submit(batch))
        try:
            yield from batch.verdicts()
        finally:
            if batch.unanswered:  # whoever asked has gone: nothing more of it may leave
                self._loop.post(lambda connection: connection.dispatcher.give_back(batch))
        return dispatcher.halted


async def _turn(pacer: Pacer) -> None:
    """Wait until a figure may be asked for. Raises SinkUnreachable if that is not to be foreseen."""
    coming = asyncio.ensure_future(pacer.come(1))
    while not (await asyncio.wait({coming}, timeout=READ_PATIENCE_SECONDS))[0]:
        if pacer.obstacle is not None:
            coming.cancel()
            raise SinkUnreachable(f"Nothing can be asked of it now: {pacer.obstacle}")
    await coming


def batch(events_per_second: float, most: int) -> int:
    """Return how many events a sink of this rate is given at once."""
    return min(most, max(LEAST_BATCH, int(events_per_second * BATCH_SECONDS)))
