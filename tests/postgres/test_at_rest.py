"""An event says the same while it is on its way, at rest, and when it is sent after all: to the last digit."""

import datetime as dt
from decimal import Decimal
from itertools import product

import psycopg
import pytest

from aggregator.ledger.at_rest import to_outbox, to_rest
from tests.postgres.world import HOUR, MINUTE, START, World

LATER = START + 5 * MINUTE
TRIES: tuple[tuple[int, dt.datetime | None, dt.datetime | None], ...] = (
    (0, None, None),
    (1, None, LATER),
    (1, LATER, LATER),
    (3, LATER, LATER + HOUR),
)
"""Attempts, when the first that may have arrived began, and when the latest did."""

SAID = (
    (Decimal(3), Decimal(3)),
    (Decimal("3.50"), Decimal("3.5")),
    (Decimal("0.000000000000000001"), Decimal("12345678901234567890.000000000000000001")),
    (Decimal(-3), Decimal(0)),
)
"""Deltas and totals."""

OWE = """
insert into aggregator.outbox
       (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at, due_at, attempts, exposed_at,
        attempted_at, combination, customer, identifier, delta, total, quantity, transport, request_id, reason)
values (%s, %s, 1, 1, 1, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'cus_a', %s, %s, %s, %s, %s, %s, %s)
"""

SHOWN = """
select id, slot_id, pass_id, feed_id, revision, window_start, at, planned_at, exposed_at, attempted_at, combination,
       attempts, customer, identifier, delta::text, total::text, quantity::text, transport, request_id, reason
  from aggregator.event order by id
"""

REST = (
    "with gone as (delete from aggregator.outbox returning *)"
    + to_rest("gone", state="'refused'", reason="gone.reason", settled_at="gone.due_at")
    + "from gone"
)
"""Puts all events of the outbox to rest."""

WHOLE = "select * from aggregator.outbox order by event_id"


@pytest.fixture
def owing(world: World) -> World:
    """Return a ledger with every kind of event in its outbox."""
    kinds = product(TRIES, SAID, (0, 2), (0, 7), (None, "why"))
    with world.database.transaction() as connection:
        for number, (
            (attempts, exposed, attempted),
            (delta, total),
            revision,
            combination,
            word,
        ) in enumerate(kinds, 1):
            said = (delta, total, None if word else total + 1, word and "v1", word and "req_1", word)
            tried = (attempts, exposed, attempted, combination, f"agg_{number}")
            slot = number if revision == 0 else 10_000 + number
            values = (number, slot, revision, START, START + MINUTE, LATER, LATER, *tried, *said)
            connection.execute(OWE, values)
    return world


def test_an_event_says_the_same_at_rest(owing: World) -> None:
    """Whatever was null in the outbox, or is null at rest."""
    before = owing.rows(SHOWN)
    owing.execute(REST)
    assert owing.rows(SHOWN) == before
    assert owing.one("select count(*) from aggregator.outbox") == 0
    assert set(owing.rows("select state::text, settled_at from aggregator.event")) == {("refused", LATER)}


def test_an_event_is_sent_after_all_as_it_was(owing: World) -> None:
    """What went to rest and back is as if it had never left, byte for byte."""
    before = owing.rows(WHOLE)
    owing.execute(REST)
    owing.execute(
        "with taken as (delete from aggregator.event_at_rest returning *)"
        + to_outbox("taken", sink="1", due_at="taken.settled_at", reason="taken.reason")
        + "from taken"
    )
    assert owing.rows(WHOLE) == before


def test_the_events_of_a_slot_are_found_wherever_they_are(owing: World) -> None:
    """The first goes by the number of the slot, others by a key of their own; on their way, and at rest."""
    others = "select id, (select count(*) from aggregator.events_of(slot_id)) from aggregator.event where revision > 0"
    first = "select id, (select count(*) from aggregator.events_of(id, false)) from aggregator.event where revision = 0"
    for _ in range(2):
        assert {count for _, count in owing.rows(others)} == {1}
        assert {count for _, count in owing.rows(first)} == {1}
        owing.execute(REST)


def test_whoever_moves_events_looks_them_up_by_their_keys(owing: World, ledger_url: str) -> None:
    """Also by a plan that was made while a table was empty: the guards keep theirs for as long as a session lives."""
    rests = (
        "with gone as (delete from aggregator.outbox where event_id <= %s returning *)"
        + to_rest("gone", state="'refused'", reason="null", settled_at="null")
        + "from gone"
    )
    back = (
        "with taken as (delete from aggregator.event_at_rest where id <= %s returning *)"
        + to_outbox("taken", sink="1", due_at="now()", reason="null")
        + "from taken"
    )
    read = "select seq_tup_read from pg_stat_xact_user_tables where relname = %s"
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        for statement, filled in ((rests, "event_at_rest"), (back, "outbox")):
            connection.execute("vacuum aggregator.outbox, aggregator.event_at_rest")
            with connection.transaction():
                before = connection.execute(read, [filled]).fetchone()
                for until in (64, 128):
                    connection.execute(statement, [until])
                assert connection.execute(read, [filled]).fetchone() == before
        assert connection.execute("select count(*) from aggregator.outbox").fetchone() == (128,)


def test_what_is_usual_takes_no_room(world: World) -> None:
    """An event that was taken at the first attempt, and had nothing before it, is as short as it can be."""
    world.source.use("cus_a", START, 3)
    world.at(1, 5)
    world.collect()
    world.deliver()
    short = "slot_id, revision, attempts, attempted_at, total, quantity, combination, reason"
    assert world.rows(f"select {short} from aggregator.event_at_rest") == [(None,) * 8]
