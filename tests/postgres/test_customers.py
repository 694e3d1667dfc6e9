"""A meter whose query returns keys: who is billed for them, when ids come late, change, vanish and double."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.mapping import Looked, Mapping
from aggregator.core.customers import WAITS, Listed, Moved
from aggregator.core.model import Decreases, Span
from aggregator.errors import QueryRejected, SourceError, SourceUnreachable
from aggregator.ledger.customers import Customers
from aggregator.ledger.database import Database
from aggregator.ledger.review.parked import ParkedEvents
from tests.fakes import FakeSink, FakeSource
from tests.postgres.accounts import EVERY, PAST, Accounts
from tests.postgres.world import HOUR, METER, MINUTE, START, World


@pytest.fixture
def accounts(database: Database) -> Accounts:
    """Two accounts that have used something in three hours; one of them has a customer."""
    world = Accounts(database)
    world.use("1", 5, 7, 9)
    world.use("2", 1, 1, 1)
    world.at(3, 10)
    world.says(("1", "cus_one"), ("2", None))
    world.round()
    return world


def test_usage_is_billed_to_the_customer_of_its_key(accounts: Accounts) -> None:
    """Who has a customer is billed; who has none waits under the key, named."""
    assert accounts.everything() == {"cus_one": 21}
    [waits] = accounts.customers.waiting()
    assert (waits.meter, waits.keys, waits.quantity, waits.first_window) == ("api_requests", 1, 3, START)
    assert accounts.rows("select distinct customer, reason from aggregator.unmapped") == [("2", WAITS)]
    assert accounts.customers.names(["cus_one", "2"]) == {"cus_one": "Name of 1", "2": "Name of 2"}
    accounts.check_balance()


def test_a_customer_who_gets_an_id_later_is_billed_then(accounts: Accounts) -> None:
    """All that waited is billed once, and nothing waits any more."""
    assert accounts.says(("1", "cus_one"), ("2", "cus_two")).gained == 1
    accounts.round()
    assert accounts.everything() == {"cus_one": 21, "cus_two": 3}
    assert accounts.customers.waiting() == []
    accounts.look()
    accounts.round()
    assert accounts.everything() == {"cus_one": 21, "cus_two": 3}
    accounts.check_balance()


def test_what_a_key_used_before_it_was_listed_is_billed_as_well(accounts: Accounts) -> None:
    """A key that the mapping does not list waits like one without a customer."""
    accounts.use("3", 4)
    accounts.backfill(Span(START, START + 3 * HOUR))
    assert accounts.customers.waiting()[0].keys == 2
    accounts.says(("1", "cus_one"), ("3", "cus_three"))
    accounts.round()
    assert accounts.everything() == {"cus_one": 21, "cus_three": 4}


def test_a_pass_that_looked_a_moment_too_early_reads_again(accounts: Accounts) -> None:
    """What it noted as waiting is seen to have a customer by then, by that very pass."""

    class Late(MappedSource):
        def _resolved(self, mapping: str | None, batch: Any) -> Any:
            found = super()._resolved(mapping, batch)
            accounts.says(("1", "cus_one"), ("2", None), ("3", "cus_three"))
            return found

    accounts.at(30, 10)
    accounts.collect()
    accounts.use("3", 4)
    before: Any = accounts.collection.source
    accounts.collection.source = Late(before._source, before._customers, before._known)
    accounts.backfill(Span(START, START + HOUR))
    accounts.collection.source = before
    assert accounts.customers.waiting()[0].quantity == 7, (
        "noted as waiting, by what was known a moment before"
    )
    accounts.round()
    assert accounts.everything() == {"cus_one": 21, "cus_three": 4}


def test_an_id_that_changes_from_now_on_leaves_what_was_billed(accounts: Accounts) -> None:
    """Windows that began before stay with the old one, also when they are corrected; later ones go to the new one."""
    accounts.says(("1", "cus_new"), ("2", None))
    accounts.use("1", 8, 6, since=3)
    accounts.use("1", 100)
    accounts.at(5, 10)
    accounts.round()
    accounts.backfill(Span(START, START + 5 * HOUR))
    accounts.deliver()
    assert accounts.everything() == {"cus_one": 129, "cus_new": 6}
    assert accounts.held() == {}
    accounts.check_balance()


def test_a_list_that_takes_long_to_read_changes_nothing_that_was_billed_meanwhile(accounts: Accounts) -> None:
    """Its change holds from the first window that nobody has read, and not from when it began to be read."""
    began = START + 3 * HOUR
    accounts.use("1", 8, 6, since=3)
    accounts.at(5, 10)
    accounts.round()
    rows = [[Listed("1", "cus_new", None), Listed("2", None, None)]]
    accounts.customers.take_over("accounts", rows, Moved.FUTURE, began, oldest=START, apart=EVERY / 2)
    accounts.backfill(Span(START, START + 5 * HOUR))
    accounts.use("1", 2, since=5)
    accounts.at(6, 10)
    accounts.round()
    assert accounts.held() == {}
    assert accounts.everything() == {"cus_one": 35, "cus_new": 2}
    accounts.check_balance()


def moving(database: Database, **settings: Any) -> Accounts:
    """Return a world whose usage moves with its key, billed for three hours."""
    world = Accounts(database, Moved.ALL, **settings)
    world.use("1", 5, 7, 9)
    world.use("2", 5, 7, 9)
    world.at(3, 10)
    world.says(("1", "cus_one"), ("2", "cus_two"))
    world.round()
    return world


def test_an_id_that_changes_takes_all_along_in_one_step(database: Database) -> None:
    """Two customers with the same numbers are told apart: both sides wait, and one word lets both go."""
    accounts, parked = moving(database), ParkedEvents(database)
    accounts.says(("1", "new_one"), ("2", "cus_two"))
    accounts.round()
    assert accounts.held() == {"cus_one": -21, "new_one": 21}
    assert accounts.everything() == {"cus_one": 21, "cus_two": 21}
    [move] = parked.moved(10)
    assert (move.from_customer, move.to_customer, move.windows) == ("cus_one", "new_one", 3)
    accounts.outbox.release([move.event], accounts.now)
    accounts.deliver()
    assert accounts.everything() == {"new_one": 21, "cus_two": 21}
    accounts.check_balance()


def test_several_ids_that_change_at_once_are_each_a_move(database: Database) -> None:
    """Who could not be told apart by numbers is by the mapping; so many changes are believed at the second read."""
    accounts, parked = moving(database), ParkedEvents(database)
    doubted = accounts.says(("1", "new_one"), ("2", "new_two"))
    assert doubted.doubt == (
        "of 2 keys with a customer, 0 would lose it and 2 would get another one, all at once"
    )
    accounts.round()
    assert accounts.held() == {}
    assert accounts.look().changed == 2
    accounts.round()
    assert {(move.from_customer, move.to_customer) for move in parked.moved(10)} == {
        ("cus_one", "new_one"),
        ("cus_two", "new_two"),
    }
    assert accounts.everything() == {"cus_one": 21, "cus_two": 21}


def test_while_an_event_is_on_its_way_nobody_else_is_billed_for_it(database: Database) -> None:
    """Sent at once, the new customer's usage would be billed beside the old one's until a person looks."""
    accounts, parked = Accounts(database, Moved.ALL), ParkedEvents(database)
    accounts.use("1", 5, 7)
    accounts.at(2, 10)
    accounts.says(("1", "cus_one"))
    accounts.collect()
    accounts.says(("1", "new_one"))
    accounts.collect()
    accounts.deliver()
    assert accounts.everything() == {"cus_one": 12}
    accounts.round()
    assert (accounts.held(), accounts.everything()) == ({"cus_one": -12, "new_one": 12}, {"cus_one": 12})
    accounts.outbox.release([move.event for move in parked.moved(10)], accounts.now)
    accounts.deliver()
    assert accounts.everything() == {"new_one": 12}
    accounts.check_balance()


def test_who_loses_and_gains_gives_nothing_away_before(database: Database) -> None:
    """What a customer lost is in the increase that waits for it: until that is released, it is billed for both."""
    accounts, parked = Accounts(database, Moved.ALL), ParkedEvents(database)
    accounts.use("1", 4)
    accounts.use("2", 6)
    accounts.at(1, 10)
    accounts.says(("1", "cus_one"), ("2", "cus_two"))
    accounts.round()
    accounts.says(("1", "cus_one"), ("2", "cus_one"))
    accounts.round()
    assert accounts.held() == {"cus_two": -6, "cus_one": 6}
    accounts.says(("1", "new_one"), ("2", "cus_one"))
    accounts.round()
    assert accounts.held() == {"cus_two": -6, "cus_one": 2, "new_one": 4}
    assert accounts.everything() == {"cus_one": 4, "cus_two": 6}
    waiting = [event for (event,) in accounts.rows("select event_id from aggregator.parked")]
    accounts.outbox.release(waiting, accounts.now)
    accounts.deliver()
    assert (accounts.everything(), parked.moved(10)) == ({"cus_one": 6, "new_one": 4}, [])
    accounts.check_balance()


def test_usage_that_moves_on_at_once_waits_for_its_first_customer(database: Database) -> None:
    """Who is between loses as much as it gains: there is nothing of it to hold, and nothing to let through."""
    accounts = Accounts(database, Moved.ALL)
    accounts.use("1", 9)
    accounts.use("2", 9)
    accounts.at(1, 10)
    accounts.says(("1", "cus_one"), ("2", "cus_two"))
    accounts.round()
    accounts.says(("1", "cus_two"), ("2", "new_two"))
    accounts.look()
    accounts.use("2", 1)
    accounts.round()
    assert accounts.held() == {"cus_one": -9, "new_two": 10}
    assert accounts.everything() == {"cus_one": 9, "cus_two": 9}
    accounts.check_balance()


def test_where_decreases_apply_nothing_moves_before_what_is_on_its_way(database: Database) -> None:
    """Both sides leave at once, and not the increase a pass earlier."""
    accounts = Accounts(database, Moved.ALL, meter=replace(METER, decreases=Decreases.APPLY))
    accounts.use("1", 5, 7)
    accounts.at(2, 10)
    accounts.says(("1", "cus_one"))
    accounts.collect()
    accounts.says(("1", "new_one"))
    accounts.collect()
    accounts.deliver()
    assert accounts.everything() == {"cus_one": 12}
    accounts.round()
    assert accounts.everything() == {"new_one": 12}
    accounts.check_balance()


def test_where_decreases_apply_all_moves_at_once(database: Database) -> None:
    """Nobody has to say a word."""
    accounts = moving(database, meter=replace(METER, decreases=Decreases.APPLY))
    accounts.says(("1", "new_one"), ("2", "cus_two"))
    accounts.round()
    assert accounts.everything() == {"new_one": 21, "cus_two": 21}
    accounts.check_balance()


def test_what_only_a_part_of_an_id_gives_away_waits_with_it(database: Database) -> None:
    """Two keys of one customer, one of which changes: what the new one gains waits for what the old one keeps too much."""
    accounts, parked = Accounts(database, Moved.ALL), ParkedEvents(database)
    accounts.use("1", 5, 7)
    accounts.use("2", 1, 2)
    accounts.at(2, 10)
    accounts.says(("1", "cus_all"), ("2", "cus_all"))
    accounts.round()
    assert accounts.everything() == {"cus_all": 15}, "two keys of one customer are summed"
    accounts.says(("1", "cus_all"), ("2", "cus_two"))
    accounts.round()
    assert (accounts.held(), accounts.everything()) == ({"cus_all": -3, "cus_two": 3}, {"cus_all": 15})
    [move] = parked.moved(10)
    accounts.outbox.release([move.event], accounts.now)
    accounts.deliver()
    assert accounts.everything() == {"cus_all": 12, "cus_two": 3}
    accounts.check_balance()


def test_ids_that_become_one_wait_one_by_one(database: Database) -> None:
    """There are no pairs of three: nothing leaves before a person has looked, and the sink never has too much."""
    accounts = moving(database)
    accounts.says(("1", "cus_both"), ("2", "cus_both"))
    accounts.look()
    accounts.round()
    assert accounts.held() == {"cus_one": -21, "cus_two": -21, "cus_both": 42}
    assert accounts.everything() == {"cus_one": 21, "cus_two": 21}
    assert ParkedEvents(database).moved(10) == []
    events = [event for (event,) in accounts.rows("select event_id from aggregator.parked")]
    accounts.outbox.release(events, accounts.now)
    accounts.deliver()
    assert accounts.everything() == {"cus_both": 42}
    accounts.check_balance()


def test_older_windows_than_the_sinks_take_do_not_move(database: Database) -> None:
    """They stay with the customer whom they were billed to; nothing is lowered that could not be billed anew."""
    accounts = moving(database)
    accounts.now = START + PAST + 90 * MINUTE
    accounts.says(("1", "new_one"), ("2", "cus_two"))
    accounts.backfill(Span(START, START + 3 * HOUR))
    accounts.deliver()
    assert accounts.held() == {"cus_one": -9, "new_one": 9}


def test_a_pass_under_way_does_not_book_what_has_moved(database: Database) -> None:
    """A daemon that read by the old customer loses its pass to the one that took over the mapping."""
    accounts = moving(database)
    lease = accounts.hold()
    assert lease is not None
    accounts.says(("1", "new_one"), ("2", "cus_two"))
    assert not accounts.meters.renew(lease)


def test_a_key_that_vanishes_bills_nobody_from_then_on(accounts: Accounts) -> None:
    """What was billed stays; new usage waits, and is billed once the key is listed again."""
    assert accounts.says(("2", None)).doubt == "it lists no customer any more, and had 1"
    accounts.use("1", 3, 4, since=3)
    accounts.at(5, 10)
    accounts.round()
    assert accounts.everything() == {"cus_one": 28}, "a read that is not believed changes nothing"
    assert accounts.look().lost == 1
    accounts.use("1", 6, 2, since=5)
    accounts.at(7, 10)
    accounts.round()
    assert accounts.everything() == {"cus_one": 34}, "the window that had begun is the old customer's"
    assert [(each.keys, each.quantity) for each in accounts.customers.waiting()] == [(2, 5)]
    accounts.says(("1", "cus_one"), ("2", None))
    accounts.round()
    assert accounts.everything() == {"cus_one": 36}
    accounts.check_balance()


def test_where_all_moves_ids_come_and_go_as_well(database: Database) -> None:
    """Whoever gets an id late is billed, and whoever loses it keeps what was billed: neither is a move."""
    accounts = Accounts(database, Moved.ALL)
    accounts.use("1", 5, 7)
    accounts.use("2", 1, 2)
    accounts.at(2, 10)
    accounts.says(("1", "cus_one"), ("2", None))
    accounts.round()
    assert accounts.says(("1", "cus_one"), ("2", "cus_two")).gained == 1
    accounts.round()
    assert accounts.everything() == {"cus_one": 12, "cus_two": 3}
    assert accounts.says(("1", "cus_one")).lost == 1
    accounts.round()
    assert (accounts.everything(), accounts.held()) == ({"cus_one": 12, "cus_two": 3}, {})
    assert accounts.rows("select key, moves from aggregator.customer_change order by id") == [
        ("2", False),
        ("2", False),
    ]


def test_an_empty_list_that_is_whole_again_changes_nothing(accounts: Accounts) -> None:
    """A table that was being filled is no reason to unmap anybody."""
    accounts.says()
    accounts.says(("1", "cus_one"), ("2", None))
    assert accounts.rows("select count(*) from aggregator.customer_change") == [(0,)]
    [state] = accounts.customers.states()
    assert (state.doubted, state.keys) == (None, 1)


def test_another_doubtful_list_confirms_nothing(database: Database) -> None:
    """What is believed at the second read says the same as the first one; a list that grows back does not."""
    accounts = Accounts(database)
    everybody = [(str(number), f"cus_{number}") for number in range(1_000)]
    accounts.says(*everybody)
    assert accounts.says().doubt
    assert accounts.says(*everybody[:500]).doubt
    assert accounts.look().lost == 500


def test_two_readings_in_one_moment_are_one(accounts: Accounts, database: Database) -> None:
    """A second daemon does not confirm what the first has just seen."""
    beside = Mapping(
        "accounts", accounts._read, Customers(database), moved=Moved.FUTURE, every=EVERY, past=PAST
    )
    assert accounts.says().doubt
    assert beside.run_once(accounts.now) == Looked()
    assert accounts.rows("select until from aggregator.customer where until < 'infinity'") == []


def test_a_key_with_two_customers_is_an_error_that_names_both(accounts: Accounts) -> None:
    """Nothing of such a list holds; what was known goes on, and status says why."""
    with pytest.raises(QueryRejected, match="key '1' has 'cus_one' and 'cus_other'"):
        accounts.says(("1", "cus_one"), ("1", "cus_other"), ("2", "cus_two"))
    [state] = accounts.customers.states()
    assert state.failure is not None
    assert "cus_other" in state.failure
    accounts.round()
    assert accounts.everything() == {"cus_one": 21}
    accounts.says(("1", "cus_one"), ("1", "cus_one"), ("1", None), ("2", "cus_two"))
    accounts.round()
    assert accounts.everything() == {"cus_one": 21, "cus_two": 3}
    assert accounts.customers.states()[0].failure is None


def test_a_mapping_that_cannot_be_read_leaves_what_is_known(accounts: Accounts) -> None:
    """Usage goes on being billed by it."""
    accounts.broken = SourceUnreachable("Source app cannot be read: gone")
    with pytest.raises(SourceUnreachable):
        accounts.look()
    accounts.use("1", 2, since=3)
    accounts.at(4, 10)
    accounts.round()
    assert accounts.everything() == {"cus_one": 23}
    assert accounts.customers.states()[0].failure == "Source app cannot be read: gone"


def test_before_a_mapping_was_read_nothing_is(database: Database) -> None:
    """Everybody's usage would seem to wait."""
    accounts = Accounts(database)
    accounts.use("1", 5)
    accounts.at(1, 10)
    with pytest.raises(SourceError, match="Mapping accounts was never read"):
        accounts.collect()
    assert accounts.rows("select count(*) from aggregator.unmapped") == [(0,)]


