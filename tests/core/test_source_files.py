"""Folders of Parquet and CSV files as a source: what their files hold, and nothing that is guessed."""

import datetime as dt
import errno
import gzip
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from aggregator.config import load
from aggregator.core.model import Reading, Span
from aggregator.errors import ConfigError, QueryRejected, SourceUnreachable
from aggregator.source import Files, Source
from aggregator.wiring.sources import build_source
from tests.core import duckdb_slots

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)
TWO = Span(NOON, NOON + 2 * HOUR)

USAGE = 'select customer, quantity, used_at as "at" from usage where used_at >= :start and used_at < :end'
AMOUNTS = "select customer, quantity from usage where :start < :end"
TYPES = {"quantity": "decimal(30,6)", "used_at": "timestamptz"}


def source(path: Path | str, **settings: Any) -> Source:
    return Source(
        "lake",
        "duckdb:///:memory:",
        statement_timeout=HOUR,
        files={"usage": Files(path=str(path), **settings)},
    )


def parquet(path: Path, select: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as writer:
        writer.execute("set TimeZone = 'UTC'")
        writer.execute(f"copy ({select}) to '{path}' (format parquet)")
    return path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def readings(lake: Source, query: str = USAGE, span: Span = ONE) -> list[Reading]:
    return [reading for batch in lake.read(query, span, HOUR) for reading in batch]


def amounts(lake: Source, query: str = AMOUNTS) -> list[tuple[str | None, Decimal | None]]:
    return sorted((each.customer, each.quantity) for each in readings(lake, query))


def refusal(lake: Source, query: str = USAGE) -> str:
    with pytest.raises(QueryRejected) as caught:
        readings(lake, query)
    return str(caught.value)


def unreadable(lake: Source) -> str:
    with pytest.raises(SourceUnreachable) as caught:
        lake.ping()
    return str(caught.value)


def test_a_file_that_nobody_may_look_at_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a link into a folder of somebody else's: what it holds would not be billed, and nobody would know."""
    for name in ("a.csv", "b.csv"):
        written(tmp_path / name, "customer,quantity,used_at\n007,1.5,2026-06-01 12:00:00Z\n")
    real = os.stat

    def stat(path: Any, **rest: Any) -> os.stat_result:
        if str(path).endswith("b.csv"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **rest)

    monkeypatch.setattr(os, "stat", stat)
    assert "Permission denied" in unreadable(source(tmp_path / "*.csv", columns=TYPES))


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
def test_every_slot_is_right_in_whatever_zone_the_process_is(tmp_path: Path, zone: str) -> None:
    """From Parquet in hive-style folders and from CSV, over the hour that New York has twice."""
    rows = [(use.customer, use.quantity, use.at) for use in duckdb_slots.uses()]
    lines = [f"{at:%Y-%m-%dT%H:%M:%S.%fZ},{customer},{quantity}" for customer, quantity, at in rows]
    written(tmp_path / "a.csv", "\n".join(["used_at,customer,quantity", *lines[::2]]))
    written(tmp_path / "b.csv", "\r\n".join(["used_at,customer,quantity", *lines[1::2], ""]))
    with duckdb.connect() as writer:
        writer.execute("set TimeZone = 'UTC'")
        writer.execute("create table usage (customer text, quantity decimal(30, 6), used_at timestamptz)")
        writer.executemany("insert into usage values (?, ?, ?)", rows)
        writer.execute(f"copy usage to '{tmp_path}/lake' (format parquet, partition_by (customer))")
    query = "select customer, sum(quantity) as quantity {} from usage where used_at >= :start and used_at < :end group by {}"
    queries = {
        "plain": query.format("", "1"),
        "windows": query.format(", max(used_at) as at, date_trunc('hour', used_at) as window", "1, 4"),
    }
    for files in (
        {"path": f"{tmp_path}/*.csv", "columns": TYPES},
        {"path": f"{tmp_path}/lake/**/*.parquet"},
    ):
        found = duckdb_slots.read_elsewhere(zone, "duckdb:///:memory:", queries, {"usage": files})
        assert found == dict.fromkeys(queries, duckdb_slots.expected())


def test_columns_of_csv_files_go_by_their_names(tmp_path: Path) -> None:
    """In each file's own order, with columns beside them and in any letter case; DuckDB would take them by place."""
    written(tmp_path / "a.csv", "customer,quantity,used_at\n007,1.5,2026-06-01 12:00:00Z\n")
    written(
        tmp_path / "b.csv",
        "\ufeffQuantity,note,Customer,used_at\n2.25,x,008,2026-06-01T12:59:59.999999+00:00\n",
    )
    with gzip.open(tmp_path / "c.csv", "wt"):
        pass  # packed, and not named so
    (tmp_path / "c.csv").unlink()
    found = readings(source(tmp_path / "*.csv", columns=TYPES))
    assert {(each.customer, each.quantity) for each in found} == {
        ("007", Decimal("1.5")),
        ("008", Decimal("2.25")),
    }


def test_packed_csv_files_and_other_delimiters_are_read(tmp_path: Path) -> None:
    """With quotes, and with line breaks within them."""
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write(
            'customer;quantity;used_at\n"cus;\n""a""";1;2026-06-01 14:00:00+02\n"";2;2026-06-01 12:00:00 UTC\n'
        )
    lake = source(tmp_path / "*.csv.gz", columns=TYPES, delimiter=";")
    query = USAGE.replace("customer,", "replace(customer, chr(10), ' ') as customer,")
    assert {(each.customer, each.quantity) for each in readings(lake, query)} == {
        ('cus; "a"', Decimal(1)),
        (None, Decimal(2)),
    }


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("decimal(30,6)", "1.2345678", "no plain number with at most 6 decimals"),
        ("decimal(30,6)", "1e5", "no plain number"),
        ("decimal(30,6)", "1,5", "no plain number"),
        ("decimal(30,6)", "0x10", "no plain number"),
        ("decimal(4,2)", "123.45", "Could not convert"),
        ("integer", "1.5", "no plain integer"),
        ("bigint", "1_000", "no plain bigint"),
        ("bigint", "9223372036854775808", "Could not convert"),
        ("double", "many", "no plain double"),
        ("timestamptz", "2026-06-01 12:00:00", "no instant with an offset; declare it as timestamp"),
        ("timestamptz", "06/01/2026 12:00", "no instant with an offset"),
        ("timestamp", "2026-06-01 12:00:00+02:00", "no time without an offset; declare it as timestamptz"),
        ("date", "01.06.2026", "no plain date"),
        ("boolean", "perhaps", "no plain boolean"),
        ("uuid", "7", "no plain uuid"),
    ],
)
def test_text_that_is_not_plainly_of_its_type_is_refused(
    tmp_path: Path, kind: str, text: str, said: str
) -> None:
    """DuckDB would round it, take a part of it, or make NULL of it; the sentence shows the text."""
    written(tmp_path / "a.csv", f'customer,value\na,"{text}"\n')
    lake = source(tmp_path / "a.csv", columns={"value": kind})
    told = refusal(
        lake, "select customer, count(value) as quantity from usage where :start < :end group by 1"
    )
    assert said in told
    assert text in told


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("decimal(30,6)", " -1.2345670 ", "-1.234567"),
        ("decimal(38,0)", "12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("bigint", "+7.00", "7"),
        ("double", "1.5", "1.5"),
        ("decimal(30,6)", "", "None"),
    ],
)
def test_numbers_are_what_the_text_says(tmp_path: Path, kind: str, text: str, value: str) -> None:
    """Zeros behind the last decimal are no matter; nothing is NULL."""
    written(tmp_path / "a.csv", f"customer,value\na,{text}\n")
    lake = source(tmp_path / "a.csv", columns={"value": kind})
    [reading] = readings(lake, "select customer, value as quantity from usage where :start < :end")
    assert str(reading.quantity) == value or reading.quantity == Decimal(value)


