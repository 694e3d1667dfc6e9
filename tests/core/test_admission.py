"""Which part of a span a reading may use: nothing beyond what its own transaction has proven to see."""

import datetime as dt
from typing import Any

import pytest

from aggregator.core.commit_barrier import Noted, judge, ready
from aggregator.core.freshness import Admission
from aggregator.core.model import EPOCH, Definition, Fence, Span

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
HOUR, MINUTE = dt.timedelta(hours=1), dt.timedelta(minutes=1)
KNOWN = [Definition(EPOCH, "f" * 64, "query", HOUR)]
OLD = Span(NOON - 6 * HOUR, NOON - 2 * HOUR)
NEW = Span(NOON - 2 * HOUR, NOON)


def fence(**said: Any) -> Fence:
    """Return what a database says in which nothing is open."""
    values = {"at": NOON + 10 * MINUTE, "xmin": 100, "xmax": 100, "oldest_start": None, "sees_starts": False}
    return Fence(**{**values, "standby": False, "fresh_until": None, "holder": None, **said})


def standby(fresh_until: dt.datetime | None, **said: Any) -> Fence:
    return fence(standby=True, fresh_until=fresh_until, **said)


def declared(fresh_until: dt.datetime | None, **said: Any) -> Fence:
    return fence(declared=True, fresh_until=fresh_until, **said)


def admission(span: Span, **changes: Any) -> Admission:
    """Return what judges a reading of a meter that was read up to two hours before noon."""
    values: dict[str, Any] = {"known": KNOWN, "mark": NEW.start, "settled": NOON + 5 * MINUTE}
    values |= {"patience": 15 * MINUTE, "now": NOON + 10 * MINUTE} | changes
    return Admission(span, HOUR, **values)


@pytest.mark.parametrize("span", [OLD, NEW, Span(OLD.start, NEW.end)])
def test_a_primary_at_rest_shows_everything(span: Span) -> None:
    """Nothing is open, and nothing has to be proven."""
    allow = admission(span)
    assert (allow(fence()), allow.is_cut, allow.seen) == (span.end, False, NOON + 10 * MINUTE)
    assert allow(None) == span.end, "a database that cannot be asked is read as it comes"


@pytest.mark.parametrize("kind", [standby, declared])
@pytest.mark.parametrize("patience", [15 * MINUTE, dt.timedelta(0)])
@pytest.mark.parametrize("mark", [NEW.start, None])
def test_nothing_beyond_the_proof_is_read_first_again_or_looked_at(
    kind: Any, patience: dt.timedelta, mark: dt.datetime | None
) -> None:
    """Whatever the span is for, and however little is waited for writers."""
    for span in (OLD, NEW, Span(OLD.start, NEW.end)):
        for fresh, until in (
            (NOON + MINUTE, span.end),
            (NOON - MINUTE, min(span.end, NOON - HOUR)),
            (span.start + 90 * MINUTE, span.start + HOUR),
            (span.start - MINUTE, span.start),
            (None, span.start),
        ):
            allow = admission(span, patience=patience, mark=mark)
            assert allow(kind(fresh)) == until
            assert allow.is_cut == (until < span.end)
            assert (allow.reason is not None) == allow.is_cut
            assert allow.seen == fresh


@pytest.mark.parametrize("kind", [standby, declared])
def test_nobody_has_shown_what_is_still_to_come(kind: Any) -> None:
    """A proof may be ahead of us, as after a load of tomorrow's rows: it would make the next one seem to fall behind."""
    allow = admission(OLD)
    assert allow(kind(NOON + 6 * HOUR)) == OLD.end
    assert allow.seen == NOON + 10 * MINUTE


@pytest.mark.parametrize("kind", [standby, declared])
def test_a_source_that_shows_less_than_before_is_not_believed(kind: Any) -> None:
    """Another standby may answer now: what the one before had shown would seem to be taken back."""
    allow = admission(OLD, seen_until=NOON)
    assert allow(kind(NOON - MINUTE)) == OLD.start
    assert allow.reason is not None
    assert "has not shown" in allow.reason
    assert allow(kind(NOON)) == OLD.end
    assert admission(OLD, seen_until=NOON)(fence(at=NOON - HOUR)) == OLD.end, "a primary lacks nothing"


def test_a_first_reading_waits_for_writers_as_its_own_transaction_sees_them() -> None:
    """What was noted on another connection counts only once this one has seen it end too."""
    noted = (Noted(NOON, 100),)
    assert admission(NEW, noted=noted, patience=HOUR)(fence(xmin=100, xmax=120)) == NOON
    behind = admission(Span(OLD.start, NEW.end), noted=noted, patience=HOUR)
    assert behind(fence(xmin=99, xmax=120, holder="pid 7")) == NOON - HOUR, "it has waited for an hour"
    assert behind.reason == "pid 7"
    assert admission(NEW, noted=noted, patience=dt.timedelta(0))(fence(xmin=99, xmax=120)) == NOON
    assert admission(OLD, noted=noted)(fence(xmin=99, xmax=120)) == OLD.end, "it was read before"


def test_patience_does_not_replace_a_proof() -> None:
    """Who gives up waiting for writers on a source that proves its freshness still keeps to the proof."""
    said = declared(NOON - 20 * MINUTE, xmin=90)
    passed = judge(said, (), NOON)
    assert passed.proven_until == NOON - 20 * MINUTE
    assert ready(NOON, passed, 5 * MINUTE, bounded=True).until == NOON - 20 * MINUTE
    assert ready(NOON, passed, 30 * MINUTE, bounded=True).until == NOON - 30 * MINUTE