def test_a_meter_that_gains_a_mapping_goes_on_from_its_next_window(database: Database) -> None:
    """What was billed by ids stays so, also when it is read again by the old query."""
    plain = World(database)
    plain.source.use("cus_one", START, 5)
    plain.at(1, 10)
    plain.collect()
    plain.deliver()

    class ByDefinition(FakeSource):
        def answer(self, query: str, span: Span, window: dt.timedelta, step: Any = None) -> Any:
            found = self._readings(span, window)
            keys = {"cus_one": "1"} if query == "by key" else {}
            return [each._replace(customer=keys.get(each.customer or "", each.customer)) for each in found]

    meter = replace(METER, query="by key", fingerprint="a" * 64)
    accounts = Accounts(database, meter=meter, source=ByDefinition(plain.source.uses), sinks=[plain.sink])
    accounts.source.use("cus_one", START + HOUR, 7)
    accounts.at(2, 10)
    accounts.says(("1", "cus_one"))
    accounts.round()
    accounts.backfill(Span(START, START + HOUR))
    accounts.deliver()
    assert (accounts.everything(), accounts.held(), accounts.customers.waiting()) == ({"cus_one": 12}, {}, [])


def test_what_a_sink_overwrites_is_summed_over_keys(database: Database) -> None:
    """Two keys of one customer are one slot: neither replaces the other."""
    from aggregator.core.model import WriteModel
    from tests.fakes import LIMITS

    sink = FakeSink(limits=replace(LIMITS, write_model=WriteModel.OVERWRITE))
    accounts = Accounts(database, sinks=[sink])
    accounts.use("1", 5)
    accounts.use("2", 2)
    accounts.at(1, 10)
    accounts.says(("1", "cus_all"), ("2", "cus_all"))
    accounts.round()
    assert [event.total for event in sink.received] == [7]


