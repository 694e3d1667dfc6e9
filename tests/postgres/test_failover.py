"""A ledger on another server, or with another past: what each host knows of its own, and what none of them can know."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from aggregator.core.model import Outcome, State
from aggregator.delivery.sender import Sender
from aggregator.errors import LedgerFailedOver, LedgerStopped
from aggregator.ledger.database import Database, migrate
from aggregator.ledger.identity import Failover
from tests.postgres.restore import PinnedWorld, back_up, restore
from tests.postgres.servers import home, server, standby
from tests.postgres.world import HOUR, START

pytestmark = pytest.mark.sessions

FAILED_OVER = r"went from timeline \d+ to \d+.*--nothing-lost.*`failover: lossless`.*`aggregator adopt`"


def owe(world: PinnedWorld, hour: int) -> None:
    """Let three customers use something in an hour, and plan it."""
    for number in range(3):
        world.source.use(f"cus_{number}", START + (hour - 1) * HOUR, number + 1)
    world.at(hour, 5)
    world.collect()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what is about to be so."""
    pause = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it did not come about")


@pytest.fixture
def world(database: Database, tmp_path: Path) -> PinnedWorld:
    """A daemon with a state directory, which has sent three events and owes three."""
    world = PinnedWorld(database, tmp_path / "state")
    assert world.identity.check(world.now) is None
    owe(world, 1)
    world.deliver()
    owe(world, 2)
    return world


def fail_over(world: PinnedWorld) -> None:
    """Let the ledger lie on a server that is on another timeline than at the latest claim."""
    world.execute("update aggregator.identity set timeline = timeline + 1")


@contextmanager
def two_servers(directory: Path) -> Iterator[tuple[PinnedWorld, Database]]:
    """A daemon whose ledger has a standby, and the ledger on that."""
    with (
        home() as servers,
        server(servers / "primary", wal_level="replica") as primary,
        Database(primary.url()) as before,
    ):
        migrate(primary.url())
        world = PinnedWorld(before, directory)
        with standby(primary, servers / "standby") as follower, Database(follower.url()) as after:
            yield world, after


@contextmanager
def parted(after: Database, reached: str) -> Iterator[None]:
    """Cut a standby off once `reached` finds something in it; at the end it is promoted, without what came since."""
    with psycopg.connect(after.url, autocommit=True) as asked:
        until(lambda: asked.execute(reached).fetchone() is not None)
        asked.execute("alter system set primary_conninfo = ''")
        asked.execute("select pg_reload_conf()")
        until(lambda: not asked.execute("select from pg_stat_wal_receiver").fetchall())
        yield
        asked.execute("select pg_promote(wait => false)")
        until(lambda: asked.execute("select pg_is_in_recovery()").fetchone() == (False,))


@pytest.fixture
def promoted(tmp_path: Path) -> Iterator[tuple[PinnedWorld, Database]]:
    """A daemon whose claims have reached a standby, and the standby as the primary, without what another host sent last."""
    with two_servers(tmp_path / "b") as (world, after):
        assert world.identity.check(world.now) is None
        owe(world, 1)
        world.deliver()
        owe(world, 2)
        with parted(after, "select from aggregator.outbox having count(*) = 3"):
            world.on(tmp_path / "a").deliver()
            assert len(world.sink.received) == 6
        yield world, after


def test_a_failover_that_lost_what_another_host_sent_is_noticed(
    promoted: tuple[PinnedWorld, Database], tmp_path: Path
) -> None:
    """This host's own claims are all there, and it sends nothing all the same: not with a state directory, nor without."""
    world, after = promoted
    sent = len(world.sink.received)
    for directory in (tmp_path / "b", tmp_path / "fresh"):
        host = world.on(directory, after)
        host.at(3, 5)
        with pytest.raises(LedgerFailedOver, match=FAILED_OVER):
            host.deliver()
        assert "went from timeline 1 to 2" in (host.identity.check(host.now, stops=True) or "")
        with after.transaction() as connection:
            assert "went from timeline 1 to 2" in (host.identity.stopped(connection) or "")
    assert len(world.sink.received) == sent
    assert world.on(tmp_path / "b", after).identity.pinned().stopped_at is None, (
        "each host sees it for itself"
    )


