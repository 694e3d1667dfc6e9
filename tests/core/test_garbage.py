"""When the collector of cycles is off, and when it is on again."""

import gc

import pytest

from aggregator.runtime.garbage import SELDOM, seldom_collected, uncollected


def test_nothing_is_collected_until_all_has_begun() -> None:
    """From then on it is, but for what was there; and to say so again changes nothing."""
    frozen = gc.get_freeze_count()
    try:
        with uncollected() as begun:
            assert not gc.isenabled()
            begun()
            assert gc.isenabled()
            assert gc.get_freeze_count() > frozen
            set_apart = gc.get_freeze_count()
            later = [[] for _ in range(1_000)]  # type: list[list[int]]
            begun()
            assert gc.get_freeze_count() < set_apart + len(later), "what was made later was set apart too"
    finally:
        gc.unfreeze()


def test_it_is_collected_again_after_a_start_that_failed() -> None:
    """A configuration that is wrong, say: the tests go on in the same process."""
    with pytest.raises(ValueError, match="wrong"), uncollected():
        raise ValueError("wrong")
    assert gc.isenabled()


def test_garbage_is_searched_for_seldom_within_the_block_only() -> None:
    """Afterwards, all is as it was."""
    before = gc.get_threshold()
    with seldom_collected():
        assert gc.get_threshold() == (SELDOM, *before[1:])
    assert gc.get_threshold() == before
