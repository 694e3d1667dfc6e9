"""Accounts that customers name are heard each by itself and by turns, and how imports went beside them."""

import datetime as dt

import pytest

from aggregator.core.model import Rejection, Report, Span
from aggregator.errors import AccountRefused, SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.notifications import TALKS, Heard, Notifications, Origin, Origins
from aggregator.reconciliation.notification_poller import (
    AGAIN_AFTER,
    IMPORTS,
    MOST_ACCOUNTS_ASKED,
    OVERLAP,
    REACH,
    NotificationPoller,
    Taken,
)
from tests.postgres.teller import SIGNED, NotificationClient
from tests.postgres.world import HOUR, METER, World

SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)
A, B, C = "acct_a", "acct_b", "acct_c"


@pytest.fixture
def owing(database: Database) -> World:
    """A world whose sink has accepted an event of one customer in each of three accounts, all of the same name there."""
    world = World(database)
    for number, account in enumerate((A, B, C)):
        world.source.use(f"{account}/cus", world.now, number + 1)
    world.at(1, 5)
    world.collect()
    world.deliver()
    world.now += SECOND
    return world


@pytest.fixture
def teller(owing: World) -> NotificationClient:
    """A sink whose customers name their accounts."""
    return NotificationClient(owing)


def sink_id(world: World) -> int:
    return world.registered.feeds[0].sink_id


def intake(
    world: World, teller: NotificationClient, *, by_customer: bool = True, imports: bool = False
) -> NotificationPoller:
    """A fresh process's ears."""
    voices = Origins(world.database)
    whose = sink_id(world)
    return NotificationPoller(
        Notifications(world.database),
        teller,
        world.sink,
        whose,
        voices,
        by_customer=by_customer,
        imports=imports,
    )


def hear(world: World, teller: NotificationClient) -> Taken:
    return intake(world, teller).run_once(world.now)


def hear_imports(world: World, teller: NotificationClient) -> Taken:
    """One round of a sink that is one account, beside which there are files."""
    return intake(world, teller, by_customer=False, imports=True).run_once(world.now)


def name_of(world: World, account: str) -> str:
    name: str = world.one("select identifier from aggregator.event where customer = %s", f"{account}/cus")
    return name


def report(world: World, *accounts: str, rejected: int | None = None, name: str = "evt_1") -> Report:
    """A report that names the events of the customers in these accounts."""
    named = tuple(Rejection(name_of(world, each), "no such customer") for each in accounts)
    span = Span(world.now - 10 * SECOND, world.now)
    return Report(name, METER.name, span, len(named) if rejected is None else rejected, named)


def states(world: World) -> list[str]:
    return [row[0] for row in world.rows("select state::text from aggregator.event order by customer")]


def voice(world: World, name: str) -> Origin:
    row = world.rows("select name, heard_until from aggregator.voice where name = %s", name)
    return Origin._make(row[0])


def standings(world: World) -> list[Heard]:
    return Notifications(world.database).standings()


# -- accounts -------------------------------------------------------------------------------------


def test_each_account_that_events_went_to_is_asked(owing: World, teller: NotificationClient) -> None:
    """In its own name, and nobody else: what one of them reports is refused there."""
    teller.tell("evt_1", report(owing, B), account=B)
    owing.now += SECOND
    assert hear(owing, teller).figures() == {"messages": 1, "rejected": 1}
    assert sorted(teller.asked_of, key=str) == [A, B, C]
    assert states(owing) == ["accepted", "refused", "accepted"]
    assert hear(owing, teller).figures() == {}
    assert teller.fetches == ["evt_1"]
    owing.check_balance()


def test_a_report_of_one_account_never_refuses_an_event_of_another(
    owing: World, teller: NotificationClient
) -> None:
    """Not even if it names it; and what its own account says of it later counts in full."""
    teller.tell("evt_1", report(owing, B), account=A)
    owing.now += SECOND
    taken = hear(owing, teller)
    assert (taken.messages, taken.rejected) == (1, 0)
    assert states(owing) == ["accepted"] * 3
    teller.tell("evt_2", report(owing, B, name="evt_2"), account=B)
    owing.now += SECOND
    assert hear(owing, teller).rejected == 1
    assert states(owing) == ["accepted", "refused", "accepted"]


def test_who_names_an_event_of_another_is_read_back(owing: World, teller: NotificationClient) -> None:
    """It names nobody that is its own, so that what it counts is looked for."""
    teller.tell("evt_1", report(owing, B), account=A)
    owing.now += SECOND
    assert hear(owing, teller).readbacks == 1


