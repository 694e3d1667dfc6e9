"""The same usage in every kind of database, over the night in which New York's clocks go back: equal to the last decimal.

One set of rows is written into each of them, and read by the product's own commands into one ledger, by a process and in
sessions that begin in New York, then in Kathmandu. What the ledger holds of each is compared with what the rows come to
here, in integers: customers, windows, quantities, and what belongs to nobody.

    python -m tests.system.engines

prints a line for each and exits 1 on any difference. `make tools` installs all of them; where that of MySQL or PGlite cannot
be had, a last line says so.
"""

import csv
import datetime as dt
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import duckdb
import psycopg
from psycopg import sql

from aggregator.runtime.clock import utcnow
from aggregator.source.spark_session import Session
from tests.clickhouse import ClickHouse, clickhouse
from tests.mariadb import Maria, mariadb
from tests.mysql import MISSING as WITHOUT_MYSQL
from tests.mysql import mysql
from tests.pglite import MISSING as WITHOUT_PGLITE
from tests.pglite import let_in, pglite
from tests.spark import Spark, spark
from tests.system.harness import HOUR, Connection, World, as_reader, own_world

NEW_YORK, KATHMANDU = "America/New_York", "Asia/Kathmandu"
ZONES = (NEW_YORK, KATHMANDU)
"""One with a repeated hour, and one whose hours begin at a quarter past ours."""

HOURS = 6
MILLION = 10**6
DECIMALS = 6
MICROSECOND = dt.timedelta(microseconds=1)
QUARTERS = (dt.timedelta(0), HOUR / 4, HOUR / 2, 3 * HOUR / 4)

CUSTOMERS = ("007", "7", "cus_a", "CUS_A", "cus_é", "o'brien", 'a,"b"', "back\\slash", "blank ", "", None)
"""Keys that a type, a collation or a quotation could change; the last three belong to nobody."""

Slots = dict[tuple[str, dt.datetime], Decimal]


class Use(NamedTuple):
    """One row; its quantity in millionths."""

    customer: str | None
    units: int
    at: dt.datetime

    @property
    def quantity(self) -> Decimal:
        """The same as a number."""
        return Decimal(self.units).scaleb(-DECIMALS)


def night() -> dt.datetime:
    """Return three hours before New York's clocks last went back, which is at 06:00 UTC on November's first Sunday."""
    newest = utcnow() - 3 * dt.timedelta(days=1)
    for year in (newest.year, newest.year - 1):
        first = dt.datetime(year, 11, 1, 3, tzinfo=dt.UTC)
        sunday = first + dt.timedelta(days=6 - first.weekday())
        if sunday < newest:
            return sunday
    raise AssertionError("no November was in the last two years")


def uses(start: dt.datetime) -> list[Use]:
    """Return rows on each quarter of an hour, right before it and after it, with more digits than a double holds.

    Those before the first and after the last hour are of nobody's business here.
    """
    random = Random(1)
    found = []
    for quarter in range(-1, 4 * HOURS + 2):
        border = start + quarter * HOUR / 4
        for place, customer in enumerate(CUSTOMERS):
            for offset in (-MICROSECOND, dt.timedelta(0), dt.timedelta(minutes=place)):
                taken_back = random.random() < 0.1
                units = -random.randrange(10**12) if taken_back else random.randrange(10**15, 10**18)
                found.append(Use(customer, units, border + offset))
    return found


class Expected(NamedTuple):
    """What the rows come to."""

    slots: Slots
    nobody: Slots
    """By the reason."""

    @property
    def total(self) -> Decimal:
        """Everything together."""
        return Decimal(sum(int(each.scaleb(DECIMALS)) for each in self._all())).scaleb(-DECIMALS)

    def _all(self) -> Iterator[Decimal]:
        yield from self.slots.values()
        yield from self.nobody.values()


def expected(rows: Iterable[Use], start: dt.datetime) -> Expected:
    """Add up in integers, by hours counted since the start."""
    known: dict[tuple[str, int], int] = defaultdict(int)
    nobody: dict[tuple[str, int], int] = defaultdict(int)
    for use in rows:
        hour = (use.at - start) // HOUR
        if 0 <= hour < HOURS:
            key = use.customer or ""
            if not key:
                nobody["no customer", hour] += use.units
            elif key.endswith(" "):
                nobody["customer key is unusable", hour] += use.units
            else:
                known[key, hour] += use.units

    def exact(sums: Mapping[tuple[str, int], int]) -> Slots:
        return {
            (name, start + hour * HOUR): Decimal(units).scaleb(-DECIMALS)
            for (name, hour), units in sums.items()
        }

    return Expected(exact(known), exact(nobody))


