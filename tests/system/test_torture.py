"""A small torture of the order of commits; `python -m tests.system.torture` is the full one."""

import pytest

from tests.system.harness import World, show
from tests.system.torture import torture

pytestmark = pytest.mark.xdist_group("minutes")  # waits for a minute to end, one beside others that work


def test_rows_that_are_committed_late_are_billed_once(world: World) -> None:
    """Transactions that outlast their minute lose and double nothing, where plain cursors lose rows (B6)."""
    result = torture(world, writers=8, rows=20_000, longest=8, seconds=6, kills=1, patience_seconds=400)
    show(vars(result))
    assert result.good, result
    assert result.rows >= 19_000, "not all was written"
    assert result.committed_out_of_order > 0, "transactions committed in the order in which they began"
    assert min(result.id_cursor_lost_percent, result.time_cursor_lost_percent) > 0, (
        "cursors lost nothing: too tame"
    )