def test_a_delivery_is_of_the_account_that_it_names(owing: World, teller: NotificationClient) -> None:
    """It is fetched there, and counts once, however it came."""
    teller.tell("evt_1", report(owing, C), account=C)
    teller.tell("evt_2", report(owing, C, name="evt_2"), account=A)
    ears = intake(owing, teller)
    assert ears.deliver(b"evt_2", SIGNED, owing.now).figures() == {"messages": 1, "readbacks": 1}
    assert ears.deliver(b"evt_1", SIGNED, owing.now).figures() == {"messages": 1, "rejected": 1}
    assert ears.deliver(b"evt_1", SIGNED, owing.now).figures() == {}
    owing.now += SECOND
    assert hear(owing, teller).figures() == {}
    assert states(owing) == ["accepted", "accepted", "refused"]


def test_a_delivery_of_an_account_that_is_closed_is_acknowledged(
    owing: World, teller: NotificationClient
) -> None:
    """Else whoever delivers would give up on all of them. It is said, and asked for once the account is open again."""
    teller.tell("evt_1", report(owing, A), account=A)
    teller.refusing[A] = AccountRefused("no way in")
    taken = intake(owing, teller).deliver(b"evt_1", SIGNED, owing.now)
    assert (taken.messages, taken.troubles) == (0, ["evt_1: no way in"])
    teller.refusing.clear()
    owing.now += SECOND
    assert hear(owing, teller).rejected == 1


@pytest.mark.parametrize(
    "trouble", [AccountRefused("no way in"), SinkError("nonsense"), SinkUnreachable("away")]
)
def test_the_trouble_of_one_holds_up_nobody(
    owing: World, teller: NotificationClient, trouble: SinkError
) -> None:
    """The others are heard in the same round; it is heard from where it was, once it lets itself be asked."""
    hear(owing, teller)
    owing.now += SECOND
    for account in (A, B, C):
        teller.tell(f"evt_{account}", report(owing, account, name=f"evt_{account}"), account=account)
    teller.refusing[A] = trouble
    owing.now += SECOND
    taken = hear(owing, teller)
    assert (taken.rejected, taken.refusals, taken.refused) == (2, {A: str(trouble)}, None)
    assert states(owing) == ["accepted", "refused", "refused"]
    teller.refusing.clear()
    owing.now += 3 * HOUR
    assert hear(owing, teller).rejected == 1


def test_who_refuses_is_asked_again_an_hour_later(owing: World, teller: NotificationClient) -> None:
    """By whichever process; meanwhile `status` has its reason, and afterwards no more."""
    teller.refusing[A] = AccountRefused("no way in")
    hear(owing, teller)
    refused_at = owing.now
    assert [(row.whose, row.refused_reason, row.refused_at) for row in standings(owing)] == [
        ("", None, None),
        (A, "no way in", refused_at),
    ]
    owing.now += AGAIN_AFTER - SECOND
    teller.asked_of.clear()
    hear(owing, teller)
    assert sorted(teller.asked_of, key=str) == [B, C]
    owing.now += SECOND
    hear(owing, teller)
    assert [row.refused_at for row in standings(owing) if row.whose == A] == [refused_at]
    teller.refusing.clear()
    owing.now += AGAIN_AFTER
    hear(owing, teller)
    assert [row.whose for row in standings(owing)] == [""]


def test_a_key_that_is_refused_is_everybodys_trouble(owing: World, teller: NotificationClient) -> None:
    """It is said of the sink, and no account is asked any more in this round."""
    teller.refuses = SinkHalted("the key is no good")
    taken = hear(owing, teller)
    assert (taken.refused, taken.refusals, len(teller.asked)) == ("the key is no good", {}, 1)


def many(world: World, number: int) -> list[str]:
    """Have events go to so many more accounts; return all there are."""
    names = [f"acct_{each:03d}" for each in range(number)]
    for name in names:
        world.source.use(f"{name}/cus", world.now - HOUR, 1)
    world.collect()
    world.deliver()
    world.now += SECOND
    return [A, B, C, *names]


def test_a_sink_that_is_away_ends_the_round(owing: World, teller: NotificationClient) -> None:
    """Three in a row without an answer are enough; the next round begins with others."""
    accounts = many(owing, 5)
    teller.refuses = SinkUnreachable("away")
    with pytest.raises(SinkUnreachable):
        hear(owing, teller)
    first = list(teller.asked_of)
    assert len(first) == 3
    owing.now += MINUTE
    with pytest.raises(SinkUnreachable):
        hear(owing, teller)
    assert set(teller.asked_of[3:]).isdisjoint(first)
    teller.refuses = None
    owing.now += MINUTE
    teller.asked_of.clear()
    hear(owing, teller)
    assert sorted(teller.asked_of, key=str) == sorted(accounts)


