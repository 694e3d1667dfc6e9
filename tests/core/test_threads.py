"""How threads take turns."""

import sys

import pytest

from aggregator.runtime.threads import TURN_SECONDS, short_turns


def test_turns_are_short_within_the_block_only() -> None:
    """Inside, a waiting thread has the interpreter within half a millisecond; afterwards all is as it was."""
    before = sys.getswitchinterval()
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(TURN_SECONDS)
    assert sys.getswitchinterval() == before