@pytest.mark.parametrize("point", ["customers_read", "customers_written", "customers_taken_over"])
def test_a_process_that_dies_in_a_move_changes_all_of_it_or_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Another process takes over wherever it stopped, and ends up at the same: nothing is lost, and nothing moves twice."""

    class Died(BaseException):
        """The process has ended."""

    def passing(name: str) -> None:
        if name == point:
            raise Died

    accounts = moving(database)
    with monkeypatch.context() as dying:
        dying.setattr("aggregator.runtime.failpoints.passing", passing)
        with pytest.raises(Died):
            accounts.says(("1", "new_one"), ("2", "cus_two"))
    changed = accounts.one("select count(*) from aggregator.customer_change")
    reread = accounts.one("select reread_from is not null from aggregator.meter")
    assert (changed, reread) == ((1, True) if point == "customers_taken_over" else (0, False))
    accounts.look()
    accounts.round()
    assert accounts.held() == {"cus_one": -21, "new_one": 21}
    assert accounts.one("select count(*) from aggregator.customer_change") == 1
    accounts.round()
    assert accounts.held() == {"cus_one": -21, "new_one": 21}
    accounts.check_balance()


def test_keys_are_looked_up_where_usage_is_kept_apart(database: Database) -> None:
    """Two keys of one customer are summed for each combination of dimensions, and a move takes each along."""
    meter = replace(METER, dimensions=("model",))
    accounts = Accounts(database, Moved.ALL, meter=meter)

    def answer(query: str, span: Span, window: dt.timedelta, step: Any = None) -> Any:
        found = accounts.source._readings(span, window)
        return [each._replace(dimensions=(("model", "a" if each.quantity == 5 else "b"),)) for each in found]

    monkey: Any = accounts.source
    monkey.answer = answer
    accounts.use("1", 5, 7)
    accounts.use("2", 5, 7)
    accounts.at(2, 10)
    accounts.says(("1", "cus_all"), ("2", "cus_all"))
    accounts.round()
    assert accounts.everything() == {"cus_all": 24}
    accounts.says(("1", "new"), ("2", "cus_all"))
    accounts.round()
    assert accounts.held() == {"cus_all": -12, "new": 12}
    assert sum(move.windows for move in ParkedEvents(database).moved(10)) == 2
