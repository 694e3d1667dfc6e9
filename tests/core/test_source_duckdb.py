"""Reading a DuckDB database, whatever else the process and the machine are doing."""

import datetime as dt
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from aggregator.core.model import Reading, Span
from aggregator.errors import QueryRejected, QueryTimedOut, SourceUnreachable
from aggregator.source import Source
from aggregator.trial.columns import Column, types
from tests.core import duckdb_slots

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)
TWO = Span(NOON, NOON + 2 * HOUR)

ENDLESS = "select 'a' as customer, count(*) as quantity from range(1000000000000) as n (i) where hash(i) = 0"
"""What would take hours."""

SHAPES = {
    "naive": "select customer, sum(quantity) as quantity from usage where ts >= :start and ts < :end group by 1",
    "zoned": "select customer, sum(quantity) as quantity from usage where tz >= :start and tz < :end group by 1",
    "raw": 'select customer, quantity, tz as "at" from usage where tz >= :start and tz < :end',
    "windows": """
        select customer, sum(quantity) as quantity, max(tz) as at, date_trunc('hour', tz) as window
          from usage where tz >= :start and tz < :end group by 1, 4
    """,
    "naive windows": """
        select customer, sum(quantity) as quantity, max(ts) as at, date_trunc('hour', ts) as window
          from usage where ts >= :start and ts < :end group by 1, 4
    """,
    "written with a zone": """
        select customer, sum(quantity) as quantity from usage
         where local >= :start at time zone 'Asia/Kathmandu' and local < :end at time zone 'Asia/Kathmandu' group by 1
    """,
}
"""Ways to ask for the same, with and without a zone in the column, a window and an instant."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the application keeps its database."""
    path = tmp_path / "my app.duckdb"
    with closing(duckdb.connect(str(path))) as app:
        app.execute("set TimeZone = 'UTC'")
        app.execute("create table usage (customer text, quantity decimal(30, 6), tz timestamptz)")
    return path


def execute(path: Path, statement: str, rows: list[list[object]] | None = None) -> None:
    """Let the application do something."""
    with closing(duckdb.connect(str(path))) as app:
        app.execute("set TimeZone = 'UTC'")
        if rows is None:
            app.execute(statement)
        else:
            app.executemany(statement, rows)


def at_path(
    path: Path, timeout: dt.timedelta = HOUR, options: str = "", timezone: str | None = None
) -> Source:
    return Source("app", f"duckdb:///{path}{options}", statement_timeout=timeout, timezone=timezone)


def readings(source: Source, query: str, span: Span = ONE) -> list[Reading]:
    return [reading for batch in source.read(query, span, HOUR) for reading in batch]


def refusal(source: Source, query: str) -> str:
    with pytest.raises(QueryRejected) as caught:
        readings(source, query)
    return str(caught.value)


