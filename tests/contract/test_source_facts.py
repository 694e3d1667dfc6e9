"""The facts of the contract can fail: each mistake that a dialect could make is found by the fact that it is about."""

import datetime as dt
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.core.model import Reading
from aggregator.errors import QueryRejected, Rejected, SourceUnreachable
from aggregator.runtime.clock import monotonic
from aggregator.source import Source
from aggregator.source.contract import behaviour, times, values
from aggregator.source.contract.fact import Conclusion, Got, Verdict
from aggregator.source.contract.facts import FACTS
from aggregator.source.contract.prover import Prover
from aggregator.source.contract.wording import KINDS, POSTGRES, SQLITE, Wording, at
from aggregator.source.dialects import Dialect, Renew
from aggregator.source.dialects import Reading as HowToRead
from aggregator.source.postgres import POSTGRES as POSTGRES_DIALECT
from aggregator.source.sqlite import SQLITE as SQLITE_DIALECT
from aggregator.source.sqlite import _begin_sqlite

WRONG, NOT_PROVEN, PROVEN = Verdict.WRONG, Verdict.NOT_PROVEN, Verdict.PROVEN
MICROSECOND = dt.timedelta(microseconds=1)


def ruled(
    source: Source, dialect: Dialect, *names: str, elapsed: Callable[[], float] = monotonic
) -> dict[str, Conclusion]:
    """Ask a source for some facts, by another dialect."""
    source._dialect = dialect
    facts = [fact for fact in FACTS if fact.name in names]
    assert len(facts) == len(names), names
    return {fact.name: conclusion for fact, conclusion in Prover(source, elapsed, facts).run()}


@pytest.fixture
def postgres(source_url: str) -> Iterator[Source]:
    """A source in Postgres."""
    source = Source("app", source_url, statement_timeout=dt.timedelta(seconds=60))
    yield source
    source.close()


@pytest.fixture
def sqlite_source(tmp_path: Path) -> Iterator[Source]:
    """A source in SQLite."""
    (tmp_path / "app.db").touch()
    source = Source("app", f"sqlite:///{tmp_path / 'app.db'}", statement_timeout=dt.timedelta(seconds=60))
    yield source
    source.close()


# Mistakes of a dialect, asked of a real database


@pytest.mark.parametrize(
    "bound",
    [
        lambda instant: instant + dt.timedelta(hours=1),
        lambda instant: instant + MICROSECOND,
        lambda instant: instant.replace(tzinfo=dt.timezone(dt.timedelta(hours=-4))),
        lambda instant: instant if instant.month < 7 else instant - MICROSECOND,
    ],
    ids=["an hour late", "a microsecond late", "in another zone", "early in summer"],
)
def test_a_bound_that_is_not_what_was_meant_is_wrong(
    postgres: Source, bound: Callable[[dt.datetime], object]
) -> None:
    """By however little, and in whichever half of the year."""
    found = ruled(postgres, replace(POSTGRES_DIALECT, bound=bound), "bounds", "bounds without a zone")
    assert {conclusion.verdict for conclusion in found.values()} == {WRONG}, found


def test_bounds_cut_to_seconds_do_no_harm(postgres: Source) -> None:
    """They are told, and are not wrong: windows begin at whole minutes."""
    cut = replace(POSTGRES_DIALECT, bound=lambda instant: instant.replace(microsecond=0))
    found = ruled(postgres, cut, "bounds", "microseconds")
    assert [each.verdict for each in found.values()] == [PROVEN, NOT_PROVEN], found


def in_new_york(connection: sa.Connection, reading: HowToRead) -> Renew:
    """Begin as Postgres does, in a session that stays in New York."""
    renew = POSTGRES_DIALECT.begin(connection, reading)
    connection.exec_driver_sql("set local timezone = 'America/New_York'")
    return renew


def test_a_session_that_stays_in_its_zone_is_wrong(postgres: Source) -> None:
    """Instants are still right there; what has no zone is not, and the name of the zone is told."""
    found = ruled(
        postgres,
        replace(POSTGRES_DIALECT, begin=in_new_york),
        "bounds",
        "bounds without a zone",
        "zone",
        "clock changes",
    )
    assert [each.verdict for each in found.values()] == [PROVEN, WRONG, WRONG, WRONG], found
    assert "America/New_York" in found["zone"].seen
    assert found["zone"].write == POSTGRES.advice


def endless(connection: sa.Connection, reading: HowToRead) -> Renew:
    """Begin as Postgres does, without a statement timeout."""
    renew = POSTGRES_DIALECT.begin(connection, reading)
    connection.exec_driver_sql("set local statement_timeout = 0")
    return renew


