"""`aggregator grants`: the SQL that gives the ledger's roles what they need, and what else a server's roles may do."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import config_option, json_option, load_config
from aggregator.cli.printing import say, show_rows, write_json, write_raw
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.ledger.privileges import Difference, Names

ROLES, TABLES = "roles", "tables"

ROLES_COMMENT = """\
-- Once, by somebody who may create roles. Leave out what exists; give each a password, as with `\\password` in psql.
"""
TABLES_COMMENT = """\
-- By {owner}, after `aggregator migrate` has made the tables, and again after each migration.
"""

REMEDY = (
    "`aggregator grants tables` prints what gives and takes rights on tables, `aggregator grants roles` what else may be "
    "missing. Take other powers away yourself: `alter role ... nosuperuser nocreaterole nocreatedb noreplication`, "
    "`revoke ... from ...`."
)


@click.command()
@click.argument("part", type=click.Choice([ROLES, TABLES]), required=False)
@click.option(
    "--owner", default="aggregator_owner", show_default=True, help="The role that migrates the ledger."
)
@click.option(
    "--daemon",
    default="aggregator_daemon",
    show_default=True,
    help="The role for the daemon and for decisions.",
)
@click.option(
    "--reader",
    default="aggregator_reader",
    show_default=True,
    help="The role for status, usage, the page and metrics.",
)
@click.option("--database", default="ledger", show_default=True, help="The ledger's database.")
@click.option(
    "--check",
    "checks",
    is_flag=True,
    help="Print no SQL. Check on the ledger's server which rights these roles lack or should not have.",
)
@config_option
@json_option
def grants(
    part: str | None,
    config_path: Path,
    *,
    owner: str,
    daemon: str,
    reader: str,
    database: str,
    checks: bool,
    as_json: bool,
) -> None:
    """Print the SQL that creates the ledger's roles and grants each what it needs; with --check, compare a server's
    roles with it.

    Without an argument, it prints both parts. Run `roles` as somebody who may create roles. Run `tables` as the owner
    of the tables, after each migration. Printing needs no configuration and no connection. With --check, it exits with
    3 if a role differs.
    """
    from aggregator.ledger.privileges import Names, roles_sql, tables_sql

    names = Names(owner, daemon, reader)
    if len(set(names)) < len(names):
        raise UsageError(
            "Three different roles are needed: give --owner, --daemon and --reader different names."
        )
    if checks:
        if part is not None:
            raise UsageError(f"--check looks at everything that the roles may do: leave out `{part}`.")
        _check(config_path, names, as_json=as_json)
        return
    if as_json:
        raise UsageError("SQL is printed as it is: --json goes with --check.")
    if part != TABLES:
        write_raw(ROLES_COMMENT + roles_sql(names, database) + "\n")
    if part is None:
        write_raw("\n")
    if part != ROLES:
        write_raw(TABLES_COMMENT.format(owner=names.owner) + tables_sql(names) + "\n")


def _check(config_path: Path, names: "Names", *, as_json: bool) -> None:
    """Print in what the roles differ; exit 3 if they do."""
    from aggregator.ledger.database import CONNECT_TIMEOUT_SECONDS, Database
    from aggregator.ledger.privileges import Kind, differences
    from aggregator.wiring.opening import ledger_url

    with (
        ledger_url(load_config(config_path)) as url,
        Database(url, name="aggregator grants") as database,
        database.transaction(wait_seconds=CONNECT_TIMEOUT_SECONDS) as connection,
    ):
        found = [each for kind in Kind for each in differences(connection, names.of(kind), kind)]
    if as_json:
        write_json({"ok": not found, "differences": [each._asdict() for each in found]})
    elif found:
        show_rows("roles of the ledger", "role for=kind is=standing finding=what", map(_row, found))
        say(REMEDY)
    else:
        say("Each role may do what it needs, and nothing else.")
    if found:
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _row(each: "Difference") -> dict[str, object]:
    return {**each._asdict(), "standing": "missing" if each.missing else "too much"}
