"""How a source says which windows were touched, as the file describes it; and the fingerprint of that question."""

import hashlib
import json
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationInfo

from aggregator.config.block import Block
from aggregator.config.durations import parse_duration
from aggregator.config.query import CHANGED_PARAMETERS, normalised_query
from aggregator.config.values import Duration, at_least, at_most, query_with, refuse
from aggregator.core.model import Changed as CoreChanged

if TYPE_CHECKING:
    from aggregator.config.meter import Meter


class Changed(Block):
    """Which windows were touched, so that revisits need to read no others."""

    query: Annotated[str, query_with(*CHANGED_PARAMETERS)] = Field(
        description=(
            "One select with one column, `window`: for each window in which a row was written, "
            "changed or deleted since `:since`, an instant in that window. Rows that move to "
            "another window touch both."
        ),
        examples=[
            "select distinct date_trunc('hour', used_at) as window from usage where updated_at >= :since"
        ],
    )
    lag: Annotated[Duration, at_least("1s"), at_most("1d", "each hour names all of it again")] = Field(
        description=(
            "How far `:since` reaches back before the last reading: longer than your longest "
            "transaction, and longer than the difference between the clocks that stamp your rows. "
            "Rows that commit later are missed until the next full reading, so it has no default."
        ),
        examples=["15m"],
    )
    revisit_fully: Annotated[
        Duration, at_least("1d"), at_most("35d", "Stripe refuses usage older than that")
    ] = Field(
        default=parse_duration("7d"),
        description=(
            "How often all of `revisit` is read again, whatever the query named. Differences that "
            "this finds are billed, and counted as missed by `changed`."
        ),
        examples=["7d"],
    )


REASONS = {
    "deltas": "whose rows are read once, by a cursor, and counted anew by `deltas: recount:`",
    "counters": "whose windows are made of samples that are kept in the ledger",
    "gauges": "whose windows are made of samples that are kept in the ledger",
}
"""Why no source is asked what was touched, by how it is read."""


def by_windows(changed: Changed | None, info: ValidationInfo) -> Changed | None:
    """Refuse the block where no old window is read from the source."""
    why = REASONS.get(info.data.get("read", ""))
    if changed is not None and why is not None:
        raise refuse(f"does not go with `read: {info.data['read']}`, {why}: remove the block")
    return changed


def changed_of(meter: "Meter") -> CoreChanged | None:
    """Return the core's view of what a meter's source is asked, if it is."""
    if meter.changed is None:
        return None
    query, lag = normalised_query(meter.changed.query), meter.changed.lag
    digest = hashlib.sha256(json.dumps([query, lag.total_seconds()]).encode()).hexdigest()
    return CoreChanged(meter.changed.query, digest, lag, meter.changed.revisit_fully)
