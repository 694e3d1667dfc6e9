"""The pin on a real ledger: a ledger that was wound back, copied or lost claims nothing, and says why."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from aggregator.errors import LedgerError, LedgerStopped
from aggregator.ledger.database import Database
from aggregator.ledger.identity import LedgerIdentity, named
from aggregator.ledger.passes.passes import Passes
from aggregator.runtime.claim_counter import FILE, ClaimCount, ClaimCounter
from tests.postgres.restore import PinnedWorld, back_up, restore
from tests.postgres.world import HOUR, MINUTE, START


@pytest.fixture
def world(database: Database, tmp_path: Path) -> PinnedWorld:
    """A daemon with a state directory, which owes three customers an event each."""
    world = PinnedWorld(database, tmp_path / "state")
    assert world.identity.check(world.now) is None
    owe(world, 1)
    return world


def owe(world: PinnedWorld, hour: int) -> None:
    """Let three customers use something in an hour, and plan it."""
    for number in range(3):
        world.source.use(f"cus_{number}", START + (hour - 1) * HOUR, number + 1)
    world.at(hour, 5)
    world.collect()


def counted(world: PinnedWorld) -> int:
    found = world.claim_counter.known()
    return found.claims_made if found else 0


def test_a_claim_counts_before_anything_leaves(world: PinnedWorld) -> None:
    """While the sink is talked to, the ledger and the file beside it have the same new count."""
    seen = []
    world.sink.during_send = lambda: seen.append(
        (world.one("select claims_made from aggregator.identity"), counted(world.again()))
    )
    world.deliver()
    assert seen == [(1, 1)]


def test_a_first_opening_pins_the_place(database: Database, tmp_path: Path) -> None:
    """A ledger belongs to the server and the database it is first opened on; a later opening changes nothing."""
    identity = LedgerIdentity(database, ClaimCounter(tmp_path))
    assert identity.check(START) is None
    found = identity.pinned()
    assert (found.cluster, found.database_oid) == (found.lies_on, found.lies_in)
    assert found.cluster is not None
    assert LedgerIdentity(database, ClaimCounter(tmp_path)).check(START) is None
    assert identity.pinned() == found


def test_a_ledger_that_was_wound_back_claims_nothing(world: PinnedWorld) -> None:
    """Before the first byte leaves, a restored ledger is found out, marked for everybody, and explained."""
    backup = back_up(world.database)
    world.deliver()
    restore(world.database, backup)
    sent = len(world.sink.received)
    for process in (world, world.again()):
        with pytest.raises(
            LedgerStopped, match=r"wound back: it counts 0 claims.*has seen 1 .*`aggregator adopt`"
        ):
            process.deliver()
    assert len(world.sink.received) == sent
    assert world.rows("select state::text, attempts from aggregator.event group by 1, 2") == [("due", 0)]
    assert world.one("select stopped_at from aggregator.identity") == world.now
    assert world.one("select claims_made from aggregator.identity") == 0


def test_a_stopped_ledger_is_stopped_for_every_host(world: PinnedWorld, tmp_path: Path) -> None:
    """A host without a heartbeat of its own does not go on with a ledger that another one stopped."""
    backup = back_up(world.database)
    world.deliver()
    restore(world.database, backup)
    with pytest.raises(LedgerStopped):
        world.deliver()
    other = world.on(tmp_path / "elsewhere")
    with pytest.raises(LedgerStopped, match="wound back"):
        other.deliver()
    with world.database.transaction() as connection:
        assert "wound back" in (other.identity.stopped(connection) or "")
    assert "wound back" in (other.identity.check(world.now) or "")


def test_a_restored_ledger_is_found_out_at_the_start(world: PinnedWorld) -> None:
    """A process that starts on it sees it before it claims; only one that is about to send marks it."""
    backup = back_up(world.database)
    world.deliver()
    restore(world.database, backup)
    late = world.again()
    assert "wound back" in (late.identity.check(world.now) or "")
    assert world.one("select stopped_at is null from aggregator.identity")
    assert "wound back" in (late.identity.check(world.now, stops=True) or "")
    assert world.one("select stopped_at is not null from aggregator.identity")


def test_a_claim_in_the_middle_of_a_look_is_no_ledger_wound_back(world: PinnedWorld) -> None:
    """Who starts beside one that sends reads file and ledger at two moments; what is claimed between is no news."""
    late = world.again()

    class PlannedUsage(ClaimCounter):
        """The same file, read while the other process claims."""

        def known(self) -> ClaimCount | None:
            if world.one("select count(*) from aggregator.claim") == 0:
                world.deliver()
            return super().known()

    late.identity._claim_counter = PlannedUsage(world.directory)
    assert late.identity.check(world.now, stops=True) is None
    assert world.one("select claims_made from aggregator.identity") == counted(world) == 1


def test_a_crash_between_commit_and_file_is_harmless(world: PinnedWorld) -> None:
    """The file may be behind the ledger: whoever dies in between leaves a sound ledger behind."""
    claim = world.outbox.claim(world.registered.feeds[0].sink_id, 1, world.now)
    assert claim is not None
    before = (world.directory / FILE).read_text()
    owe(world, 2)
    world.deliver()
    (world.directory / FILE).write_text(before)
    after = world.again()
    assert after.identity.check(world.now) is None
    world.now += 10 * MINUTE
    after.now = world.now
    owe(after, 3)
    assert after.deliver().accepted >= 3


def test_two_hosts_count_together(world: PinnedWorld, tmp_path: Path) -> None:
    """Each host keeps a file of its own; the ledger is never behind either of them."""
    other = world.on(tmp_path / "elsewhere")
    for hour in range(2, 8):
        owe(world, hour)
        (world if hour % 2 else other).now = world.now
        assert (world if hour % 2 else other).deliver().accepted >= 3
    assert counted(world) != counted(other)
    assert max(counted(world), counted(other)) == world.one("select claims_made from aggregator.identity")


def test_lanes_count_beside_each_other(world: PinnedWorld) -> None:
    """Many threads and processes claim at once: every count is given out once, and none is taken for a restore."""
    for hour in range(2, 14):
        owe(world, hour)
    workers = [world, world, world.again(), world.again()]
    failed: list[BaseException] = []
    sink_id = world.registered.feeds[0].sink_id

    def work(process: PinnedWorld) -> None:
        try:
            while process.outbox.claim(sink_id, 1, world.now) is not None:
                pass
        except LedgerError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(process,)) for process in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claims = world.one("select count(*) from aggregator.claim")
    assert (failed, claims) == ([], world.one("select claims_made from aggregator.identity"))
    assert counted(world) == claims == 39


@pytest.fixture
def copied(
    ledger_url: str, create_database: Callable[[str | None], str], tmp_path: Path
) -> Iterator[tuple[PinnedWorld, Database]]:
    """A daemon's ledger with events sent and owed, and a copy of it in another database of the same server."""
    with Database(ledger_url) as original:
        world = PinnedWorld(original, tmp_path / "state")
        assert world.identity.check(world.now) is None
        owe(world, 1)
        world.deliver()
        owe(world, 2)
    copy_url = create_database(psycopg.conninfo.conninfo_to_dict(ledger_url)["dbname"])  # type: ignore[arg-type]
    with Database(ledger_url) as reopened, Database(copy_url) as copy:
        yield world.on(tmp_path / "state", reopened), copy


