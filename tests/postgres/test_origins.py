"""Accounts that customers name are heard each by itself and by turns, and how imports went beside them."""

import datetime as dt

import pytest

from aggregator.core.model import Rejection, Report, Span
from aggregator.errors import AccountRefused, SinkError, SinkHalted, SinkUnreachable
from aggregator.ledger.database import Database
from aggregator.ledger.notifications import TALKS, Notifications, Origin, Origins, PollState
from aggregator.reconciliation.notification_poller import (
    AGAIN_AFTER,
    IMPORTS,
    LOOKBACK,
    MOST_ACCOUNTS_ASKED,
    OVERLAP,
    NotificationPoller,
    Taken,
)
from tests.postgres.notification_client import SIGNED, NotificationClient
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
def notification_client(owing: World) -> NotificationClient:
    """A sink whose customers name their accounts."""
    return NotificationClient(owing)


def sink_id(world: World) -> int:
    return world.registered.feeds[0].sink_id


def poller(
    world: World, notification_client: NotificationClient, *, by_customer: bool = True, imports: bool = False
) -> NotificationPoller:
    """A fresh process's ears."""
    origins = Origins(world.database)
    whose = sink_id(world)
    return NotificationPoller(
        Notifications(world.database),
        notification_client,
        world.sink.limits_for,
        whose,
        origins,
        account_of=notification_client.account_of if by_customer else None,
        imports=imports,
    )


def hear(world: World, notification_client: NotificationClient) -> Taken:
    return poller(world, notification_client).run_once(world.now)


def hear_imports(world: World, notification_client: NotificationClient) -> Taken:
    """One round of a sink that is one account, beside which there are files."""
    return poller(world, notification_client, by_customer=False, imports=True).run_once(world.now)


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


def origin(world: World, name: str) -> Origin:
    row = world.rows("select name, polled_until from aggregator.origin where name = %s", name)
    return Origin._make(row[0])


def poll_states(world: World) -> list[PollState]:
    return Notifications(world.database).poll_states()


# -- accounts -------------------------------------------------------------------------------------


def test_each_account_that_events_went_to_is_asked(
    owing: World, notification_client: NotificationClient
) -> None:
    """In its own name, and nobody else: what one of them reports is refused there."""
    notification_client.tell("evt_1", report(owing, B), account=B)
    owing.now += SECOND
    assert hear(owing, notification_client).figures() == {"messages": 1, "rejected": 1}
    assert sorted(notification_client.asked_of, key=str) == [A, B, C]
    assert states(owing) == ["accepted", "refused", "accepted"]
    assert hear(owing, notification_client).figures() == {}
    assert notification_client.fetches == ["evt_1"]
    owing.check_balance()


def test_a_report_of_one_account_never_refuses_an_event_of_another(
    owing: World, notification_client: NotificationClient
) -> None:
    """Not even if it names it; and what its own account says of it later counts in full."""
    notification_client.tell("evt_1", report(owing, B), account=A)
    owing.now += SECOND
    taken = hear(owing, notification_client)
    assert (taken.messages, taken.rejected) == (1, 0)
    assert states(owing) == ["accepted"] * 3
    notification_client.tell("evt_2", report(owing, B, name="evt_2"), account=B)
    owing.now += SECOND
    assert hear(owing, notification_client).rejected == 1
    assert states(owing) == ["accepted", "refused", "accepted"]


def test_who_names_an_event_of_another_is_read_back(
    owing: World, notification_client: NotificationClient
) -> None:
    """It names nobody that is its own, so that what it counts is looked for."""
    notification_client.tell("evt_1", report(owing, B), account=A)
    owing.now += SECOND
    assert hear(owing, notification_client).readbacks == 1


def test_a_delivery_is_of_the_account_that_it_names(
    owing: World, notification_client: NotificationClient
) -> None:
    """It is fetched there, and counts once, however it came."""
    notification_client.tell("evt_1", report(owing, C), account=C)
    notification_client.tell("evt_2", report(owing, C, name="evt_2"), account=A)
    ears = poller(owing, notification_client)
    assert ears.deliver(b"evt_2", SIGNED, owing.now).figures() == {"messages": 1, "readbacks": 1}
    assert ears.deliver(b"evt_1", SIGNED, owing.now).figures() == {"messages": 1, "rejected": 1}
    assert ears.deliver(b"evt_1", SIGNED, owing.now).figures() == {}
    owing.now += SECOND
    assert hear(owing, notification_client).figures() == {}
    assert states(owing) == ["accepted", "accepted", "refused"]