class Engine(NamedTuple):
    """A database that holds the rows: how a source of it is set, its query, and the zone in which its sessions begin."""

    name: str
    source: Mapping[str, Any]
    query: str
    zone: str


STANDARD = """
select customer, sum(quantity) as quantity, max(used_at) as at, date_trunc('hour', used_at) as window
  from night where used_at >= :start and used_at < :end group by customer, date_trunc('hour', used_at)
"""


def _quoted(text: str | None) -> str:
    """Write a text as MariaDB, ClickHouse and Spark read it."""
    if text is None:
        return "null"
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _standard(rows: Sequence[Use]) -> str:
    """Write rows as Postgres and DuckDB read them."""
    keys = (
        "null" if each.customer is None else "'" + each.customer.replace("'", "''") + "'" for each in rows
    )
    return ", ".join(
        f"({key}, {use.quantity:f}, '{_iso(use.at)}+00')" for key, use in zip(keys, rows, strict=True)
    )


def _iso(at: dt.datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S.%f}"


def in_postgres(url: str, zone: str, rows: Sequence[Use]) -> Engine:
    """Write them into a Postgres, whose sessions then begin in a zone."""
    with psycopg.connect(url, autocommit=True) as connection:
        _fill(connection, rows)
        connection.execute(
            sql.SQL("alter database {} set timezone = {}").format(
                sql.Identifier(connection.info.dbname), sql.Literal(zone)
            )
        )
        connection.execute("grant select on night to usage_reader")
    with psycopg.connect(as_reader(url)) as connection:
        begins = _zone_of(connection)
    return Engine("Postgres", {"url": as_reader(url), "wait_for_writers": "0s"}, STANDARD, begins)


def in_pglite(url: str, rows: Sequence[Use]) -> Engine:
    """Write them into PGlite."""
    with let_in(url) as connection:
        _fill(connection, rows)
    with let_in(url) as connection:
        begins = _zone_of(connection)
    return Engine("PGlite", {"url": url}, STANDARD, begins)


def _fill(connection: Connection, rows: Sequence[Use]) -> None:
    connection.execute("drop table if exists night")
    connection.execute(
        "create table night (customer text, quantity numeric not null, used_at timestamptz not null)"
    )
    connection.execute(sql.SQL("insert into night values {}").format(sql.SQL(_standard(rows))))


def _zone_of(connection: Connection) -> str:
    [(zone,)] = connection.execute("select current_setting('timezone')")
    return str(zone)


NAMES = {"mariadb": "MariaDB", "mysql": "MySQL"}


def in_mariadb(server: Maria, zone: str, rows: Sequence[Use]) -> Engine:
    """Write them into a MariaDB or MySQL, with a collation that keeps keys apart."""
    collation = "utf8mb4_nopad_bin" if server.kind == "mariadb" else "utf8mb4_0900_bin"
    values = ", ".join(f"({_quoted(use.customer)}, {use.quantity:f}, '{_iso(use.at)}')" for use in rows)
    server.run(
        "set global max_allowed_packet = 64 << 20",
        "drop table if exists app.night",
        f"create table app.night (customer varchar(40) collate {collation},"
        " quantity decimal(30, 6) not null, used_at timestamp(6) not null)",
        f"set global time_zone = '{'SYSTEM' if zone == NEW_YORK else '+05:45'}'",
    )
    server.run(f"insert into app.night values {values}")
    [[begins]] = server.run(
        "select if(@@global.time_zone = 'SYSTEM', @@system_time_zone, @@global.time_zone)"
    )
    query = """
        select customer, sum(quantity) as quantity, max(used_at) as at,
               date_format(used_at, '%Y-%m-%dT%H:00:00Z') as `window`
          from night where used_at >= :start and used_at < :end group by 1, 4
    """
    return Engine(NAMES[server.kind], {"url": server.url()}, query, begins)


