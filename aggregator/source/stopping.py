"""What the connections of a source ask is stopped when the source is closed.

Rules
- It is told to whoever runs the statement: a driver's own thread may be waiting for it.
- A connection that is made by somebody who did not notice in time is given up at once.
"""

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa


def stop_with(engine: sa.Engine, stop: Callable[[Any], None]) -> None:
    """Have `stop` called with each connection of the driver that is open when the engine is disposed of."""
    opened: WeakSet[Any] = WeakSet()
    closed = threading.Event()

    def note(connection: Any, _: object) -> None:
        opened.add(connection)
        if closed.is_set():
            connection.close()
            raise OSError("the source is closed")

    def stop_all(_: sa.Engine) -> None:
        closed.set()
        for each in list(opened):
            stop(each)

    def go_on(*_: object) -> None:
        if closed.is_set():
            raise OSError("the source is closed")

    sa.event.listen(engine, "connect", note)
    sa.event.listen(engine, "before_cursor_execute", go_on)
    sa.event.listen(engine, "engine_disposed", stop_all)