def test_a_csv_column_that_is_not_declared_is_text(tmp_path: Path) -> None:
    """Also where each value of it looks like a number."""
    written(tmp_path / "a.csv", "customer,quantity\n007,1\n")
    assert "holds text" in refusal(source(tmp_path / "a.csv"), AMOUNTS)
    assert amounts(source(tmp_path / "a.csv", columns={"quantity": "integer"})) == [("007", Decimal(1))]


@pytest.mark.parametrize(
    "text", ["customer,quantity\na,1,2\n", "customer,quantity\na\n", 'customer,quantity\n"a,1\n']
)
def test_a_line_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    """It is not left out, nor filled up; the file is named."""
    written(tmp_path / "a.csv", text)
    assert "CSV Error on Line: 2" in refusal(
        source(tmp_path / "a.csv", columns={"quantity": "integer"}), AMOUNTS
    )


@pytest.mark.parametrize(
    "text", ["", "\n", "customer,,quantity\n", "\udcff".encode("utf-8", "surrogateescape")]
)
def test_a_csv_file_has_to_name_its_columns(tmp_path: Path, text: str | bytes) -> None:
    """The file is named."""
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert f"the first line of {path}" in unreadable(source(path))


def test_decimals_of_all_files_are_kept(tmp_path: Path) -> None:
    """DuckDB would cut them off as the first file has them; integers and decimals become one type."""
    parquet(tmp_path / "a.parquet", "select 'a' as customer, 5::decimal(30, 2) as quantity")
    parquet(tmp_path / "b.parquet", "select 1.234567::decimal(30, 6) as quantity, 'b' as customer")
    parquet(tmp_path / "c.parquet", "select 'c' as customer, 7::bigint as quantity")
    assert amounts(source(tmp_path / "*.parquet")) == [
        ("a", Decimal(5)),
        ("b", Decimal("1.234567")),
        ("c", Decimal(7)),
    ]
    said = refusal(source(tmp_path / "*.parquet", columns={"quantity": "decimal(30,2)"}), AMOUNTS)
    assert "is DECIMAL(30,6) in" in said
    assert "would cut it off" in said


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("now()", "now()::timestamp"),
        ("1.5::double", "1.5::decimal(30, 6)"),
        ("7", "'007'"),
    ],
)
def test_types_that_do_not_agree_are_refused(tmp_path: Path, one: str, other: str) -> None:
    """DuckDB would take the first file's for all. Declared, they become one."""
    first = parquet(tmp_path / "a.parquet", f"select {one} as value")
    second = parquet(tmp_path / "b.parquet", f"select {other} as value")
    said = refusal(source(tmp_path / "*.parquet"), "select 'a' as customer, 1 as quantity from usage")
    assert f"in {first}" in said
    assert f"in {second}: declare its type under `columns`" in said
    kind = {"now()": "timestamptz", "7": "text"}.get(one, "decimal(30,6)")
    declared = source(tmp_path / "*.parquet", columns={"value": kind})
    assert amounts(declared, "select 'a' as customer, count(value) as quantity from usage") == [
        ("a", Decimal(2))
    ]


