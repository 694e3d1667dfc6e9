"""A cursor under rows that are committed in any order, small; `python -m tests.system.deltas` is the full one."""

import pytest

from tests.system.deltas import passed, read_by_cursor
from tests.system.harness import World, show
from tests.system.torture import torture

pytestmark = pytest.mark.xdist_group("minutes")  # waits for a minute to end, one beside others that work


def test_a_cursor_bills_rows_once_that_are_committed_late(world: World) -> None:
    """It waits for those who were writing, and reads every row once, also when the daemon is killed (B6)."""
    read_by_cursor(world)
    result = torture(world, writers=8, rows=20_000, longest=8, seconds=6, kills=1, patience_seconds=400)
    show(vars(result))
    assert result.good, result
    last, after = passed(world)
    assert after == last
    assert result.id_cursor_lost_percent > 0, "a plain cursor lost nothing: too tame"
