"""Which request goes next: within the pace, within the requests in flight; and what was refused as a whole is divided.

Everything in here happens on one event loop, so that it needs no locks.

Rules
- A request holds as many events as one may. One that is refused is sent again in halves, each a request of its own, until
  an event that is refused stands alone: only that one is. So one bad event costs about fourteen requests, and a request
  never more than twice as many as it has events.
- An event either leaves or is given back, once. What has left is always waited for.
- Right before a request leaves, its batch is asked whether it still may: a process that was paused must not send what
  another one has taken over meanwhile. A half of a refused request is asked about like any other.
- A decrease is asked about before it lines up, and nothing else waits for that. Those that may leave at the same time share
  a request again.
- No event waits here for longer than `patience_seconds`: a claim on it must not run out while it stands in the queue.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from queue import SimpleQueue
from typing import Any

from aggregator.core.model import Answer, Event, Verdict
from aggregator.core.rate_limit import Pace
from aggregator.sinks.metronome.responses import after_refusal
from aggregator.sinks.responses import Response

MOST_EVENTS = 100
"""As many as one request takes (docs.metronome.com, send usage events)."""

Deliver = Callable[[Sequence[Event]], Coroutine[Any, Any, Response]]

Object = Callable[[Event], Coroutine[Any, Any, Response | None]]
"""Says why a decrease does not leave; None if it may."""


class Request:
    """Events that go in one request: `waiting` until they leave or are given back."""

    __slots__ = ("batch", "events", "refused_before", "waiting")

    def __init__(self, batch: "Batch", events: Sequence[Event], *, refused_before: bool = False) -> None:
        self.batch = batch
        self.events = events
        self.refused_before = refused_before
        self.waiting = True


class Batch:
    """The events of one `send`, and what was said of them: a verdict for each, or the error that broke us."""

    def __init__(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> None:
        self.events = events
        self.may_leave = may_leave
        self.said: SimpleQueue[Verdict | BaseException] = SimpleQueue()
        self.parcels: list[Request] = []
        self.cleared: list[Request] = []
        """Decreases that may leave, and have not lined up yet."""
        self.unanswered = len(events)
        self.patience: asyncio.TimerHandle | None = None
        self.given_back = False


class Dispatcher:
    """Lets requests leave and puts what became of their events into their batch's queue."""

    def __init__(
        self,
        pace: Pace,
        deliver: Deliver,
        objection: Object,
        *,
        max_in_flight: int,
        patience_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.halted: str | None = None
        self._pace = pace
        self._deliver = deliver
        self._objection = objection
        self._slots = asyncio.Semaphore(max_in_flight)
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._stopped = False
        self._batches: set[Batch] = set()
        self._on_their_way: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._landed = asyncio.Event()
        self._landed.set()

    async def submit(self, batch: Batch) -> None:
        """Take a batch in; give it back at once if nothing may leave any more."""
        events = batch.events
        self._batches.add(batch)
        batch.patience = asyncio.get_running_loop().call_later(self._patience_seconds, self.give_back, batch)
        self._line_up_all(batch, [event for event in events if event.delta >= 0])
        for event in events:
            if event.delta < 0:
                parcel = Request(batch, [event])
                batch.parcels.append(parcel)
                self._begin(self._clear(parcel))
        if self._stopped or self.halted:
            self.give_back(batch)

    def give_back(self, batch: Batch) -> None:
        """Give back what has not left of a batch; no part of it leaves any more."""
        batch.given_back = True
        for parcel in batch.parcels:
            if parcel.waiting:
                self._give_back(parcel)

    def resume(self) -> None:
        """Let events leave again after having been halted."""
        self.halted = None

    def stop(self) -> None:
        """Let nothing more leave."""
        self._stopped = True
        for batch in list(self._batches):
            self.give_back(batch)

    async def close(self) -> None:
        """Wait for what has left, and end what waits for its turn; nothing of it is owed a word any more."""
        self.stop()
        await self._landed.wait()
        waiting = list(self._on_their_way)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _clear(self, parcel: Request) -> None:
        """Ask whether a decrease may leave; if it may, it lines up with those that are cleared in the same moment."""
        batch = parcel.batch
        try:
            judgement = await self._objection(parcel.events[0])
        except Exception as error:  # noqa: BLE001 - raised again on the thread that waits for it
            self._break(batch, error)
            return
        if not parcel.waiting:
            return
        if judgement is not None:
            parcel.waiting = False
            self._say(parcel, judgement)
            return
        if not batch.cleared:
            asyncio.get_running_loop().call_soon(self._line_up_cleared, batch)
        batch.cleared.append(parcel)

    def _line_up_cleared(self, batch: Batch) -> None:
        cleared, batch.cleared = [each for each in batch.cleared if each.waiting], []
        for each in cleared:
            each.waiting = False
        self._line_up_all(batch, [each.events[0] for each in cleared])

    def _line_up_all(self, batch: Batch, events: Sequence[Event]) -> None:
        for first in range(0, len(events), MOST_EVENTS):
            self._line_up(Request(batch, events[first : first + MOST_EVENTS]))

    def _line_up(self, parcel: Request) -> None:
        parcel.batch.parcels.append(parcel)
        self._begin(self._carry(parcel))

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)

    def _break(self, batch: Batch, error: Exception) -> None:
        self._batches.discard(batch)
        batch.said.put(error)

    async def _carry(self, parcel: Request) -> None:
        """Take a parcel through its turn; whatever breaks on the way is told to who waits for it."""
        try:
            async with self._slots:
                if await self._may_leave(parcel):
                    self._settle(parcel, await self._send(parcel))
        except Exception as error:  # noqa: BLE001 - raised again on the thread that waits for it
            self._break(parcel.batch, error)

    async def _may_leave(self, parcel: Request) -> bool:
        """Wait for the pace and say whether the parcel may leave now."""
        if parcel.waiting:
            seconds = self._pace.take(self._monotonic(), len(parcel.events))
            if seconds > 0:
                await asyncio.sleep(seconds)
        if parcel.waiting and not parcel.batch.may_leave():
            self.give_back(parcel.batch)
        return parcel.waiting

    async def _send(self, parcel: Request) -> Response:
        parcel.waiting = False
        self._in_flight += 1
        self._landed.clear()
        try:
            return await self._deliver(parcel.events)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._landed.set()

    def _settle(self, parcel: Request, judgement: Response) -> None:
        """Pass on what became of a request, heed what it means for all, and divide what was refused as a whole."""
        self._heed(judgement)
        if judgement.answer is Answer.REFUSED and len(parcel.events) > 1:
            self._divide(parcel)
        else:
            self._say(parcel, judgement)

    def _divide(self, parcel: Request) -> None:
        middle = len(parcel.events) // 2
        for half in (parcel.events[:middle], parcel.events[middle:]):
            part = Request(parcel.batch, half, refused_before=True)
            if parcel.batch.given_back:
                self._give_back(part)
            else:
                self._line_up(part)

    def _heed(self, judgement: Response) -> None:
        if judgement.throttled:
            self._pace.throttled(self._monotonic(), judgement.retry_after or 0.0)
        if judgement.halt and not self.halted:
            self.halted = judgement.halt
            for batch in list(self._batches):
                self.give_back(batch)

    def _give_back(self, parcel: Request) -> None:
        parcel.waiting = False
        self._say(parcel, Response(Answer.UNSENT, self.halted))

    def _say(self, parcel: Request, judgement: Response) -> None:
        batch, told = parcel.batch, after_refusal(judgement) if parcel.refused_before else judgement
        for event in parcel.events:
            batch.said.put(Verdict(event.id, told.answer, told.reason, told.request_id, told.retry_after))
        batch.unanswered -= len(parcel.events)
        if batch.unanswered == 0:
            self._batches.discard(batch)
            if batch.patience:
                batch.patience.cancel()