def test_a_column_that_some_files_lack_is_not_null(tmp_path: Path) -> None:
    """A query that does not need it is answered, one that does is refused; unless the column is optional."""
    parquet(tmp_path / "a.parquet", "select 'a' as customer, 1 as quantity")
    parquet(tmp_path / "b.parquet", "select 'b' as customer, 2 as quantity, 'eu' as region")
    both = tmp_path / "*.parquet"
    assert amounts(source(both)) == [("a", Decimal(1)), ("b", Decimal(2))]
    within = "select customer, quantity from usage where region is distinct from 'us'"
    said = refusal(source(both), within)
    assert f"column `region` is not in {tmp_path}/a.parquet" in said
    assert "name it under `optional`" in said
    assert amounts(source(both, optional=frozenset({"region"})), within) == [
        ("a", Decimal(1)),
        ("b", Decimal(2)),
    ]
    assert "no file has the column `nowhere`" in refusal(source(both, columns={"nowhere": "text"}), AMOUNTS)


def test_nanoseconds_are_cut_off(tmp_path: Path) -> None:
    """What was used half a microsecond before the hour belongs to the hour before; DuckDB 2 would round it up."""
    before = int((NOON + HOUR).timestamp()) * 10**9 - 1
    parquet(
        tmp_path / "a.parquet",
        f"select 'a' as customer, 1 as quantity, make_timestamp_ns({before}) as used_at",
    )
    lake = source(tmp_path / "a.parquet")
    query = """
        select customer, sum(quantity) as quantity, date_trunc('hour', used_at) at time zone 'UTC' as window
          from usage where used_at >= :start and used_at < :end group by 1, 3
    """
    assert readings(lake, query, TWO) == [Reading(NOON, "a", Decimal(1), None)]


def test_what_a_folder_is_called_is_text(tmp_path: Path) -> None:
    """A key keeps its zeros, a day is no date, and a declared type is checked; a column in the files themselves stays."""
    parquet(tmp_path / "customer=007" / "day=2026-06-01" / "a.parquet", "select 1 as quantity")
    parquet(tmp_path / "customer=8%2F9" / "day=2026-06-02" / "b.parquet", "select 2 as quantity")
    lake = source(tmp_path / "**/*.parquet")
    assert amounts(lake) == [("007", Decimal(1)), ("8/9", Decimal(2))]
    day = "select day as customer, 1 as quantity from usage where day = '2026-06-01'"
    assert amounts(lake, day) == [("2026-06-01", Decimal(1))]
    typed = source(tmp_path / "**/*.parquet", columns={"day": "date"})
    assert amounts(typed, "select customer, quantity from usage where day > date '2026-06-01'") == [
        ("8/9", Decimal(2))
    ]
    own = tmp_path / "own"
    parquet(own / "customer=7" / "a.parquet", "select '007' as customer, 1 as quantity")
    assert amounts(source(own / "*/*.parquet")) == [("007", Decimal(1))]
    written(own / "kind=a" / "a.csv", "customer,quantity\nx,3\n")
    csv_query = "select customer || kind as customer, quantity from usage"
    assert amounts(source(own / "*/*.csv", columns={"quantity": "bigint"}), csv_query) == [("xa", Decimal(3))]