def test_a_delivery_of_an_account_that_is_closed_is_acknowledged(
    owing: World, notification_client: NotificationClient
) -> None:
    """Else whoever delivers would give up on all of them. It is said, and asked for once the account is open again."""
    notification_client.tell("evt_1", report(owing, A), account=A)
    notification_client.refusing[A] = AccountRefused("no way in")
    taken = poller(owing, notification_client).deliver(b"evt_1", SIGNED, owing.now)
    assert (taken.messages, taken.troubles) == (0, ["evt_1: no way in"])
    notification_client.refusing.clear()
    owing.now += SECOND
    assert hear(owing, notification_client).rejected == 1


@pytest.mark.parametrize(
    "trouble", [AccountRefused("no way in"), SinkError("nonsense"), SinkUnreachable("away")]
)
def test_the_trouble_of_one_holds_up_nobody(
    owing: World, notification_client: NotificationClient, trouble: SinkError
) -> None:
    """The others are heard in the same round; it is heard from where it was, once it lets itself be asked."""
    hear(owing, notification_client)
    owing.now += SECOND
    for account in (A, B, C):
        notification_client.tell(
            f"evt_{account}", report(owing, account, name=f"evt_{account}"), account=account
        )
    notification_client.refusing[A] = trouble
    owing.now += SECOND
    taken = hear(owing, notification_client)
    assert (taken.rejected, taken.refusals, taken.refused) == (2, {A: str(trouble)}, None)
    assert states(owing) == ["accepted", "refused", "refused"]
    notification_client.refusing.clear()
    owing.now += 3 * HOUR
    assert hear(owing, notification_client).rejected == 1


def test_who_refuses_is_asked_again_an_hour_later(
    owing: World, notification_client: NotificationClient
) -> None:
    """By whichever process; meanwhile `status` has its reason, and afterwards no more."""
    notification_client.refusing[A] = AccountRefused("no way in")
    hear(owing, notification_client)
    refused_at = owing.now
    assert [(row.whose, row.refused_reason, row.refused_at) for row in poll_states(owing)] == [
        ("", None, None),
        (A, "no way in", refused_at),
    ]
    owing.now += AGAIN_AFTER - SECOND
    notification_client.asked_of.clear()
    hear(owing, notification_client)
    assert sorted(notification_client.asked_of, key=str) == [B, C]
    owing.now += SECOND
    hear(owing, notification_client)
    assert [row.refused_at for row in poll_states(owing) if row.whose == A] == [refused_at]
    notification_client.refusing.clear()
    owing.now += AGAIN_AFTER
    hear(owing, notification_client)
    assert [row.whose for row in poll_states(owing)] == [""]


def test_a_key_that_is_refused_is_everybodys_trouble(
    owing: World, notification_client: NotificationClient
) -> None:
    """It is said of the sink, and no account is asked any more in this round."""
    notification_client.refuses = SinkHalted("the key is no good")
    taken = hear(owing, notification_client)
    assert (taken.refused, taken.refusals, len(notification_client.asked)) == ("the key is no good", {}, 1)


def many(world: World, number: int) -> list[str]:
    """Have events go to so many more accounts; return all there are."""
    names = [f"acct_{each:03d}" for each in range(number)]
    for name in names:
        world.source.use(f"{name}/cus", world.now - HOUR, 1)
    world.collect()
    world.deliver()
    world.now += SECOND
    return [A, B, C, *names]


def test_a_sink_that_is_away_ends_the_round(owing: World, notification_client: NotificationClient) -> None:
    """Three in a row without an answer are enough; the next round begins with others."""
    accounts = many(owing, 5)
    notification_client.refuses = SinkUnreachable("away")
    with pytest.raises(SinkUnreachable):
        hear(owing, notification_client)
    first = list(notification_client.asked_of)
    assert len(first) == 3
    owing.now += MINUTE
    with pytest.raises(SinkUnreachable):
        hear(owing, notification_client)
    assert set(notification_client.asked_of[3:]).isdisjoint(first)
    notification_client.refuses = None
    owing.now += MINUTE
    notification_client.asked_of.clear()
    hear(owing, notification_client)
    assert sorted(notification_client.asked_of, key=str) == sorted(accounts)


