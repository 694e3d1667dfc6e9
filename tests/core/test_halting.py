"""A sink that refuses us as a whole: it is asked ever more seldom, comes back by itself, and both ends are said once."""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from aggregator.daemon.halted_sink import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Halt
from aggregator.errors import AggregatorError, LedgerUnreachable, SinkHalted, SinkUnreachable

SOON_SECONDS = 20.0


class Stopping(threading.Event):
    """A daemon's end that nobody waits for in real time: it notes how long it would have been waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Note the pause."""
        assert timeout is not None
        self.pauses.append(timeout)
        return self.is_set()


class World:
    """A sink that answers as told, and what was said of it."""

    def __init__(self, *answers: AggregatorError | None, waiting: bool = True) -> None:
        self.answers = deque(answers)
        self.waiting = waiting
        self.said: list[tuple[str, ...]] = []
        self.stopping = Stopping()
        self.halt = Halt(self.halted, self.resumed, self.ask, lambda: self.waiting, self.stopping)

    def ask(self) -> None:
        """Answer as told."""
        answer = self.answers.popleft()
        if answer is not None:
            raise answer

    def halted(self, reason: str) -> None:
        """Note it."""
        self.said.append(("halted", reason))

    def resumed(self) -> None:
        """Note it."""
        self.said.append(("resumed",))


NO = SinkHalted("the key is not accepted")


def test_it_comes_back_once_it_takes_something_and_both_ends_are_said_once() -> None:
    """That it lets us in is not enough while events wait: only what it takes shows that it takes them."""
    world = World(NO, NO, None)
    world.halt.wait_out(str(NO), world.halt.returns)
    assert world.said == [("halted", str(NO))]
    world.halt.took()
    world.halt.took()
    assert world.said == [("halted", str(NO)), ("resumed",)]


def test_with_nothing_to_send_it_is_back_once_it_lets_us_in() -> None:
    """Else nobody would ever say so."""
    world = World(None, waiting=False)
    world.halt.wait_out(str(NO), world.halt.returns)
    assert world.said[-1] == ("resumed",)


def test_the_pauses_grow_up_to_a_bound_until_it_took_something() -> None:
    """A key that may look and not send is let in each time, and refused at once: that is tried ever more seldom, too."""
    world = World(*[NO] * 9, None, None, None)
    world.halt.wait_out(str(NO), world.halt.returns)
    assert world.stopping.pauses[:4] == [FIRST_PAUSE_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert world.stopping.pauses[-1] == LONGEST_PAUSE_SECONDS
    world.halt.wait_out(str(NO), world.halt.returns)
    assert world.stopping.pauses[-1] == LONGEST_PAUSE_SECONDS
    assert world.said == [("halted", str(NO))]
    world.halt.took()
    world.halt.wait_out(str(NO), world.halt.returns)
    assert world.stopping.pauses[-1] == FIRST_PAUSE_SECONDS


def test_another_reason_is_said_and_no_answer_is_not() -> None:
    """A person is told what to mend now; that nobody could be asked meanwhile is no news."""
    world = World(SinkUnreachable("no answer"), LedgerUnreachable(), SinkHalted("another account"), None)
    world.halt.wait_out(str(NO), world.halt.returns)
    assert world.said == [("halted", str(NO)), ("halted", "another account")]


def test_what_was_answered_before_it_came_back_is_no_news() -> None:
    """A lane that hears of the refusal late neither waits for it nor says it again."""
    world = World(None, waiting=False)
    world.halt.wait_out(str(NO), 0)
    world.halt.wait_out(str(NO), 0)
    assert world.said == [("halted", str(NO)), ("resumed",)]


def test_a_daemon_that_stops_asks_no_more() -> None:
    """Whoever waits comes back at once."""
    world = World()
    world.stopping.set()
    world.halt.wait_out(str(NO), world.halt.returns)
    assert world.said == [("halted", str(NO))]


def test_one_of_several_lanes_asks_and_the_others_wait() -> None:
    """They go on together, and it was said once."""
    begun, go = threading.Event(), threading.Event()
    world = World(None, None, None)

    def ask() -> None:
        begun.set()
        assert go.wait(SOON_SECONDS)
        world.ask()

    halt = Halt(world.halted, world.resumed, ask, lambda: True, world.stopping)
    with ThreadPoolExecutor(3) as workers:
        first = workers.submit(halt.wait_out, str(NO), 0)
        assert begun.wait(SOON_SECONDS)
        others = [workers.submit(halt.wait_out, str(NO), 0) for _ in range(2)]
        while not all(other.running() for other in others):
            assert not first.done()
        go.set()
        for worker in (first, *others):
            worker.result(SOON_SECONDS)
    assert world.said == [("halted", str(NO))]
