"""Questions about single customers, asked of the ledger together: who comes while others are answered goes with the next.

Each question alone costs the ledger far more to plan and to begin than to look a customer up. So what is alike but for the
customer is asked in one statement for all who wait, and each gets what is theirs. Who comes when nobody was asked for just
now is answered at once; otherwise the next question begins `PAUSE_SECONDS` after the one before did.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from aggregator.web.application import Refused, Workers

MOST_TOGETHER = 64
"""Customers in one statement: an answer that takes long for one would hold up the others for as long, each."""

PAUSE_SECONDS = 0.02
"""Less than anybody notices. At 500 calls a second, a question is of ten customers instead of two, and costs little more."""

Kind = TypeVar("Kind", bound=Hashable)
Answer = TypeVar("Answer")


class _Asked(NamedTuple, Generic[Answer]):
    customer: str
    answer: "asyncio.Future[Answer]"


class Gathering(Generic[Kind, Answer]):
    """Answers questions of some kinds. One of a kind is worked on at a time; it belongs to one event loop."""

    def __init__(
        self,
        workers: Workers,
        answers: Callable[[Kind, Sequence[str]], Mapping[str, Answer]],
        most_waiting: int,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`answers` gives the answer of each of some different customers; it runs in a thread."""
        self._pause_seconds = pause_seconds
        self._workers = workers
        self._answers = answers
        self._most_waiting = most_waiting
        self.waiting = 0
        """How many have no answer yet."""
        self._waiting: dict[Kind, deque[_Asked[Answer]]] = {}
        self._at_work: dict[Kind, asyncio.Task[None]] = {}

    async def ask(self, kind: Kind, customer: str) -> Answer:
        """Return the answer for a customer. Raises Refused where too many wait, and what answering raises."""
        if self.waiting >= self._most_waiting:
            raise Refused(503, "too much at once, try again", {"retry-after": "1"})
        asked = _Asked[Answer](customer, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(kind, deque()).append(asked)
        if kind not in self._at_work:
            self._at_work[kind] = asyncio.ensure_future(self._work(kind))
        self.waiting += 1
        try:
            return await asked.answer
        finally:
            self.waiting -= 1

    async def _work(self, kind: Kind) -> None:
        """Answer all of a kind, as many together as wait."""
        waiting, loop = self._waiting[kind], asyncio.get_running_loop()
        try:
            while waiting:
                next_at = loop.time() + self._pause_seconds
                await self._some(kind, [waiting.popleft() for _ in range(min(MOST_TOGETHER, len(waiting)))])
                if len(waiting) < MOST_TOGETHER:
                    await asyncio.sleep(next_at - loop.time())
        finally:
            del self._waiting[kind], self._at_work[kind]

    async def _some(self, kind: Kind, some: Sequence[_Asked[Answer]]) -> None:
        """Answer some; whoever has given up meanwhile is left alone."""
        customers = list(dict.fromkeys(each.customer for each in some))
        try:
            found = await self._workers.do(lambda: self._answers(kind, customers))
        except Exception as error:  # noqa: BLE001 - it is raised where each was asked
            for each in some:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        for each in some:
            if not each.answer.done():
                each.answer.set_result(found[each.customer])
