"""The dispatcher of all sinks over HTTP: what leaves and in which order, over a far side that answers when it is told to."""

import asyncio
import datetime as dt
import gc
import weakref
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from functools import wraps
from typing import Any

from aggregator.core.model import Answer, Event, EventId
from aggregator.core.rate_limit import Pace
from aggregator.sinks.dispatch import Batch, Bound, Dispatcher, Pacer, Queued, Route
from aggregator.sinks.responses import Response

AT = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
ACCEPTED, NO = Response(Answer.ACCEPTED), Response(Answer.REFUSED, "no")
SECONDS = 20


def on_a_loop(body: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on an event loop, which must have nothing left to do at the end."""

    @wraps(body)
    def test() -> None:
        asyncio.run(asyncio.wait_for(body(), SECONDS))

    return test


def usage(number: int, customer: str = "cus_1") -> Event:
    """An event that is about to be sent."""
    one = Decimal(1)
    return Event(EventId(number), "api", customer, AT, 0, one, one, AT, f"agg_{number}", 1, None)


class Call:
    """A request that has left, and waits for its answer."""

    def __init__(self, queued: Sequence[Queued]) -> None:
        self.ids = [each.event.id for each in queued]
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()


class Far:
    """A far side: requests arrive, and are answered by hand."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Call] = asyncio.Queue()

    async def deliver(self, queued: Sequence[Queued]) -> list[Response]:
        """Wait for the answer to a request, which holds for all of its events."""
        call = Call(queued)
        self.calls.put_nowait(call)
        return [await call.answer] * len(queued)

    async def arrived(self, *ids: int) -> Call:
        """Wait for the next request, which is to hold just these events."""
        call = await self.calls.get()
        assert call.ids == list(ids)
        return call

    async def nothing_more(self) -> None:
        """See to it that no further request comes, when all has been done that can be."""
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.calls.empty()


def unknown(response: Response, refusal: Response) -> Response:
    """Judge what did not leave again after a refusal."""
    return response._replace(answer=Answer.UNKNOWN) if response.answer is Answer.UNSENT else response


def route(far: Far, at_once: int = 4, pace: Pace | None = None) -> Route:
    """A route to a far side."""
    pacer = Pacer(pace or Pace(1e9), lambda: 0.0, by_event=True)
    return Route(pacer=pacer, deliver=far.deliver, at_once=at_once, after_refusal=unknown)


def dispatching(far: Route, *, keyed: bool = True, max_in_flight: int = 4) -> Dispatcher:
    """A dispatcher by one route, with a customer's events one request at a time if they are `keyed`."""
    return Dispatcher(
        lambda event: Bound(far, event.customer if keyed else None),
        max_in_flight=max_in_flight,
        patience_seconds=SECONDS,
    )


async def submit(dispatcher: Dispatcher, *events: Event) -> Batch:
    """Take in a batch of events that may leave."""
    batch = Batch(events, lambda: True)
    await dispatcher.submit(batch)
    return batch


def said(batch: Batch) -> dict[int, Answer]:
    """What has been said of a batch's events so far."""
    found: dict[int, Answer] = {}
    batch.post()
    while not batch.said.empty():
        verdicts = batch.said.get()
        assert not isinstance(verdicts, BaseException)
        found |= {verdict.event: verdict.answer for verdict in verdicts}
    return found


@on_a_loop
async def test_halves_with_events_of_one_key_go_one_after_the_other() -> None:
    """They would meet otherwise; what else there is of the key waits for the last of them."""
    far = Far()
    dispatcher = dispatching(route(far))
    batch = await submit(dispatcher, *(usage(number) for number in range(1, 6)))
    (await far.arrived(1, 2, 3, 4)).answer.set_result(NO)
    first = await far.arrived(1, 2)
    await far.nothing_more()
    first.answer.set_result(ACCEPTED)
    second = await far.arrived(3, 4)
    await far.nothing_more()
    second.answer.set_result(ACCEPTED)
    (await far.arrived(5)).answer.set_result(ACCEPTED)
    await far.nothing_more()
    assert said(batch) == dict.fromkeys(range(1, 6), Answer.ACCEPTED)
    assert (dispatcher._chains, dispatcher._batches) == ({}, set())
    await dispatcher.close()


@on_a_loop
async def test_what_was_refused_goes_ahead_of_what_is_ready() -> None:
    """It has begun, and its events may have been taken; only a request that was made up before goes first."""
    far = Far()
    dispatcher = dispatching(route(far, at_once=2), max_in_flight=1)
    await submit(dispatcher, *(usage(number, f"cus_{number}") for number in range(1, 11)))
    (await far.arrived(1, 2)).answer.set_result(NO)
    for ids in ([3, 4], [1], [5, 6], [2], [7, 8], [9, 10]):
        (await far.arrived(*ids)).answer.set_result(ACCEPTED)
    await dispatcher.close()


@on_a_loop
async def test_a_stop_does_not_wait_for_a_half_that_waits_for_its_pace() -> None:
    """It is given back at once as what it is: nobody knows whether its events were taken."""
    far = Far()
    dispatcher = dispatching(route(far, pace=Pace(0.001, burst=4)))
    batch = await submit(dispatcher, *(usage(number) for number in range(1, 5)))
    (await far.arrived(1, 2, 3, 4)).answer.set_result(NO)
    await far.nothing_more()
    dispatcher.stop()
    assert said(batch) == dict.fromkeys(range(1, 5), Answer.UNKNOWN)
    await dispatcher.close()
    await far.nothing_more()


@on_a_loop
async def test_a_stop_while_a_request_is_refused_sends_none_of_it_again() -> None:
    """Its halves never line up."""
    far = Far()
    dispatcher = dispatching(route(far))
    batch = await submit(dispatcher, usage(1), usage(2), usage(3, "cus_2"))
    call = await far.arrived(1, 2, 3)
    dispatcher.stop()
    assert said(batch) == {}
    call.answer.set_result(NO)
    await dispatcher.close()
    assert said(batch) == dict.fromkeys(range(1, 4), Answer.UNKNOWN)
    await far.nothing_more()


@on_a_loop
async def test_what_has_no_key_waits_for_nobody() -> None:
    """Any number of a customer's requests are in flight, up to what may be at all."""
    far = Far()
    dispatcher = dispatching(route(far, at_once=1), keyed=False, max_in_flight=2)
    batch = await submit(dispatcher, usage(1), usage(2), usage(3))
    first, second = await far.arrived(1), await far.arrived(2)
    await far.nothing_more()
    second.answer.set_result(ACCEPTED)
    (await far.arrived(3)).answer.set_result(ACCEPTED)
    first.answer.set_result(ACCEPTED)
    await dispatcher.close()
    assert said(batch) == dict.fromkeys(range(1, 4), Answer.ACCEPTED)


@on_a_loop
async def test_what_breaks_over_a_request_is_its_senders_trouble() -> None:
    """The next event of the key, and all others, go on."""
    far = Far()
    dispatcher = dispatching(route(far))
    broken, other = await submit(dispatcher, usage(1)), await submit(dispatcher, usage(2))
    error = KeyError("data")
    (await far.arrived(1, 2)).answer.set_exception(error)
    await far.nothing_more()
    assert (broken.said.get_nowait(), other.said.get_nowait()) == (error, error)
    later = await submit(dispatcher, usage(3))
    (await far.arrived(3)).answer.set_result(ACCEPTED)
    await dispatcher.close()
    assert said(later) == {3: Answer.ACCEPTED}


@on_a_loop
async def test_nothing_of_a_batch_stays_once_all_of_it_is_told() -> None:
    """Nor is it found only when garbage is searched for: in an outage batches follow each other fast."""
    far = Far()
    dispatcher = dispatching(route(far))
    gc.disable()
    try:
        batch = await submit(dispatcher, usage(1), usage(2))
        gone = weakref.ref(batch)
        (await far.arrived(1, 2)).answer.set_result(Response(Answer.BUSY, "away"))
        await far.nothing_more()
        assert said(batch) == {1: Answer.BUSY, 2: Answer.BUSY}
        del batch
        assert gone() is None
    finally:
        gc.enable()
    await dispatcher.close()
