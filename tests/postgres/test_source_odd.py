"""A Postgres source with odd values: each is read, set aside or refused in words, and none breaks what reads it."""

import datetime as dt
from contextlib import suppress

import pytest

from aggregator.core.model import Span
from aggregator.errors import SourceError
from aggregator.source import Source

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
ONE = Span(NOON, NOON + HOUR)

VALUES = [
    "'infinity'::timestamptz",
    "'-infinity'::timestamptz",
    "'infinity'::date",
    "'4713-01-01 BC'::date",
    "'0044-03-15 BC'::timestamptz",
    "'10000-01-01'::timestamptz",
    "'294276-12-31'::timestamp",
    "'3 mons 2 days'::interval",
    "'178000000 years'::interval",
    "'-178000000 years'::interval",
    "'24:00'::time",
    "'12:00+15:59:59'::timetz",
    "'NaN'::numeric",
    "'Infinity'::numeric",
    "'NaN'::float8",
    "'-Infinity'::float4",
    "(10::numeric ^ 5000)",
    "array[1, 2]",
    "array['infinity'::timestamptz]",
    "row(1, 'x', now())",
    "'{\"a\": 1e999}'::jsonb",
    "'{\"a\": NaN}'::text",
    "'\\x00ff'::bytea",
    "'12.34'::money",
    "true",
    "'[2026-01-01, infinity)'::tstzrange",
    "'{[1,3)}'::int4multirange",
    "'1.2.3.4/8'::inet",
    "'300.0.0.0'::text",
    "B'101'",
    "'<a/>'::xml",
    "'(1,2)'::point",
    "'a fat cat'::tsvector",
    "12::oid",
    "'pg_class'::regclass",
    "null",
    "'A'::\"char\"",
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
]


@pytest.fixture
def source(source_url: str) -> Source:
    """The application database as a source."""
    return Source("app", source_url, statement_timeout=dt.timedelta(seconds=20))


@pytest.mark.parametrize("column", ["customer", "quantity", "at", "window"])
@pytest.mark.parametrize("value", VALUES)
def test_an_odd_value_is_read_set_aside_or_refused(source: Source, value: str, column: str) -> None:
    """Whatever Postgres can hold: the reading ends with rows or with a plain SourceError, and nothing else."""
    columns = {"customer": "'cus_a'", "quantity": "1", column: value}
    listed = ", ".join(f'{what} as "{name}"' for name, what in columns.items())
    query = f"select {listed} where :start::timestamptz < :end::timestamptz"
    found = 1
    with suppress(SourceError):
        found = sum(len(batch) for batch in source.read(query, ONE, HOUR))
    assert found == 1
