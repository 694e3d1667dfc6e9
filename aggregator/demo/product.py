"""The demo's application database: a product as it might be, with accounts, API requests and stored objects.

Rules
- It knows nothing of billing but the customer's id at Stripe, which one account does not have yet.
- Its history is made of chance with a fixed seed, so that every run begins with much the same day.
- It says itself what each customer used, in SQL of its own, so that the proof does not repeat a meter's query.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from aggregator.core.model import Span

DATABASE = "product"

METERS = ("api_requests", "stored_gb")
"""What is billed of it: also the event names of its meters at Stripe."""


class Account(NamedTuple):
    """One customer of the product. `busy` is its share of minutes with use at the busiest hour."""

    name: str
    customer: str | None
    busy: float
    requests_a_minute: int


ACCOUNTS = (
    Account("Alder & Finch Logistics", "cus_Q4mT7xZbLr29Kd", 0.57, 104),
    Account("Bluebird Weather", "cus_R8sVn3HcWq61Yt", 0.54, 88),
    Account("Cobalt Payroll", "cus_P2kJd9LmXe74Bz", 0.48, 74),
    Account("Dunmore Maps", "cus_T6wQf1RnZa85Hc", 0.45, 66),
    Account("Elm Street Clinics", "cus_S3yGb5UkVo92Mj", 0.39, 56),
    Account("Fathom Audio", "cus_N7hXr4EtCp38Lw", 0.36, 52),
    Account("Greywater Energy", "cus_Q9bMz6JfSd17Rk", 0.33, 46),
    Account("Harbor Ticketing", "cus_V1cKy8PgTn43Xs", 0.30, 42),
    Account("Ibis Translation", "cus_L5tNw2QhBf96Ue", 0.27, 38),
    Account("Juniper Grocers", "cus_M8rSx7DjHv51Za", 0.24, 34),
    Account("Kestrel Robotics", None, 0.15, 24),
    Account("Lantern Books", "cus_W4fBq3YnKc69Pt", 0.21, 30),
    Account("Marble Arch Hotels", "cus_K7gLv5ZdRm24Js", 0.18, 28),
    Account("Northgate Schools", "cus_X2jPt9CwEb78Qh", 0.17, 26),
    Account("Opal Insurance", "cus_J6nHs4VxFy35Gd", 0.15, 24),
    Account("Pinewood Forestry", "cus_Y3qRk8AbUt57Nm", 0.13, 22),
    Account("Quarry Analytics", "cus_H9vZc1MgPw46Tf", 0.12, 20),
    Account("Redstart Couriers", "cus_B5xWd7NsLj82Ky", 0.11, 18),
    Account("Saltmarsh Fisheries", "cus_G1kTf6RqVh93Cb", 0.09, 16),
    Account("Tideway Ferries", "cus_Z8pYj2XmSn64Ew", 0.07, 14),
    Account("Umber Ceramics", "cus_F4dQb9KtHr71Lz", 0.06, 12),
    Account("Vesper Lighting", "cus_C7sMn5GyWx38Vp", 0.05, 10),
    Account("Willow & Stone Law", "cus_D2hJz3TfQk59Rc", 0.04, 8),
    Account("Yarrow Veterinary", "cus_E6wLx8BvNp14Sd", 0.02, 6),
)

TABLES = (
    """
    create table account (
        id                 int primary key,
        name               text not null,
        stripe_customer_id text unique
    )
    """,
    """
    create table api_request (
        id         bigint generated always as identity primary key,
        account_id int not null references account,
        path       text not null,
        status     smallint not null,
        created_at timestamptz not null default clock_timestamp()
    )
    """,
    """
    create table stored_object (
        id         bigint generated always as identity primary key,
        account_id int not null references account,
        bytes      bigint not null,
        stored_at  timestamptz not null default clock_timestamp()
    )
    """,
)

INDEXES = (
    "create index on api_request (created_at)",
    "create index on stored_object (stored_at)",
    "analyze",
)

ADD_ACCOUNT = "insert into account (id, name, stripe_customer_id) values (%s, %s, %s)"

SEED = "select setseed(0.42)"

READER = "usage_reader"

ONE_WHO_READS = (
    f"create role {READER} login",
    f"grant select on all tables in schema public to {READER}",
    f"grant pg_read_all_stats to {READER}",
)
"""A role that may read the tables and see how long transactions last, and nothing else."""

HABIT = "create temporary table habit (account_id int, busy float8, requests_a_minute int)"
ADD_HABIT = "insert into habit values (%s, %s, %s)"

# The minutes in which each account is in use: most of them around 14:00 UTC, few at night.
ACTIVE = """
create temporary table active as
select habit.*, minute
  from generate_series(%(start)s::timestamptz, %(end)s::timestamptz - interval '1 minute', interval '1 minute') as minute
 cross join habit
 where random() < habit.busy
       * (0.6 + 0.4 * cos((extract(hour from minute at time zone 'UTC') - 14) / 12 * pi()))
 order by minute