def test_a_timeout_that_does_not_hold_is_wrong(postgres: Source) -> None:
    """It is asked for sums that take longer and longer, until one is stopped or takes too long, by a fast clock."""
    loose = replace(POSTGRES_DIALECT, begin=endless)
    found = ruled(postgres, loose, "timeout", elapsed=lambda: 20 * monotonic())["timeout"]
    assert (found.verdict, found.seen.endswith("and no error")) == (WRONG, True), found


def unguarded(connection: sa.Connection, reading: HowToRead) -> Renew:
    """Begin as SQLite does, and then let the query do what it likes."""
    renew = _begin_sqlite(connection, reading)
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_authorizer(None)
    return renew


def test_a_write_that_gets_through_is_wrong(sqlite_source: Source) -> None:
    """The same file, asked without the guard."""
    found = ruled(sqlite_source, replace(SQLITE_DIALECT, begin=unguarded), "only reads")["only reads"]
    assert (found.verdict, found.seen.startswith("`attach")) == (WRONG, True), found


@pytest.mark.parametrize("name", [fact.name for fact in FACTS])
def test_a_database_that_refuses_everything_proves_nothing_by_it(sqlite_source: Source, name: str) -> None:
    """But for what it has to refuse, and then for no reason that it gives; and nothing is called wrong."""

    class Refusing(Source):
        def ask(self, *_: Any) -> Any:
            raise QueryRejected("Source app: the query is refused: out of order")

    refusing = Refusing("app", str(sqlite_source._url), statement_timeout=dt.timedelta(seconds=60))
    found = ruled(refusing, SQLITE_DIALECT, name)[name]
    may = {"one statement", "broken off", "wide sums"}
    assert found.verdict is NOT_PROVEN or name in may, found
    assert found.verdict is not WRONG


def test_a_kind_without_words_is_not_proven(sqlite_source: Source) -> None:
    """Nothing is asked, and what to write is said all the same."""
    bare = Wording(instant=None, hour=None, char=None, broken=None)
    for fact in FACTS:
        if not fact.asks(bare):
            assert fact.conclusion(bare, []).verdict is NOT_PROVEN
            assert fact.conclusion(bare, []).write
    assert not FACTS[0].asks(bare)


# What engines were seen to do, as answers


def reading(customer: str | None, quantity: str | int | Decimal | None = 1, **more: Any) -> Reading:
    return Reading(at("2026-06-01"), customer, None if quantity is None else Decimal(quantity), None, **more)


def got(*readings: Reading) -> Got:
    return Got(readings)


def test_a_sum_that_wraps_is_wrong() -> None:
    """As ClickHouse's does; a sum that is refused, or arrives, is not."""
    largest = got(reading("cus", 2**63 - 1))
    assert values.not_around(SQLITE, [largest, got(reading("cus", -2))]).verdict is WRONG
    assert values.not_around(SQLITE, [largest, got(reading("cus", 2**64 - 2))]).verdict is PROVEN
    assert (
        values.not_around(SQLITE, [got(reading("cus", 4)), got(reading("cus", 2**64 - 2))]).verdict is WRONG
    )
    assert values.not_cut(SQLITE, [got(reading("cus", None, reason="quantity is NULL"))]).verdict is PROVEN
    assert values.not_cut(SQLITE, [got(reading("cus", -5))]).verdict is WRONG


def test_decimals_that_lose_digits_are_wrong_and_floats_are_not_proven() -> None:
    """A float says itself that it is not exact."""
    double = got(reading("cus", values.DOUBLED))
    lost = got(reading("cus", Decimal(values.LONG).quantize(Decimal("1.000"))))
    assert values.to_the_last_digit(SQLITE, [lost, double]).verdict is WRONG
    rough = got(reading("cus", "12345678901234600000", noise=Decimal("1e-11")))
    assert values.to_the_last_digit(SQLITE, [rough, double]).verdict is NOT_PROVEN


def test_a_join_without_a_match_that_gives_a_customer_is_wrong() -> None:
    """ClickHouse gives 0, unless it is told otherwise."""
    none, empty = got(reading(None, 7, reason="no customer")), Got()
    assert values.unmapped(SQLITE, [none, none, none, empty, empty]).verdict is PROVEN
    conclusion = values.unmapped(SQLITE, [none, none, got(reading("0", 7)), empty, empty])
    assert (conclusion.verdict, "left join" in conclusion.seen) == (WRONG, True)
    assert values.unmapped(SQLITE, [none, none, none, empty, got(reading("cus", 1))]).verdict is WRONG


def test_keys_made_one_are_told() -> None:
    """MariaDB's usual collations ignore case and accents; whether a column's do, its own definition says."""
    whole = got(reading(values.FOREIGN))
    merged = got(reading("cus_a", 2), reading("cus_é", 2))
    assert values.apart(SQLITE, [whole, merged]).verdict is NOT_PROVEN
    assert values.apart(SQLITE, [got(reading("cus_?_?_?")), merged]).verdict is WRONG


