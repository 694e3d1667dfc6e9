"""The daemon bills what pgbench writes while it writes."""

from pathlib import Path

import pytest

from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from tests.system.harness import World, sandbox_process
from tests.system.pgbench import METERS, bench

pytestmark = pytest.mark.xdist_group("minutes")  # waits for a minute to end, one beside others that work


def test_what_pgbench_wrote_is_billed_to_the_unit(
    tmp_path: Path, postgres: EmbeddedPostgres, source_url: str, ledger_url: str
) -> None:
    """Four clients write while the daemon runs with windows of a minute; then every total of every customer agrees."""
    with (
        sandbox_process(tmp_path, *(f"--meter={meter}:sum" for meter in METERS)) as sandbox,
        World(tmp_path, source_url, ledger_url, sandbox) as world,
    ):
        world.programs = postgres.programs
        result = bench(world, ("-t", 500), clients=4, rate=400, patience_seconds=400)
    assert result.good, result
    assert result.transactions == 2_000
