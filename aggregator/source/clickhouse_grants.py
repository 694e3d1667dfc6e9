"""ClickHouse: what the user of a source may do beyond reading, and what its tables do not keep; a sentence each.

Rules
- A session that only reads keeps a query from writing to tables. What else a user may do, such as read files and other
  servers by table functions, its grants decide (clickhouse.com/docs/sql-reference/statements/grant).
"""

import re
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

GUIDE = 'docs/engines.md, "ClickHouse"'

SHOWN = 3
"""Enough names to know what it is about."""

READING = {
    "SELECT",
    "SHOW",
    "SHOW COLUMNS",
    "SHOW TABLES",
    "SHOW DATABASES",
    "SHOW DICTIONARIES",
    "dictGet",
    "CHECK",
    "USAGE",
}
"""What changes nothing, by itself."""

GRANT = re.compile(
    r"GRANT (?P<what>.+?) ON (?P<where>\S+) TO (?P<whom>.+?)(?P<more> WITH GRANT OPTION)?", re.DOTALL
)
PRIVILEGE = re.compile(r"([A-Za-z][A-Za-z0-9 ]*?)(?:\([^)]*\))?(?:, |\Z)")
"""A privilege, maybe for some columns only."""

LATER_MERGED = sa.text("""
select concat(database, '.', name), engine from system.tables
 where database = currentDatabase() and engine like '%MergeTree'
   and match(engine, 'Replacing|Collapsing|Summing|Aggregating') order by 1
""")


def limits(connection: sa.Connection) -> list[str]:
    """Name tables that hold rows twice until they are merged."""
    found = [f"{name} ({engine})" for name, engine in connection.execute(LATER_MERGED)]
    if not found:
        return []
    named = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    said = (
        f"Tables whose rows are merged at some later time hold some of them twice until then: {named}. A query that counts "
        f"over one says `from ... final`, or takes the newest of each key itself ({GUIDE})."
    )
    return [said]


def unsafe(connection: sa.Connection) -> list[str]:
    """Say what the user may do beyond reading; empty for one that may only read."""
    user = str(connection.scalar(sa.text("select currentUser()")))
    lines = connection.connection.driver_connection.client.command("show grants")  # type: ignore[union-attr]
    text = lines if isinstance(lines, str) else "\n".join(map(str, lines))
    return list(beyond_reading(user, text.splitlines()))


def beyond_reading(user: str, grants: Sequence[str]) -> Iterator[str]:
    """Yield a sentence on privileges too many, of grants as the server lists them; nothing for a user who may only read."""
    too_many = []
    for line in grants:
        found = GRANT.fullmatch(line.strip())
        if found is None:
            continue
        allowed = [each.strip() for each in PRIVILEGE.findall(found["what"])]
        more = ["GRANT OPTION"] if found["more"] else []
        too_many += [f"{each} on {found['where']}" for each in (*allowed, *more) if each not in READING]
    if too_many:
        listed = ", ".join(too_many[:SHOWN]) + (
            f" and {len(too_many) - SHOWN} more" if len(too_many) > SHOWN else ""
        )
        yield (
            f"User {user} has {listed}: give aggregator a user of its own, with `grant select on` what its queries name "
            f"({GUIDE})."
        )
