"""The daemon is killed at random moments under load and faults, as often as `--kills` says."""

import pytest

from tests.system.harness import World, show
from tests.system.kill import kill_again_and_again


def test_killed_again_and_again_nothing_is_lost_or_doubled(
    world: World, request: pytest.FixtureRequest
) -> None:
    """In the end totals agree to the unit; at no moment did the sandbox hold more than was used (B1, B2, B3)."""
    kills = request.config.getoption("--kills")
    result = kill_again_and_again(world, kills)
    show(vars(result))
    assert result.good, result
    assert result.claims_left > 0, "no kill struck while events were on their way"
    assert result.duplicates_refused > 0, "nothing that had arrived was sent again"
    assert min(result.answered_429, result.answered_500, result.dropped) > 0, "a kind of fault never struck"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each kill five seconds, and the last one's claims the time to run out."""
    metafunc.definition.add_marker(pytest.mark.timeout(120 + 5 * metafunc.config.getoption("--kills")))
