"""What is refused of a query for MySQL or MariaDB before it is sent."""

import pytest

from aggregator.source.mysql_grants import beyond_reading, by_role
from aggregator.source.mysql_text import casts_to_unsigned, not_a_read, table_named

READS = [
    "select 1",
    "\n  select 1;  ",
    "(select 1) union all (select 2)",
    "with a as (select 1) select * from a",
    "values (1, 2)",
    "-- delete\n# insert\n/* update */ select 1",
    "select 'into; delete', \"for update\", `into` from t -- ; drop",
    "select 'it''s', 'a\\'b; delete' from t",
    "select a--1 from t",
    "select * from t use index for join (a)",
    "select /*+ max_execution_time(10) */ 1",
]

WRITES = {
    "": "it is empty",
    "-- select 1": "it is empty",
    "delete from t returning a": "it begins with `delete`",
    "call p()": "it begins with `call`",
    "lock tables t read": "it begins with `lock`",
    "/*! delete */ from t": "it begins with `delete`",
    "/*M!100100 set */ global max_connections = 1": "it begins with `set`",
    "select 1; delete from t": "another statement follows its `;`",
    "select 1 /*!; delete from t */": "another statement follows its `;`",
    "select 1 into outfile '/tmp/x'": "`into` writes what it finds somewhere",
    "select a from t FOR  /* so */ UPDATE": "`for update` keeps others from writing",
    "select a from t lock in share mode": "`lock in share` keeps others from writing",
    "select a from t for share": "`for share` keeps others from writing",
}


@pytest.mark.parametrize("text", READS)
def test_one_statement_that_reads_is_sent(text: str) -> None:
    """Whatever its quotes and comments hold."""
    assert not_a_read(text) is None


@pytest.mark.parametrize("text", WRITES)
def test_what_is_no_reading_is_not_sent(text: str) -> None:
    """The reason names the word; what the server would run of a comment counts."""
    assert not_a_read(text) == WRITES[text]


def test_a_backslash_may_be_a_character_like_any_other() -> None:
    """As the session says: then a quote behind it ends the text."""
    text = r"select '\'; delete from t -- '"
    assert not_a_read(text) is None
    assert not_a_read(text, backslashes=False) == "another statement follows its `;`"


@pytest.mark.parametrize(
    ("text", "casts"),
    [
        ("select cast(a as UNSIGNED) from t", True),
        ("select convert(a, unsigned integer) from t", True),
        ("select cast(a as signed), `unsigned`, 'unsigned' from unsigned_t -- unsigned", False),
    ],
)
def test_what_makes_a_number_unsigned_is_seen(text: str, casts: bool) -> None:
    """And nothing that only looks like it."""
    assert casts_to_unsigned(text) == casts


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("select r.c from app.big r where r.ts > 1", "app.big"),
        ("select r.c from `big` as `r`", "big"),
        ("select 1 from x join big\n r on 1", "big"),
        ("select c from r where 1", "r"),
    ],
)
def test_an_alias_leads_to_its_table(text: str, table: str) -> None:
    """So that a message names what an index can be created on."""
    assert table_named(text, "r") == table


def test_grants_that_only_read_are_none_too_many() -> None:
    """Some of columns, of functions, and what shows how the server fares; the hash of a password is in no sentence."""
    assert not list(
        beyond_reading(
            "reader@%",
            [
                "GRANT PROCESS, BINLOG MONITOR ON *.* TO `reader`@`%` IDENTIFIED BY PASSWORD '*D8'",
                "GRANT SELECT (`a`, `b`), SHOW VIEW ON `app`.* TO `reader`@`%`",
                "GRANT EXECUTE ON FUNCTION `app`.`f` TO `reader`@`%`",
                "GRANT `role` TO `reader`@`%`",
                "SET DEFAULT ROLE `role` FOR `reader`@`%`",
            ],
        )
    )


def test_grants_beyond_reading_are_named_with_what_takes_them_away() -> None:
    """One sentence for the same on many tables."""
    found = list(
        beyond_reading(
            "reader@%",
            [
                "GRANT SELECT, FILE ON *.* TO `reader`@`%` IDENTIFIED BY PASSWORD '*D8'",
                *(f"GRANT SELECT, INSERT, UPDATE (`a`) ON `app`.`{name}` TO `reader`@`%`" for name in "abcd"),
                "GRANT DELETE ON `app`.* TO `writers`",
                "GRANT SELECT ON `shop`.* TO `reader`@`%` WITH GRANT OPTION",
                "GRANT ALL PRIVILEGES ON `x`.* TO `reader`@`%`",
            ],
        )
    )
    guide = '(docs/queries.md, "A role that may only read").'
    assert found == [
        f"User reader@% has file on *.*, and so may read and write files of the server: {revoke('file', '*.*')} {guide}",
        f"User reader@% has insert, update on app.a, app.b, app.c and 1 more: {revoke('insert, update', 'app.a')} {guide}",
        f"User reader@% has delete on app.*, by role writers: `revoke delete on app.* from writers` {guide}",
        f"User reader@% has grant option on shop.*: {revoke('grant option', 'shop.*')} {guide}",
        "User reader@% may do anything on x.*: give aggregator a user of its own, with select on what its queries name "
        + guide,
    ]


def revoke(what: str, where: str) -> str:
    return f"`revoke {what} on {where} from reader@'%'`"


def test_what_a_role_adds_in_mysql_is_named_as_the_role_s() -> None:
    """MySQL lists it as the user's, from whom nobody could revoke it; privileges of plugins stand without blanks."""
    own = ["GRANT SELECT ON `app`.* TO `reader`@`%`", "GRANT SELECT ON `app`.`a` TO `reader`@`%`"]
    together = [
        "GRANT BACKUP_ADMIN,CLONE_ADMIN ON *.* TO `reader`@`%`",
        "GRANT SELECT ON `app`.* TO `reader`@`%`",
        "GRANT SELECT, INSERT, DELETE ON `app`.`a` TO `reader`@`%`",
        "GRANT `writers`@`%` TO `reader`@`%`",
    ]
    found = list(by_role("`writers`@`%`", own, together))
    assert found == [
        "GRANT BACKUP_ADMIN, CLONE_ADMIN ON *.* TO `writers`",
        "GRANT INSERT, DELETE ON `app`.`a` TO `writers`",
    ]
    said = list(beyond_reading("reader@%", found))
    assert (
        "has insert, delete on app.a, by role writers: `revoke insert, delete on app.a from writers`"
        in said[1]
    )
