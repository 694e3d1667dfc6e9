"""Questions that are gathered: who waits is answered together, each with their own, and nobody is forgotten."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from aggregator.web.application import Refused, Workers
from aggregator.web.gathering import MOST_TOGETHER, Gathering

PATIENCE = 20.0


class Ledger:
    """Answers in a thread, once it is let; remembers who was asked for together."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.may = threading.Event()
        self.fails = False

    def __call__(self, kind: str, customers: Sequence[str]) -> Mapping[str, str]:
        self.asked.append((kind, list(customers)))
        assert self.may.wait(PATIENCE)
        if self.fails:
            raise Refused(503, "the ledger does not answer")
        return {customer: f"{kind} of {customer}" for customer in customers}


@pytest.fixture
def ledger() -> Ledger:
    """A ledger that does not answer yet."""
    return Ledger()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Threads."""
    workers = Workers("test", 2, 100)
    yield workers
    workers.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never held")


def test_who_comes_meanwhile_goes_with_the_next(ledger: Ledger, workers: Workers) -> None:
    """The first is not kept waiting for others; all who come until it is answered are one question, each customer once."""

    async def scene() -> None:
        gathering: Gathering[str, str] = Gathering(workers, ledger, 100)
        first = asyncio.ensure_future(gathering.ask("day", "a"))
        await until(lambda: bool(ledger.asked))
        others = [asyncio.ensure_future(gathering.ask("day", whose)) for whose in "bcbd"]
        await until(lambda: gathering.waiting == 5)
        ledger.may.set()
        assert await first == "day of a"
        assert await asyncio.gather(*others) == ["day of b", "day of c", "day of b", "day of d"]
        assert ledger.asked == [("day", ["a"]), ("day", ["b", "c", "d"])]
        assert gathering.waiting == 0

    asyncio.run(scene())


def test_another_kind_does_not_wait(ledger: Ledger, workers: Workers) -> None:
    """Kinds are asked beside each other, and answers of one never go to another."""

    async def scene() -> None:
        gathering: Gathering[str, str] = Gathering(workers, ledger, 100)
        both = [asyncio.ensure_future(gathering.ask(kind, "a")) for kind in ("day", "hour")]
        await until(lambda: len(ledger.asked) == 2)
        ledger.may.set()
        assert await asyncio.gather(*both) == ["day of a", "hour of a"]

    asyncio.run(scene())


def test_a_failure_is_everybodys_who_was_in_it_and_no_one_elses(ledger: Ledger, workers: Workers) -> None:
    """Each is told, also several; whoever asks later is answered, and who has given up harms nobody."""

    async def scene() -> None:
        gathering: Gathering[str, str] = Gathering(workers, ledger, 100)
        ledger.fails = True
        asked = [asyncio.ensure_future(gathering.ask("day", whose)) for whose in "ab"]
        gone = asyncio.ensure_future(gathering.ask("day", "c"))
        await until(lambda: bool(ledger.asked))
        gone.cancel()
        ledger.may.set()
        found = await asyncio.gather(*asked, gone, return_exceptions=True)
        assert [type(each) for each in found] == [Refused, Refused, asyncio.CancelledError]
        ledger.fails = False
        assert await gathering.ask("day", "a") == "day of a"

    asyncio.run(scene())


def test_one_question_has_a_bound_and_so_have_those_who_wait(ledger: Ledger, workers: Workers) -> None:
    """A crowd is answered in several questions; who is one too many is told to come again."""
    crowd = 2 * MOST_TOGETHER + 1

    async def scene() -> None:
        gathering: Gathering[str, str] = Gathering(workers, ledger, crowd)
        asked = [asyncio.ensure_future(gathering.ask("day", str(number))) for number in range(crowd)]
        await until(lambda: gathering.waiting == crowd)
        with pytest.raises(Refused, match="too much"):
            await gathering.ask("day", "x")
        ledger.may.set()
        assert await asyncio.gather(*asked) == [f"day of {number}" for number in range(crowd)]
        assert max(len(customers) for _, customers in ledger.asked) == MOST_TOGETHER

    asyncio.run(scene())


def test_who_comes_soon_after_a_question_goes_with_others(ledger: Ledger, workers: Workers) -> None:
    """Though the question before has been answered: until the next one may begin, all who come are in it."""

    async def scene() -> None:
        gathering: Gathering[str, str] = Gathering(workers, ledger, 100, pause_seconds=1e6)
        ledger.may.set()
        assert await gathering.ask("day", "a") == "day of a"
        asked = [asyncio.ensure_future(gathering.ask("day", str(number))) for number in range(3)]
        assert await gathering.ask("hour", "b") == "hour of b", "another kind has no pause"
        assert gathering.waiting == 3
        assert ledger.asked == [("day", ["a"]), ("hour", ["b"])]
        for each in asked:
            each.cancel()

    asyncio.run(scene())


def test_a_pause_ends(ledger: Ledger, workers: Workers) -> None:
    """Who came in it is answered then, together; a crowd that fills a question does not wait for its end."""

    async def scene() -> None:
        gathering: Gathering[str, str] = Gathering(workers, ledger, 1_000, pause_seconds=0.05)
        ledger.may.set()
        await gathering.ask("day", "a")
        names = [str(number) for number in range(3)]
        found = await asyncio.gather(*(gathering.ask("day", name) for name in names))
        assert found == [f"day of {name}" for name in names]
        assert ledger.asked == [("day", ["a"]), ("day", names)]

    asyncio.run(scene())
