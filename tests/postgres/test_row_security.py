"""Row-level security on a source: rows that are hidden from the role are never taken for no usage."""

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from aggregator.core.model import Span
from aggregator.errors import QueryRejected
from aggregator.source import Source
from tests.postgres.servers import as_role

pytestmark = pytest.mark.direct

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)

QUERY = (
    "select customer, sum(quantity) as quantity from {} where used_at >= :start and used_at < :end group by 1"
)

Run = Callable[[str], object]


@pytest.fixture
def run(source_url: str) -> Iterator[Run]:
    """Run a statement as the owner of the application's tables, a superuser."""
    with psycopg.connect(source_url, autocommit=True) as connection:

        def execute(statement: str) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

        execute(
            "create table usage (customer text, quantity int, used_at timestamptz) partition by range (used_at)"
        )
        execute("create table usage_june partition of usage for values from ('2026-06-01') to ('2026-07-01')")
        execute("create table usage_july partition of usage for values from ('2026-07-01') to ('2026-08-01')")
        execute(
            "insert into usage values ('cus_a', 40, '2026-06-01 12:05Z'), ('cus_b', 2, '2026-06-01 12:06Z')"
        )
        yield execute


@pytest.fixture
def reader(run: Run, source_url: str) -> Iterator[str]:
    """A role that may read every table, and owns none."""
    name = f"reader_{source_url.rpartition('test_')[2][:12]}"
    run(f"create role {name} login")
    run(f"grant select on all tables in schema public to {name}")
    run(f"alter default privileges in schema public grant select on tables to {name}")
    yield name
    run(f"drop owned by {name} cascade")
    run(f"drop role {name}")


@pytest.fixture
def read(source_url: str, reader: str) -> Callable[..., dict[str | None, object]]:
    """Read an hour of a table as that role."""

    def reading(table: str = "usage", *, filtered: bool = False) -> dict[str | None, object]:
        source = Source(
            "app",
            as_role(source_url, reader),
            statement_timeout=dt.timedelta(seconds=20),
            filtered=filtered,
        )
        found = source.read(QUERY.format(table), ONE, HOUR)
        return {each.customer: each.quantity for batch in found for each in batch}

    return reading


Read = Callable[..., dict[str | None, object]]


@pytest.mark.parametrize(
    "policy", ["", "for select to {role} using (customer = 'cus_a')", "for select using (true)"]
)
def test_a_query_that_a_policy_would_filter_is_refused(
    run: Run, reader: str, read: Read, policy: str
) -> None:
    """No policy at all hides everything, one may hide a part; whether it does, only a person can tell."""
    assert read() == {"cus_a": 40, "cus_b": 2}
    run("alter table usage enable row level security")
    if policy:
        run(f"create policy shown on usage {policy.format(role=reader)}")
    with pytest.raises(QueryRejected, match="row-level security policy for table") as caught:
        read()
    assert "alter role ... bypassrls" in str(caught.value)
    assert "row_security: allowed" in str(caught.value)
    run(f"alter role {reader} bypassrls")
    assert read() == {"cus_a": 40, "cus_b": 2}


def test_policies_that_are_meant_can_be_declared(run: Run, reader: str, read: Read) -> None:
    """Then they decide, and `check` names the table."""
    run("alter table usage enable row level security")
    run(f"create policy shown on usage for select to {reader} using (customer = 'cus_a')")
    assert read(filtered=True) == {"cus_a": 40}


@pytest.mark.parametrize("options", ["", "with (security_invoker = true)"])
def test_a_view_does_not_hide_a_policy(run: Run, reader: str, read: Read, options: str) -> None:
    """It reads with its owner's rights or with ours; whoever it is, to hide rows from him is refused."""
    run("create table plain (customer text, quantity int, used_at timestamptz)")
    run("insert into plain values ('cus_a', 40, '2026-06-01 12:05Z')")
    owner = f"{reader}_owner"
    run(f"create role {owner}")
    run(f"grant select on plain to {owner}")
    run(f"create view seen {options} as select * from plain")
    run(f"grant create on schema public to {owner}")
    run(f"alter view seen owner to {owner}")
    run(f"grant select on seen to {reader}")
    try:
        assert read("seen") == {"cus_a": 40}
        run("alter table plain enable row level security")
        with pytest.raises(QueryRejected, match='row-level security policy for table "plain"'):
            read("seen")
    finally:
        run(f"drop owned by {owner} cascade")
        run(f"drop role {owner}")


def test_a_partition_with_a_policy_of_its_own_is_no_way_around(run: Run, read: Read) -> None:
    """Asked by its own name, its policy holds; through its parent, the parent's does."""
    run("alter table usage_june enable row level security")
    assert read() == {"cus_a": 40, "cus_b": 2}
    with pytest.raises(QueryRejected, match="usage_june"):
        read("usage_june")


def test_the_tables_of_a_query_are_found_by_its_plan(run: Run, source_url: str, reader: str) -> None:
    """Behind views, with all partitions, and with what decides on their rows."""
    run("create materialized view totals as select customer from usage")
    run("create view together as select usage.* from usage join totals using (customer)")
    run("alter table usage_july enable row level security")
    source = Source(
        "app", as_role(source_url, reader), statement_timeout=dt.timedelta(seconds=20), filtered=True
    )
    found = {each.name: each for each in source.tables(QUERY.format("together"), ONE)}
    assert set(found) == {"public.totals", "public.usage", "public.usage_june", "public.usage_july"}
    assert [name for name, each in found.items() if each.filtered] == ["public.usage_july"]
    assert [name for name, each in found.items() if each.materialised] == ["public.totals"]
    assert not any(each.foreign or each.subscribed for each in found.values())