@pytest.mark.direct
def test_a_copy_in_another_database_claims_nothing(
    copied: tuple[PinnedWorld, Database], tmp_path: Path
) -> None:
    """A copy would send what the original sends, too: it is refused on the same host and on a fresh one."""
    original, copy = copied
    for directory in (original.directory, tmp_path / "fresh"):
        clone = original.on(directory, copy)
        with pytest.raises(LedgerStopped, match="it is a copy, or was moved"):
            clone.deliver()
    assert original.deliver().accepted == 3, "the original goes on"


def test_another_server_claims_nothing(world: PinnedWorld) -> None:
    """A ledger on a server with another system identifier was copied by pg_dump, or moved."""
    world.execute("update aggregator.identity set cluster = cluster + 1")
    with pytest.raises(LedgerStopped, match="belongs to the server"):
        world.deliver()


@pytest.mark.direct
def test_a_server_that_hides_its_identifier_is_not_compared(
    ledger_url: str, tmp_path: Path, postgres: object
) -> None:
    """Where a plain role may not ask the server who it is, that stays unknown, and the rest is checked all the same."""
    role = f"plain_{tmp_path.name.replace('-', '_')}"[:60]
    with psycopg.connect(ledger_url, autocommit=True) as admin:
        admin.execute(f'create role "{role}" login')
        admin.execute(f'grant usage on schema aggregator to "{role}"')
        admin.execute(f'grant all on all tables in schema aggregator to "{role}"')
        admin.execute(f'grant all on all sequences in schema aggregator to "{role}"')
        admin.execute("revoke execute on function pg_control_system() from public")
    try:
        url = psycopg.conninfo.make_conninfo(ledger_url, user=role)
        with Database(url) as plain:
            world = PinnedWorld(plain, tmp_path / "state")
            assert world.identity.check(world.now) is None
            assert world.identity.pinned().cluster is None
            owe(world, 1)
            assert world.deliver().accepted == 3
            assert counted(world) == 1
    finally:
        with psycopg.connect(ledger_url, autocommit=True) as admin:
            admin.execute(f'drop owned by "{role}"')
            admin.execute(f'drop role "{role}"')


