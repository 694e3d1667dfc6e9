"""Which part of a sink's rate limit each process may use: one row for each process and route that is in use.

Another way would have been to hand out time with each claim: events may leave once those of all earlier claims could have
left. But a claim's events do not all leave in their time (a customer's events go one after the other, a sink answers
slowly), so each claim would hold time that nobody uses, and give events back that could have left. A share costs one short
transaction a second, however many events leave, and none while nothing does.

Rules
- Who asks holds the sink while its share is worked out, so that two never get the same part.
- A row holds what its process may use until `held_until`, by the ledger's clock alone. So what a killed process held is free
  `LEASE_SECONDS` later, and what one gives back is free at once.
- Whoever finds a row that is held for longer than that shortens it: the ledger's clock was set back.
- `core.rate_shares` says who gets how much.
"""

import datetime as dt
import uuid
from collections.abc import Sequence

from aggregator.core.rate_shares import LEASE_SECONDS, Asked, Other, granted
from aggregator.ledger.database import Database, Part

# Claims refer to the sink, and are not held up by this lock.
HOLD_SINK = "select from aggregator.sink where id = %(sink_id)s for no key update"

# All parts see the rows as they were before.
HELD = """
with gone as (
    delete from aggregator.rate_share where sink_id = %(sink_id)s and held_until <= %(now)s
), cut as (
    update aggregator.rate_share set held_until = %(until)s where sink_id = %(sink_id)s and held_until > %(until)s
)
select route, wanted, held from aggregator.rate_share
 where sink_id = %(sink_id)s and route = any(%(routes)s) and owner <> %(owner)s and held_until > %(now)s
"""

KEEP = """
insert into aggregator.rate_share (sink_id, route, owner, wanted, held, held_until)
select %(sink_id)s, mine.route, %(owner)s, mine.wanted, mine.held, %(until)s
  from unnest(%(routes)s::text[], %(wanted)s::float8[], %(held)s::float8[]) as mine (route, wanted, held)
    on conflict (sink_id, route, owner)
    do update set wanted = excluded.wanted, held = excluded.held, held_until = excluded.held_until
"""

GIVE_BACK = """
delete from aggregator.rate_share where sink_id = %(sink_id)s and owner = %(owner)s and route = any(%(routes)s)
"""

GIVE_ALL_BACK = "delete from aggregator.rate_share where sink_id = %(sink_id)s and owner = %(owner)s"


class RateShares(Part):
    """The shares of this process, which is `owner`."""

    def __init__(self, database: Database, owner: uuid.UUID) -> None:
        super().__init__(database)
        self._owner = owner

    def renew(self, sink_id: int, asked: Sequence[Asked], now: dt.datetime | None = None) -> list[float]:
        """Return the share that may be used of each route from now on, for `LEASE_SECONDS` from before the call.

        A route of which nothing is wanted is given back. `now` is only for a ledger that was opened without its clock.
        Raises LedgerError; then what was used may still be used until it is over.
        """
        with self._database.transaction(now) as connection:
            connection.execute(HOLD_SINK, {"sink_id": sink_id})
            at = connection.at
            values = {
                "sink_id": sink_id,
                "owner": self._owner,
                "now": at,
                "until": at + dt.timedelta(seconds=LEASE_SECONDS),
                "routes": [each.route for each in asked],
            }
            others: dict[str, list[Other]] = {}
            for route, wanted, held in connection.execute(HELD, values):
                others.setdefault(route, []).append(Other(wanted, held))
            shares = [granted(each, others.get(each.route, ())) if each.wanted else 0.0 for each in asked]
            kept = [(each, share) for each, share in zip(asked, shares, strict=True) if each.wanted]
            if len(kept) < len(asked):
                connection.execute(
                    GIVE_BACK, {**values, "routes": [each.route for each in asked if not each.wanted]}
                )
            if kept:
                # A limit may be a whole number, and psycopg takes no list in which some numbers are and others are not.
                mine = {
                    "routes": [each.route for each, _ in kept],
                    "wanted": [float(each.wanted) for each, _ in kept],
                    "held": [float(max(each.used, share)) for each, share in kept],
                }
                connection.execute(KEEP, {**values, **mine})
        return shares

    def release(self, sink_id: int) -> None:
        """Give back all that this process holds of a sink, once nothing more leaves. Raises LedgerError."""
        self._run(GIVE_ALL_BACK, {"sink_id": sink_id, "owner": self._owner})