def test_many_accounts_take_turns(owing: World, notification_client: NotificationClient) -> None:
    """A round has so many questions and no more; whoever waited longest comes first, in a fresh process as well."""
    accounts = many(owing, 2 * MOST_ACCOUNTS_ASKED)
    last = report(owing, C)
    notification_client.tell("evt_1", last, account=C)
    owing.now += SECOND
    turns = []
    for _ in range(3):
        notification_client.asked_of.clear()
        taken = hear(owing, notification_client)
        assert not taken.more
        turns.append(list(notification_client.asked_of))
        owing.now += MINUTE
    assert [len(turn) for turn in turns] == [MOST_ACCOUNTS_ASKED] * 3
    assert {name for turn in turns for name in turn} == set(accounts)
    assert turns[2][3:] == turns[0][: MOST_ACCOUNTS_ASKED - 3]
    assert states(owing).count("refused") == 1


def test_pieces_are_questions_too(owing: World, notification_client: NotificationClient) -> None:
    """An account with much to say has no more of a round than there is, and goes on in the next."""
    notification_client.most = 2
    for number in range(40):
        notification_client.tell(f"evt_{number}", made_at=owing.now - number * DAY / 2, account=A)
    owing.now += SECOND
    for _ in range(60):
        before = len(notification_client.asked)
        hear(owing, notification_client)
        assert len(notification_client.asked) - before <= MOST_ACCOUNTS_ASKED
        owing.now += SECOND
    assert owing.one("select count(*) from aggregator.notification") == 40


def test_how_far_each_was_heard_is_remembered(owing: World, notification_client: NotificationClient) -> None:
    """The first question goes as far back as there is anything; the next one an hour before the last."""
    hear(owing, notification_client)
    assert {span.start for span in notification_client.asked} == {owing.now - LOOKBACK}
    assert origin(owing, A).polled_until == owing.now
    assert poll_states(owing)[0].polled_until == owing.now
    before, owing.now = owing.now, owing.now + 2 * MINUTE
    notification_client.asked.clear()
    hear(owing, notification_client)
    assert notification_client.asked == [Span(before - OVERLAP, owing.now)] * 3


def test_an_account_of_which_nothing_is_left_to_say_is_left_in_peace(
    owing: World, notification_client: NotificationClient
) -> None:
    """A week after its last event it is asked no more, and again once there is a new one."""
    hear(owing, notification_client)
    owing.now += TALKS - MINUTE
    notification_client.asked_of.clear()
    hear(owing, notification_client)
    assert len(notification_client.asked_of) == 3
    owing.now += 2 * MINUTE
    hear(owing, notification_client)
    notification_client.asked_of.clear()
    owing.now += MINUTE
    hear(owing, notification_client)
    assert notification_client.asked_of == []
    owing.source.use(f"{B}/cus", owing.now - 2 * HOUR, 1)
    owing.collect()
    owing.deliver()
    owing.now += SECOND
    hear(owing, notification_client)
    assert notification_client.asked_of == [B]


@pytest.mark.parametrize("polled", [True, False])
def test_an_account_that_was_closed_is_left_in_peace_at_last(
    owing: World, notification_client: NotificationClient, *, polled: bool
) -> None:
    """Once a sink has nothing left of what it can have said; `status` names it no more, nor how far it was heard."""
    closed: dict[str | None, Exception] = {A: AccountRefused("no way in")}
    notification_client.refusing = {} if polled else closed
    hear(owing, notification_client)
    sent_at = owing.now
    notification_client.refusing = closed
    owing.now = sent_at + LOOKBACK + TALKS - MINUTE
    hear(owing, notification_client)
    assert A in notification_client.asked_of
    assert A in {row.whose for row in poll_states(owing)}
    owing.now += AGAIN_AFTER
    owing.source.use(f"{B}/cus", owing.now - 2 * HOUR, 1)
    owing.collect()
    owing.deliver()
    owing.now += SECOND
    notification_client.asked_of.clear()
    hear(owing, notification_client)
    assert notification_client.asked_of == [B]
    [row] = poll_states(owing)
    assert (row.whose, row.polled_until) == ("", owing.now)


def test_a_daemon_that_was_off_asks_whom_it_sent_to(
    owing: World, notification_client: NotificationClient
) -> None:
    """However long ago, as far as a sink remembers."""
    notification_client.tell("evt_1", report(owing, B), account=B)
    owing.now += 20 * DAY
    assert hear(owing, notification_client).rejected == 1


def test_a_customer_that_names_no_account_makes_none(
    owing: World, notification_client: NotificationClient
) -> None:
    """The sink says what an account is."""
    notification_client.account_of = lambda customer: B if customer.startswith(f"{B}/") else None  # type: ignore[method-assign]
    hear(owing, notification_client)
    assert notification_client.asked_of == [B]


