"""Usage in, events out: the small tables in which the tests of the core are written.

Times of day stand for instants of one day; everything happens a little after midnight of the next.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal

from aggregator.core.model import (
    ZERO,
    Change,
    Decision,
    Decreases,
    EventId,
    Limits,
    SlotId,
    Tail,
    WriteModel,
)
from aggregator.core.planner import Policy, plain, plan

TODAY = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
TOMORROW = TODAY + dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
MINUTE = dt.timedelta(minutes=1)

LIMITS = Limits(
    write_model=WriteModel.DELTA,
    memory=dt.timedelta(hours=20),
    proof=None,
    past=dt.timedelta(days=35),
    significant_digits=15,
    identifier_length=100,
    batch=100,
    rate=1_000.0,
)

POLICY = Policy(
    ledger="ledger-1",
    sink="stripe",
    meter="api_requests",
    window=HOUR,
    decimals=0,
    decreases=Decreases.HOLD,
    limits=LIMITS,
    now=TOMORROW,
)

APPLY = replace(POLICY, decreases=Decreases.APPLY)


def table(text: str) -> list[dict[str, str]]:
    """Read a table whose first line names the columns."""
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def instant(text: str) -> dt.datetime:
    """Read a time of today."""
    return dt.datetime.combine(TODAY, dt.time.fromisoformat(text), dt.UTC)


def changes(text: str) -> list[Change]:
    """Read changed slots: what the ledger holds, and what the source says now. A column left out is what a new slot has.

    `billed` is where the slot stands, `revisions` how many events it has had, `first at` the instant of the first one, and
    `waits` the delta of a held correction, or `unsettled`.
    """
    return [_change(number, row) for number, row in enumerate(table(text), 1)]


def _change(number: int, row: dict[str, str]) -> Change:
    waits, at, first_at = row.get("waits", ""), row.get("at", ""), row.get("first at", "")
    tail = Tail.UNSETTLED if waits == "unsettled" else Tail.PARKED if waits else Tail.CLEAR
    before = Decimal(row.get("before") or 0)
    return Change(
        slot=SlotId(number),
        event=EventId(number + 100),
        customer=row["customer"],
        window_start=instant(row["window"]),
        before=before,
        now=Decimal(row["now"]),
        at=instant(at) if at else None,
        total=Decimal(row.get("billed") or before),
        revision=int(row.get("revisions") or 0),
        stamped_at=instant(first_at) if first_at else None,
        carry=Decimal(row.get("carry") or 0),
        tail=tail,
        parked=EventId(number) if tail is Tail.PARKED else None,
        parked_delta=Decimal(waits) if tail is Tail.PARKED else ZERO,
        known="before" in row,
    )


def decided(given: str, policy: Policy = POLICY) -> list[Decision]:
    """Plan a table of changed slots."""
    return list(plan(changes(given), policy))


def shown(decision: Decision) -> dict[str, str]:
    """Write a decision as cells of a table."""
    event = decision.event
    return {
        "customer": decision.change.customer,
        "window": f"{decision.change.window_start:%H:%M}",
        "event": "waits" if decision.deferred else event.state.value if event else "none",
        "delta": plain(event.delta) if event else "",
        "total": plain(decision.total),
        "revision": str(event.revision) if event else "",
        "at": f"{event.at:%H:%M:%S}" if event else "",
        "carry": plain(decision.carry),
        "replaces": "held" if decision.voids is not None else "",
        "reason": (event.reason or "") if event else "",
    }


def expect(decisions: Iterable[Decision], then: str) -> None:
    """Compare decisions with a table, in the columns that the table has."""
    wanted = table(then)
    assert [{name: shown(one)[name] for name in wanted[0]} for one in decisions] == wanted


def floored(value: Decimal, decimals: int) -> Decimal:
    """Return what may be billed of a quantity."""
    return value.quantize(Decimal(1).scaleb(-decimals), ROUND_FLOOR)
