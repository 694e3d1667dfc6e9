"""MySQL and MariaDB: what the user of a source may do beyond reading, and what its tables do not keep; a sentence each.

Rules
- A read-only session keeps a query from writing to tables. It does not keep it from the server's files, and a function runs
  with the rights of whoever defined it: only missing privileges do.
- What counts is what the server lists for the session: the user's own grants, and those of roles that are on by default. A
  query is no SET ROLE, so it cannot turn others on.
- MariaDB lists a role's grants as the role's. MySQL lists them as the user's, from whom they could not be revoked
  (dev.mysql.com/doc/refman/9.7/en/show-grants.html), so there each role is asked for by itself.
"""

import re
from collections.abc import Iterator

import sqlalchemy as sa

GUIDE = 'docs/queries.md, "A role that may only read"'

SHOWN = 3
"""Enough names to know what it is about."""

READING = {
    "USAGE",
    "SELECT",
    "SHOW VIEW",
    "SHOW DATABASES",
    "EXECUTE",
    "PROCESS",
    "BINLOG MONITOR",
    "REPLICATION CLIENT",
    "REPLICA MONITOR",
    "SLAVE MONITOR",
}
"""What changes nothing, by itself (mariadb.com/kb/en/grant/)."""

MOST = 15
"""Whoever has more privileges than that on one place may do anything there: MySQL lists them one by one."""

WORSE = {
    "FILE": "read and write files of the server",
    "SUPER": "change settings of the server, and end others' sessions",
}
"""What no read-only session is in the way of."""

GRANT = re.compile(
    r"GRANT (?P<what>.+?) ON (?:TABLE )?(?P<where>(?:(?:FUNCTION|PROCEDURE|PACKAGE(?: BODY)?) )?\S+)"
    r" TO (?P<whom>`[^`]*`(?:@`[^`]*`)?|\S+)(?P<more>.*)",
    re.DOTALL,
)

ROLE = re.compile(r"`(?:[^`]|``)*`@`(?:[^`]|``)*`")
"""One of the roles that are on, as `current_role()` lists them."""

PROVEN = 9
"""The version of MySQL that the tests run."""

LISTED = re.compile(r"([A-Z_][A-Z_ ]*[A-Z_])(?: \([^)]*\))?(?:, ?|\Z)")
"""A privilege, maybe for some columns only. MySQL writes no blank between those that plugins have brought."""


WITHOUT_SNAPSHOT = sa.text("""
select concat(table_schema, '.', table_name) as name, engine as engine -- MySQL would call it ENGINE
  from information_schema.tables join information_schema.engines using (engine)
 where transactions = 'NO' and table_type = 'BASE TABLE'
   and table_schema not in ('mysql', 'sys', 'information_schema', 'performance_schema')
 order by 1
""")


def limits(connection: sa.Connection) -> list[str]:
    """Name tables that the user may read and that have no snapshot; say if the server is older than those that tests run."""
    found = [f"{each.name} ({each.engine})" for each in connection.execute(WITHOUT_SNAPSHOT)]
    said = []
    if found:
        named = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        said.append(
            f"Tables without a snapshot show what is there when each query runs: {named}. A meter that reads one returns "
            "`window`, so that it is one query."
        )
    version = _version(connection)
    if not _is_mariadb(version) and int(version.split(".")[0]) < PROVEN:
        said.append(
            f"MySQL {version} is read like MySQL {PROVEN}, on which this is proven: see `aggregator check --prove-source`."
        )
    return said


def _version(connection: sa.Connection) -> str:
    return str(connection.scalar(sa.text("select version()")))


def _is_mariadb(version: str) -> bool:
    return "mariadb" in version.lower()


def unsafe(connection: sa.Connection) -> list[str]:
    """Say what the user may do beyond reading; empty for one that may only read."""
    me = connection.scalar(sa.text("select current_user()"))
    if _is_mariadb(_version(connection)):
        return list(beyond_reading(str(me), _listed(connection, "show grants")))
    user, _, host = str(me).rpartition("@")
    named = f"`{user}`@`{host}`"  # `current_user()` would have the roles' as well
    own = _listed(connection, f"show grants for {named}")
    roles = str(connection.scalar(sa.text("select current_role()")))
    lines = list(own)
    for role in ROLE.findall(roles):
        lines += by_role(role, own, _listed(connection, f"show grants for {named} using {role}"))
    return list(beyond_reading(str(me), lines))


def _listed(connection: sa.Connection, question: str) -> list[str]:
    return [str(line) for line in connection.scalars(sa.text(question.replace(":", "\\:")))]


def by_role(role: str, own: list[str], together: list[str]) -> Iterator[str]:
    """Yield what a user of MySQL may do by a role alone, as MariaDB lists it: of both lists, the second has both."""
    mine = {(place, each) for line in own for place, each in _privileges(line)}
    for line in together:
        more = [each for place, each in _privileges(line) if (place, each) not in mine]
        if more and (found := GRANT.match(line)) is not None:
            yield f"GRANT {', '.join(more)} ON {found['where']} TO {role.removesuffix('@`%`')}"


def _privileges(line: str) -> Iterator[tuple[str, str]]:
    found = GRANT.match(line)
    if found is not None:
        yield from ((found["where"], each.strip()) for each in LISTED.findall(found["what"]))


def beyond_reading(me: str, grants: list[str]) -> Iterator[str]:
    """Yield a sentence for each set of privileges too many, of grants as the server lists them."""
    places: dict[tuple[str, str], list[str]] = {}
    for line in grants:
        found = GRANT.match(line)
        if found is None:
            continue
        allowed = [each.strip() for each in LISTED.findall(found["what"])]
        too_many = [each for each in allowed if each not in READING]
        if "WITH GRANT OPTION" in found["more"]:
            too_many.append("GRANT OPTION")
        if too_many:
            places.setdefault((", ".join(too_many), found["whom"]), []).append(found["where"])
    for (privileges, whom), where in places.items():
        yield _sentence(me, privileges, whom, where)


def _sentence(me: str, privileges: str, whom: str, where: list[str]) -> str:
    role = "" if "@" in whom else f", by role {_plain(whom)}"
    named = ", ".join(map(_plain, where[:SHOWN])) + (
        f" and {len(where) - SHOWN} more" if len(where) > SHOWN else ""
    )
    if "ALL PRIVILEGES" in privileges or privileges.startswith("PROXY") or privileges.count(",") > MOST:
        return (
            f"User {me} may do anything on {named}{role}: give aggregator a user of its own, with select on what its "
            f"queries name ({GUIDE})."
        )
    worse = next((can for power, can in WORSE.items() if power in privileges.split(", ")), None)
    does = "" if worse is None else f", and so may {worse}"
    too_many = privileges.lower()
    cure = f"`revoke {too_many} on {_plain(where[0])} from {_plain(whom)}`"
    return f"User {me} has {too_many} on {named}{role}{does}: {cure} ({GUIDE})."


def _plain(name: str) -> str:
    """Return a name without quotes where it needs none, else in those of text where that will do: of users and roles."""
    bare = re.sub(r"`([A-Za-z_][\w$]*)`", r"\1", name)
    return re.sub(r"@`([^`']*)`", r"@'\1'", bare)