def test_many_accounts_take_turns(owing: World, teller: NotificationClient) -> None:
    """A round has so many questions and no more; whoever waited longest comes first, in a fresh process as well."""
    accounts = many(owing, 2 * MOST_ACCOUNTS_ASKED)
    last = report(owing, C)
    teller.tell("evt_1", last, account=C)
    owing.now += SECOND
    turns = []
    for _ in range(3):
        teller.asked_of.clear()
        taken = hear(owing, teller)
        assert not taken.more
        turns.append(list(teller.asked_of))
        owing.now += MINUTE
    assert [len(turn) for turn in turns] == [MOST_ACCOUNTS_ASKED] * 3
    assert {name for turn in turns for name in turn} == set(accounts)
    assert turns[2][3:] == turns[0][: MOST_ACCOUNTS_ASKED - 3]
    assert states(owing).count("refused") == 1


def test_pieces_are_questions_too(owing: World, teller: NotificationClient) -> None:
    """An account with much to say has no more of a round than there is, and goes on in the next."""
    teller.most = 2
    for number in range(40):
        teller.tell(f"evt_{number}", made_at=owing.now - number * DAY / 2, account=A)
    owing.now += SECOND
    for _ in range(60):
        before = len(teller.asked)
        hear(owing, teller)
        assert len(teller.asked) - before <= MOST_ACCOUNTS_ASKED
        owing.now += SECOND
    assert owing.one("select count(*) from aggregator.notice") == 40


def test_how_far_each_was_heard_is_remembered(owing: World, teller: NotificationClient) -> None:
    """The first question goes as far back as there is anything; the next one an hour before the last."""
    hear(owing, teller)
    assert {span.start for span in teller.asked} == {owing.now - REACH}
    assert voice(owing, A).heard_until == owing.now
    assert standings(owing)[0].heard_until == owing.now
    before, owing.now = owing.now, owing.now + 2 * MINUTE
    teller.asked.clear()
    hear(owing, teller)
    assert teller.asked == [Span(before - OVERLAP, owing.now)] * 3


def test_an_account_of_which_nothing_is_left_to_say_is_left_in_peace(
    owing: World, teller: NotificationClient
) -> None:
    """A week after its last event it is asked no more, and again once there is a new one."""
    hear(owing, teller)
    owing.now += TALKS - MINUTE
    teller.asked_of.clear()
    hear(owing, teller)
    assert len(teller.asked_of) == 3
    owing.now += 2 * MINUTE
    hear(owing, teller)
    teller.asked_of.clear()
    owing.now += MINUTE
    hear(owing, teller)
    assert teller.asked_of == []
    owing.source.use(f"{B}/cus", owing.now - 2 * HOUR, 1)
    owing.collect()
    owing.deliver()
    owing.now += SECOND
    hear(owing, teller)
    assert teller.asked_of == [B]


@pytest.mark.parametrize("heard", [True, False])
def test_an_account_that_was_closed_is_left_in_peace_at_last(
    owing: World, teller: NotificationClient, *, heard: bool
) -> None:
    """Once a sink has nothing left of what it can have said; `status` names it no more, nor how far it was heard."""
    closed: dict[str | None, Exception] = {A: AccountRefused("no way in")}
    teller.refusing = {} if heard else closed
    hear(owing, teller)
    sent_at = owing.now
    teller.refusing = closed
    owing.now = sent_at + REACH + TALKS - MINUTE
    hear(owing, teller)
    assert A in teller.asked_of
    assert A in {row.whose for row in standings(owing)}
    owing.now += AGAIN_AFTER
    owing.source.use(f"{B}/cus", owing.now - 2 * HOUR, 1)
    owing.collect()
    owing.deliver()
    owing.now += SECOND
    teller.asked_of.clear()
    hear(owing, teller)
    assert teller.asked_of == [B]
    [row] = standings(owing)
    assert (row.whose, row.heard_until) == ("", owing.now)


def test_a_daemon_that_was_off_asks_whom_it_sent_to(owing: World, teller: NotificationClient) -> None:
    """However long ago, as far as a sink remembers."""
    teller.tell("evt_1", report(owing, B), account=B)
    owing.now += 20 * DAY
    assert hear(owing, teller).rejected == 1


