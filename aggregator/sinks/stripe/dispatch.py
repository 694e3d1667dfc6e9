"""Which events go next: within the pace, within the requests in flight, one at a time per customer and meter.

Everything in here happens on one event loop, so that it needs no locks.

Rules
- One request in flight per key (account, customer and Stripe meter), however many batches and roads there are: Stripe
  turns a second one away (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api). A request of many events
  holds those of a key that follow each other, unless they have to go `alone`.
- A key is remembered while it has events here, and no longer. Memory is bounded by the batches in hand.
- An event either leaves or is given back as UNSENT, once. What has left is always waited for.
- Right before an event leaves its batch is asked whether it still may: a process that was paused must not send what
  another one has taken over meanwhile.
- No event waits here for longer than `patience_seconds`: a claim on it must not run out while it stands in the queue.
- A road that prepares, or waits for its pace, holds no place among the requests in flight, so that no account waits for
  another's.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

from aggregator.core.model import Answer, Event, Verdict
from aggregator.core.rate_limit import Pace
from aggregator.sinks.responses import Response


class Request:
    """One event of a batch, on its way: `waiting` until it leaves or is given back."""

    __slots__ = ("alone", "batch", "event", "key", "road", "waiting")

    def __init__(self, batch: "Batch", event: Event, bound: "Bound") -> None:
        self.batch = batch
        self.event = event
        self.road, self.key, self.alone = bound
        self.waiting = True

    def may_leave(self) -> bool:
        """Ask whether the event may (still) leave: also of use to who has waited since the request was made up."""
        return not self.batch.closed and self.batch.may_leave()


Deliver = Callable[[Sequence[Request]], Coroutine[Any, Any, Sequence[Response]]]
"""Makes one request of some events, and judges each of them, in their order."""


Prepare = Callable[[], Coroutine[Any, Any, None]]
"""Does what has to come before a road's next request. It must not raise."""