@contextmanager
def held_by_another(path: Path) -> Iterator[int]:
    """Let another process have the database open to write; its id."""
    program = (
        "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process.pid
        finally:
            process.communicate()


def threads() -> set[threading.Thread]:
    """Those in which DuckDB works."""
    return {thread for thread in threading.enumerate() if thread.name == "duckdb"}


def opens(path: Path) -> bool:
    """Whether another process can open the database to write."""
    program = "import duckdb, sys; duckdb.connect(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
def test_every_slot_is_right_in_whatever_zone_the_process_is(path: Path, zone: str) -> None:
    """Over the hour that New York has twice, to the last digit, in each shape of query."""
    execute(path, "alter table usage add column ts timestamp")
    execute(path, "alter table usage add column local timestamp")
    rows: list[list[object]] = [[use.customer, use.quantity, use.at] for use in duckdb_slots.uses()]
    execute(path, "insert into usage (customer, quantity, tz) values (?, ?, ?)", rows)
    execute(path, "update usage set ts = tz at time zone 'UTC', local = tz at time zone 'Asia/Kathmandu'")
    found = duckdb_slots.read_elsewhere(zone, f"duckdb:///{path}", SHAPES)
    assert found == dict.fromkeys(SHAPES, duckdb_slots.expected())


def test_times_without_a_zone_need_to_be_declared(path: Path) -> None:
    """As on every database but SQLite."""
    query = "select 'a' as customer, 1 as quantity, timestamp '2026-06-01 12:30' as at"
    assert "has no time zone" in refusal(at_path(path), query)
    assert readings(at_path(path, timezone="UTC"), query)[0].at == NOON + HOUR / 2


def test_a_file_that_is_not_there_is_not_made(path: Path, tmp_path: Path) -> None:
    """DuckDB would make an empty one, and say that a table is missing."""
    missing = tmp_path / "missing.duckdb"
    with pytest.raises(SourceUnreachable, match=f"Source app cannot be read: there is no file {missing}"):
        at_path(missing).ping()
    assert not missing.exists()
    text = tmp_path / "text.duckdb"
    text.write_text("no database\n" * 2000)
    with pytest.raises(SourceUnreachable, match="not a valid DuckDB database"):
        at_path(text).ping()
    at_path(path).ping()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("duckdb:///:memory:", "a database in memory is empty"),
        ("duckdb://", "a database in memory is empty"),
        ("duckdb:///md:shop", "names a file"),
        ("duckdb:///{path}?access_mode=read_write", "`access_mode` of a DuckDB URL can only be read_only"),
        ("duckdb:///{path}?TimeZone=Asia/Tokyo", "and not `TimeZone`"),
        ("duckdb:///{path}?memory_limit=plenty", "Memory must have a number"),
    ],
)
def test_a_url_that_means_something_else_is_refused(path: Path, url: str, said: str) -> None:
    """With what can be written instead."""
    with pytest.raises((SourceUnreachable, QueryRejected), match=said):
        Source("app", url.format(path=path), statement_timeout=HOUR).ping()


def test_a_url_may_say_how_much_of_the_machine_a_query_may_use(path: Path) -> None:
    """Left out, it is a gibibyte at most, since it is our own process's; and what DuckDB is in any case may be said."""
    setting = "select current_setting('{}') as customer, 1 as quantity"
    limit = setting.format("memory_limit")
    assert readings(at_path(path), limit)[0].customer in {"1.0 GiB", "1024.0 MiB"}
    some = at_path(path, options="?memory_limit=300MiB&threads=1&access_mode=read_only&timezone=UTC")
    assert readings(some, limit)[0].customer == "300.0 MiB"
    assert readings(some, setting.format("threads"))[0].customer == "1"


def test_all_windows_of_a_span_see_one_state(path: Path) -> None:
    """Nobody can write before the read is at its end, and everybody as soon as it is."""
    rows: list[list[object]] = [["cus_a", 1, NOON + hour * HOUR] for hour in (0, 1)]
    execute(path, "insert into usage values (?, ?, ?)", rows)
    read = at_path(path).read(SHAPES["zoned"], TWO, HOUR)
    assert next(read) == [Reading(NOON, "cus_a", Decimal(1), None)]
    assert not opens(path)
    assert list(read) == [[Reading(NOON + HOUR, "cus_a", Decimal(1), None)]]
    assert opens(path)


def test_a_database_that_another_process_has_open_is_tried_again_later(path: Path) -> None:
    """It is no fault of the query, and the process is named."""
    with (
        held_by_another(path) as pid,
        pytest.raises(SourceUnreachable, match=rf"Conflicting lock is held in .* \(PID {pid}\)"),
    ):
        readings(at_path(path), SHAPES["zoned"])
    assert readings(at_path(path), SHAPES["zoned"]) == []


