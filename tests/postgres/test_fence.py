"""What a source says of its transactions: for the commit barrier, and for whoever asks why a window waits."""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from aggregator.core.model import Fence, Span
from aggregator.runtime.embedded_postgres import EmbeddedPostgres
from aggregator.source import Source, transactions
from tests.pooler import missing, pgbouncer
from tests.postgres.servers import as_role, home, server

pytestmark = pytest.mark.xdist_group("transactions")

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ORPHAN = "order 1'; drop table usage --"

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server on which nobody else writes, since transaction ids are the whole server's."""
    with home() as directory, server(directory / "pg", max_prepared_transactions="5") as running:
        yield running


@pytest.fixture
def url(own_server: EmbeddedPostgres) -> Iterator[str]:
    """An application database on it."""
    name = f"app_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(own_server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield own_server.url(name)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def roles(own_server: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """Make roles that may do nothing, or what `create role` is told."""
    made: list[sql.Identifier] = []
    with psycopg.connect(own_server.url(), autocommit=True) as connection:

        def make(more: str = "") -> str:
            name = f"reader_{uuid.uuid4().hex[:8]}"
            connection.execute(f"create role {name} login {more}")
            made.append(sql.Identifier(name))
            return name

        yield make
        for name in made:
            connection.execute(sql.SQL("drop role {}").format(name))


@pytest.fixture
def session(url: str) -> Iterator[Callable[..., Connection]]:
    """Open sessions of the application, each in a transaction as soon as it says something."""
    with ExitStack() as stack, psycopg.connect(url, autocommit=True) as setup:
        setup.execute(
            "create table usage (customer text, quantity int, created_at timestamptz default now())"
        )

        def connect(to: str = url, name: str = "shop", **more: Any) -> Connection:
            return stack.enter_context(psycopg.connect(to, application_name=name, **more))

        yield connect


def at(url: str) -> Source:
    return Source("app", url, statement_timeout=dt.timedelta(seconds=20))


def fence(url: str) -> Fence:
    found = at(url).fence()
    assert found is not None
    return found


def write(connection: Connection) -> int:
    """Begin to write, and return the transaction's id."""
    connection.execute("insert into usage values ('cus_a', 1)")
    [(xid,)] = connection.execute("select pg_current_xact_id()::text::bigint").fetchall()
    assert isinstance(xid, int)
    return xid


def now(connection: Connection) -> dt.datetime:
    [(instant,)] = connection.execute("select now()").fetchall()
    assert isinstance(instant, dt.datetime)
    return instant


def test_a_database_at_rest_holds_nothing_back(url: str) -> None:
    """Every id that was given out has ended, and nobody is named."""
    found = fence(url)
    assert found.xmin == found.xmax
    assert (found.oldest_start, found.sees_starts, found.holder) == (None, True, None)
    assert (found.standby, found.fresh_until) == (False, None)


def test_an_open_writer_holds_back_until_it_ends(url: str, session: Callable[..., Connection]) -> None:
    """Noted while it writes, its id is not passed before it commits, though it is the newest there is (B6)."""
    writer = session()
    xid = write(writer)
    noted = fence(url)
    assert noted.xmin == xid
    assert noted.xmax == xid + 1, "the snapshot's own xmax is the writer's id, which would be passed at once"
    for _ in range(2):
        again = fence(url)
        assert again.xmin < noted.xmax
    writer.commit()
    assert fence(url).xmin >= noted.xmax


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_of_several_writers_the_last_one_counts(
    url: str, session: Callable[..., Connection], end: str
) -> None:
    """Whichever order they end in, the fence is passed with the last of those that had begun, and not by a newer one."""
    writers = [session() for _ in range(3)]
    ids = [write(writer) for writer in writers]
    noted = fence(url)
    assert (noted.xmin, noted.xmax) == (ids[0], ids[-1] + 1)
    newer = session()
    write(newer)
    for writer in (writers[1], writers[2], writers[0]):
        assert fence(url).xmin < noted.xmax
        writer.execute(end)
    assert fence(url).xmin >= noted.xmax, "a writer that began later is not waited for"


def test_no_writer_slips_in_while_the_fence_is_asked(url: str, session: Callable[..., Connection]) -> None:
    """Writers begin between any two of its statements: who had written by `at` is below `xmax`, and none has ended (B6)."""
    source, writers = at(url), list[tuple[dt.datetime, int]]()
    source.ping()

    def begin_to_write(*_: object) -> None:
        writer = session()
        xid = write(writer)
        [(instant,)] = writer.execute("select clock_timestamp()").fetchall()
        writers.append((instant, xid))

    assert source._engine is not None
    sa.event.listen(source._engine, "before_cursor_execute", begin_to_write)
    found = source.fence()
    assert found is not None
    assert len(writers) >= 3
    assert writers[0][0] < found.at < writers[-1][0]
    assert all(xid < found.xmax for instant, xid in writers if instant <= found.at)
    assert all(found.xmin <= xid for _, xid in writers)


