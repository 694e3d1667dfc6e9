"""Rows that keep arriving: several connections, and transactions that take their time.

Rules
- A row carries the instant it was written; it is seen when its transaction commits, which may be seconds later. Such rows
  are what makes billing from a database hard, so there are some in every run.
- Only what was committed is counted.
"""

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import psycopg

from aggregator.demo.product import numbered

ADD_REQUEST = "insert into api_request (account_id, path, status) values (%s, %s, %s)"
ADD_OBJECT = "insert into stored_object (account_id, bytes) values (%s, %s)"

PATHS = ("/v1/orders", "/v1/quotes", "/v1/search", "/v1/shipments")
STATUSES = (200, 200, 200, 201, 404)

PACES = (
    (0.1, 0.3, 0.2),
    (0.4, 0.2, 1.5),
    (0.3, 5.0, 0.2),
    (1.0, 0.1, 2.5),
)
"""How long the transactions of each connection last, in seconds, one after the other."""

STEP_SECONDS = 0.15
"""The pause between two statements of one transaction."""

STRAGGLING_ROWS = 20


class Visitors:
    """Who uses the product next: busy accounts more often than quiet ones."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - traffic, not a secret
        self._keys = [key for key, _ in numbered()]
        self._weights = [account.busy * account.requests_a_minute for _, account in numbered()]

    def use(self, connection: psycopg.Connection) -> int:
        """Write what a moment of use leaves behind, into the open transaction; return how many rows."""
        pick = self._chance.choice
        who = self._chance.choices(self._keys, self._weights, k=self._chance.randint(1, 6))
        rows = [(key, pick(PATHS), pick(STATUSES)) for key in who]
        with connection.cursor() as cursor:
            cursor.executemany(ADD_REQUEST, rows)
            if self._chance.random() < 0.1:
                cursor.execute(ADD_OBJECT, (who[0], int(10 ** self._chance.uniform(5, 9.2))))
                return len(rows) + 1
        return len(rows)


class Traffic:
    """Connections that write until they are told to stop. A context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._rows = [0] * len(PACES)
        self._pool = ThreadPoolExecutor(len(PACES), "traffic")
        self._writers: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._writers = [self._pool.submit(self._write, number) for number in range(len(PACES))]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown()

    @property
    def connections(self) -> int:
        """How many connections write."""
        return len(PACES)

    @property
    def rows(self) -> int:
        """How many rows have been committed."""
        return sum(self._rows)

    def stop(self) -> None:
        """Commit what is open, write no more, and come back. Raises what went wrong in a connection."""
        self._stopping.set()
        for writer in self._writers:
            writer.result()

    def _write(self, number: int) -> None:
        visitors = Visitors(number)
        with psycopg.connect(self._url, autocommit=True) as connection:
            for seconds in itertools.cycle(PACES[number]):
                rows = 0
                with connection.transaction():
                    for _ in range(max(1, round(seconds / STEP_SECONDS))):
                        rows += visitors.use(connection)
                        self._stopping.wait(STEP_SECONDS)
                        if self._stopping.is_set():
                            break
                self._rows[number] += rows
                if self._stopping.is_set():
                    return


class Straggler:
    """A transaction that has written and does not commit yet."""

    def __init__(self, connection: psycopg.Connection, rows: int) -> None:
        self._connection = connection
        self.rows = rows

    def commit(self) -> None:
        """Let its rows be seen."""
        self._connection.commit()


@contextmanager
def straggler(url: str) -> Iterator[Straggler]:
    """Open a transaction, write into it, and leave it open; what is not committed is rolled back at the end."""
    with psycopg.connect(url) as connection:
        visitors = Visitors(len(PACES))
        rows = 0
        while rows < STRAGGLING_ROWS:
            rows += visitors.use(connection)
        yield Straggler(connection, rows)
        connection.rollback()
