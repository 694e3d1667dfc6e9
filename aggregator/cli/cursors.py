"""What there is to say of meters that are read by a cursor: whether it can be trusted, and how far it is."""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from aggregator.core.shown import shown

if TYPE_CHECKING:
    from aggregator.config import Meter
    from aggregator.core.model import Span
    from aggregator.ledger.passes.running_totals import NamedCursor
    from aggregator.source import Source


def try_out(meter: "Meter", source: "Source", lately: "Span") -> Iterator[tuple[str, str]]:
    """Try a meter's queries out, which reads no row; yield verdicts and sentences. Raises SourceError as a reading does."""
    from aggregator.collection.cursor_source import unprotected
    from aggregator.core.model import EPOCH, Definition

    assert meter.deltas is not None, "it is read by a cursor"
    settings, after = meter.deltas, meter.deltas.start_after
    with source.by_cursor() as rows:
        shape = rows.shape(meter.query_text, after, meter.dimensions)
        rows.end_of_stretch(settings.upto_query, after)
        writers, _ = rows.writers(by_instant=isinstance(after, dt.datetime))
        disorder = rows.disordered(meter.query_text, after)
        if settings.recount_query is not None:
            known = [Definition(EPOCH, "", settings.recount_query, meter.window, meter.dimensions)]
            nothing = lately._replace(end=lately.start)
            for _ in rows.recount(settings.recount_query, nothing, after, known):
                pass
    if settings.lag is None and (disorder or writers is None):
        yield "wrong", "; ".join(disorder) or unprotected(source.kind)
        return
    if not shape.returns_at:
        yield (
            "note",
            "the query works; without an `at` column events are stamped one second before their window's end",
        )
    else:
        yield "ok", "the query works and is read by a cursor"
    if writers is None or disorder:
        yield (
            "note",
            f"only the `lag` protects its cursor: {'; '.join(disorder) or 'the database shows nothing'}",
        )
        if settings.recount is None:
            yield "note", "nothing would find what its cursor misses: set `deltas: recount:`"
    else:
        yield "ok", f"its cursor waits for open transactions, which {source.kind} shows"
    if not any(
        word in settings.upto_query.lower() for word in (" limit", "fetch first", "fetch next", " top")
    ):
        yield (
            "note",
            "`upto_query` has no limit: all rows there are would be read in one transaction; see docs/deltas.md",
        )


def report(cursors: "Iterable[NamedCursor]") -> Iterator[str]:
    """Say how far each cursor is, and what recounts found."""
    for meter, state in cursors:
        complete = (
            "nothing is complete yet"
            if state.taken_until is None
            else f"complete up to {shown(state.taken_until)}"
        )
        yield f"{meter} is read by a cursor: {state.rows:,} rows up to {state.after}, {complete}."
        if state.differed_at is not None:
            yield (
                f"{meter}: recounts found {shown(state.missed)} that its cursor had missed, and did not find "
                f"{shown(state.taken_back)} any more, the last time at {shown(state.differed_at)}."
            )