def test_a_writer_in_another_database_holds_nothing_back(
    own_server: EmbeddedPostgres, session: Callable[..., Connection], url: str
) -> None:
    """Ids are the whole server's, but its rows cannot land in this database: a ledger beside it is not waited for."""
    other = session(own_server.url(), name="aggregator")
    other.execute("select pg_current_xact_id()")
    found = fence(url)
    assert found.xmin == found.xmax
    assert (found.oldest_start, found.holder) == (None, None)
    writer = session()
    xid = write(writer)
    found = fence(url)
    assert (found.xmin, found.xmax) == (xid, xid + 1), "behind it, who writes here is waited for as ever"
    other.commit()
    beside = session(own_server.url(), name="aggregator")
    beside.execute("select pg_current_xact_id()")
    assert fence(url).xmin == xid
    writer.commit()
    found = fence(url)
    assert found.xmin == found.xmax


@pytest.mark.parametrize(
    ("running", "seen_until", "xmax", "elsewhere", "until"),
    [
        ([], 10, 10, set(), 10),
        ([7], 10, 10, set(), 7),
        ([7], 10, 10, {7}, 10),
        ([7, 8], 10, 10, {7}, 8),
        ([7, 8], 10, 10, {8}, 7),
        ([], 10, 12, set(), 10),
        ([], 10, 12, {10}, 11),
        ([], 10, 12, {11}, 10),
        ([7], 10, 12, {7, 10, 11}, 12),
        ([2**32 + 5], 2**32 + 6, 2**32 + 6, {5}, 2**32 + 6),
    ],
)
def test_only_who_is_known_to_be_elsewhere_is_left_out(
    running: list[int], seen_until: int, xmax: int, elsewhere: set[int], until: int
) -> None:
    """An id that is found nowhere may have ended just now, behind the snapshot: it is waited for."""
    assert transactions.ended_until(running, seen_until, xmax, elsewhere) == until


def test_an_orphaned_prepared_transaction_holds_back_and_is_named(
    url: str, session: Callable[..., Connection]
) -> None:
    """No session has it any more; its identifier is what `rollback prepared` wants."""
    application = session()
    write(application)
    application.execute(sql.SQL("prepare transaction {}").format(sql.Literal(ORPHAN)))
    application.close()
    found = fence(url)
    assert found.xmin < found.xmax
    assert found.holder is not None
    assert "prepared transaction" in found.holder
    assert ascii(ORPHAN) in found.holder
    with psycopg.connect(url, autocommit=True) as cleaner:
        cleaner.execute(sql.SQL("rollback prepared {}").format(sql.Literal(ORPHAN)))
    assert fence(url).xmin >= found.xmax


def test_a_transaction_that_has_not_written_yet_is_seen_by_its_start(
    url: str, session: Callable[..., Connection], roles: Callable[[str], str]
) -> None:
    """What it writes later is stamped with its start; it takes pg_read_all_stats to see it coming."""
    idle = session(name="checkout")
    began = now(idle)
    assert fence(url).oldest_start == began
    plain = fence(as_role(url, roles("")))
    assert (plain.oldest_start, plain.sees_starts, plain.holder) == (None, False, None)
    assert plain.xmin == plain.xmax
    seeing = fence(as_role(url, roles("in role pg_read_all_stats")))
    assert (seeing.oldest_start, seeing.sees_starts) == (began, True)
    assert seeing.holder is not None
    assert "'checkout'" in seeing.holder
    idle.rollback()
    assert fence(url).oldest_start is None


def test_the_oldest_is_named_beside_the_one_that_writes(url: str, session: Callable[..., Connection]) -> None:
    """Two different transactions may hold back ids and starts; either may be the one to end."""
    idle, writer = session(name="report"), session(name="import")
    began = now(idle)
    write(writer)
    found = fence(url)
    assert found.oldest_start == began
    assert found.holder is not None
    first, second = found.holder.split("; ")
    assert "'import'" in first
    assert "'report'" in second