def test_a_new_ledger_beside_an_old_heartbeat_claims_nothing(
    world: PinnedWorld, create_database: Callable[[str | None], str]
) -> None:
    """A ledger that was lost and created anew would bill everything again: the file knows of another one."""
    world.deliver()
    with Database(create_database("ledger_template")) as fresh:
        with fresh.transaction() as connection:
            connection.execute("update aggregator.identity set ledger_id = gen_random_uuid()")
        anew = world.on(world.directory, fresh)
        owe(anew, 1)
        with pytest.raises(LedgerStopped, match="would send all of it again"):
            anew.deliver()


def test_a_sink_belongs_to_its_first_account(world: PinnedWorld) -> None:
    """A key of another account, or of another mode, stops the ledger; an account that is not named is not compared."""
    identity, now = world.identity, world.now
    assert identity.account("fake", None, now) is None
    assert identity.account("fake", "acct_1 test", now) is None
    world.deliver()
    owe(world, 2)
    assert identity.account("fake", "acct_1 test", now) is None
    assert identity.account("fake", None, now) is None
    assert "acct_1 live now" in (identity.account("fake", "acct_1 live", now) or "")
    assert world.one("select stopped_at is null from aggregator.identity")
    identity.account("fake", "acct_2 test", now, stops=True)
    with pytest.raises(LedgerStopped, match=r"acct_2 test now.*sent to acct_1 test"):
        world.deliver()


def test_an_account_that_nothing_was_claimed_for_is_simply_corrected(world: PinnedWorld) -> None:
    """A key or a bucket that was misspelt at the first run leaves nothing behind: nothing can be missing."""
    identity, now = world.identity, world.now
    for account in ("acct_0 live", "acct_1 test"):
        assert identity.account("fake", account, now) is None
        assert identity.accounts() == {}
    world.deliver()
    assert identity.accounts() == {"fake": "acct_1 test"}
    assert "acct_0 live now" in (identity.account("fake", "acct_0 live", now) or "")


def test_a_state_directory_that_cannot_be_kept_is_said(world: PinnedWorld, tmp_path: Path) -> None:
    """Without a file, events are sent as before, and whoever asks is told what goes unnoticed."""
    (tmp_path / "file").write_text("")
    bare = world.on(tmp_path / "file" / "state")
    assert "cannot be written" in (bare.identity.unguarded or "")
    assert bare.deliver().accepted == 3


def test_the_first_reason_stays(world: PinnedWorld) -> None:
    """A ledger that is stopped already keeps saying why, and since when."""
    world.identity.stop("one", world.now)
    world.identity.stop("two", world.now + HOUR)
    assert world.rows("select stopped_at, stopped_reason from aggregator.identity") == [(world.now, "one")]


def test_each_generation_has_names_of_its_own() -> None:
    """The first generation is called as the ledger; the others add their number."""
    assert [named("l", number) for number in range(3)] == ["l", "l/1", "l/2"]


def test_a_running_process_learns_the_generation(world: PinnedWorld) -> None:
    """A daemon that was running during an adoption plans under the new names from its next pass on."""
    before = world.identity.name()
    world.execute("update aggregator.identity set generation = 3")
    with world.database.transaction() as connection:
        assert world.identity.stopped(connection) is None
    assert world.identity.name() == before + "/3"


def test_a_pass_into_a_stopped_ledger_writes_nothing(world: PinnedWorld) -> None:
    """It was stopped while the source was being read: neither events nor the mark are written."""
    mark = world.one("select mark from aggregator.meter")
    before = world.one("select count(*) from aggregator.event")
    world.identity.stop("it was wound back", world.now)
    world.source.use("cus_0", START + HOUR, 7)
    world.at(2, 5)
    world.collection._passes = Passes(world.database, world.lease, itertools.count().__next__, world.identity)
    with pytest.raises(LedgerStopped, match="wound back"):
        world.collection.run_once(world.now)
    assert world.one("select count(*) from aggregator.event") == before
    assert world.one("select mark from aggregator.meter") == mark