def test_a_pattern_that_finds_nothing_is_one_clear_error(tmp_path: Path) -> None:
    """It names the pattern and the table; what is hidden, or still being written, does not count."""
    written(tmp_path / "_temporary" / "a.csv", "customer,quantity\n")
    written(tmp_path / ".a.csv", "customer,quantity\n")
    assert unreadable(source(tmp_path / "**/*.csv")) == (
        f"Source lake cannot be read: no file matches {tmp_path}/**/*.csv (`files`, usage)"
    )


def test_names_that_are_patterns_are_refused(tmp_path: Path) -> None:
    """DuckDB would read another file instead."""
    parquet(tmp_path / "a1.parquet", "select 'wrong' as customer, 1 as quantity")
    parquet(tmp_path / "x.parquet", "select 'right' as customer, 1 as quantity").rename(
        tmp_path / "a[1].parquet"
    )
    assert "takes for a pattern; rename it" in unreadable(source(tmp_path / "*.parquet"))


@pytest.mark.parametrize(
    ("marker", "kind"),
    [("_delta_log", "Delta Lake"), ("metadata/version-hint.text", "Iceberg"), (".hoodie", "Hudi")],
)
def test_files_of_a_table_with_a_history_are_refused(tmp_path: Path, marker: str, kind: str) -> None:
    """Rows that were deleted or changed are still in some of them, and would be billed."""
    parquet(tmp_path / "table" / "data" / "a.parquet", "select 'a' as customer, 1 as quantity")
    written(tmp_path / "table" / marker, "")
    assert f"is a table of {kind}" in unreadable(source(tmp_path / "table/data/*.parquet"))


def test_all_windows_of_a_span_see_the_same_files(tmp_path: Path) -> None:
    """A file that comes meanwhile is for the next read; one that changes, or goes, ends this one."""
    first = written(
        tmp_path / "a.csv", "customer,quantity,used_at\na,1,2026-06-01 12:00:00Z\nb,1,2026-06-01 13:00:00Z\n"
    )
    lake = source(tmp_path / "*.csv", columns=TYPES)
    read = lake.read(USAGE, TWO, HOUR)
    assert [each.customer for each in next(read)] == ["a"]
    second = written(tmp_path / "b.csv", "customer,quantity,used_at\nc,1,2026-06-01 13:00:00Z\n")
    assert [each.customer for batch in read for each in batch] == ["b"]
    assert {each.customer for each in readings(lake, span=TWO)} == {"a", "b", "c"}

    read = lake.read(USAGE, TWO, HOUR)
    next(read)
    first.write_text(first.read_text() + "d,1,2026-06-01 13:00:00Z\n")
    with pytest.raises(SourceUnreachable, match=rf"{first} was changed while it was read"):
        list(read)

    read = lake.read(USAGE, TWO, HOUR)
    next(read)
    second.unlink()
    with pytest.raises(SourceUnreachable, match=rf"{second} was changed while it was read"):
        list(read)


def test_a_file_that_is_not_whole_yet_is_tried_again_later(tmp_path: Path) -> None:
    """It is no fault of the query."""
    path = parquet(tmp_path / "a.parquet", "select 'a' as customer, 1 as quantity")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    lake = source(path)
    assert str(path) in unreadable(lake)
    path.write_bytes(whole)
    assert amounts(lake) == [("a", Decimal(1))]


def test_a_file_that_is_replaced_is_looked_at_again(tmp_path: Path) -> None:
    """What is kept of its columns is for as long as it is the same."""
    path = written(tmp_path / "a.csv", "customer,quantity\na,1\n")
    lake = source(path, columns={"quantity": "bigint"})
    assert amounts(lake) == [("a", Decimal(1))]
    replacement = written(tmp_path / "new", "quantity,customer\n2,b\n")
    os.replace(replacement, path)  # noqa: PTH105
    assert amounts(lake) == [("b", Decimal(2))]


