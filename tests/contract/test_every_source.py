"""What every source keeps, whatever database it is: the facts of the contract, asked of each of `CASES`."""

import datetime as dt
from collections.abc import Iterator

import pytest

from aggregator.runtime.clock import monotonic
from aggregator.source import Source
from aggregator.source.contract.fact import Verdict
from aggregator.source.contract.prover import Prover
from tests.clickhouse import ClickHouse, clickhouse
from tests.contract.source_cases import CASES, Case
from tests.mariadb import Maria, mariadb
from tests.mysql import MISSING as WITHOUT_MYSQL
from tests.mysql import mysql
from tests.pglite import MISSING as WITHOUT_PGLITE
from tests.pglite import pglite


@pytest.fixture(scope="module")
def mariadb_server() -> Iterator[Maria]:
    """One server for the cases that need it."""
    with mariadb() as server:
        yield server


@pytest.fixture(scope="module")
def clickhouse_server() -> Iterator[ClickHouse]:
    """The engine behind a front, for the case that needs it."""
    with clickhouse() as server:
        yield server


@pytest.fixture(scope="module")
def mysql_server() -> Iterator[Maria]:
    """MySQL, for the case that needs it."""
    if WITHOUT_MYSQL is not None:
        pytest.skip(WITHOUT_MYSQL)
    with mysql() as server:
        yield server


@pytest.fixture(scope="module")
def pglite_server() -> Iterator[str]:
    """PGlite, for the case that needs it."""
    if WITHOUT_PGLITE is not None:
        pytest.skip(WITHOUT_PGLITE)
    with pglite("Asia/Kathmandu") as url:
        yield url


@pytest.fixture(
    params=[pytest.param(case, id=case.name, marks=pytest.mark.xdist_group(case.group)) for case in CASES]
)
def case(request: pytest.FixtureRequest) -> Case:
    """Each kind of database."""
    found: Case = request.param
    return found


@pytest.fixture
def source(case: Case, request: pytest.FixtureRequest) -> Iterator[Source]:
    """A source of it."""
    made = Source("app", case.url(request), statement_timeout=dt.timedelta(seconds=60), **case.settings)
    yield made
    made.close()


def test_each_fact_is_proven_or_known_not_to_be(case: Case, source: Source) -> None:
    """Every fact is asked; what is not proven is what is known, comes with what to write, and is in no bill."""
    found = {fact.name: conclusion for fact, conclusion in Prover(source, monotonic, case.facts).run()}
    assert list(found) == [fact.name for fact in case.facts]
    for verdict, known in ((Verdict.WRONG, case.wrong), (Verdict.NOT_PROVEN, case.unproven)):
        seen = {name: conclusion for name, conclusion in found.items() if conclusion.verdict is verdict}
        assert set(seen) == known, seen
        assert all(conclusion.write for conclusion in seen.values()), seen
