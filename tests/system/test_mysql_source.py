"""A source in MariaDB or MySQL as the product's own commands see it: checked, billed to the unit, its trouble its own."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.mariadb import Maria
from tests.mysql import BOTH
from tests.system.harness import METER, MINUTE, OTHER_METER, World

BY_MINUTE = """
select customer, sum(quantity) as quantity, max(used_at) as at, date_format(used_at, '%Y-%m-%dT%H:%i:00Z') as `window`
  from used where used_at >= :start and used_at < :end group by 1, 4
"""


@pytest.fixture(scope="module", params=BOTH)
def server(request: pytest.FixtureRequest) -> Iterator[Maria]:
    """Each of the two, in New York's zone."""
    with request.param() as server:
        yield server


@pytest.fixture
def shop(server: Maria, world: World) -> Maria:
    """A shop with an hour of usage, by the minute, and the world's meter on it."""
    world.config["sources"]["shop"] = {"url": server.url()}
    world.meter.update(source="shop", query=BY_MINUTE)
    server.run(
        "drop table if exists app.used",
        "create table app.used (customer varchar(40), quantity decimal(20, 2), used_at timestamp(3) not null)",
        *(
            f"insert into app.used values ('cus_{who}', {1 + (who * 7 + minute) % 9}, '{instant(world, minute)}')"
            for who in range(3)
            for minute in range(20)
        ),
        "create index used_at on app.used (used_at)",
    )
    return server


def instant(world: World, minute: int) -> str:
    return str(
        (world.start + minute * MINUTE + dt.timedelta(seconds=59, milliseconds=999)).replace(tzinfo=None)
    )[:-3]


def used(shop: Maria) -> dict[str, Decimal]:
    return dict(shop.run("select customer, sum(quantity) from app.used group by 1"))


def test_what_a_shop_used_is_billed_to_the_unit(world: World, shop: Maria) -> None:
    """And what it uses late, and takes back; `check` has no objection."""
    world.write()
    checked = world.run("check", "--json")
    of_shop = [each for each in checked.json["findings"] if each["what"] in {"source shop", f"meter {METER}"}]
    assert of_shop
    assert {each["verdict"] for each in of_shop} <= {"ok", "note"}, of_shop
    assert world.once().code == 0
    assert world.billed() == used(shop)
    shop.run(
        f"insert into app.used values ('cus_1', 1000, '{instant(world, 3)}')",
        "update app.used set quantity = quantity + 1 where customer = 'cus_2'",
    )
    assert world.once().code == 0
    assert world.billed() == used(shop)


def test_trouble_in_the_middle_of_a_result_stays_with_its_meter(world: World, shop: Maria) -> None:
    """A number that does not fit, found behind rows that were fetched: the meter says so, the other one is billed."""
    world.config["meters"][OTHER_METER] = {
        **world.meter,
        "query": BY_MINUTE.replace("sum(quantity)", "sum(9223372036854775807 + cast(quantity as signed))"),
    }
    ran = world.once()
    assert ran.code == 1
    assert world.billed() == used(shop)
    errors = {row["meter"]: row["error"] for row in world.run("status", "--json").json["meters"]}
    assert "Source shop: the query is refused: BIGINT value is out of range" in errors[OTHER_METER]
