"""What a source has of windows that were not read yet, the open one included: looked at, and never planned from.

No barrier is waited for. What is not committed yet, or not copied to a standby, is missing; it is found when the windows are
read.
"""

import datetime as dt
from collections.abc import Sequence

from aggregator.core import commit_barrier, definitions
from aggregator.core.freshness import Reads
from aggregator.core.model import Definition, Fence, Span
from aggregator.ledger.passes.spool import Spool


def read_open(
    source: Reads,
    known: Sequence[Definition],
    span: Span,
    spool: Spool,
    unread: Sequence[dt.datetime] = (),
) -> dt.datetime | None:
    """Read a span, widened to whole windows, by the definitions that hold in it; without the windows that begin at `unread`.

    Return up to when the source has proven to show everything, where it must prove that. Raises as a reading does.
    """
    proven: list[dt.datetime] = []
    for definition, piece in definitions.readable(known, span, unread):

        def allow(fence: Fence | None, end: dt.datetime = piece.end) -> dt.datetime:
            shown = None if fence is None else commit_barrier.proven_until(fence)
            if shown is not None:
                proven.append(shown)
            return end

        for batch in source.read(
            definition.query, piece, definition.window, dimensions=definition.dimensions, allow=allow
        ):
            spool.add(batch)
    return min(proven, default=None)