def test_a_plain_role_still_learns_who_holds_back(
    url: str, session: Callable[..., Connection], roles: Callable[[str], str]
) -> None:
    """Ids and names of sessions are everybody's to see, their beginnings are not."""
    writer = session(name="import")
    write(writer)
    found = fence(as_role(url, roles("")))
    assert found.xmin < found.xmax
    assert (
        found.holder
        == f"pid {writer.info.backend_pid} ('import') in database {url_database(url)}, in a transaction"
    )


def url_database(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def test_no_query_text_is_repeated(url: str, session: Callable[..., Connection]) -> None:
    """The text of somebody's statement may hold anything."""
    writer = session()
    writer.execute("insert into usage values ('canary-4711', 1)")
    assert "canary-4711" not in str(fence(url))


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_long_reader_holds_no_ids_back(
    url: str, session: Callable[..., Connection], isolation: str
) -> None:
    """A snapshot that is kept open has no id; only who may write later counts, by its start."""
    reader = session()
    reader.execute(f"set transaction isolation level {isolation} read only")
    reader.execute("select count(*) from usage")
    began = now(reader)
    write(session(autocommit=True))
    found = fence(url)
    assert found.xmin == found.xmax
    assert found.oldest_start == began


def test_our_own_reads_are_not_waited_for(url: str) -> None:
    """A read of a minute would hold back the next window, of this meter or of another."""
    rows = "select g as customer, 1 as quantity from generate_series(1, 20000) g"
    read = at(url).read(rows, Span(NOON, NOON + HOUR), HOUR)
    next(read)
    found = fence(url)
    assert (found.oldest_start, found.xmin) == (None, found.xmax)
    assert list(read), "the read goes on undisturbed"


@pytest.mark.parametrize(("name", "role"), [("shop", None), ("aggregator", "writer")])
def test_only_reads_of_ours_are_left_out(
    url: str, session: Callable[..., Connection], roles: Callable[[str], str], name: str, role: str | None
) -> None:
    """Our name with another role, or our role under another name, is somebody who may write."""
    other = session(as_role(url, roles("")) if role else url, name=name)
    began = now(other)
    assert fence(url).oldest_start == began


def test_a_writer_with_our_name_and_role_is_waited_for(url: str, session: Callable[..., Connection]) -> None:
    """A session that writes is none of our reads, whatever it calls itself."""
    writer = session(name="aggregator")
    write(writer)
    assert fence(url).oldest_start == now(writer)


def test_starts_that_nobody_notes_are_not_seen(
    url: str, session: Callable[..., Connection], own_server: EmbeddedPostgres
) -> None:
    """With track_activities off the list is there and says nothing: it must not pass for `none is open`."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("alter database {} set track_activities to off").format(sql.Identifier(url_database(url)))
        )
    idle = session()
    now(idle)
    found = fence(url)
    assert (found.sees_starts, found.oldest_start) == (False, None)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_pooler_in_between_changes_nothing(
    own_server: EmbeddedPostgres, url: str, session: Callable[..., Connection], tmp_path: Path
) -> None:
    """Through pgbouncer in transaction mode the same is seen, and no setting stays behind on a server connection."""
    writer = session()
    xid = write(writer)
    with pgbouncer(own_server, tmp_path) as pooler:
        through = at(pooler.url(url))
        for _ in range(6):
            found = through.fence()
            assert found is not None
            assert (found.xmin, found.xmax, found.oldest_start) == (xid, xid + 1, now(writer))
        with psycopg.connect(pooler.url(url), autocommit=True, prepare_threshold=None) as client:
            assert client.execute("show transaction_read_only").fetchall() == [("off",)]
            assert client.execute("show statement_timeout").fetchall() == [("0",)]
            assert client.execute("select count(*) from pg_prepared_statements").fetchall() == [(0,)]


def test_a_fence_is_one_short_transaction_that_writes_nothing(url: str) -> None:
    """Asking takes no id: else it would hold back what it asks about, and wear ids out."""
    first = fence(url)
    assert all(fence(url).xmax == first.xmax for _ in range(5))
    with psycopg.connect(url) as other:
        ours = "select count(*) from pg_stat_activity where application_name = 'aggregator'"
        for _ in range(200):
            if other.execute(ours).fetchall() == [(0,)]:
                return
            other.execute("select pg_sleep(0.05)")
            other.rollback()
    raise AssertionError("a session was left behind")


def test_databases_without_such_ids_have_no_fence(tmp_path: Path) -> None:
    """There only `delay` and reading again stand between a late commit and its window."""
    (tmp_path / "app.db").touch()
    lite = at(f"sqlite:///{tmp_path / 'app.db'}")
    assert lite.fence() is None
    assert lite.unsafe() == []
