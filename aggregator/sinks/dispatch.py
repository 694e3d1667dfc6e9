"""Which events go next: within the pace, within the requests in flight, one request at a time for each key.

What differs between far sides is handed in: a `Route` is one way to one account, as a record of functions, and `bind` says
by which of them an event goes. Everything in here happens on one event loop, so that it needs no locks.

Rules
- One request in flight per key, however many batches and routes there are. A request of many events holds those of a key
  that follow each other, unless they have to go `alone`. What has no key waits for nobody.
- A key is remembered while it has events here, and no longer. Memory is bounded by the batches in hand.
- An event either leaves or is given back as UNSENT, once. What has left is always waited for.
- Right before an event leaves its batch is asked whether it still may: a process that was paused must not send what
  another one has taken over meanwhile.
- No event waits here for longer than `patience_seconds`: a claim on it must not run out while it stands in the queue.
- A route that prepares, or waits for its pace, holds no place among the requests in flight, so that no account waits for
  another's.
- A request that is refused goes again in halves, one after the other and ahead of what is ready, until an event that is
  refused stands alone: only that one is. So one bad event among a hundred costs about fourteen requests, and a request never
  more than twice as many as it has events. A half waits and is asked about like any other request, and its keys are free
  when the last one is through. What becomes of its events, given back or not, is judged by `after_refusal`.
- Verdicts are told to the thread that waits for them several at a time, within milliseconds: waking it for each of them is
  not free.
- What a route has an `objection` to is asked before it lines up, and nothing else waits for that. Events that are cleared in
  the same moment share a request again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple

from aggregator.core.model import Answer, Event, Verdict
from aggregator.core.rate_limit import Pace
from aggregator.sinks.responses import Response

REFUSED = (Answer.REFUSED, Answer.DUPLICATE)
"""What is said of a request because of one of its events."""

POSTED_WITHIN_SECONDS = 0.005
"""How long a verdict may lie before its thread is woken: no person notices it, and hundreds of calls may end meanwhile."""


class Batch:
    """The events of one `send`, and what was said of them: a verdict for each, or the error that broke us."""

    def __init__(self, events: Sequence[Event], may_leave: Callable[[], bool]) -> None:
        self.events = events
        self.may_leave = may_leave
        self.closed = False
        """Whether nothing more of it may leave."""
        self.said: SimpleQueue[list[Verdict] | BaseException] = SimpleQueue()
        self.unposted: list[Verdict] = []
        """What was said and not yet passed on; `posting` does that after a moment."""
        self.posting: asyncio.TimerHandle | None = None
        self.queued: list[Queued] = []
        self.unanswered = len(events)
        self.patience: asyncio.TimerHandle | None = None

    def verdicts(self) -> Iterator[Verdict]:
        """Yield a verdict on each event as it arrives, on any thread. Raises what broke us."""
        left = len(self.events)
        while left > 0:
            said = self.said.get()
            if isinstance(said, BaseException):
                raise said
            yield from said
            left -= len(said)

    def post(self) -> None:
        """Pass on what was said."""
        if self.posting is not None:
            self.posting.cancel()
            posted, self.unposted, self.posting = self.unposted, [], None
            self.said.put(posted)


class Queued:
    """One event of a batch, on its way: `waiting` until it leaves or is given back."""

    __slots__ = ("alone", "batch", "event", "key", "refusal", "waiting", "worker")

    def __init__(self, batch: Batch, event: Event, bound: "Bound", worker: "_Worker") -> None:
        self.batch = batch
        self.event = event
        _, self.key, self.alone = bound
        self.worker = worker
        self.waiting = True
        self.refusal: Response | None = None
        """What the last request with it was told, if that is why it goes again."""


def still(queued: Sequence[Queued]) -> list[Queued]:
    """Return which events may (still) leave: also of use to who has waited since their request was made up."""
    may = {batch for batch in {each.batch for each in queued} if not batch.closed and batch.may_leave()}
    return [each for each in queued if each.batch in may]


class Pacer:
    """When a route's next request may leave: a pace, by which a request counts as one call, or as its events."""

    def __init__(self, pace: Pace, monotonic: Callable[[], float], *, by_event: bool = False) -> None:
        self.pace = pace
        self._monotonic = monotonic
        self._by_event = by_event

    @property
    def obstacle(self) -> str | None:
        """What keeps everything from leaving that will not pass with time alone, if anything does."""
        return None

    async def come(self, events: int) -> None:
        """Wait until a request with so many events may leave."""
        seconds = self.pace.take(self._monotonic(), self.counted(events))
        if seconds > 0:
            await asyncio.sleep(seconds)

    def counted(self, events: int) -> int:
        """Return as how much a request with so many events counts."""
        return events if self._by_event else 1

    def throttled(self, pause_seconds: float) -> None:
        """Take a refusal into account."""
        self.pace.throttled(self._monotonic(), pause_seconds)