def in_clickhouse(server: ClickHouse, zone: str, rows: Sequence[Use]) -> Engine:
    """Write them into ClickHouse, in a column of the zone in which sessions begin."""
    values = ", ".join(f"({_quoted(use.customer)}, '{use.quantity:f}', '{_iso(use.at)}')" for use in rows)
    shape = "'customer Nullable(String), quantity Decimal(30, 6), at DateTime64(6, \\'UTC\\')'"
    server.run(
        "drop table if exists night",
        "create table night (customer Nullable(String), quantity Decimal(30, 6),"
        f" used_at DateTime64(6, '{zone}')) engine = MergeTree order by used_at",
        f"insert into night select customer, quantity, at from values({shape}, {values})",
    )
    user = "reader" if zone == NEW_YORK else "in_kathmandu"
    [[begins]] = server.run("select timezone()", user=user, session_timezone="" if zone == NEW_YORK else zone)
    query = """
        select customer, sum(toDecimal256(quantity, 6)) as quantity, max(used_at) as at,
               toStartOfHour(used_at, 'UTC') as window
          from night where used_at >= :start and used_at < :end group by 1, 4
    """
    return Engine("ClickHouse", {"url": server.url(user)}, query, begins)


def in_spark(server: Spark, rows: Sequence[Use]) -> Engine:
    """Write them into Spark, as Parquet."""
    values = ", ".join(
        f"({_quoted(use.customer)}, {use.quantity:f}BD, timestamp'{_iso(use.at)}Z')" for use in rows
    )
    server.run(
        "drop table if exists equal_night",
        "create table equal_night using parquet as select customer, cast(quantity as decimal(30, 6)) as quantity, used_at"
        f" from values {values} as given (customer, quantity, used_at)",
    )
    with closing(Session(server.address, {})) as session:
        session.begin(60)
        [(begins,)] = session.ask("select current_timezone()")
    query = STANDARD.replace("night", "equal_night").replace(
        "sum(quantity)", "sum(cast(quantity as decimal(38, 6)))"
    )
    return Engine("Spark", {"url": server.url}, query, str(begins))


def in_sqlite(directory: Path, zone: str, rows: Sequence[Use]) -> Engine:
    """Write them into SQLite, which has no exact fractions: in millionths, and returned in two exact parts."""
    path = directory / "night.sqlite"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table night (customer text, millionths integer, used_at text)")
        connection.executemany(
            "insert into night values (?, ?, ?)", [(use.customer, use.units, _iso(use.at)) for use in rows]
        )
    query = """
        select customer, sum(millionths / 1000000) as quantity, max(used_at) as at,
               strftime('%Y-%m-%d %H:00:00', used_at) as window
          from night where used_at >= :start and used_at < :end group by 1, 4
         union all
        select customer, sum(millionths % 1000000) / 1000000.0, max(used_at), strftime('%Y-%m-%d %H:00:00', used_at)
          from night where used_at >= :start and used_at < :end group by 1, 4
    """
    return Engine("SQLite", {"url": f"sqlite:///{path}"}, query, zone)


