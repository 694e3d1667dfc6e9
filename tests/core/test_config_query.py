"""The text of a query in; the one statement that is sent, or why it is refused."""

import re

import pytest
from pydantic import ValidationError

from aggregator.config import Meter, fingerprint

METER = {"name": "calls", "source": "app", "sinks": ["s"], "window": "1h", "start_at": "2026-11-01T00:00Z"}


def final(query: str) -> str:
    return Meter.model_validate(METER | {"query": query}).query_text


TAKEN = [
    ("select 1 where a >= :start and a < :end", None),
    ("  WITH x as (select 1) select * from x where a between :start and :end", None),
    ("select 1 where a >= :start and a < :end;", "select 1 where a >= :start and a < :end"),
    ("select 1 where a >= :start and a < :end ; \n ;\n", "select 1 where a >= :start and a < :end"),
    ("select 1 where a >= :start and a < :end; -- ok; done", "select 1 where a >= :start and a < :end"),
    ("-- why; not\n/* a; b */ select 1 where a >= :start and a < :end", None),
    ("select ';' where a >= :start and a < :end", None),
    ("select 'it''s; :x' where a >= :start and a < :end", None),
    (r"select E'it\'s; :x' where a >= :start and a < :end", None),
    ('select 1 as "a;b" where a >= :start and a < :end', None),
    ("select $$a; :b$$, $q$;$q$ where a >= :start and a < :end", None),
    ("select a::date, '12:30' where a >= :start::timestamptz and a < cast(:end as timestamp)", None),
    (r"select a[1\:n] where a >= :start and a < :end", None),
    ("select a[1:n] where a >= :start and a < :end", None),
    ("select 1 where a >= :start and a < :end and b = 'x'", None),
]


@pytest.mark.parametrize(("query", "sent"), TAKEN)
def test_one_statement_that_reads(query: str, sent: str | None) -> None:
    """Comments, quotes and casts are seen for what they are; only a trailing semicolon goes."""
    assert final(query) == (query if sent is None else sent)


REFUSED = [
    ("", "is empty"),
    ("-- nothing", "is empty"),
    (";", "is empty"),
    ("delete from x where a >= :start and a < :end", "starts with `select` or `with`"),
    ("(select 1 where a >= :start and a < :end)", "starts with `select` or `with`"),
    ("selected from x where :start < :end", "starts with `select` or `with`"),
    ("explain select 1 where :start < :end", "starts with `select` or `with`"),
    ("select 1 where :start < :end; commit; delete from victim", "must be one statement"),
    ("select 1 where :start < :end; select 2", "must be one statement"),
    ("select 1 /* /* */ ; commit; -- */ where :start < :end", "must be one statement"),
    ("select 'x\\'; commit; select '' where :start < :end", "must be one statement"),
    ("select $a$ $b$ $a$; commit; select $b$ x $b$ where :start < :end", "must be one statement"),
    ("select 1", "does not use `:start` and `:end`"),
    ("select 1 where a >= :start", "does not use `:end`"),
    ("select 1 where a >= ':start' and a < :end", "does not use `:start`"),
    ("select 1 where a >= :start -- and a < :end", "does not use `:end`"),
    ("select 1 where a >= :start /* < :end */", "does not use `:end`"),
    ("select a::start where a < :end", "does not use `:start`"),
    ('select ":start" where a < :end', "does not use `:start`"),
    ("select 1 where a >= :start_at and a < :end", "does not use `:start`"),
    (r"select 1 where a >= \:start and a < :end", "does not use `:start`"),
    ("select 1 where a >= :start and a < :end and b = :plan", "uses `:plan`, which nothing fills in"),
    ("select 1 where a >= :start and a < :end and b = :Start", "uses `:Start`, which nothing fills in"),
]


@pytest.mark.parametrize(("query", "reason"), REFUSED)
def test_anything_else_is_refused(query: str, reason: str) -> None:
    """More than one statement, one that does not read, or one that is not bounded by the window."""
    with pytest.raises(ValidationError) as caught:
        final(query)
    assert reason in caught.value.errors()[0]["msg"]


DETAIL = "select id from calls where customer = :customer and at >= :start and at < :end"


def meter(**more: str) -> Meter:
    return Meter.model_validate(METER | {"query": "select 1 where a >= :start and a < :end"} | more)


def test_a_query_for_the_rows_behind_a_number_asks_for_one_customer() -> None:
    """It is one statement that reads, like a usage query, and changes nothing of what a meter is."""
    assert meter(detail_query=f"{DETAIL};").detail_query == DETAIL
    assert fingerprint(meter(detail_query=DETAIL)) == fingerprint(meter())


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("select id from calls where at >= :start and at < :end", "does not use `:customer`"),
        ("select id from calls where customer = :customer", "does not use `:start` and `:end`"),
        (f"{DETAIL} and x = :y", "only `:start`, `:end` and `:customer` are given"),
        (f"{DETAIL}; delete from calls", "must be one statement"),
    ],
)
def test_what_a_detail_query_lacks_is_said(query: str, reason: str) -> None:
    """By name, with how to write it."""
    with pytest.raises(ValidationError, match=re.escape(reason)):
        meter(detail_query=query)


def test_a_usage_query_is_given_no_customer() -> None:
    """It is asked for all of them."""
    with pytest.raises(ValidationError, match="uses `:customer`, which nothing fills in"):
        meter(query=DETAIL)