Objection = Callable[[Event], Coroutine[Any, Any, Response | None]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One way to one account."""

    pacer: Pacer
    deliver: Callable[[Sequence[Queued]], Coroutine[Any, Any, Sequence[Response]]]
    """Make one request of some events, and judge each of them, in their order."""
    at_once: int = 1
    """How many events a request takes."""
    prepare: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Do what has to come before the next request. It must not raise."""
    fault: Callable[[Event], Response | None] | None = None
    """Say why an event is not sent after that; None if it is."""
    objection: Objection | None = None
    """Say why a decrease is not sent; None if it is. It may take its time."""
    after_refusal: Callable[[Response, Response], Response] | None = None
    """Judge an event by its last response, after another one by which a request with it was refused."""


class Bound(NamedTuple):
    """Where an event goes: by which route, and what may have one request in flight; None if any number."""

    route: Route
    key: Hashable = None
    alone: bool = False
    """Whether no other event of its key may be in the same request: it is not known in which order they would count."""


class _Worker:
    """What a route has to do: requests to be made again in halves, and what is ready."""

    __slots__ = ("halved", "ready", "route", "something", "task")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.halved: deque[_Request] = deque()
        self.ready: deque[Queued] = deque()
        self.something = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def put(self, queued: Queued) -> None:
        """Have an event leave when its turn comes."""
        self.ready.append(queued)
        self.something.set()


class _Request:
    """Events that go together, or in parts: `part` is the one whose turn it is, `left` are those behind it."""

    __slots__ = ("left", "part", "whole")

    def __init__(self, whole: list[Queued]) -> None:
        self.whole = whole
        self.part = whole
        self.left: list[list[Queued]] = []


class Dispatcher:
    """Lets events leave and puts what became of them into their batch's queue.

    `bind` says where an event goes, or why nowhere.
    """

    def __init__(
        self, bind: Callable[[Event], Bound | Response], *, max_in_flight: int, patience_seconds: float
    ) -> None:
        self.halted: str | None = None
        self._bind = bind
        self._slots = asyncio.Semaphore(max_in_flight)
        self._patience_seconds = patience_seconds
        self._stopped = False
        self._broken: BaseException | None = None
        self._chains: dict[Hashable, deque[Queued]] = {}
        self._batches: set[Batch] = set()
        self._workers: dict[Route, _Worker] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._asking: set[asyncio.Task[None]] = set()

    async def submit(self, batch: Batch) -> None:
        """Take a batch in; give it back at once if nothing may leave any more. Raise what broke us, if anything did."""
        if self._broken:
            raise self._broken
        for event in batch.events:
            bound = self._bind(event)
            if isinstance(bound, Response):
                self._say(batch, _verdict(event, bound))
            else:
                batch.queued.append(Queued(batch, event, bound, self._worker(bound.route)))
        if not batch.unanswered:
            return
        self._batches.add(batch)
        if self._stopped or self.halted:
            self.give_back(batch)
            return
        loop = asyncio.get_running_loop()
        batch.patience = loop.call_later(self._patience_seconds, self.give_back, batch)
        for queued in batch.queued:
            objection = queued.worker.route.objection
            if objection is not None and queued.event.delta < 0:
                _begin(self._ask(objection, queued), self._asking)
            else:
                self._line_up(queued)

    def give_back(self, batch: Batch) -> None:
        """Give back as UNSENT what has not left of a batch; no part of it leaves any more."""
        batch.closed = True
        for queued in batch.queued:
            if queued.waiting:
                obstacle = self.halted or queued.worker.route.pacer.obstacle
                self._settle(queued, Response(Answer.UNSENT, obstacle))

    async def resume(self) -> None:
        """Let events leave again after having been halted."""
        self.halted = None

    def stop(self) -> None:
        """Let nothing more leave."""
        self._stopped = True
        self._give_back_all()

    async def close(self) -> None:
        """Wait for what has left, and end what waits for its turn; nothing of it is owed a word any more."""
        self.stop()
        while self._calls:
            await asyncio.wait(self._calls)
        waiting = [worker.task for worker in self._workers.values() if worker.task] + list(self._asking)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _worker(self, route: Route) -> _Worker:
        """Return who serves a route, from its first event on."""
        worker = self._workers.get(route)
        if worker is None:
            worker = self._workers[route] = _Worker(route)
            worker.task = asyncio.create_task(self._serve(worker))
        return worker

    async def _ask(self, objection: Objection, queued: Queued) -> None:
        """Ask whether an event may leave; if it may, it lines up."""
        try:
            response = await objection(queued.event)
        except Exception as error:  # noqa: BLE001 - raised again on the thread that waits for it
            queued.waiting = False
            self._say(queued.batch, error)
            return
        if not queued.waiting:
            return
        if response is None:
            self._line_up(queued)
        else:
            self._settle(queued, response)

    async def _serve(self, worker: _Worker) -> None:
        """Let events leave by a route, until cancelled. If it breaks, every sender is told why."""
        try:
            while True:
                await self._let_leave(worker, await self._next(worker))
        except BaseException as error:
            self._broken = error
            for batch in list(self._batches):
                self._say(batch, error)
            raise

    async def _let_leave(self, worker: _Worker, request: _Request) -> None:
        """Begin a request once its turn has come, with what may still leave by then."""
        route = worker.route
        if route.prepare is not None:
            await route.prepare()
        await route.pacer.come(len(request.part))
        await self._slots.acquire()
        leaving = self._still(route, request.part)
        if leaving:
            _begin(self._call(worker, request, leaving), self._calls)
        else:
            self._slots.release()
            self._go_on(worker, request)

    async def _next(self, worker: _Worker) -> _Request:
        """Return what makes up the next request: a half of one before, or what is ready, and of each key what follows it."""
        while True:
            if not (worker.halved or worker.ready):
                worker.something.clear()
                await worker.something.wait()
            while worker.halved:
                request = worker.halved.popleft()
                request.part = [queued for queued in request.left.pop() if queued.waiting]
                if request.part:
                    return request
                self._go_on(worker, request)
            queued: list[Queued] = []
            while worker.ready and len(queued) < worker.route.at_once:
                queued += self._together(worker.ready.popleft(), worker.route.at_once - len(queued))
            if queued:
                return _Request(queued)

    def _together(self, first: Queued, most: int) -> list[Queued]:
        """Return an event with those behind it that may go in the same request; none, if all of them were given back."""
        found = [first] if first.waiting else []
        if first.key is None:
            return found
        chain = self._chains[first.key]
        while (
            chain
            and len(found) < most
            and chain[0].worker is first.worker
            and not (chain[0].alone or first.alone)
        ):
            following = chain.popleft()
            if following.waiting:
                found.append(following)
        if not found:
            self._advance(first.key)
        return found

    def _still(self, route: Route, part: Sequence[Queued]) -> list[Queued]:
        """Return which of them leave now; all others have been told why not."""
        for batch in {queued.batch for queued in part} if len(part) > 1 else (part[0].batch,):
            if not batch.closed and not batch.may_leave():
                self.give_back(batch)
        if route.fault is not None:
            for queued in part:
                fault = route.fault(queued.event) if queued.waiting else None
                if fault is not None:
                    self._settle(queued, fault)
        leaving = [queued for queued in part if queued.waiting]
        for queued in leaving:
            queued.waiting = False
        return leaving

    async def _call(self, worker: _Worker, request: _Request, leaving: Sequence[Queued]) -> None:
        """Make a request, and pass on what became of it; whatever breaks is told to who waits for it."""
        try:
            self._pass_on(request, leaving, await worker.route.deliver(leaving))
        except Exception as error:  # noqa: BLE001 - raised again on the thread that waits for it
            for queued in leaving:
                self._say(queued.batch, error)
        self._slots.release()
        self._go_on(worker, request)

    def _pass_on(self, request: _Request, leaving: Sequence[Queued], responses: Sequence[Response]) -> None:
        """Tell each event what became of it; those that were refused together go again in halves."""
        divides = len(leaving) > 1 and sum(response.answer in REFUSED for response in responses) > 1
        refused = []
        for queued, response in zip(leaving, responses, strict=True):
            if divides and response.answer in REFUSED:
                queued.refusal, queued.waiting = response, True
                refused.append(queued)
            else:
                self._settle(queued, response)
        if refused:
            middle = len(refused) // 2
            request.left += [refused[middle:], refused[:middle]]
            for batch in {queued.batch for queued in refused if queued.batch.closed}:
                self.give_back(batch)

    def _go_on(self, worker: _Worker, request: _Request) -> None:
        """Line up what is left of a request; with nothing left, let the next event of each of its keys come up."""
        if request.left:
            worker.halved.append(request)
            worker.something.set()
        else:
            whole = request.whole
            keys = (whole[0].key,) if len(whole) == 1 else dict.fromkeys(queued.key for queued in whole)
            for key in keys:
                if key is not None:
                    self._advance(key)

    def _line_up(self, queued: Queued) -> None:
        if queued.key is None:
            queued.worker.put(queued)
            return
        chain = self._chains.get(queued.key)
        if chain is None:
            self._chains[queued.key] = deque()
            queued.worker.put(queued)
        else:
            chain.append(queued)

    def _advance(self, key: Hashable) -> None:
        chain = self._chains[key]
        if chain:
            queued = chain.popleft()
            queued.worker.put(queued)
        else:
            del self._chains[key]

    def _settle(self, queued: Queued, response: Response) -> None:
        """Say what became of an event, and heed what it means for others."""
        queued.waiting = False
        route = queued.worker.route
        if queued.refusal is not None and route.after_refusal is not None:
            response = route.after_refusal(response, queued.refusal)
        if response.throttled:
            route.pacer.throttled(response.retry_after or 0.0)
        if response.halt and not self.halted:
            self.halted = response.halt
            self._give_back_all()
        self._say(queued.batch, _verdict(queued.event, response))

    def _give_back_all(self) -> None:
        for batch in list(self._batches):
            self.give_back(batch)

    def _say(self, batch: Batch, said: Verdict | BaseException) -> None:
        if isinstance(said, BaseException):
            batch.post()
            batch.said.put(said)
        else:
            batch.unposted.append(said)
            if batch.posting is None:
                batch.posting = asyncio.get_running_loop().call_later(POSTED_WITHIN_SECONDS, batch.post)
        batch.unanswered -= 1
        if batch.unanswered == 0:
            batch.post()
            self._batches.discard(batch)
            batch.queued = []  # each of them knows its batch: together they would stay until garbage is searched for
            if batch.patience:
                batch.patience.cancel()


def _begin(coroutine: Coroutine[Any, Any, None], running: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(coroutine)
    running.add(task)
    task.add_done_callback(running.discard)


def _verdict(event: Event, response: Response) -> Verdict:
    return Verdict(event.id, response.answer, response.reason, response.request_id, response.retry_after)