def in_duckdb(directory: Path, zone: str, rows: Sequence[Use]) -> list[Engine]:
    """Write them into DuckDB, into Parquet in folders by customer, and into CSV files."""
    path, lines = directory / "night.duckdb", directory / "night.csv"
    path.unlink(missing_ok=True)
    parquet = directory / "night"
    parquet.mkdir(exist_ok=True)
    with lines.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["used_at", "customer", "quantity"])
        writer.writerows((f"{use.at.isoformat()}", use.customer, f"{use.quantity:f}") for use in rows)
    with duckdb.connect(str(path)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("create table night (customer text, quantity decimal(30, 6), used_at timestamptz)")
        connection.execute(f"insert into night values {_standard(rows)}")
        for part in (0, 1):
            connection.execute(
                f"copy (select * from night where rowid % 2 = {part}) to '{parquet}/{part}.parquet' (format parquet)"
            )
    query = STANDARD.replace(" as at", ' as "at"').replace("as window", 'as "window"')
    types = {"quantity": "decimal(30,6)", "used_at": "timestamptz"}

    def lake(name: str, files: Mapping[str, Any]) -> Engine:
        return Engine(name, {"url": "duckdb://", "files": {"night": files}}, query, zone)

    return [
        Engine("DuckDB", {"url": f"duckdb:///{path}"}, query, zone),
        lake("Parquet", {"path": f"{parquet}/*.parquet"}),
        lake("CSV", {"path": str(lines), "columns": types}),
    ]


class Outcome(NamedTuple):
    """What the ledger holds of one database."""

    engine: Engine
    process: str
    slots: Slots
    nobody: Slots
    wanted: Expected

    @property
    def total(self) -> Decimal:
        """Everything together, without rounding."""
        return Expected(self.slots, self.nobody).total

    @property
    def equal(self) -> bool:
        """Whether each slot is what it should be, and the total as well."""
        return (self.slots, self.nobody, self.total) == (
            self.wanted.slots,
            self.wanted.nobody,
            self.wanted.total,
        )

    @property
    def line(self) -> tuple[str, ...]:
        """It as it is shown."""
        return (
            self.engine.name,
            self.process,
            self.engine.zone,
            f"{len(self.slots):,}",
            f"{self.total:,f}",
            "yes" if self.equal else f"no, {self._differing()} slots differ",
        )

    def _differing(self) -> int:
        return sum(
            found.get(key) != wanted.get(key)
            for found, wanted in ((self.slots, self.wanted.slots), (self.nobody, self.wanted.nobody))
            for key in found.keys() | wanted.keys()
        )


HEADINGS = ("engine", "process in", "sessions begin in", "slots", "total", "equal")


def table(outcomes: Iterable[Outcome]) -> str:
    """Show them in columns."""
    lines = [HEADINGS, *(each.line for each in outcomes)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in (3, 4) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


SLOTS = """
select meter.name, slot.customer, slot.window_start, slot.quantity
  from aggregator.slot join aggregator.feed on feed.id = slot.feed_id join aggregator.meter on meter.id = feed.meter_id
"""
NOBODY = """
select meter.name, split_part(unmapped.reason, ':', 1), window_start, sum(unmapped.quantity)
  from aggregator.unmapped join aggregator.meter on meter.id = unmapped.meter_id group by 1, 2, 3
"""


def read(
    world: World, engines: Sequence[Engine], zone: str, start: dt.datetime
) -> Callable[[Engine], tuple[Slots, Slots]]:
    """Read the night from each of them into the world's ledger, by a process in a zone; nothing is sent."""
    world.config["sources"] = {each.name.lower(): dict(each.source) for each in engines}
    world.config["sinks"] = {"files": {"type": "directory", "directory": "files"}}
    world.config["meters"] = {
        each.name.lower(): {
            "source": each.name.lower(),
            "sinks": ["files"],
            "window": "1h",
            "start_at": f"{start:%Y-%m-%dT%H:%MZ}",
            "decimals": DECIMALS,
            "query": each.query,
        }
        for each in engines
    }
    world.write()
    span = ("--from", f"{start:%Y-%m-%dT%H:%MZ}", "--to", f"{start + HOURS * HOUR:%Y-%m-%dT%H:%MZ}")
    ran = world.run("backfill", "--no-send", "--json", *span, TZ=zone)
    assert ran.code == 0, ran.said

    def found(statement: str) -> dict[str, Slots]:
        held: dict[str, Slots] = defaultdict(dict)
        for meter, name, window, quantity in world.ledger(statement):
            held[meter][name, window.astimezone(dt.UTC)] = quantity
        return held

    slots, nobody = found(SLOTS), found(NOBODY)
    return lambda engine: (slots.get(engine.name.lower(), {}), nobody.get(engine.name.lower(), {}))


def compare(
    world: World, engines: Sequence[Engine], zone: str, rows: Sequence[Use], start: dt.datetime
) -> list[Outcome]:
    """Return what the ledger then holds of each."""
    held, wanted = read(world, engines, zone, start), expected(rows, start)
    return [Outcome(engine, zone, *held(engine), wanted) for engine in engines]


def main() -> int:
    """Run it by itself, on servers of its own."""
    start = night()
    rows = uses(start)
    outcomes = []
    for zone in ZONES:
        with ExitStack() as stack:
            world = stack.enter_context(own_world())
            world.create_usage()
            engines = [
                in_postgres(world.source_url, zone, rows),
                in_mariadb(stack.enter_context(mariadb()), zone, rows),
                *in_duckdb(world.directory, zone, rows),
                in_clickhouse(stack.enter_context(clickhouse()), zone, rows),
                in_spark(stack.enter_context(spark(conf={"spark.sql.session.timeZone": zone})), rows),
                in_sqlite(world.directory, zone, rows),
            ]
            if WITHOUT_MYSQL is None:
                engines.append(in_mariadb(stack.enter_context(mysql()), zone, rows))
            if WITHOUT_PGLITE is None:
                engines.append(in_pglite(stack.enter_context(pglite(zone)), rows))
            outcomes += compare(world, engines, zone, rows, start)
    print(f"{len(rows):,} rows around {HOURS} hours from {start:%Y-%m-%d %H:%M} UTC")
    print(table(outcomes))
    for missing in filter(None, (WITHOUT_MYSQL, WITHOUT_PGLITE)):
        print(missing)
    return 0 if all(each.equal for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