"""

PAST_REQUESTS = """
insert into api_request (account_id, path, status, created_at)
select account_id,
       (array['/v1/orders', '/v1/orders', '/v1/quotes', '/v1/shipments', '/v1/search'])[1 + floor(random() * 5)::int],
       (array[200, 200, 200, 200, 201, 204, 304, 404, 429, 500])[1 + floor(random() * 10)::int],
       minute + random() * interval '59.9 seconds'
  from active
 cross join lateral generate_series(1, 1 + floor(random() * requests_a_minute)::int)
"""

# Sizes from a hundred kilobytes to a gigabyte and a half, the small ones far more often.
PAST_OBJECTS = """
insert into stored_object (account_id, bytes, stored_at)
select account_id, floor(10 ^ (5 + random() * 4.2)), minute + random() * interval '59.9 seconds'
  from active
 where random() < 0.25
"""

REQUEST_SLOTS = """
select count(distinct (account_id, date_trunc('minute', created_at)))
  from api_request join account on account.id = account_id
 where created_at >= %(start)s and created_at < %(end)s and stripe_customer_id is not null
"""

COUNTS = """
select (select count(*) from account),
       (select count(*) from account where stripe_customer_id is null),
       (select count(*) from api_request),
       (select count(*) from stored_object)
"""


class Counts(NamedTuple):
    """How many rows there are."""

    accounts: int
    without_customer: int
    requests: int
    objects: int


class Product:
    """The application database at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    def create(cls, server_url: str, url: str, past: Span) -> "Product":
        """Make the database on a server, with its accounts and their use over `past`, in whole minutes."""
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            for statement in TABLES:
                cursor.execute(statement)
            cursor.executemany(ADD_ACCOUNT, [(key, it.name, it.customer) for key, it in numbered()])
            _live_a_day(cursor, past)
            for statement in (*INDEXES, *ONE_WHO_READS):
                cursor.execute(statement)
        return cls(url)

    @property
    def reader_url(self) -> str:
        """Where a role that may only read finds it: all that usage queries are ever given."""
        from sqlalchemy import make_url

        return make_url(self.url).set(username=READER).render_as_string(hide_password=False)

    def counts(self) -> Counts:
        """Return how many rows there are."""
        return Counts(*self._rows(COUNTS)[0])

    def request_slots(self, span: Span) -> int:
        """Return in how many (customer, minute) pairs there were requests."""
        return int(self._rows(REQUEST_SLOTS, span)[0][0])

    def _rows(self, statement: str, span: Span | None = None) -> Sequence[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement, span and span._asdict()).fetchall()


def numbered() -> list[tuple[int, Account]]:
    """Return each account with its id in the database."""
    return list(enumerate(ACCOUNTS, start=1))


def _live_a_day(cursor: psycopg.Cursor, past: Span) -> None:
    cursor.execute(SEED)
    cursor.execute(HABIT)
    cursor.executemany(ADD_HABIT, [(key, it.busy, it.requests_a_minute) for key, it in numbered()])
    cursor.execute(ACTIVE, past._asdict())
    cursor.execute(PAST_REQUESTS)
    cursor.execute(PAST_OBJECTS)
