"""What was read of each window, kept as evidence: how many rows, their sum, and a checksum of who used how much.

Rules
- It is taken from the readings themselves, as they were brought over, and not from what the pass made of them.
- Only of windows that were read for the first time, or of which something changed: reading old windows again costs nothing.
- The checksum is a sum over the rows, so that their order makes no difference. Of a number its value counts, and not how it
  is written. It is made by hash functions of the server, the same that hash partitions rest on: they stay the same from one
  version to the next, and a row costs a tenth of a microsecond, where SHA-256 would take ten times as long. Another kind of
  machine may come to another number, so a difference is looked at by customer before anything is said of it.
"""

import datetime as dt
from collections.abc import Collection

from aggregator.ledger.database import Connection
from aggregator.ledger.meters import Registered

# Of what `reading` holds; what is unusable has no part in the sum and the checksum.
TAKEN = """
       count(*) as rows, coalesce(sum(quantity) filter (where reason is null), 0) as quantity,
       coalesce(mod(sum(hashtextextended(customer, hash_numeric_extended(quantity, combination)))
                         filter (where reason is null), 9223372036854775808), 0)::bigint as checksum
"""

# A range that was filled in ahead of the mark may be read again, and say the same.
NOTE = f"""
with taken as (
    select window_start, {TAKEN}
      from reading where window_start >= %(mark)s or window_start = any(%(changed)s::timestamptz[]) group by 1
), found as (
    select * from taken
     union all
    select start, 0, 0, 0 from unnest(%(changed)s::timestamptz[]) as emptied (start)
     where start not in (select window_start from taken)
)
insert into aggregator.evidence (meter_id, window_start, pass_id, rows, quantity, checksum)
select %(meter_id)s, found.window_start, %(pass_id)s, found.rows, found.quantity, found.checksum
  from found
  left join lateral (
        select rows, quantity, checksum from aggregator.evidence
         where meter_id = %(meter_id)s and window_start = found.window_start
         order by meter_id desc, window_start desc, pass_id desc limit 1
       ) as latest on true
 where (latest.rows, latest.quantity, latest.checksum) is distinct from (found.rows, found.quantity, found.checksum)
"""  # noqa: S608 - our own text


def note(
    connection: Connection,
    registered: Registered,
    pass_id: int,
    mark: dt.datetime,
    changed: Collection[dt.datetime],
) -> None:
    """Keep what was staged of windows from the mark on, and of those that have changed."""
    values = {"meter_id": registered.id, "pass_id": pass_id, "mark": mark, "changed": list(changed)}
    connection.execute(NOTE, values)