class Batch:
    """The events of one `send`, and what was said of them: a verdict for each, or the error that broke us."""

    def __init__(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> None:
        self.events = events
        self.may_leave = may_leave
        self.closed = False
        """Whether nothing more of it may leave."""
        self.said: SimpleQueue[Verdict | BaseException] = SimpleQueue()
        self.jobs: list[Request] = []
        self.unanswered = len(events)
        self.patience: asyncio.TimerHandle | None = None


class Pacer:
    """When a road's next request may leave: a pace, by which a request counts as one call, or as its events."""

    def __init__(self, pace: Pace, monotonic: Callable[[], float], *, by_event: bool = False) -> None:
        self.pace = pace
        self._monotonic = monotonic
        self._by_event = by_event

    async def come(self, events: int) -> None:
        """Wait until a request with so many events may leave."""
        seconds = self.pace.take(self._monotonic(), events if self._by_event else 1)
        if seconds > 0:
            await asyncio.sleep(seconds)

    def throttled(self, pause_seconds: float) -> None:
        """Take a refusal into account."""
        self.pace.throttled(self._monotonic(), pause_seconds)


class Road:
    """One way to one account: what is ready to go there, `at_once` events per request at most."""

    def __init__(
        self, turn: Pacer, deliver: Deliver, at_once: int = 1, prepare: Prepare | None = None
    ) -> None:
        self.turn = turn
        self.prepare = prepare
        self.deliver = deliver
        self.at_once = at_once
        self.ready: asyncio.Queue[Request] = asyncio.Queue()
        self.running: asyncio.Task[None] | None = None


class Bound(NamedTuple):
    """Where an event goes: by which road, and what may have one request in flight."""

    road: Road
    key: Hashable
    alone: bool = False
    """Whether no other event of its key may be in the same request: it is not known in which order they would count."""


class Dispatcher:
    """Lets events leave and puts what became of them into their batch's queue. `bind` says where each goes."""

    def __init__(
        self, bind: Callable[[Event], Bound], *, max_in_flight: int, patience_seconds: float
    ) -> None:
        self.halted: str | None = None
        self._bind = bind
        self._slots = asyncio.Semaphore(max_in_flight)
        self._patience_seconds = patience_seconds
        self._stopped = False
        self._broken: BaseException | None = None
        self._chains: dict[Hashable, deque[Request]] = {}
        self._batches: set[Batch] = set()
        self._roads: set[Road] = set()
        self._calls: set[asyncio.Task[Sequence[Response]]] = set()

    async def submit(self, batch: Batch) -> None:
        """Take a batch in; give it back at once if nothing may leave any more. Raise what broke us, if anything did."""
        if self._broken:
            raise self._broken
        batch.jobs = [Request(batch, event, bound) for event, bound in self._bound(batch.events)]
        self._batches.add(batch)
        if self._stopped or self.halted:
            self.give_back(batch)
            return
        loop = asyncio.get_running_loop()
        batch.patience = loop.call_later(self._patience_seconds, self.give_back, batch)
        for job in batch.jobs:
            self._line_up(job)

    def give_back(self, batch: Batch) -> None:
        """Give back as UNSENT what has not left of a batch."""
        batch.closed = True
        for job in batch.jobs:
            if job.waiting:
                job.waiting = False
                self._say(batch, Verdict(job.event.id, Answer.UNSENT, self.halted))

    def resume(self) -> None:
        """Let events leave again after having been halted."""
        self.halted = None

    def stop(self) -> None:
        """Let nothing more leave."""
        self._stopped = True
        self._give_back_all()

    async def landed(self) -> None:
        """Wait for what has left."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def close(self) -> None:
        """Wait for what has left, and let no road wait for anything more."""
        await self.landed()
        running = [road.running for road in self._roads if road.running]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _bound(self, events: Sequence[Event]) -> Iterable[tuple[Event, Bound]]:
        """Say where each event goes, and see to it that the road there is served."""
        for event in events:
            bound = self._bind(event)
            if bound.road.running is None:
                bound.road.running = asyncio.create_task(self._serve(bound.road))
                self._roads.add(bound.road)
            yield event, bound

    async def _serve(self, road: Road) -> None:
        """Let events leave by a road, until cancelled. If it breaks, every sender is told why."""
        try:
            while True:
                jobs = await self._next(road)
                if road.prepare is not None:
                    await road.prepare()
                await road.turn.come(len(jobs))
                await self._slots.acquire()
                leaving = self._still(jobs)
                if leaving:
                    self._leave(road, leaving)
                else:
                    self._slots.release()
        except BaseException as error:
            self._broken = error
            for batch in list(self._batches):
                self._say(batch, error)
            raise

    async def _next(self, road: Road) -> list[Request]:
        """Return what makes up the next request: what is ready, and of each key what follows it."""
        jobs: list[Request] = []
        while not jobs or (len(jobs) < road.at_once and not road.ready.empty()):
            jobs += self._together(await road.ready.get(), road.at_once - len(jobs))
        return jobs

    def _together(self, first: Request, most: int) -> list[Request]:
        """Return a job with those behind it that may go in the same request; none, if all of them were given back."""
        jobs, chain = [first] if first.waiting else [], self._chains[first.key]
        while (
            chain and len(jobs) < most and chain[0].road is first.road and not (chain[0].alone or first.alone)
        ):
            following = chain.popleft()
            if following.waiting:
                jobs.append(following)
        if not jobs:
            self._advance(first.key)
        return jobs

    def _still(self, jobs: Sequence[Request]) -> list[Request]:
        """Return which of them may still leave. A key of which all were given back meanwhile goes on with what follows."""
        for batch in {job.batch for job in jobs}:
            if not batch.closed and not batch.may_leave():
                self.give_back(batch)
        leaving = [job for job in jobs if job.waiting]
        kept = {job.key for job in leaving}
        for key in dict.fromkeys(job.key for job in jobs):
            if key not in kept:
                self._advance(key)
        return leaving

    def _line_up(self, job: Request) -> None:
        chain = self._chains.get(job.key)
        if chain is None:
            self._chains[job.key] = deque()
            job.road.ready.put_nowait(job)
        else:
            chain.append(job)

    def _advance(self, key: Hashable) -> None:
        chain = self._chains[key]
        if chain:
            job = chain.popleft()
            job.road.ready.put_nowait(job)
        else:
            del self._chains[key]

    def _leave(self, road: Road, jobs: list[Request]) -> None:
        for job in jobs:
            job.waiting = False
        call = asyncio.create_task(road.deliver(jobs))
        self._calls.add(call)
        call.add_done_callback(partial(self._return, jobs))

    def _return(self, jobs: Sequence[Request], call: asyncio.Task[Sequence[Response]]) -> None:
        """Pass on what became of a request, heed what it means for all, and let the next event of each key come up."""
        self._calls.discard(call)
        self._slots.release()
        error = call.exception()
        if error is not None:
            for job in jobs:
                self._say(job.batch, error)
        else:
            for job, judgement in zip(jobs, call.result(), strict=True):
                self._heed(job.road, judgement)
                self._say(job.batch, _verdict(job.event, judgement))
        for key in dict.fromkeys(job.key for job in jobs):
            self._advance(key)

    def _heed(self, road: Road, judgement: Response) -> None:
        if judgement.throttled:
            road.turn.throttled(judgement.retry_after or 0.0)
        if judgement.halt and not self.halted:
            self.halted = judgement.halt
            self._give_back_all()

    def _give_back_all(self) -> None:
        for batch in list(self._batches):
            self.give_back(batch)

    def _say(self, batch: Batch, said: Verdict | BaseException) -> None:
        batch.said.put(said)
        batch.unanswered -= 1
        if batch.unanswered == 0:
            self._batches.discard(batch)
            if batch.patience:
                batch.patience.cancel()


def _verdict(event: Event, judgement: Response) -> Verdict:
    return Verdict(event.id, judgement.answer, judgement.reason, judgement.request_id, judgement.retry_after)