@pytest.mark.parametrize(
    "attack",
    [
        "delete from usage",
        "delete from usage returning customer, quantity",
        "insert into usage values ('a', 1, now())",
        "drop table usage",
        "select 'a' as customer, 1 as quantity; delete from usage",
        "copy usage to '{other}'",
        "with w as (copy (select 1) to '{other}') select 'a' as customer, 1 as quantity",
        "with w as materialized ( -- (\n copy (select 1) to '{other}') select 'a' as customer, 1 as quantity",
        "with w as (insert into usage select * from usage returning 1) select 'a' as customer, 1 as quantity",
        "attach '{other}' as other",
        "export database '{other}'",
        "create temp table mine as select 1",
        "set TimeZone = 'Asia/Tokyo'",
        "pragma enable_profiling",
        "call force_checkpoint()",
        "install httpfs",
        "commit",
        "",
    ],
)
def test_no_query_can_write(path: Path, tmp_path: Path, attack: str) -> None:
    """Neither this database nor any other file; it is one SELECT, or is not sent."""
    execute(path, "insert into usage values ('cus_a', 1, '2026-06-01 12:00:00Z')")
    before = path.read_bytes()
    other = tmp_path / "other.csv"
    said = refusal(at_path(path), attack.format(other=other))
    assert "is one statement and may only read" in said or "A CTE needs a SELECT" in said, (
        "so DuckDB 1.5 has it"
    )
    assert path.read_bytes() == before
    assert not other.exists()


@pytest.mark.parametrize(
    "query",
    [
        "select content as customer, 1 as quantity from read_text('{other}')",
        "select * from glob('{folder}/*')",
    ],
)
def test_no_query_reaches_another_file(path: Path, tmp_path: Path, query: str) -> None:
    """It says what a source may name instead."""
    other = tmp_path / "secret.txt"
    other.write_text("secret")
    said = refusal(at_path(path), query.format(other=other, folder=tmp_path))
    assert "no files but those that the source names under `files`" in said


def test_no_variable_of_ours_is_taken_for_a_table(path: Path) -> None:
    """DuckDB looks for tables among the caller's variables, too."""
    mine = duckdb.connect().sql("select 'a' as customer, 1 as quantity")
    assert "Table with name mine does not exist" in refusal(at_path(path), "select * from mine")
    assert mine is not None


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "select nope\n  from usage",
            'Referenced column "nope" not found in FROM clause! Candidate bindings',
        ),
        ("select 1 as customer,\n 1 as quantity\n from nowhere", "(line 3: from nowhere)"),
        ("selec", "syntax error at or near"),
        ("select 'a' as customer, 'many'::int as quantity", "Could not convert string 'many'"),
        (
            "select 'a' as customer, 9223372036854775807::bigint + 1::bigint as quantity",
            "Overflow in addition",
        ),
        (
            "select 'a' as customer, sum(9e37::decimal(38) + i) as quantity from range(9) as n (i)",
            "Overflow in HUGEINT",
        ),
    ],
)
def test_what_is_wrong_with_a_query_is_told_in_duckdb_s_words(path: Path, query: str, said: str) -> None:
    """On one line, with the line of the query; a sum that is too large is no number that has gone round."""
    assert said in refusal(at_path(path), query)
    assert "\n" not in refusal(at_path(path), query)


@pytest.mark.parametrize("rows", ["", "i < 20000 or "])
def test_a_slow_query_is_stopped(path: Path, rows: str) -> None:
    """DuckDB has no statement timeout, so it is interrupted, in its first row and in later ones."""
    count = "count(*)" if not rows else "i"
    query = ENDLESS.replace("count(*)", count).replace("where", f"where {rows}")
    with pytest.raises(QueryTimedOut, match=r"may take 0\.3 s"):
        readings(at_path(path, dt.timedelta(seconds=0.3)), query)


