"""Simulated time, and who acts next. Everything that happens in a simulated world happens here, one thing at a time.

Rules
- One task runs at any moment. It runs until it waits; then whoever is due first goes on. So a seed decides everything.
- Time passes only while a task waits.
- A process is a set of tasks that die together and stand still together. A task that is dead raises Killed out of the call
  it waits in, which unwinds it; nothing it touches on the way answers any more.
"""

import datetime as dt
import heapq
import itertools
import threading
import uuid
from collections.abc import Callable

Action = Callable[[], None]

STACK_BYTES = 1 << 20


def closed() -> threading.Lock:
    """Return a lock that whoever acquires it waits for: a baton in somebody else's hand."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Killed(BaseException):
    """The process is gone: nothing of it goes on, and nothing of it may be tidied up."""


class Process:
    """One operating-system process."""

    def __init__(self, name: str, owner: uuid.UUID) -> None:
        self.name = name
        self.owner = owner
        self.alive = True
        self.died: Action = lambda: None
        """What happens when it dies."""
        self.frozen_until: dt.datetime | None = None
        self.complete: set[str] = set()
        """The queries whose latest read gave all there was."""
        self.shown: dict[str, dt.datetime] = {}
        """Up to when the latest read of each query showed what the primary had committed."""
        self.unmapped_rows: list[Unmapped] = []
        """What runs beside its tasks, and only while time passes in a long call."""

    def pulse(self) -> None:
        """Let what runs beside have one turn."""
        for each in list(self.unmapped_rows):
            each.turn()


class Unmapped:
    """Something like a thread that repeats a small thing for ever: `turn` does it once."""

    def __init__(self, turn: Action) -> None:
        self.turn = turn


class Task:
    """One line of execution of a process, on a thread of its own that holds the baton while it runs."""

    def __init__(self, scheduler: "Scheduler", process: Process, name: str, body: Action) -> None:
        self.process = process
        self.name = name
        self.done = False
        self._scheduler = scheduler
        self._body = body
        self._baton = closed()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def resume(self) -> None:
        """Hand the baton to this task, and wait until it comes back."""
        self._scheduler.current = self
        self._baton.release()
        self._scheduler.baton.acquire()
        self._scheduler.current = None
        if self.done:
            self._thread.join()

    def pause(self) -> None:
        """Give the baton back, and wait for it. Raises Killed if the process died meanwhile."""
        self._scheduler.baton.release()
        self._baton.acquire()
        if not self.process.alive:
            raise Killed

    def _run(self) -> None:
        self._baton.acquire()
        try:
            if self.process.alive:
                self._body()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again where the simulation is run
            self._scheduler.failure = self._scheduler.failure or error
        finally:
            self.done = True
            self._scheduler.baton.release()


class Scheduler:
    """The alarm clock of a simulated world."""

    def __init__(self, start: dt.datetime) -> None:
        self.now = start
        self.current: Task | None = None
        self.failure: BaseException | None = None
        self.baton = closed()
        self._until = start
        self._order = itertools.count()
        self._queue: list[tuple[dt.datetime, int, Task | Action]] = []
        self._tasks: list[Task] = []

    def at(self, when: dt.datetime, action: Action) -> None:
        """Do something at an instant, on nobody's behalf."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), action))

    def after(self, delay: dt.timedelta, action: Action) -> None:
        """Do something after a while."""
        self.at(self.now + delay, action)

    def spawn(self, process: Process, name: str, body: Action) -> None:
        """Begin a task; it has its first turn in its turn."""
        task = Task(self, process, name, body)
        self._tasks = [each for each in self._tasks if not each.done]
        self._tasks.append(task)
        heapq.heappush(self._queue, (self.now, next(self._order), task))

    def wait(self, delay: dt.timedelta) -> None:
        """Let time pass for the task that calls this. Raises Killed if its process dies meanwhile."""
        task = self.current
        assert task is not None, "only a task can wait"
        wake = self.now + delay
        frozen = task.process.frozen_until
        if (
            frozen is None
            and wake <= self._until
            and (not self._queue or self._queue[0][0] > wake)
            and task.process.alive
        ):
            self.now = wake
            return
        heapq.heappush(self._queue, (wake, next(self._order), task))
        task.pause()

    def kill(self, process: Process) -> None:
        """End a process where it stands. If it is the caller's own, the caller raises Killed next."""
        process.alive = False
        process.unmapped_rows.clear()
        process.died()
        for task in self._tasks:
            if task.process is process and task is not self.current:
                heapq.heappush(self._queue, (self.now, next(self._order), task))

    def run(self, until: dt.datetime) -> None:
        """Let everything happen that is due until then. Raises whatever went wrong first, in a task or in an action."""
        self._until = until
        while self._queue and self._queue[0][0] <= until:
            when, _, what = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            if isinstance(what, Task):
                self._turn(what)
            else:
                what()
            if self.failure is not None:
                raise self.failure
        self.now = until

    def close(self) -> None:
        """Unwind every task that is left, so that no thread outlives the world."""
        for task in self._tasks:
            task.process.alive = False
        for task in self._tasks:
            while not task.done:
                task.resume()

    def _turn(self, task: Task) -> None:
        frozen = task.process.frozen_until
        if task.done:
            return
        if frozen is not None and task.process.alive:
            if frozen > self.now:
                heapq.heappush(self._queue, (frozen, next(self._order), task))
                return
            task.process.frozen_until = None
        task.resume()