def test_a_padded_key_that_is_taken_is_wrong() -> None:
    """With its blanks it is another customer."""
    assert values.trimmed(SQLITE, [got(reading("cus_padded          "))]).verdict is WRONG
    assert values.trimmed(SQLITE, [got(reading(None, reason="blanks behind it"))]).verdict is NOT_PROVEN


def test_two_hours_made_one_are_wrong() -> None:
    """DuckDB cuts off hours in the session's zone, and New York has one twice."""
    hours = [moment.replace(minute=0, second=0, microsecond=0) for moment in times.SPREAD]
    right = [Reading(hour, f"row {number}", Decimal(1), None) for number, hour in enumerate(hours)]
    assert times.in_their_hours(SQLITE, [Got(right)]).verdict is PROVEN
    right[2] = right[2]._replace(window_start=hours[3])
    assert times.in_their_hours(SQLITE, [Got(right)]).verdict is WRONG
    back = [each._replace(at=moment) for each, moment in zip(right, times.SPREAD, strict=True)]
    assert times.come_back(POSTGRES, [Got(back)]).verdict is PROVEN
    back[1] = back[1]._replace(at=times.SPREAD[1] + dt.timedelta(hours=1))
    assert times.come_back(POSTGRES, [Got(back)]).verdict is WRONG
    assert times.come_back(POSTGRES, [Got(back[:1])]).verdict is WRONG


def test_a_result_that_ends_short_is_wrong() -> None:
    """An error is what has to come of it, after however many rows."""
    short = Got([reading("cus")] * 10)
    error = SourceUnreachable("Source app cannot be read: lost")
    assert behaviour.broken_off(SQLITE, [short]).verdict is WRONG
    assert behaviour.each_once(SQLITE, [short]).verdict is WRONG
    assert behaviour.broken_off(SQLITE, [short._replace(error=error)]).verdict is PROVEN
    assert behaviour.named_as_such(SQLITE, [Got(error=error)]).verdict is NOT_PROVEN
    assert behaviour.refused_as_two(SQLITE, [short]).verdict is WRONG


def test_a_driver_that_holds_all_rows_or_does_not_let_go_is_told() -> None:
    """Neither bills wrongly; both are what to know before a query returns raw rows."""
    first = Got([reading("cus")], grew=200 << 20)
    assert behaviour.in_batches(SQLITE, [first]).verdict is NOT_PROVEN
    assert behaviour.in_batches(SQLITE, [first._replace(grew=1 << 20)]).verdict is PROVEN
    assert behaviour.in_batches(SQLITE, [first._replace(grew=None)]).verdict is NOT_PROVEN
    late = first._replace(took=dt.timedelta(seconds=30))
    assert behaviour.let_go(SQLITE, [late, first]).verdict is NOT_PROVEN


def test_a_write_that_answers_with_a_column_of_its_own_was_run() -> None:
    """DuckDB says `Success`, which is refused as a column; by then it has been done."""
    done = Got(error=QueryRejected("a column it may not, `Success`", rejected=Rejected.AFTER_IT_RAN))
    assert behaviour.kept_from_writing(SQLITE, [done]).verdict is WRONG
    assert behaviour.refused_as_two(SQLITE, [done]).verdict is WRONG
    before = Got(error=QueryRejected("read-only", rejected=Rejected.AS_A_WRITE))
    assert behaviour.kept_from_writing(SQLITE, [before]).verdict is PROVEN
    assert behaviour.kept_from_writing(SQLITE, [Got(error=QueryRejected("denied"))]).verdict is NOT_PROVEN


def test_a_statement_that_runs_on_is_told() -> None:
    """Only one that ends soon after its source is closed shows that it was stopped."""
    stopped = Got(
        error=SourceUnreachable("Source app cannot be read: interrupted"), took=dt.timedelta(seconds=1)
    )
    assert behaviour.ended(SQLITE, [stopped]).verdict is PROVEN
    assert behaviour.ended(SQLITE, [stopped._replace(took=dt.timedelta(seconds=4))]).verdict is NOT_PROVEN
    assert behaviour.ended(SQLITE, [Got()]).verdict is NOT_PROVEN
    assert behaviour.ended(SQLITE, [Got(error=QueryRejected("not tried"))]).verdict is NOT_PROVEN


@pytest.mark.parametrize("words", {id(each): each for each in KINDS.values()}.values())
def test_every_kind_has_questions_for_almost_every_fact(words: Wording) -> None:
    """Each is filled in without a placeholder left; what a kind has no words for is its hour or a padded type."""
    asked = {fact.name: fact.asks(words) for fact in FACTS}
    assert {name for name, questions in asked.items() if not questions} <= {"hours", "padded keys"}
    for question in (each for questions in asked.values() for each in questions):
        assert "{" not in question.text
        assert "None" not in question.text