def test_a_customer_that_names_no_account_makes_none(owing: World, teller: NotificationClient) -> None:
    """The sink says what an account is."""
    teller.account_of = lambda customer: B if customer.startswith(f"{B}/") else None  # type: ignore[method-assign]
    hear(owing, teller)
    assert teller.asked_of == [B]


def test_a_claim_that_shows_late_is_found(owing: World, teller: NotificationClient) -> None:
    """One that was committed after the look that passed its time: the next look goes over the last minutes again."""
    hear(owing, teller)
    owing.execute("delete from aggregator.voice where name = %s", B)
    owing.now += MINUTE
    hear(owing, teller)
    assert voice(owing, B).heard_until == owing.now


# -- imports --------------------------------------------------------------------------------------


def test_imports_are_asked_for_where_there_are_files(owing: World, teller: NotificationClient) -> None:
    """What failed is said once, whichever way it came; without files nobody asks."""
    teller.drop("evt_1", "usage-1.csv")
    teller.drop("evt_2", "usage-2.csv")
    owing.now += SECOND
    ears = intake(owing, teller, by_customer=False, imports=True)
    assert ears.deliver(b"evt_1", SIGNED, owing.now).messages == 1
    taken = ears.run_once(owing.now)
    assert [each.files for each in taken.unimported] == [("usage-2.csv",)]
    assert ears.run_once(owing.now).unimported == []
    assert ears.deliver(b"evt_2", SIGNED, owing.now).messages == 0
    assert owing.rows("select id, came_by from aggregator.notice order by id") == [
        ("evt_1", "webhook"),
        ("evt_2", "poll"),
    ]
    teller.asked_of.clear()
    intake(owing, teller, by_customer=False).run_once(owing.now)
    assert teller.asked_of == [None]


@pytest.mark.parametrize("trouble", [SinkHalted("no permission"), SinkError("no such type")])
def test_imports_that_cannot_be_asked_for_hold_up_nothing(
    owing: World, teller: NotificationClient, trouble: SinkError
) -> None:
    """It is on record and asked again an hour later, by whichever process; then nothing is missing."""
    teller.refusing[IMPORTS] = trouble
    teller.drop("evt_2", "usage-2.csv")
    teller.tell("evt_1")
    owing.now += SECOND
    taken = hear_imports(owing, teller)
    assert (taken.messages, taken.refused, list(taken.refusals)) == (1, None, [IMPORTS])
    assert f"how imports went cannot be asked: {trouble}" in taken.refusals[IMPORTS]
    assert [row.whose for row in standings(owing) if row.refused_reason] == [IMPORTS]
    owing.now += MINUTE
    assert hear_imports(owing, teller).refusals == {}
    teller.refusing.clear()
    owing.now += 3 * HOUR
    assert [each.files for each in hear_imports(owing, teller).unimported] == [("usage-2.csv",)]
    assert [row.whose for row in standings(owing) if row.refused_reason] == []


def test_reports_that_cannot_be_asked_for_hold_up_no_imports(
    owing: World, teller: NotificationClient
) -> None:
    """Whether the sink halts, or nonsense comes."""
    teller.drop("evt_2", "usage-2.csv")
    teller.refusing[None] = SinkError("nonsense")
    owing.now += SECOND
    with pytest.raises(SinkError, match="nonsense"):
        hear_imports(owing, teller)
    assert owing.rows("select id from aggregator.notice") == [("evt_2",)]


def test_imports_of_accounts_of_customers_are_the_platforms(owing: World, teller: NotificationClient) -> None:
    """They are asked for once, beside all accounts, and are no account themselves."""
    teller.drop("evt_2", "usage-2.csv")
    owing.now += SECOND
    ears = intake(owing, teller, imports=True)
    assert len(ears.run_once(owing.now).unimported) == 1
    ears.run_once(owing.now + MINUTE)
    assert teller.asked_of.count("imports") == 2
    assert len(teller.asked_of) == 8


def test_more_imports_than_can_be_listed_are_asked_for_in_pieces(
    owing: World, teller: NotificationClient
) -> None:
    """Until all are heard, round after round."""
    teller.most = 2
    for number in range(30):
        teller.drop(f"evt_{number}", f"usage-{number}.csv", owing.now - number * DAY / 2)
    owing.now += SECOND
    for _ in range(20):
        if not hear_imports(owing, teller).more:
            break
    assert owing.one("select count(*) from aggregator.notice") == 30
