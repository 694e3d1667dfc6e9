"""The same usage in every kind of database that is at hand, equal to the last decimal; `tests.system.engines` says how."""

from collections.abc import Iterator

import pytest

from tests.clickhouse import ClickHouse, clickhouse
from tests.mariadb import Maria, mariadb
from tests.mysql import MISSING as WITHOUT_MYSQL
from tests.mysql import mysql
from tests.pglite import MISSING as WITHOUT_PGLITE
from tests.pglite import pglite
from tests.spark import Spark
from tests.system.engines import (
    NEW_YORK,
    ZONES,
    Engine,
    Use,
    compare,
    in_clickhouse,
    in_duckdb,
    in_mariadb,
    in_pglite,
    in_postgres,
    in_spark,
    in_sqlite,
    night,
    table,
    uses,
)
from tests.system.harness import World

pytestmark = pytest.mark.direct


@pytest.fixture(scope="module")
def maria() -> Iterator[Maria]:
    """A server of MariaDB's."""
    with mariadb() as server:
        yield server


@pytest.fixture(scope="module")
def my() -> Iterator[Maria]:
    """A server of MySQL's."""
    with mysql() as server:
        yield server


@pytest.fixture(scope="module")
def house() -> Iterator[ClickHouse]:
    """ClickHouse's engine."""
    with clickhouse() as server:
        yield server


def assert_equal(world: World, engines: list[Engine], zone: str, rows: list[Use]) -> None:
    outcomes = compare(world, engines, zone, rows, night())
    assert all(each.equal for each in outcomes), f"\n{table(outcomes)}"
    assert len({each.total for each in outcomes}) == 1


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.xdist_group("mariadb")
def test_every_database_holds_the_same(world: World, maria: Maria, house: ClickHouse, zone: str) -> None:
    """In sessions and a process that begin in New York, whose clocks go back, or in Kathmandu, whose hours begin at :15."""
    rows = uses(night())
    engines = [
        in_postgres(world.source_url, zone, rows),
        in_mariadb(maria, zone, rows),
        *in_duckdb(world.directory, zone, rows),
        in_clickhouse(house, zone, rows),
        in_sqlite(world.directory, zone, rows),
    ]
    assert_equal(world, engines, zone, rows)


@pytest.mark.xdist_group("spark")
def test_spark_holds_the_same(world: World, spark_server: Spark) -> None:
    """The server and the process are in New York, and its sessions begin in Kathmandu."""
    rows = uses(night())
    assert_equal(world, [in_spark(spark_server, rows)], NEW_YORK, rows)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.skipif(WITHOUT_MYSQL is not None, reason=str(WITHOUT_MYSQL))
@pytest.mark.xdist_group("mysql")
def test_mysql_holds_the_same(world: World, my: Maria, zone: str) -> None:
    """In the same way as MariaDB."""
    rows = uses(night())
    assert_equal(world, [in_mariadb(my, zone, rows)], zone, rows)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.skipif(WITHOUT_PGLITE is not None, reason=str(WITHOUT_PGLITE))
def test_pglite_holds_the_same(world: World, zone: str) -> None:
    """Its one session, which the application has set to another zone, serves every connection."""
    rows = uses(night())
    with pglite(zone) as url:
        assert_equal(world, [in_pglite(url, rows)], zone, rows)
