"""Postgres: which tables a query reads, and what keeps their rows from being all there are.

Rules
- The server's own plan names them, behind views and functions that it sees through. What a function hides stays hidden.
- A plan leaves out partitions that a span does not touch; so all of a partitioned table are looked at.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from aggregator.source.dialects import Table

_NAME = r'("(?:[^"]|"")+"|[\w$]+)'
QUALIFIED = re.compile(rf"{_NAME}\.{_NAME}")
"""How a plan names the tables of a join or a sum that another server makes as a whole: `Aggregate on (public.usage u)`."""

FOUND = sa.text("""
with recursive planned as (
    select relation.oid
      from unnest(cast(:schemas as text[]), cast(:names as text[])) as named (schema, name)
      join pg_namespace on nspname = named.schema
      join pg_class as relation on relation.relnamespace = pg_namespace.oid and relation.relname = named.name
), whole as (
    select oid from planned
    union
    select tree.relid from planned, lateral pg_partition_tree(pg_partition_root(planned.oid)) as tree
)
select format('%I.%I', nspname, relname) as name,
       relkind = 'f' as foreign,
       exists (select from pg_subscription_rel where srrelid = relation.oid) as subscribed,
       relkind = 'm' as materialised,
       relkind in ('r', 'p') and row_security_active(relation.oid) as filtered,
       array(select attname::text from pg_attrdef join pg_attribute on attrelid = adrelid and attnum = adnum
              where adrelid = relation.oid and pg_get_expr(adbin, adrelid) ~ 'statement_timestamp' order by 1) as stamped
  from whole join pg_class as relation using (oid) join pg_namespace on pg_namespace.oid = relnamespace
 where nspname !~ '^pg_' and nspname <> 'information_schema'
 order by 1
""")


def tables(connection: sa.Connection, query: str, values: Mapping[str, object]) -> list[Table]:
    """Ask for the plan of a query, which does not run, and look its tables up."""
    plan = connection.execute(sa.text(f"explain (verbose, format json) {query}"), values).scalar_one()
    named = sorted(set(relations(plan)))
    found = connection.execute(
        FOUND, {"schemas": [each for each, _ in named], "names": [each for _, each in named]}
    )
    return [
        Table(each.name, each.foreign, each.subscribed, each.materialised, each.filtered, tuple(each.stamped))
        for each in found
    ]


def relations(plan: Any) -> Iterator[tuple[str, str]]:
    """Yield schema and name of each relation anywhere in a plan."""
    if isinstance(plan, list):
        for each in plan:
            yield from relations(each)
    elif isinstance(plan, dict):
        if "Relation Name" in plan and "Schema" in plan:
            yield plan["Schema"], plan["Relation Name"]
        for schema, name in QUALIFIED.findall(plan.get("Relations", "")):
            yield _unquoted(schema), _unquoted(name)
        for each in plan.values():
            yield from relations(each)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
