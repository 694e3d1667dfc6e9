"""The benchmarks run, at a tiny size: what they measure is of no interest here, but that they still do."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.figures import Figure, Missing, dumped, line, loaded, ratios
from bench.one import MEASURES
from bench.processor import tree_seconds
from tests.conftest import in_memory
from tests.system.harness import COMMAND_SECONDS, Process

ROOT = Path(__file__).parents[2]

Run = Callable[..., list[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a module of `bench/`, and return the lines that it printed. Its servers of a moment need no disk."""
    with tempfile.TemporaryDirectory(dir=in_memory(), prefix="aggregator-bench-") as name:
        directory = Path(name)

        def call(module: str, *arguments: str) -> list[str]:
            done = Process(module, arguments, directory, module, TMPDIR=name)
            try:
                assert done.ended(COMMAND_SECONDS) == 0, done.err
            finally:
                done.clear_away()
            return done.out.splitlines()

        yield call


@pytest.mark.parametrize("name", MEASURES)
def test_every_measurement_runs(name: str, run: Run) -> None:
    """Each gives figures of at least one event, by the clock and of the client's processor."""
    figures = loaded(run("bench.one", name, "--scale", "1000")[-1])
    assert isinstance(figures, list), figures
    assert figures
    for figure in figures:
        assert figure.events >= (1 if name == "start" else 10 if "is asked" in figure.name else 100)
        assert figure.wall > 0
        assert figure.seconds["client"] > 0
        assert ("ledger" in figure.seconds) == (name != "start")


def test_another_checkout_is_measured_in_turns(run: Run) -> None:
    """By the same files, whichever it has; ratios stand below the figures of both."""
    lines = run("bench", "million", "--scale", "1000", "--runs", "1", "--against", str(ROOT))
    works = [each for each in lines if each.startswith("1,000 customers")]
    assert len(works) == 2
    assert len([each for each in lines if each.startswith(f"  {ROOT}")]) == 2
    assert len([each for each in lines if each.startswith("  times as much as here")]) == 2


def test_a_figure_that_another_checkout_cannot_have_is_said_to_be_missing(tmp_path: Path, run: Run) -> None:
    """Its package may be older than what is measured; ours is measured all the same."""
    (tmp_path / "aggregator").mkdir()
    (tmp_path / "aggregator" / "__init__.py").touch()
    lines = run("bench", "million", "--scale", "1000", "--runs", "1", "--against", str(tmp_path))
    [said] = [each for each in lines if each.startswith("million: no figure of")]
    assert "No module named 'aggregator.core'" in said
    assert len([each for each in lines if each.startswith("1,000 customers")]) == 2


def test_peers_are_given_work_that_ours_does(run: Run) -> None:
    """Every event comes once to the light server, whose sum is the source's; others need a network to be installed."""
    lines = run("bench.peers", "ours", "--scale", "500", "--runs", "1")
    assert any("2,000 rows -> 40 events" in each for each in lines)
    [figures] = [each for each in lines if each.startswith("  aggregator")]
    assert len(figures.split()) == 7


def test_claims_are_measured(run: Run) -> None:
    """For each number of feeds and each size of batch."""
    lines = run("bench.claims", "--events", "5000", "--piece", "2000", "--rounds", "1")
    assert len([each for each in lines if each.startswith("claim and settle")]) == 6


def test_what_an_event_takes_is_measured(run: Run) -> None:
    """By table and index, at the first try and after others, with a sum of what slots and events take."""
    lines = run("bench.size", "--slots", "200", "--retries", "1")
    assert {"event_at_rest", "event_at_rest_pkey", "slot", "slot_pkey", "attempt"} <= {
        each.split()[0] for each in lines[2:-1]
    }
    assert all(float(size) > 100 for size in lines[-1].split()[-2:])


def test_figures_travel_as_json() -> None:
    """What is read is what was written, and a part that was not measured is none."""
    figures = [Figure("work", 10, 2.0, {"client": 1.0}, 90.0)]
    assert loaded(dumped(figures)) == figures
    assert loaded(dumped(Missing("too old"))) == Missing("too old")
    assert [figures[0].of(key) for key in ("wall", "client", "sandbox", "peak")] == [
        2.0,
        100_000.0,
        None,
        90.0,
    ]


def test_ratios_are_taken_run_by_run() -> None:
    """So what slows both down, as long as it lasts, leaves them as they are."""
    ours = [Figure("work", 10, wall, {"client": wall}) for wall in (1.0, 5.0, 2.0)]
    theirs = [Figure("work", 10, 2 * each.wall, {"client": 3 * each.wall}) for each in ours]
    assert ratios("ratio", theirs, ours).split()[1:] == [
        "2.00",
        "(2.00-2.00)",
        "3.00",
        "(3.00-3.00)",
        "-",
        "-",
        "-",
        "-",
    ]
    assert line("work", ours).split()[1:3] == ["2.00", "(1.00-5.00)"]


def test_the_time_of_processes_that_have_ended_counts() -> None:
    """Postgres has a process for each session: what an ended one used is its parent's to tell."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "1\n"
        assert tree_seconds(process.pid) >= 0.25
        process.stdin.close()


def test_other_engines_come_to_what_the_files_hold(tmp_path: Path, run: Run) -> None:
    """ClickHouse reads all days of the lake, one Postgres holds the first: the table says that both are equal."""
    sizes = ("--rows", "3000", "--days", "3", "--customers", "20", "--lake", str(tmp_path))
    lines = run("bench.scaling", *sizes, "--engines", "postgres", "clickhouse")
    equal = [line.split()[-1] for line in lines[-2:]]
    assert equal == ["yes", "yes"], lines
