"""Usage rows in folders of Parquet files, a day each, and the same rows for one Postgres.

Each row follows from its number by whole-number arithmetic alone, so that every size and every engine has the same rows.
They come in the order of their instants but for ten minutes, as rows arrive, and one in ten thousand names no customer.
"""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import duckdb

MICROSECONDS_OF_A_DAY = 86_400_000_000
LATE = 600_000_000
"""How much later than its place in the order a row's instant may be, in microseconds."""
FILES_A_DAY = 4

ROWS = """
with numbered as (select {day} * {per_day} + range as id, range as place from range({first}, {last})),
     mixed as (select id, place, (id * 2654435761) % 4294967296 as a, (id * 40503 + 12345) % 16777213 as b from numbered)
select id,
       case when b % 10007 <> 0 then 'cus_' || lpad(cast(a // 7 % {customers} as varchar), 7, '0') end as customer,
       make_timestamptz({start} + (place * ({length} // {per_day}) + a % {late}) % {length}) as used_at,
       cast(cast(a % 5000001 as decimal(18, 3)) * cast('0.001' as decimal(4, 3)) as decimal(18, 6)) as quantity
  from mixed
"""


class Usage(NamedTuple):
    """How much there is."""

    first_day: dt.datetime
    days: int
    per_day: int
    customers: int

    def start_of(self, day: int) -> dt.datetime:
        """Return when a day begins."""
        return self.first_day + dt.timedelta(days=day)

    def pieces(self, day: int) -> Iterator[str]:
        """Yield the queries that make the rows of a day, a file each."""
        size = -(-self.per_day // FILES_A_DAY)
        for first in range(0, self.per_day, size):
            yield ROWS.format(
                day=day,
                per_day=self.per_day,
                first=first,
                last=min(first + size, self.per_day),
                customers=self.customers,
                start=int(self.start_of(day).timestamp()) * 1_000_000,
                length=MICROSECONDS_OF_A_DAY,
                late=LATE,
            )


def make_day(lake: Path, usage: Usage, day: int) -> int:
    """Make the files of a day if they are not there, one after the other; return their bytes.

    Their folder is named so that an engine knows the day by its name.
    """
    folder = lake / f"day={usage.start_of(day):%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(config={"threads": 1, "memory_limit": "1GB"}) as connection:
        for number, query in enumerate(usage.pieces(day)):
            file = folder / f"part-{number}.parquet"
            if not file.exists():
                unfinished = file.with_suffix(".making")
                connection.execute(f"copy ({query}) to '{unfinished}' (format parquet)")
                unfinished.rename(file)
    return sum(each.stat().st_size for each in folder.glob("*.parquet"))


def csv_of(file: Path, query: str) -> None:
    """Write the rows of a piece as `copy ... from stdin (format csv)` takes them."""
    with duckdb.connect(config={"threads": 1, "memory_limit": "1GB"}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"copy ({query}) to '{file}' (format csv, header false)")


SLOTS = """
select customer, strftime(date_trunc('hour', used_at), '%Y-%m-%d %H') as hour, sum(quantity) as quantity, 1 as events
  from read_parquet('{files}') where customer is not null group by all order by hour, customer
"""


def slots_of(lake: Path, usage: Usage, day: int) -> Iterator[tuple[str, str, Decimal, int]]:
    """Yield customer, hour and quantity of a day, added up in whole digits by DuckDB."""
    files = lake / f"day={usage.start_of(day):%Y-%m-%d}" / "*.parquet"
    with duckdb.connect(config={"threads": 1, "memory_limit": "1GB"}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        yield from connection.execute(SLOTS.format(files=files)).fetchall()
