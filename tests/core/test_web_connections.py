"""How answers are written: whole, in order, in as few calls of the system as there are steps of the loop."""

import asyncio

from aggregator.web.connections import Together


class Wire:
    """A transport that remembers each write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed, "nothing is written to what is closed"
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return name


def test_head_and_body_of_an_answer_leave_together() -> None:
    """What comes in a later step leaves by itself, and nothing is written of nothing."""
    wire = Wire()

    async def answer() -> None:
        together = Together(wire, asyncio.get_running_loop())
        for part in (b"head", b"body", b""):
            together.write(part)
        assert wire.written == []
        await asyncio.sleep(0)
        together.write(b"next")
        await asyncio.sleep(0)
        together.write(b"")
        await asyncio.sleep(0)

    asyncio.run(answer())
    assert wire.written == [b"headbody", b"next"]


def test_what_was_written_leaves_before_it_is_closed() -> None:
    """As the last answer of a connection does; nothing comes after that."""
    wire = Wire()

    async def answer() -> None:
        together = Together(wire, asyncio.get_running_loop())
        together.write(b"last")
        together.close()
        assert (wire.written, wire.closed) == ([b"last"], True)
        together.write(b"after")
        await asyncio.sleep(0)
        assert together.get_extra_info("peername") == "peername"

    asyncio.run(answer())
    assert wire.written == [b"last"]