def test_a_standby_that_has_a_stop_and_not_the_adoption_after_it_is_quiet_from_now_on(tmp_path: Path) -> None:
    """Whoever adopted the ledger may have sent a moment ago, and died with it."""
    with two_servers(tmp_path / "b") as (world, after):
        owe(world, 1)
        world.deliver()
        world.identity.stop("wound back", world.now)
        with parted(after, "select from aggregator.identity where stopped_at is not null"):
            world.now += 3 * HOUR
            dead = world.on(tmp_path / "a")
            dead.adopt()
            owe(dead, 2)
            assert dead.deliver().accepted == 3
        host = world.on(tmp_path / "b", after)
        host.now = now = dead.now
        assert host.adoption().situation(now).quiet_until == now + 2 * HOUR
        assert host.adoption().situation(now + HOUR).quiet_until == now + 2 * HOUR
        assert host.rows("select stopped_at, stopped_reason from aggregator.identity") == [
            (now, "wound back")
        ]


def test_a_stopped_ledger_whose_files_were_restored_is_quiet_from_now_on(
    world: PinnedWorld, tmp_path: Path
) -> None:
    """They need a server that is started, or are read into another database. The first reason stays."""
    for place in (
        "database 1 of the server started at {}",
        "database {} of the server started at 2026-11-01",
    ):
        world.identity.stop("one", world.now)
        world.now += 3 * HOUR
        assert world.adoption().situation(world.now).quiet_until == world.now - HOUR
        kept = (
            world.one("select stopped_on from aggregator.identity").replace("database ", "").split(" of ")[0]
        )
        world.execute("update aggregator.identity set stopped_on = %s", place.format(kept))
        other = world.on(tmp_path / "elsewhere")
        assert other.adoption().situation(world.now).quiet_until == world.now + 2 * HOUR
    assert world.one("select stopped_reason from aggregator.identity") == "one"


def test_a_host_that_has_sent_since_the_stop_knows_that_the_ledger_was_set_back(world: PinnedWorld) -> None:
    """Then other hosts may have sent after it."""
    world.identity.stop("one", world.now)
    backup = back_up(world.database)
    world.adopt()
    owe(world, 4)
    world.deliver()
    restore(world.database, backup)
    world.now += HOUR
    assert world.again().adoption().situation(world.now).quiet_until == world.now + 2 * HOUR


@pytest.mark.parametrize("failover", ["may_lose", "one_host", "lossless"])
def test_what_the_user_has_said_of_failovers_counts(
    world: PinnedWorld, tmp_path: Path, failover: Failover
) -> None:
    """Where none can lose anything, all go on; where one host sends alone, it knows by its own last claim."""
    fail_over(world)
    host = world.on(world.directory, failover=failover)
    if failover == "may_lose":
        with pytest.raises(LedgerFailedOver, match=FAILED_OVER):
            host.deliver()
        return
    assert host.deliver().accepted == 3
    owe(host, 3)
    others = world.on(tmp_path / "elsewhere")
    others.now = host.now
    assert others.deliver().accepted == 3, "once one has gone on, it is said and done"


def test_one_host_that_is_not_the_only_one_is_believed_no_more(world: PinnedWorld, tmp_path: Path) -> None:
    """Another state directory has claimed: what it did last, nobody here knows."""
    other = world.on(tmp_path / "elsewhere")
    assert other.deliver().accepted == 3
    owe(world, 3)
    fail_over(world)
    host = world.on(world.directory, failover="one_host")
    host.now = world.now
    with pytest.raises(LedgerFailedOver, match=FAILED_OVER):
        host.deliver()
    assert "other hosts" in " ".join(host.identity.remarks())


