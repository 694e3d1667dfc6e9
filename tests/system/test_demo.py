"""The demo: it leaves nothing behind however it ends, and it can say no. `test_package` sees it prove what it billed."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.config import load
from aggregator.demo.live import LEAST_SECONDS, closing_time
from aggregator.demo.processes import fresh
from aggregator.demo.scenes import configuration, exit_code
from aggregator.errors import UsageError
from tests.system.harness import Process, until

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a demo that is started in `tmp_path` keeps its things."""
    return tmp_path / ".aggregator" / "demo"


@pytest.fixture
def demo(tmp_path: Path, place: Path) -> Iterator[Process]:
    """A demo in its own directory, with as short a live part as there can be; whatever it leaves is cleared away."""
    process = Process("aggregator", ["demo", "--seconds", "1"], tmp_path, "demo")
    yield process
    process.clear_away()
    with fresh(place):
        pass


def left_running(place: Path) -> list[str]:
    """Return which of a demo's processes run."""
    running = [path.stem for path in place.glob("*.pid") if alive(int(path.read_text()))]
    return running + ["postgres"] * (place / "postgres" / "postmaster.pid").exists()


def alive(pid: int) -> bool:
    """Tell whether a process runs. One that has ended and whom nobody has asked how, as in a container, does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def backfilling(demo: Process, place: Path) -> None:
    """Wait until a demo has all its servers up, and has begun its first command."""
    noted = place / "backfill.pid"
    until(
        lambda: noted.exists() and noted.read_text() != "",
        "the demo backfills",
        seen=lambda: demo.out + demo.err,
    )


def test_interrupted_it_leaves_nothing_running(demo: Process, place: Path) -> None:
    """Ctrl-C in the middle ends every process of it."""
    backfilling(demo, place)
    assert set(left_running(place)) >= {"sandbox", "postgres"}

    demo.stop(2)

    assert demo.code == 130
    assert "Traceback" not in demo.err
    assert left_running(place) == []


def test_the_next_demo_clears_away_what_a_killed_one_left(demo: Process, place: Path) -> None:
    """A kill leaves servers running; whoever takes the directory next ends them, and nothing else."""
    backfilling(demo, place)
    demo.kill()
    assert set(left_running(place)) >= {"sandbox", "postgres"}
    pid = int(until((place / "sandbox.pid").read_text, "the sandbox's pid is on file"))

    with fresh(place):
        assert [path.name for path in place.iterdir()] == ["demo.lock"]

    until(lambda: not alive(pid), "what the killed one left has ended")


def test_two_demos_do_not_share_a_directory(tmp_path: Path) -> None:
    """The second is told of the first, which goes on."""
    with (
        fresh(tmp_path / "demo"),
        pytest.raises(UsageError, match="Another demo runs"),
        fresh(tmp_path / "demo"),
    ):
        pass


def test_only_a_directory_of_a_demo_is_emptied(tmp_path: Path) -> None:
    """Somebody's files are never removed."""
    treasure = tmp_path / "treasure"
    treasure.write_text("kept")

    with pytest.raises(UsageError, match="something else than a demo"), fresh(tmp_path):
        pass

    assert treasure.read_text() == "kept"


@pytest.mark.parametrize(
    ("reconciled", "ended", "code"),
    [(0, "SIGTERM", 0), (3, "SIGTERM", 1), (1, "SIGTERM", 1), (0, "SIGKILL", 1), (0, "exit code 0", 1)],
)
def test_it_succeeds_only_if_all_is_equal_and_the_daemon_ended_by_its_signal(
    reconciled: int, ended: str, code: int
) -> None:
    """A difference fails it, as does a daemon that had to be killed, or died of something else."""
    assert exit_code(reconciled, ended) == code


def test_rows_stop_with_the_minute_that_ends_nearest_to_the_time_asked_for() -> None:
    """A window can only be proved when it is over, so the live part is half a minute longer or shorter."""
    for second in range(60):
        now = NOON + dt.timedelta(seconds=second, milliseconds=1)
        for asked in (1, 20, 40, 90):
            end = closing_time(now, asked)
            assert end.second == end.microsecond == 0
            length = (end - now).total_seconds()
            assert length >= LEAST_SECONDS
            assert abs(length - asked) <= 30 or length <= LEAST_SECONDS + 60


def test_the_configuration_it_writes_is_valid(tmp_path: Path) -> None:
    """The file the user is invited to open is one that `aggregator check` accepts, and nothing in it is left to fill in."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(configuration("postgresql://postgres@/product", "http://127.0.0.1:1", NOON))

    config = load(path, {})

    assert sorted(config.meters) == ["api_requests", "stored_gb"]
    assert config.meters["stored_gb"].decimals == 3
    assert config.meters["api_requests"].start_at == NOON
