"""`aggregator check` on a Postgres source: whose rows may come later than a window is read, or unseen."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aggregator.cli.check import Finding, _sources
from aggregator.cli.tables import table_notes
from aggregator.config import load
from aggregator.core.model import Span
from aggregator.source.dialects import Table
from aggregator.source.tables import relations
from tests.postgres.servers import as_role

pytestmark = pytest.mark.direct

CONFIG = """
sources:
  app: {{url: "{url}"{more}}}
sinks:
  stripe: {{type: stripe, api_key: sk_test_x, mode: test}}
meters:
  requests:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select customer, quantity, at, at as window from shown where at >= :start and at < :end
"""

Run = Callable[[str], object]
HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def run(source_url: str) -> Iterator[Run]:
    """Run a statement as the owner of the application's tables."""
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute("create table usage (customer text, quantity int, at timestamptz)")
        connection.execute("create view shown as select * from usage")
        yield connection.execute


@pytest.fixture
def reader(run: Run, source_url: str) -> Iterator[str]:
    """A role that may read the view, and nothing else."""
    name = f"reader_{source_url.rpartition('test_')[2][:12]}"
    run(f"create role {name} login")
    run(f"grant select on shown to {name}")
    yield name
    run(f"drop owned by {name} cascade")
    run(f"drop role {name}")


@pytest.fixture
def notes(tmp_path: Path, source_url: str, reader: str) -> Callable[..., list[str]]:
    """What check notes of the source and its meter; nothing may be wrong."""

    def look(more: str = "") -> list[str]:
        path = tmp_path / "config.yaml"
        path.write_text(CONFIG.format(url=as_role(source_url, reader), more=more))
        found: list[Finding] = list(_sources(load(path, {}), None, {}))
        assert [each for each in found if each.verdict == "wrong"] == []
        return [each.text for each in found if each.verdict == "note"]

    return look


Notes = Callable[..., list[str]]


def of(notes: list[str], word: str) -> list[str]:
    return [note for note in notes if word in note]


def test_plain_tables_need_no_word(notes: Notes) -> None:
    """Where rows are written, nothing has to arrive."""
    found = notes()
    assert of(found, "freshness") == of(found, "row-level") == of(found, "stamped") == []


def test_a_materialised_view_wants_a_proof_of_freshness(run: Run, notes: Notes) -> None:
    """It shows what it held when it was last refreshed; `freshness` is asked for, and heeded once it is there."""
    run("create materialized view totals as select * from usage")
    run("create or replace view shown as select * from totals")
    [note] = of(notes(), "freshness")
    assert "public.totals are materialised views" in note
    [note] = of(notes(', freshness: "select max(at) from shown"'), "freshness")
    assert "has proven nothing yet" in note


class Planned:
    """A source whose plan names one table of some kind."""

    name = "app"

    def __init__(self, **kind: bool) -> None:
        kinds: dict[str, Any] = {
            "foreign": False,
            "subscribed": False,
            "materialised": False,
            "filtered": False,
        }
        self.table = Table("public.far", **{**kinds, **kind})

    def tables(self, query: str, span: Span) -> list[Table]:
        """Name it."""
        return [self.table]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("foreign", "are foreign tables"),
        ("subscribed", "are filled by logical replication"),
        ("materialised", "are materialised views"),
    ],
)
def test_rows_of_another_server_want_a_proof_of_freshness(kind: str, said: str) -> None:
    """Their transactions are seen by nobody here."""
    source: Any = Planned(**{kind: True})
    span = Span(NOON, NOON + HOUR)
    [note] = table_notes(source, "", span, freshness=False, filtered=False)
    assert said in note
    assert "`freshness`" in note
    assert list(table_notes(source, "", span, freshness=True, filtered=False)) == []


@pytest.mark.parametrize(
    ("step", "named"),
    [
        ({"Relations": "Aggregate on (public.usage)"}, [("public", "usage")]),
        (
            {"Relations": 'Aggregate on ((public.usage u) INNER JOIN ("Odd one"."Us.""age" v))'},
            [("public", "usage"), ("Odd one", 'Us."age')],
        ),
        ({"Schema": "public", "Relation Name": "usage"}, [("public", "usage")]),
    ],
)
def test_tables_whose_sum_another_server_makes_are_found(
    step: dict[str, str], named: list[tuple[str, str]]
) -> None:
    """A plan has no step for each of them then."""
    plan = [{"Plan": {"Node Type": "Sort", "Plans": [{"Node Type": "Foreign Scan", **step}]}}]
    assert list(relations(plan)) == named


def test_a_default_that_stamps_too_early_is_named(run: Run, notes: Notes) -> None:
    """A procedure that commits keeps the instant of its call; no transaction is as old as such a row."""
    run("alter table usage alter at set default statement_timestamp()")
    [note] = of(notes(), "stamped by default")
    assert note.startswith("public.usage.at ")
    run("alter table usage alter at set default clock_timestamp()")
    assert of(notes(), "stamped by default") == []


def test_a_role_whose_transactions_do_not_show_is_named(run: Run, reader: str, notes: Notes) -> None:
    """When they began is noted nowhere, so that their rows come unseen."""
    run(f"alter role {reader} set track_activities = off")
    [note] = of(notes(), "`track_activities` is off")
    assert f"role {reader}" in note
    run(f"alter role {reader} reset track_activities")
    assert of(notes(), "`track_activities` is off") == []


def test_policies_that_are_meant_are_named(run: Run, notes: Notes) -> None:
    """Whoever declares them is told which tables they decide on."""
    run("create role keeper")
    try:
        run("grant create on schema public to keeper")
        run("grant select on usage to keeper")
        run("alter view shown owner to keeper")
        run("alter table usage enable row level security")
        [note] = of(notes(", row_security: allowed"), "no table")
        assert "hides every row" in note
        run("create policy some_rows on usage for select to keeper using (customer = 'cus_a')")
        [note] = of(notes(", row_security: allowed"), "row-level security")
        assert "public.usage" in note
    finally:
        run("drop owned by keeper cascade")
        run("drop role keeper")


def test_a_policy_that_does_not_reach_the_reader_is_no_matter(run: Run, notes: Notes) -> None:
    """A view reads by the rights of its owner, who sees all here; else the query would have been refused."""
    run("alter table usage enable row level security")
    run("create policy large on usage using (quantity > 5)")
    assert of(notes(), "row-level security") == []


@pytest.mark.parametrize(
    ("detail", "wrong"),
    [
        ("select at from shown where customer = :customer and at >= :start and at < :end", []),
        (
            "select path from shown where customer = :customer and at >= :start and at < :end",
            ["`detail_query`: Source app: the query is refused: column"],
        ),
    ],
)
def test_the_query_for_the_rows_behind_a_number_is_tried(
    tmp_path: Path, source_url: str, reader: str, detail: str, wrong: list[str]
) -> None:
    """Over no time at all: a column that is not there is found before somebody asks."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(url=as_role(source_url, reader), more="") + f"    detail_query: {detail}\n")
    found = [each.text for each in _sources(load(path, {}), None, {}) if each.verdict == "wrong"]
    assert [text[: len(wrong[0])] for text in found] == wrong if wrong else found == []
