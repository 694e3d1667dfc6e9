"""What libraries say is said once, and then how often."""

import io
import json
import logging
from collections.abc import Iterator
from itertools import product

import pytest

from aggregator.runtime import log


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The log, kept."""
    stream = io.StringIO()
    log.configure(stream=stream)
    yield stream
    log.configure()


def test_a_warning_that_repeats_is_said_once_and_counted(written: io.StringIO) -> None:
    """Six hundred that differ in numbers only are three lines; another one is a line of its own."""
    for number in range(597):
        logging.getLogger("library").warning("connection %d dropped", number)
    logging.getLogger("library").warning("disk is full")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert {line["event"] for line in lines} == {"library_warned"}
    assert [line["message"] for line in lines] == [
        "connection 0 dropped",
        "connection 9 dropped (said 10 times)",
        "connection 99 dropped (said 100 times)",
        "disk is full",
    ]


def test_what_is_remembered_of_warnings_is_bounded(written: io.StringIO) -> None:
    """A library that never says the same twice fills no memory."""
    words = ["".join(letters) for letters in product("abcdefghij", repeat=4)][:3_000]
    for word in words:
        logging.getLogger("library").warning("about %s", word)
    [once] = [each for handler in logging.getLogger().handlers for each in handler.filters]
    assert len(getattr(once, "_times", {})) <= 1_000
    assert written.getvalue().count("library_warned") == 3_000