def test_a_query_reaches_the_declared_files_and_no_others(tmp_path: Path) -> None:
    """And writes to none of them."""
    path = parquet(tmp_path / "a.parquet", "select 'a' as customer, 1 as quantity")
    other = parquet(tmp_path / "secret.parquet", "select 'b' as customer, 1 as quantity")
    before = path.read_bytes()
    lake = source(path)
    assert "no files but those" in refusal(lake, f"select * from read_parquet('{other}')")
    assert "no files but those" in refusal(lake, f"select * from read_text('{tmp_path}/../x')")
    copying = (
        f"with w as (copy (select 1) to '{path}' (use_tmp_file false)) select 'a' as customer, 1 as quantity"
    )
    assert "may only read" in refusal(lake, copying)
    assert path.read_bytes() == before


def test_nested_columns_do_not_matter(tmp_path: Path) -> None:
    """They are no columns of their own, and can be asked for."""
    parquet(
        tmp_path / "a.parquet",
        "select {'id': 'a', 'tags': [1, 2]} as who, 1 as quantity, map {'k': 1} as more",
    )
    lake = source(tmp_path / "a.parquet")
    assert amounts(lake, "select who.id as customer, quantity from usage") == [("a", Decimal(1))]


def test_files_go_with_no_database(tmp_path: Path) -> None:
    """And with no other engine than DuckDB."""
    path = parquet(tmp_path / "a.parquet", "select 1 as quantity")
    files: Mapping[str, Files] = {"usage": Files(path=str(path))}
    with pytest.raises(SourceUnreachable, match="`files` go with `url: duckdb://`"):
        Source("lake", f"duckdb:///{path}", statement_timeout=HOUR, files=files).ping()


def test_the_example_reads_what_it_describes(tmp_path: Path) -> None:
    """`config/files.yaml`, with its folder elsewhere: keys keep their zeros, and find who pays."""
    shipped = (Path(__file__).parents[2] / "config" / "files.yaml").read_text()
    config_file = written(tmp_path / "aggregator.yaml", shipped.replace("/var/lib/usage", str(tmp_path)))
    for key, used in (("007", 5), ("7", 9)):
        parquet(
            tmp_path / "events" / f"customer={key}" / "a.parquet",
            f"select {used}::bigint as bytes, timestamptz '2026-06-01 12:30:00Z' as used_at",
        )
    written(tmp_path / "customers.csv", "key,stripe_id\n007,cus_bond\n")
    config = load(config_file, {"SANDBOX_URL": "http://127.0.0.1:1", "START_AT": "2026-01-01T00:00Z"})
    lake = build_source(config, "lake", "test")
    found = readings(lake, config.meters["traffic"].query_text)
    assert {(each.customer, each.quantity) for each in found} == {
        ("cus_bond", Decimal(5)),
        (None, Decimal(9)),
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("path: usage/*.csv", "must be the full path of files on this machine"),
        ("path: s3://bucket/*.csv", "must be the full path of files on this machine"),
        ("path: /usage/*.json", "must end in `.parquet`, `.csv` or `.csv.gz`"),
        ("{path: /u/*.csv, columns: {a: decimal}}", "has a type that is not known: write one of text"),
        ("{path: /u/*.csv, columns: {a: 'decimal(39,2)'}}", "has 38 digits at most"),
        ("{path: /u/*.csv, columns: {a: 'decimal(3,4)'}}", "no more decimals than digits"),
        ("{path: /u/*.csv, delimiter: ';;'}", "must be one character"),
        ("{path: /u/*.csv, colums: {}}", "is not a known key: did you mean `columns`?"),
    ],
)
def test_mistakes_of_the_configuration_are_told(tmp_path: Path, settings: str, said: str) -> None:
    """With the place in the file."""
    block = f"files: {{usage: {settings if settings[0] == '{' else '{' + settings + '}'}}}"
    assert said in config_problem(tmp_path, f"url: 'duckdb://', {block}")


def test_files_need_duckdb_and_a_plain_name(tmp_path: Path) -> None:
    """Another engine would not read them."""
    files = "files: {{{}: {{path: /u/*.csv}}}}"
    assert "write `url: duckdb://`" in config_problem(
        tmp_path, f"url: 'postgresql://a/b', {files.format('usage')}"
    )
    assert "is no name of a table" in config_problem(
        tmp_path, f"url: 'duckdb://', {files.format('my-usage')}"
    )


def config_problem(tmp_path: Path, source: str) -> str:
    text = f"sources: {{lake: {{{source}}}}}\nsinks: {{}}\nmeters: {{}}\n"
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path / "aggregator.yaml", text), {})
    return str(caught.value)
