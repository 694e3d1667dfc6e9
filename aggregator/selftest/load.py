"""Usage that is written all the time, mostly into windows that were billed already, so that corrections are made.

Rules
- What a slot has been used only ever grows: rows are added, raised, and get a customer who had none. So what the source
  says at one moment it also says, at least, at every later one.
- Some transactions commit seconds after they wrote, some are rolled back.
- Nothing lands in a minute that begins after `newest`, so that the last window can close while there is still something
  to be written.
"""

import datetime as dt
import threading
from collections.abc import Sequence
from random import Random
from typing import Self

import psycopg

from aggregator.runtime.clock import utcnow
from aggregator.selftest.world import CUSTOMERS, METERS, MINUTE, PAST, Connection, World

ROWS_PER_SECOND = 200
SHARE_SECONDS = 0.1
RAISED, NAMED = 2, 1
"""In each share so many rows are raised, and so many get their customer."""

FRESH, NOBODY = 0.2, 0.03
"""Shares of rows for the last two minutes, and of rows without a customer."""

LATE_ROWS = 15
LONGEST_SECONDS = 6.0
ROLLED_BACK = 0.15

ADD = "insert into usage (meter, customer, quantity, used_at) values (%s, %s, %s, %s)"
RAISE = "update usage set quantity = quantity + %s where id = any(%s)"
NAME = """
update usage set customer = %s
 where id in (select id from usage where customer is null order by id limit %s for update skip locked)
"""
NEWEST_ID = "select coalesce(max(id), 0) from usage"

Row = tuple[str, str | None, int, dt.datetime]


class Load:
    """Two threads that write. A context manager; leaving it, or `stop`, commits what is open."""

    def __init__(self, world: World, seed: int) -> None:
        self._url = world.source_url
        self._began = world.began
        self._newest: dt.datetime | None = None
        self._stopping = threading.Event()
        self._failure: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._noting_failure, args=(work, Random(f"{seed} {work.__name__}")))  # noqa: S311
            for work in (self._write, self._write_late)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def freeze(self, newest: dt.datetime) -> dt.datetime:
        """Let nothing land at `newest` or later, unless that was said before; return where usage ends."""
        if self._newest is None:
            self._newest = newest
        return self._newest

    def stop(self) -> None:
        """Write no more. Raises what went wrong while writing."""
        self.__exit__()
        for error in self._failure:
            raise error

    def _noting_failure(self, work: "Work", random: Random) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not self._stopping.is_set():
                    work(connection, random)
        except psycopg.Error as error:
            self._failure.append(error)

    def _write(self, connection: Connection, random: Random) -> None:
        """Write one share of rows, and change some."""
        with connection.transaction():
            self._add(connection, random, round(ROWS_PER_SECOND * SHARE_SECONDS))
            row = connection.execute(NEWEST_ID).fetchone()
            assert row is not None
            ids = sorted(random.randint(1, row[0]) for _ in range(RAISED))
            connection.execute(RAISE, [random.randint(1, 9), ids])
            connection.execute(NAME, [_customer(random), NAMED])
        self._stopping.wait(SHARE_SECONDS)

    def _write_late(self, connection: Connection, random: Random) -> None:
        """Write a few rows, and commit them much later, or not at all."""
        with connection.transaction() as transaction:
            self._add(connection, random, LATE_ROWS)
            self._stopping.wait(random.uniform(0, LONGEST_SECONDS))
            if random.random() < ROLLED_BACK:
                raise psycopg.Rollback(transaction)

    def _add(self, connection: Connection, random: Random, count: int) -> None:
        rows: Sequence[Row] = [self._row(random) for _ in range(count)]
        with connection.cursor() as cursor:
            cursor.executemany(ADD, rows)

    def _row(self, random: Random) -> Row:
        # A microsecond, since the end of a minute belongs to the next one.
        newest = min(utcnow(), self._newest or dt.datetime.max.replace(tzinfo=dt.UTC)) - dt.timedelta(
            microseconds=1
        )
        back = 2 * MINUTE if random.random() < FRESH else PAST
        at = max(self._began, newest - back * random.random())
        who = None if random.random() < NOBODY else _customer(random)
        return random.choice(METERS), who, random.randint(1, 9), at


def _customer(random: Random) -> str:
    return f"cus_{random.randint(1, CUSTOMERS):02}"


class Work:
    """What a thread does again and again."""

    __name__: str

    def __call__(self, connection: Connection, random: Random) -> None: ...  # noqa: D102
