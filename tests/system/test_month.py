"""A small month on a meter that keeps the newest number of each hour; `python -m tests.system.month` is the full one."""

from pathlib import Path

import pytest

from tests.system.harness import METER, World, sandbox_process, show
from tests.system.month import month

pytestmark = pytest.mark.xdist_group("minutes")  # waits for a minute to end, one beside others that work


@pytest.mark.parametrize("seed", [1])
def test_every_hour_of_a_month_ends_where_the_source_says(
    tmp_path: Path, source_url: str, ledger_url: str, seed: int
) -> None:
    """Whatever answers are lost and whoever is killed: what replaces never adds, and no old total stays."""
    with (
        sandbox_process(tmp_path, f"--meter={METER}:sum:hour") as sandbox,
        World(tmp_path, source_url, ledger_url, sandbox) as world,
    ):
        world.create_usage()
        result = month(world, kills=4, rows=2_000, seconds=8, seed=seed, patience_seconds=400)
    show(vars(result))
    assert result.good, result
    assert min(result.corrections, result.answers_lost, result.hours) > 0, "too tame to prove anything"
