"""The configuration `aggregator init` writes: small, commented, and valid as soon as its two variables are set."""

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aggregator.core.table_guess import Column, Guess, Reference

_TEXT = """\
# What is billed, from where, to where. `aggregator check` says whether it is right.
# Every key is explained by `aggregator schema`.

sources:
  app:
    url: ${APP_DATABASE_URL}      # any SQLAlchemy URL, with a role that may only read
    # url_file: /run/secrets/app_database_url

sinks:
  stripe:
    type: stripe
    api_key: ${STRIPE_API_KEY}    # or api_key_file: /run/secrets/stripe_api_key
    mode: test                    # live bills real customers; it must match the key
    # api_base: http://127.0.0.1:12111    # the sandbox: `aggregator sandbox`

# Without this block, a private embedded Postgres in .aggregator/ remembers what was billed.
# ledger:
#   url: ${LEDGER_URL}

meters:
  api_requests:                   # also the event name of the Stripe meter
    source: app
    sinks: [stripe]
    window: 1h                    # one event per customer and window; divides a day
    start_at: 2026-11-01T00:00Z   # nothing before this is ever billed
    delay: 5m                     # how long after its end a window is first read
    revisit: 3d                   # how far back it is read again, for rows that came late
    stripe:                       # `aggregator meters apply` creates the Stripe meter like this
      event_time_window: hour     # of each hour only the newest event counts: sending again can never bill twice
    query: |
      select customer.stripe_customer_id as customer,
             count(*)                    as quantity,
             max(request.created_at)     as at
        from api_request request
        left join customer on customer.id = request.customer_id
       where request.created_at >= :start
         and request.created_at < :end
       group by 1
"""


METER = _TEXT.index("  api_requests:")
"""Where the meters begin."""

BEGINS = "start_at: 2026-11-01T00:00Z"
"""When the example begins, in words that are as long as any other such time."""

WINDOWS = {
    ("postgresql", "instant"): "date_trunc('{unit}', {when})",
    ("postgresql", "local"): "date_trunc('{unit}', {when})",
    ("clickhouse", "instant"): "date_trunc('{unit}', {when}, 'UTC')",
    ("duckdb", "instant"): "date_trunc('{unit}', {when})",
    ("duckdb", "local"): "date_trunc('{unit}', {when})",
    ("mysql", "instant"): "date_format({when}, '%Y-%m-%dT{time}Z')",
    ("mysql", "local"): "date_format({when}, '%Y-%m-%d {time}')",
    ("spark", "instant"): "date_trunc('{unit}', {when})",
    ("spark", "local"): "date_trunc('{unit}', {when})",
    ("sqlite", "local"): "strftime('%Y-%m-%d {time}', {when})",
    ("sqlite", "text"): "strftime('%Y-%m-%d {time}', {when})",
}
"""How a database cuts an instant off at its UTC hour or day. Elsewhere the query is asked for one window at a time."""

EXACT = "decimal(38, 9)"

SUMS_GO_ROUND = {"clickhouse": "decimal(76, 18)"}
"""Where a sum that does not fit its type comes out as another number, and a type with room for numbers of any other."""

HOURLY = {"unit": "hour", "time": "%H:00:00"}
DAILY = {"unit": "day", "time": "00:00:00"}


class Reads(NamedTuple):
    """What a meter's query reads: `quantity` is an aggregate, and `conditions` are further ones, of the table `used`."""

    table: str
    name: str
    when: Column
    customer: str
    through: Reference | None
    quantity: str
    conditions: Sequence[str] = ()
    daily: bool = False


def starter(
    schema: str | None = None,
    meter: str | None = None,
    timezone: str | None = None,
    start_at: dt.datetime | None = None,
) -> str:
    """Return a commented configuration to start from.

    `schema` is where the JSON Schema lies, as seen from the file; with it, editors complete keys and explain them.
    `meter` is the block of a meter, in place of the example, and `timezone` what its source is declared to hold. `start_at`
    is when the example begins.
    """
    text = _TEXT if meter is None else _TEXT[:METER] + meter
    if meter is None and start_at is not None:
        text = text.replace(BEGINS, f"start_at: {start_at:%Y-%m-%dT%H:%MZ}", 1)
    if timezone is not None:
        zone = f"    timezone: {timezone}                 # instants without a time zone; what they hold is {timezone}\n"
        text = text.replace("    # url_file:", f"{zone}    # url_file:", 1)
    return f"# yaml-language-server: $schema={schema}\n{text}" if schema else text


def meter_of_table(
    table: str, found: Guess, database: str, quoted: Callable[[str], str], start_at: dt.datetime
) -> str:
    """Return the block of a meter that reads a table as was guessed. `quoted` writes a name as the database takes it."""
    much = found.quantity and f"used.{quoted(found.quantity.name)}"
    if much and found.quantity and (database in SUMS_GO_ROUND or found.quantity.kind == "float"):
        much = exact(much, SUMS_GO_ROUND.get(database, EXACT))
    quantity = f"sum({much})" if much else "count(*)"
    reads = Reads(table, table.rpartition(".")[2], found.when, found.customer, found.through, quantity)
    return meter_that(reads, database, quoted, start_at)


def exact(amount: str, kind: str = EXACT) -> str:
    """Return a number as an exact one: the sum of floating-point ones depends on the order of rows."""
    return f"cast({amount} as {kind})"


def meter_that(reads: Reads, database: str, quoted: Callable[[str], str], start_at: dt.datetime) -> str:
    """Return the block of a meter that reads so."""
    whole = ".".join(map(quoted, reads.table.split(".")))
    name = re.sub(r"\W+", "_", reads.name.lower(), flags=re.ASCII).lstrip("_0123456789")[:63] or "usage"
    when, kind = f"used.{quoted(reads.when.name)}", reads.when.kind
    if (database, kind) == ("sqlite", "date"):
        when, kind = f"datetime({when})", "local"  # as text, a day would sort before its own midnight
    window = WINDOWS.get((database, kind))
    selected = [
        (f"{'holder' if reads.through else 'used'}.{quoted(reads.customer)}", "customer"),
        (reads.quantity, "quantity"),
        *([] if kind == "date" else [(f"max({when})", "at")]),
        *([(window.format(when=when, **(DAILY if reads.daily else HOURLY)), "window")] if window else []),
    ]
    widest = max(len(what) for what, _ in selected)
    columns = ",\n             ".join(f"{what:{widest}} as {called}" for what, called in selected)
    join = ""
    if reads.through is not None:
        holder = ".".join(map(quoted, reads.through.table.split(".")))
        on = f"holder.{quoted(reads.through.key)} = used.{quoted(reads.through.column)}"
        join = f"\n        left join {holder} as holder on {on}"
    conditions = "".join(
        "\n         and ({})".format(each.replace("\n", "\n              ")) for each in reads.conditions
    )
    length, unit = ("1d", "day") if reads.daily else ("1h", "hour")
    return f"""\
{f"  {name}: ":34}# also the event name of the Stripe meter
    source: app
    sinks: [stripe]
    window: {length}                    # one event per customer and window; divides a day
    start_at: {start_at:%Y-%m-%dT%H:%MZ}   # nothing before this is ever billed
    stripe:                       # `aggregator meters apply` creates the Stripe meter like this
      {f"event_time_window: {unit}":28}# of each {unit} only the newest event counts: sending again can never bill twice
    query: |
      select {columns}
        from {whole} as used{join}
       where {when} >= :start
         and {when} < :end{conditions}
       group by 1{", 4" if window else ""}
"""  # noqa: S608 - names are quoted by the database's own rules