def test_time_that_is_spent_between_batches_is_not_the_query_s(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fetch has its own; nobody interrupts what does not run, and no thread is left."""
    now = 0.0
    monkeypatch.setattr("aggregator.runtime.clock.monotonic", lambda: now)
    before = threads()
    query = "select i::text as customer, 1 as quantity from range(20000) as n (i)"
    read = at_path(path).read(query, ONE, HOUR)
    assert len(next(read)) == 5000
    assert threads() > before
    now = 1e9
    assert sum(map(len, read)) == 15000
    assert threads() == before


def test_a_source_that_is_closed_stops_what_it_reads(path: Path) -> None:
    """The daemon's process could not end otherwise: DuckDB works within it."""
    source = at_path(path)
    said: list[str] = []
    before = threads()

    def read() -> None:
        try:
            readings(source, ENDLESS)
        except SourceUnreachable as error:
            said.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    while not threads() - before:
        reader.join(0.01)
    source.close()
    reader.join()
    assert said == ["Source app cannot be read: the source is closed"]
    source.ping()


def test_ctrl_c_ends_the_command_that_reads(path: Path) -> None:
    """In the main thread DuckDB would look at signals late, and make another error of them."""
    program = f"""
import datetime as dt, os, signal, threading
from aggregator.core.model import Span
from aggregator.source import Source
begin = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
source = Source("app", {f"duckdb:///{path}"!r}, statement_timeout=dt.timedelta(hours=1))
threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
list(source.read({ENDLESS!r}, Span(begin, begin + dt.timedelta(hours=1)), dt.timedelta(hours=1)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr


def test_a_result_of_any_size_takes_little_memory(path: Path) -> None:
    """Rows are fetched as they are taken. Read in a process of its own, whose largest size Linux knows."""
    execute(
        path,
        "insert into usage select 'cus_' || i % 3, i, '2026-06-01 12:00:00Z' from range(200000) as n (i)",
    )
    program = f"""
import datetime as dt
from pathlib import Path
from aggregator.core.model import Span
from aggregator.source import Source
def largest():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
begin = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
source = Source("app", {f"duckdb:///{path}"!r}, statement_timeout=dt.timedelta(seconds=60))
source.ping()
before = largest()
hour = dt.timedelta(hours=1)
query = {SHAPES["raw"]!r}
print(sum(map(len, source.read(query, Span(begin, begin + hour), hour))), (largest() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 200_000
    assert mebibytes < 60


def test_a_query_is_filled_in_as_duckdb_takes_it(path: Path) -> None:
    """So that it gives the same when it is pasted, in whatever zone that session is."""
    execute(
        path,
        "insert into usage values ('cus_a', 2, '2026-06-01 12:00:00Z'), ('cus_b', 3, '2026-06-01 13:00:00Z')",
    )
    filled = at_path(path).filled(SHAPES["zoned"], ONE)
    with closing(duckdb.connect(str(path), read_only=True)) as session:
        session.execute("set TimeZone = 'Asia/Tokyo'")
        assert session.execute(filled).fetchall() == [("cus_a", Decimal(2))]


def test_parameters_in_comments_and_colons_of_the_text_s_own_are_no_matter(path: Path) -> None:
    """Structs and slices have colons as well."""
    query = """
        -- from :start to :end, :start again
        select {'a':'x'}.a || [7, 8, 9][2:2]::text as customer, 1 as quantity where :end > :start and :start < :end
    """
    assert readings(at_path(path), query)[0].customer == "x[8]"


@pytest.mark.parametrize(
    ("quantity", "kind"),
    [
        ("1.5::double", "float8"),
        ("1.5::real", "float4"),
        ("sum(1.5::decimal(30, 6))", "numeric"),
        ("sum(1)", "hugeint"),
        ("now()", "timestamptz"),
        ("now() at time zone 'UTC'", "timestamp"),
        ("'a'", "varchar"),
        ("true", "boolean"),
    ],
)
def test_the_trial_knows_duckdb_s_types(path: Path, quantity: str, kind: str) -> None:
    """By the names that it has for Postgres's, without any row."""
    with at_path(path).trying(f"select 'a' as customer, {quantity} as quantity where false", HOUR) as trying:
        assert trying.ask(ONE).kinds == ("varchar", kind)


@pytest.mark.parametrize("kind", ["float8", "varchar", "boolean"])
def test_the_trial_proposes_what_loses_nothing(kind: str) -> None:
    """`numeric` has three decimals in DuckDB."""
    [finding] = types([Column("quantity", kind)], naive_is_utc=True, zoned="", dialect="duckdb")
    assert "::numeric" not in str(finding)
    if kind != "boolean":
        assert "::decimal(38, 9)" in str(finding)


def test_a_missing_driver_names_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB is an extra."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(SourceUnreachable, match=r"pip install 'usage-aggregator\[duckdb\]'"):
        at_path(path).ping()


def test_a_version_whose_sums_go_round_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before version 2, two decimals of 38 digits can come to a negative sum."""
    monkeypatch.setattr(duckdb, "__version__", "1.5.6")
    with pytest.raises(SourceUnreachable, match=r"DuckDB 1\.5\.6 lets a sum .* `pip install 'duckdb>=2'`"):
        at_path(path).ping()


def test_what_does_not_fit_into_memory_goes_to_the_temporary_folder(path: Path, tmp_path: Path) -> None:
    """Not beside the application's database, where DuckDB would put it."""
    query = "select i as customer, 1 as quantity from range(3000000) as n (i) order by hash(i)"
    spilling = at_path(path, options=f"?memory_limit=40MB&threads=1&temp_directory={tmp_path}/spilled")
    read = spilling.read(query, ONE, HOUR)
    assert len(next(read)) == 5000
    assert list((tmp_path / "spilled").iterdir())
    read.close()  # type: ignore[attr-defined]
    assert {each.name for each in tmp_path.iterdir()} <= {path.name, "spilled"}


def test_two_reads_of_one_database_do_not_disturb_each_other(path: Path) -> None:
    """A daemon reads several meters at once; each has its own time, and its own end."""
    execute(path, "insert into usage values ('cus_a', 1, '2026-06-01 12:00:00Z')")
    source = at_path(path)
    first = source.read(SHAPES["zoned"], TWO, HOUR)
    assert len(next(first)) == 1
    with pytest.raises(QueryTimedOut):
        readings(at_path(path, dt.timedelta(seconds=0.2)), ENDLESS)
    assert readings(source, SHAPES["zoned"]) == [Reading(NOON, "cus_a", Decimal(1), None)]
    assert list(first) == [[]] or list(first) == []


def test_reading_leaves_nothing_behind(path: Path) -> None:
    """No file beside the database, none of its bytes changed, and what another process left in its log is read."""
    program = f"""
import duckdb, os
app = duckdb.connect({str(path)!r})
app.execute("insert into usage values ('cus_log', 1, '2026-06-01 12:00:00Z')")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    assert readings(at_path(path), SHAPES["zoned"]) == [Reading(NOON, "cus_log", Decimal(1), None)]
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before


def test_a_query_can_be_tested_over_given_rows(path: Path) -> None:
    """With the types that the table has; a column that is left out is NULL."""
    source = at_path(path)
    rows = [
        {"customer": "it's", "quantity": 1.5, "tz": "2026-06-01T12:00:00Z"},
        {"customer": "b", "quantity": 2},
    ]
    over = source.over(SHAPES["zoned"], {"main.usage": rows}, ONE)
    assert readings(source, over) == [Reading(NOON, "it's", Decimal("1.5"), None)]
    assert readings(source, source.over(SHAPES["zoned"], {"usage": []}, ONE)) == []
    execute(path, "create table other as select 1 as one")
    with pytest.raises(QueryRejected, match="the query also reads other"):
        source.over(SHAPES["zoned"].replace("from usage", "from usage, other"), {"usage": rows}, ONE)
