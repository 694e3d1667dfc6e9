"""Customers by the beginning of their names, for whoever waits at a keyboard: asked on one connection, and given up soon.

Rules
- It looks only into the newest windows of each feed, by the key of the slots: what it costs does not grow with the ledger.
- It reads, and nothing of the session outlives the transaction.
"""

import psycopg

from aggregator.errors import LedgerUnreachable
from aggregator.ledger.database import BEGIN, error_text

CONNECT_SECONDS = 2
"""The least that libpq knows (postgresql.org/docs/current/libpq-connect.html, "connect_timeout")."""

AT_ONCE = (
    "select set_config('statement_timeout', '1s', true), set_config('transaction_read_only', 'on', true)"
)

WINDOWS = 24

NAMED = """
with recursive latest (feed_id, window_start, number) as (
    select id, (select max(window_start) from aggregator.slot where feed_id = feed.id), 1 from aggregator.feed
     union all
    select feed_id,
           (select max(window_start) from aggregator.slot
             where slot.feed_id = latest.feed_id and window_start < latest.window_start),
           number + 1
      from latest where window_start is not null and number < %(windows)s
)
select distinct customer from latest
 cross join lateral (
       select distinct customer from aggregator.slot
        where slot.feed_id = latest.feed_id and slot.window_start = latest.window_start
          and customer >= %(first)s collate "C" and customer < %(last)s collate "C"
        order by customer limit %(limit)s) as its
 order by customer limit %(limit)s
"""


def of_new_windows(url: str, prefix: str, limit: int) -> list[str]:
    """Return customers that begin so and had usage in the newest windows of a meter.

    Raises LedgerUnreachable if the ledger does not answer at once.
    """
    values = {
        "first": prefix,
        "last": prefix + "\U0010ffff",
        "limit": limit,
        "windows": WINDOWS,
    }
    how = {
        "prepare_threshold": None,
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "aggregator completion",
    }
    try:
        with psycopg.connect(url, **how) as connection:  # type: ignore[arg-type]
            connection.execute(BEGIN)
            connection.execute(AT_ONCE)
            return [customer for (customer,) in connection.execute(NAMED, values)]
    except psycopg.Error as error:
        raise LedgerUnreachable(error_text(error, url)) from error
