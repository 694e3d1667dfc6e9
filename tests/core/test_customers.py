"""Mappings from keys to customers, as rows and as values: what is listed, what is doubted, and whose a reading is."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.core.customers import WAITS, Difference, Held, Listed, customer_of, resolved
from aggregator.core.model import Reading
from aggregator.errors import QueryRejected, SourceError, SourceUnreachable
from aggregator.source import Source
from aggregator.source.listed import from_csv

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def test_a_window_goes_by_the_moment_at_which_it_begins() -> None:
    """The window that begins with a change is the first of the new customer."""
    held = [
        Held(None, START, "old"),
        Held(START, START + HOUR, "new"),
        Held(START + 2 * HOUR, None, "newest"),
    ]
    hours = [customer_of(held, START + hour * HOUR) for hour in range(-1, 3)]
    assert hours == ["old", "new", None, "newest"]


def test_what_is_unusable_stays_so_under_its_customer() -> None:
    """Only what could be billed waits."""
    rows = [
        Reading(START, "1", Decimal(2), None),
        Reading(START, "1", None, None, "no number"),
        Reading(START, "2", Decimal(3), None),
        Reading(START, "2", None, None, "no number"),
        Reading(START, None, Decimal(4), None, "no customer"),
    ]
    found = resolved(rows, {"1": [Held(None, None, "cus_1")]})
    assert [(each.customer, each.reason) for each in found] == [
        ("cus_1", None),
        ("cus_1", "no number"),
        ("2", WAITS),
        ("2", "no number"),
        (None, "no customer"),
    ]


@pytest.mark.parametrize(
    ("known", "listed", "lost", "changed", "believed"),
    [
        (0, 9, 0, 0, True),
        (100, 120, 0, 0, True),
        (100, 80, 20, 0, True),
        (100, 79, 21, 0, False),
        (100, 100, 11, 10, False),
        (2, 1, 1, 0, True),
        (1, 0, 1, 0, False),
        (100, 0, 100, 0, False),
    ],
)
def test_a_list_by_which_much_changes_is_doubted(
    known: int, listed: int, lost: int, changed: int, believed: bool
) -> None:
    """One key in five may change at once; none at all is never believed at once."""
    difference = Difference(known, listed, lost, changed)
    assert (difference.doubt() is None) is believed
    assert difference.doubt(before=lost + changed) is None, "another read says the same"
    assert (difference.doubt(before=lost + changed + 2) is None) is believed


def test_a_file_lists_keys(tmp_path: Path) -> None:
    """Columns in any order, with or without names, as a spreadsheet writes them."""
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffName,key,Customer\r\n"Acme, Inc.",1,cus_1\r\n,2,\r\n,,cus_3\r\n\r\n'.encode())
    [rows] = from_csv("accounts", path)
    assert rows == [Listed("1", "cus_1", "Acme, Inc."), Listed("2", None, None)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no column `key`"),
        (b"key;customer\n", "not known"),
        (b"key,customer,customer\n", "more than once"),
        (b"key,customer\n1\n", "line 2 has 1 fields and needs 2"),
        (b"key,customer\n1, cus_1\n", "blanks around it"),
        (b"key,customer\n1,\xff\n", "no CSV file in UTF-8"),
    ],
)
def test_a_file_that_is_no_list_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    """Half a list would bill the wrong ones."""
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(QueryRejected, match=said):
        list(from_csv("accounts", path))
    with pytest.raises(SourceUnreachable, match="No such file"):
        list(from_csv("accounts", tmp_path / "b.csv"))


def test_a_query_lists_keys_from_one_snapshot(tmp_path: Path) -> None:
    """Numbers are keys as well; anything that is no text and no whole number is refused."""
    url = f"sqlite:///{tmp_path / 'app.db'}"
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("create table account (id integer, cus text, name text)"))
        connection.execute(
            sa.text("insert into account values (1, 'cus_1', 'Ada'), (2, null, '  '), (3, '', null)")
        )
    source = Source("app", url, statement_timeout=dt.timedelta(seconds=10))
    try:
        [rows] = source.customers("select id as key, cus as customer, name from account order by id")
        assert rows == [Listed("1", "cus_1", "Ada"), Listed("2", None, None), Listed("3", None, None)]
        for query, said in (
            ("select 1.5 as key, 'x' as customer", "type float"),
            ("select 1 as id, 'x' as customer", "not known, `id`"),
            ("select 1 as key", "no column `customer`"),
            ("select 1 as key from nowhere", "no such table"),
        ):
            with pytest.raises(SourceError, match=said):
                list(source.customers(query))
    finally:
        source.close()