def test_a_person_may_say_that_nothing_was_lost(world: PinnedWorld) -> None:
    """Also after `aggregator adopt` has stopped the ledger for that; other reasons to stop stay."""
    fail_over(world)
    assert world.identity.check(world.now, stops=True, adopting=True) is not None
    assert world.identity.pinned().stopped_at is not None
    assert world.identity.follow() is None
    assert world.deliver().accepted == 3
    world.identity.stop("Stopped by a person, to be adopted.", world.now)
    fail_over(world)
    assert world.identity.follow() == "Stopped by a person, to be adopted."


def test_a_person_does_not_say_more_than_this_host_knows(world: PinnedWorld) -> None:
    """Its own last claim is gone, so something was lost, whoever says what."""
    backup = back_up(world.database)
    world.deliver()
    restore(world.database, backup)
    fail_over(world)
    assert "wound back" in (world.identity.follow() or "")


def test_a_lossless_failover_without_a_synchronous_standby_is_worth_a_word(world: PinnedWorld) -> None:
    """`check` says so: it may be that the storage is replicated."""
    assert world.identity.remarks() == []
    assert "no synchronous standby" in " ".join(
        world.on(world.directory, failover="lossless").identity.remarks()
    )


def test_a_host_knows_its_last_claim_whatever_others_count(world: PinnedWorld, tmp_path: Path) -> None:
    """After a restore another host has counted further than this one ever had: the claim with its number is not its own."""
    backup = back_up(world.database)
    world.deliver()
    restore(world.database, backup)
    other = world.on(tmp_path / "elsewhere")
    claims = [other.outbox.claim(world.registered.feeds[0].sink_id, 1, world.now) for _ in range(3)]
    assert all(claims)
    assert world.one("select claims_made from aggregator.identity") > 2
    with pytest.raises(
        LedgerStopped, match=r"the last claim of this host, number 2 .* is not in it any more"
    ):
        world.outbox.claim(world.registered.feeds[0].sink_id, 1, world.now + HOUR)


def test_a_duplicate_at_a_first_attempt_stops_the_ledger(world: PinnedWorld, tmp_path: Path) -> None:
    """No host that goes on knows of the claim that was lost, but the sink has the event: nothing else of it leaves."""
    backup = back_up(world.database)
    world.deliver()
    restore(world.database, backup)
    sent = len(world.sink.received)
    unconfigured_meter = world.on(tmp_path / "elsewhere")
    result = Sender(
        unconfigured_meter.outbox,
        unconfigured_meter.sink,
        world.registered.feeds[0].sink_id,
        lambda: world.now,
    ).run_once(world.now)
    assert (result.claimed, result.refused, result.unsent) == (3, 1, 2)
    stopped = world.one("select stopped_reason from aggregator.identity")
    [event] = result.refusals
    assert f"The sink has event {event} already" in stopped
    assert "`aggregator adopt`" in stopped
    for host in (world, unconfigured_meter):
        with pytest.raises(LedgerStopped, match="The sink has event"):
            host.deliver()
    assert len(world.sink.received) == sent + 1


def test_a_stop_by_another_process_lets_nothing_more_leave(world: PinnedWorld, tmp_path: Path) -> None:
    """What is on its way is settled, and with that the news arrives."""
    other = world.on(tmp_path / "elsewhere")
    claim = world.outbox.claim(world.registered.feeds[0].sink_id, 3, world.now)
    assert claim is not None
    other.identity.stop("Stopped by a person, to be adopted.", world.now)
    assert not world.outbox.stopped
    outcome = Outcome(claim.events[0].id, State.ACCEPTED)
    assert world.outbox.settle(claim.id, [outcome], world.now) == 1
    assert world.outbox.stopped


@pytest.mark.direct
def test_a_server_that_does_not_tell_its_timeline_is_not_compared(
    world: PinnedWorld, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every service that speaks Postgres has one; the rest works, and in the same session."""
    monkeypatch.setattr("aggregator.ledger.identity.TIMELINE", "no_such_function()")
    fail_over(world)
    with Database(ledger_url) as database:
        host = world.on(world.directory, database)
        assert host.identity.check(host.now) is None
        assert host.deliver().accepted == 3
