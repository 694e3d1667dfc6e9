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


def test_turns_stay_short_until_the_last_block_ends() -> None:
    """A daemon that reloads has its new parts before the old ones are closed."""
    before = sys.getswitchinterval()
    old, new = short_turns(), short_turns()
    old.__enter__()
    new.__enter__()
    old.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(TURN_SECONDS)
    new.__exit__(None, None, None)
    assert sys.getswitchinterval() == before