def test_a_claim_that_shows_late_is_found(owing: World, notification_client: NotificationClient) -> None:
    """One that was committed after the look that passed its time: the next look goes over the last minutes again."""
    hear(owing, notification_client)
    owing.execute("delete from aggregator.origin where name = %s", B)
    owing.now += MINUTE
    hear(owing, notification_client)
    assert origin(owing, B).polled_until == owing.now


# -- imports --------------------------------------------------------------------------------------


def test_imports_are_asked_for_where_there_are_files(
    owing: World, notification_client: NotificationClient
) -> None:
    """What failed is said once, whichever way it came; without files nobody asks."""
    notification_client.drop("evt_1", "usage-1.csv")
    notification_client.drop("evt_2", "usage-2.csv")
    owing.now += SECOND
    ears = poller(owing, notification_client, by_customer=False, imports=True)
    assert ears.deliver(b"evt_1", SIGNED, owing.now).messages == 1
    taken = ears.run_once(owing.now)
    assert [each.files for each in taken.unimported] == [("usage-2.csv",)]
    assert ears.run_once(owing.now).unimported == []
    assert ears.deliver(b"evt_2", SIGNED, owing.now).messages == 0
    assert owing.rows("select id, came_by from aggregator.notification order by id") == [
        ("evt_1", "webhook"),
        ("evt_2", "poll"),
    ]
    notification_client.asked_of.clear()
    poller(owing, notification_client, by_customer=False).run_once(owing.now)
    assert notification_client.asked_of == [None]


@pytest.mark.parametrize("trouble", [SinkHalted("no permission"), SinkError("no such type")])
def test_imports_that_cannot_be_asked_for_hold_up_nothing(
    owing: World, notification_client: NotificationClient, trouble: SinkError
) -> None:
    """It is on record and asked again an hour later, by whichever process; then nothing is missing."""
    notification_client.refusing[IMPORTS] = trouble
    notification_client.drop("evt_2", "usage-2.csv")
    notification_client.tell("evt_1")
    owing.now += SECOND
    taken = hear_imports(owing, notification_client)
    assert (taken.messages, taken.refused, list(taken.refusals)) == (1, None, [IMPORTS])
    assert f"how imports went cannot be asked: {trouble}" in taken.refusals[IMPORTS]
    assert [row.whose for row in poll_states(owing) if row.refused_reason] == [IMPORTS]
    owing.now += MINUTE
    assert hear_imports(owing, notification_client).refusals == {}
    notification_client.refusing.clear()
    owing.now += 3 * HOUR
    assert [each.files for each in hear_imports(owing, notification_client).unimported] == [("usage-2.csv",)]
    assert [row.whose for row in poll_states(owing) if row.refused_reason] == []


def test_reports_that_cannot_be_asked_for_hold_up_no_imports(
    owing: World, notification_client: NotificationClient
) -> None:
    """Whether the sink halts, or nonsense comes."""
    notification_client.drop("evt_2", "usage-2.csv")
    notification_client.refusing[None] = SinkError("nonsense")
    owing.now += SECOND
    with pytest.raises(SinkError, match="nonsense"):
        hear_imports(owing, notification_client)
    assert owing.rows("select id from aggregator.notification") == [("evt_2",)]


def test_imports_of_accounts_of_customers_are_the_platforms(
    owing: World, notification_client: NotificationClient
) -> None:
    """They are asked for once, beside all accounts, and are no account themselves."""
    notification_client.drop("evt_2", "usage-2.csv")
    owing.now += SECOND
    ears = poller(owing, notification_client, imports=True)
    assert len(ears.run_once(owing.now).unimported) == 1
    ears.run_once(owing.now + MINUTE)
    assert notification_client.asked_of.count("imports") == 2
    assert len(notification_client.asked_of) == 8


def test_more_imports_than_can_be_listed_are_asked_for_in_pieces(
    owing: World, notification_client: NotificationClient
) -> None:
    """Until all are heard, round after round."""
    notification_client.most = 2
    for number in range(30):
        notification_client.drop(f"evt_{number}", f"usage-{number}.csv", owing.now - number * DAY / 2)
    owing.now += SECOND
    for _ in range(20):
        if not hear_imports(owing, notification_client).more:
            break
    assert owing.one("select count(*) from aggregator.notification") == 30
