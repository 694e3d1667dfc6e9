"""Which event goes next: within the pace, within the calls in flight, one at a time per customer and meter.

Everything in here happens on one event loop, so that it needs no locks.

Rules
- One call in flight per key (customer and Stripe meter), however many batches there are: Stripe turns a second one away
  (docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api).
- A key is remembered while it has events here, and no longer. Memory is bounded by the batches in hand.
- An event either leaves or is given back as UNSENT, once. What has left is always waited for.
- Right before an event leaves its batch is asked whether it still may: a process that was paused must not send what
  another one has taken over meanwhile.
- No event waits here for longer than `patience_seconds`: a claim on it must not run out while it stands in the queue.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any

from aggregator.model import Answer, Event, Verdict
from aggregator.pace import Pace
from aggregator.sinks.stripe.verdicts import Judgement

Deliver = Callable[[Event], Coroutine[Any, Any, Judgement]]


class Job:
    """One event of a batch, on its way: `waiting` until it leaves or is given back."""

    __slots__ = ("batch", "event", "key", "waiting")

    def __init__(self, batch: "Batch", event: Event, key: Hashable) -> None:
        self.batch = batch
        self.event = event
        self.key = key
        self.waiting = True


class Batch:
    """The events of one `send`, and what was said of them: a verdict for each, or the error that broke us."""

    def __init__(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> None:
        self.events = events
        self.may_leave = may_leave
        self.said: SimpleQueue[Verdict | BaseException] = SimpleQueue()
        self.jobs: list[Job] = []
        self.unanswered = len(events)
        self.patience: asyncio.TimerHandle | None = None


class Dispatcher:
    """Lets events leave and puts what became of them into their batch's queue."""

    def __init__(
        self,
        key: Callable[[Event], Hashable],
        pace: Pace,
        *,
        max_in_flight: int,
        patience_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.halted: str | None = None
        self._key = key
        self._pace = pace
        self._slots = asyncio.Semaphore(max_in_flight)
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._stopped = False
        self._broken: BaseException | None = None
        self._ready: asyncio.Queue[Job] = asyncio.Queue()
        self._chains: dict[Hashable, deque[Job]] = {}
        self._batches: set[Batch] = set()
        self._calls: set[asyncio.Task[Judgement]] = set()

    async def submit(self, batch: Batch) -> None:
        """Take a batch in; give it back at once if nothing may leave any more. Raise what broke `run`, if it broke."""
        if self._broken:
            raise self._broken
        batch.jobs = [Job(batch, event, self._key(event)) for event in batch.events]
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
        for job in batch.jobs:
            if job.waiting:
                job.waiting = False
                self._say(batch, Verdict(job.event.id, Answer.UNSENT, self.halted))

    def stop(self) -> None:
        """Let nothing more leave."""
        self._stopped = True
        self._give_back_all()

    async def run(self, deliver: Deliver) -> None:
        """Let events leave by `deliver`, until cancelled. If it breaks, every sender is told why."""
        try:
            while True:
                await self._slots.acquire()
                self._leave(await self._next(), deliver)
        except BaseException as error:
            self._broken = error
            for batch in list(self._batches):
                self._say(batch, error)
            raise

    async def landed(self) -> None:
        """Wait for what has left."""
        while self._calls:
            await asyncio.wait(self._calls)

    def _line_up(self, job: Job) -> None:
        chain = self._chains.get(job.key)
        if chain is None:
            self._chains[job.key] = deque()
            self._ready.put_nowait(job)
        else:
            chain.append(job)

    def _advance(self, key: Hashable) -> None:
        chain = self._chains[key]
        if chain:
            self._ready.put_nowait(chain.popleft())
        else:
            del self._chains[key]

    async def _next(self) -> Job:
        """Return the next event that may leave now. One that was given back meanwhile makes room for its successor."""
        while True:
            job = await self._ready.get()
            if job.waiting:
                seconds = self._pace.take(self._monotonic())
                if seconds > 0:
                    await asyncio.sleep(seconds)
            if job.waiting and not job.batch.may_leave():
                self.give_back(job.batch)
            if job.waiting:
                return job
            self._advance(job.key)

    def _leave(self, job: Job, deliver: Deliver) -> None:
        job.waiting = False
        call = asyncio.create_task(deliver(job.event))
        self._calls.add(call)
        call.add_done_callback(partial(self._return, job))

    def _return(self, job: Job, call: asyncio.Task[Judgement]) -> None:
        """Pass on what became of a call, heed what it means for all, and let the key's next event come up."""
        self._calls.discard(call)
        self._slots.release()
        error = call.exception()
        if error is not None:
            self._say(job.batch, error)
        else:
            judgement = call.result()
            self._heed(judgement)
            self._say(job.batch, _verdict(job.event, judgement))
        self._advance(job.key)

    def _heed(self, judgement: Judgement) -> None:
        if judgement.throttled:
            self._pace.throttled(self._monotonic(), judgement.retry_after or 0.0)
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


def _verdict(event: Event, judgement: Judgement) -> Verdict:
    return Verdict(event.id, judgement.answer, judgement.reason, judgement.request_id, judgement.retry_after)
