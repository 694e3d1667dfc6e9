"""Reading a real standby: what it has surely seen, and that a replay that stands still proves nothing new."""

import datetime as dt
from collections.abc import Callable, Iterator

import psycopg
import pytest

from aggregator.cli.check import _role
from aggregator.core import commit_barrier
from aggregator.core.model import Fence, Span
from aggregator.errors import QueryRejected
from aggregator.source import Source
from aggregator.source.transactions import REPLAY_MARGIN
from tests.postgres.replication import (
    HEARTBEAT,
    Connection,
    Pair,
    caught_up,
    paused,
    replicated,
)
from tests.postgres.servers import as_role

pytestmark = pytest.mark.xdist_group("transactions")

HOUR = dt.timedelta(hours=1)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary, and a standby that streams from it."""
    with replicated() as pair:
        yield pair


@pytest.fixture
def url(pair: Pair) -> str:
    """The standby, as the role we read with."""
    return as_role(pair[1].url(), "reader")


def fence(url: str, freshness: str | None = None) -> Fence:
    found = Source("app", url, statement_timeout=dt.timedelta(seconds=20), freshness=freshness).fence()
    assert found is not None
    return found


def beat(primary: Connection) -> dt.datetime:
    """Write a heartbeat, and return its instant."""
    [(instant,)] = primary.execute(
        "insert into heartbeat values (clock_timestamp()) returning beat_at"
    ).fetchall()
    assert isinstance(instant, dt.datetime)
    return instant


def use(primary: Connection, used_at: dt.datetime) -> None:
    primary.execute("insert into usage values ('cus_a', 1, %s)", [used_at])


Asked = Callable[[str], Fence]


def by_heartbeat(url: str) -> Fence:
    """Ask with a heartbeat configured."""
    return fence(url, HEARTBEAT)


@pytest.mark.parametrize("ask", [by_heartbeat, fence])
def test_a_replay_that_stands_still_proves_nothing_new(
    primary: Connection, follower: Connection, url: str, ask: Asked
) -> None:
    """What is fresh stops with the replay, however long that stands, and goes on with it."""
    first = beat(primary)
    caught_up(primary, follower)
    paused(follower)
    before = ask(url)
    later = beat(primary)
    assert before.standby
    assert before.fresh_until is not None
    assert first - REPLAY_MARGIN <= before.fresh_until < later
    for _ in range(3):
        later = beat(primary)
        assert ask(url).fresh_until == before.fresh_until
    follower.execute("select pg_wal_replay_resume()")
    caught_up(primary, follower)
    after = ask(url)
    assert after.fresh_until is not None
    assert after.fresh_until >= later - REPLAY_MARGIN


@pytest.mark.parametrize("ask", [by_heartbeat, fence])
def test_what_is_fresh_has_arrived(primary: Connection, follower: Connection, url: str, ask: Asked) -> None:
    """A read after the fence sees every row that was committed by `fresh_until`; of one it lacks, nothing was claimed."""
    beat(primary)
    caught_up(primary, follower)
    paused(follower)
    [(used_at,)] = primary.execute("select clock_timestamp()").fetchall()
    use(primary, used_at)
    beat(primary)
    found = ask(url)
    assert found.fresh_until is not None
    assert found.fresh_until < used_at
    follower.execute("select pg_wal_replay_resume()")
    caught_up(primary, follower)
    window = used_at.replace(minute=0, second=0, microsecond=0)
    query = "select customer, quantity from usage where used_at >= :start and used_at < :end"
    source = Source("app", url, statement_timeout=HOUR, freshness=HEARTBEAT)
    [batch] = source.read(query, Span(window, window + HOUR), HOUR)
    assert [reading.quantity for reading in batch] == [1]


def test_an_idle_primary_proves_nothing_new(primary: Connection, follower: Connection, url: str) -> None:
    """Without commits the last one stays the proof, though the standby lacks nothing."""
    beat(primary)
    caught_up(primary, follower)
    first = fence(url)
    assert fence(url).fresh_until == first.fresh_until
    assert fence(url).at > first.at


def test_without_a_heartbeat_yet_nothing_is_proven(
    primary: Connection, follower: Connection, url: str
) -> None:
    """An empty table gives NULL, a query without rows gives none: neither is taken for `fresh`."""
    caught_up(primary, follower)
    assert fence(url, HEARTBEAT).fresh_until is None
    assert fence(url, "select beat_at from heartbeat").fresh_until is None


def test_a_writer_on_the_primary_holds_back_on_the_standby(
    pair: Pair, primary: Connection, follower: Connection, url: str
) -> None:
    """Its id is known from the log, though it is the newest there is; who it is, only the primary knows (B6)."""
    with psycopg.connect(pair[0].url()) as writer:
        use(writer, dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
        [(xid,)] = writer.execute("select pg_current_xact_id()::text::bigint").fetchall()
        beat(primary)
        caught_up(primary, follower)
        found = fence(url, HEARTBEAT)
        assert found.xmin == xid
        assert found.xmax > xid
        assert found.holder == f"a transaction on the primary (id {xid})"
        writer.commit()
    caught_up(primary, follower)
    assert fence(url, HEARTBEAT).xmin >= found.xmax


def test_the_newest_writer_on_the_primary_is_below_the_fence(
    pair: Pair, primary: Connection, follower: Connection, url: str
) -> None:
    """With nothing ended after it, the snapshot's xmax on the standby is its own id: that would be passed at once (B6)."""
    with psycopg.connect(pair[0].url()) as writer:
        use(writer, dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
        [(xid,)] = writer.execute("select pg_current_xact_id()::text::bigint").fetchall()
        primary.execute("checkpoint")  # else what is not committed may stay in memory on the primary
        caught_up(primary, follower)
        found = fence(url)
        assert (found.xmin, found.xmax) == (xid, xid + 1)


def test_a_writer_that_the_standby_has_not_heard_of_is_waited_for(
    pair: Pair, primary: Connection, follower: Connection, url: str
) -> None:
    """A fence noted while the replay lags knows no id of what was written since: it counts for no later window (B6)."""
    beat(primary)
    caught_up(primary, follower)
    paused(follower)
    with psycopg.connect(pair[0].url()) as writer:
        use(writer, dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
        boundary = beat(primary)
        lagging = fence(url, HEARTBEAT)
        assert lagging.at > boundary
        noted = commit_barrier.judge(lagging, (), boundary).noted
        follower.execute("select pg_wal_replay_resume()")
        beat(primary)
        caught_up(primary, follower)
        for _ in range(3):
            passed = commit_barrier.judge(fence(url, HEARTBEAT), noted, boundary)
            noted = passed.noted
            assert passed.until < boundary
        writer.commit()
    caught_up(primary, follower)
    assert commit_barrier.judge(fence(url, HEARTBEAT), noted, boundary).until >= boundary


def test_when_transactions_began_on_the_primary_is_not_seen(
    pair: Pair, primary: Connection, follower: Connection
) -> None:
    """Even a superuser sees the standby's own sessions only; that none is old there says nothing."""
    with psycopg.connect(pair[0].url()) as idle:
        idle.execute("select now()")
        found = fence(pair[1].url())
    assert (found.sees_starts, found.oldest_start) == (False, None)


def test_freshness_is_heeded_on_a_primary(pair: Pair, primary: Connection) -> None:
    """Its rows may come from elsewhere, so whoever names `freshness` is taken at his word; without it, nothing is asked."""
    assert fence(pair[0].url(), HEARTBEAT).fresh_until is None
    beat_at = beat(primary)
    found = fence(pair[0].url(), HEARTBEAT)
    assert (found.standby, found.must_prove, found.fresh_until) == (False, True, beat_at)
    found = fence(pair[0].url())
    assert (found.standby, found.must_prove, found.fresh_until) == (False, False, None)


def test_check_tells_of_a_standby(primary: Connection, follower: Connection, url: str) -> None:
    """Since when it has proven to be fresh, or that it has proven nothing yet; neither is a fault."""
    beat_at = beat(primary)
    caught_up(primary, follower)
    for query, said in [
        (HEARTBEAT, f"fresh until {beat_at:%Y-%m-%dT%H:%M:%SZ}"),
        ("select null::date", "nothing yet"),
    ]:
        source = Source("app", url, statement_timeout=HOUR, freshness=query)
        answers, note = _role(source)
        assert (answers.verdict, note.verdict) == ("ok", "note")
        assert said in note.text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select max(beat_at) from pulse", r'`freshness` query is refused: relation "pulse" does not exist'),
        ("select beat_at, 1 from heartbeat", "one column and one row"),
        ("select now() from generate_series(1, 2)", "one column and one row"),
        ("select 'infinity'::timestamptz", "`freshness` query returns infinity"),
        ("select 1", "`freshness` holds a number"),
        ("select now()::timestamp", "no time zone"),
        ("select 1; select 2", "`freshness` query is one statement and may only read"),
        ("select :start", "`freshness` query is refused"),
    ],
)
def test_a_freshness_query_that_proves_nothing_is_refused(
    primary: Connection, follower: Connection, url: str, query: str, said: str
) -> None:
    """It returns one instant, and like every query it is one SELECT."""
    with pytest.raises(QueryRejected, match=said):
        fence(url, query)
