"""Which old windows are named as touched, and from when on the next question is asked."""

import datetime as dt
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.cli.revisits import report
from aggregator.collection import schedule
from aggregator.config import load
from aggregator.core import changed
from aggregator.core.changed import Asked, Touched
from aggregator.core.commit_barrier import NEVER, Passed
from aggregator.core.model import Changed, Definition, Fence, Meter, Span
from aggregator.errors import ConfigError, QueryRejected
from aggregator.ledger.figures import TouchedFigures
from aggregator.source import Source

HOUR, MINUTE, DAY = dt.timedelta(hours=1), dt.timedelta(minutes=1), dt.timedelta(days=1)
NOW = dt.datetime(2026, 11, 20, 12, 5, tzinfo=dt.UTC)
MARK = NOW.replace(minute=0)
QUESTION = Changed("select window", "c" * 64, 10 * MINUTE, 7 * DAY)
KNOWN = (
    Definition(MARK - 60 * DAY, "a", "select 1", DAY),
    Definition(MARK.replace(hour=0) - 10 * DAY, "b", "select 2", HOUR),
)
FENCE = Fence(NOW, 5, 5, None, sees_starts=True, standby=False, fresh_until=None, holder=None)
METER = Meter(
    name="calls",
    source="app",
    query="",
    fingerprint="f" * 64,
    sinks=("fake",),
    window=HOUR,
    start_at=MARK - 60 * DAY,
    delay=5 * MINUTE,
    revisit=30 * DAY,
    changed=QUESTION,
)


# From when on


def test_the_mark_holds_for_the_question_that_made_it() -> None:
    """Another text, or another lag, is another question."""
    assert changed.held(QUESTION, Touched(NOW, "c" * 64)) == NOW
    assert changed.held(QUESTION, Touched(NOW, "d" * 64)) is None
    assert changed.held(QUESTION, None) is None


@pytest.mark.parametrize(
    ("barrier", "patience", "answers", "until"),
    [
        (None, HOUR, None, NOW),
        (Passed(NOW - 20 * MINUTE, (), None), HOUR, FENCE, NOW - 20 * MINUTE),
        (Passed(NOW - 20 * HOUR, (), None), HOUR, FENCE, NOW - HOUR),
        (Passed(NEVER, (), None), HOUR, FENCE, NOW - HOUR),
        (Passed(NOW + DAY, (), None), HOUR, FENCE, NOW),
        (Passed(NOW - 3 * HOUR, (), None, NOW - 3 * HOUR), HOUR, FENCE, NOW - 3 * HOUR),
        (Passed(NEVER, (), None, NEVER), HOUR, FENCE, None),
    ],
    ids=(
        "nobody can be asked",
        "the barrier",
        "patience is over",
        "nothing noted yet",
        "a clock ahead",
        "proven until",
        "unproven",
    ),
)
def test_an_answer_counts_up_to_where_everybody_had_ended(
    barrier: Passed | None, patience: dt.timedelta, answers: Fence | None, until: dt.datetime | None
) -> None:
    """Never beyond our clock, nor beyond a proof where one is needed; who is open is waited for so long."""
    assert changed.shown_until(NOW, barrier, patience, answers, None) == until


def test_an_answer_from_a_standby_counts_up_to_what_that_one_proves() -> None:
    """Which may show less than the one that was asked for the barrier, or less than was read before."""
    behind = FENCE._replace(standby=True, fresh_until=NOW - 2 * HOUR)
    barrier = Passed(NOW - MINUTE, (), None, NOW - MINUTE)
    assert changed.shown_until(NOW, barrier, HOUR, behind, None) == NOW - 2 * HOUR
    assert changed.shown_until(NOW, barrier, HOUR, behind, NOW - HOUR) is None


# Which windows


def test_instants_name_the_windows_of_their_time() -> None:
    """A window is as long as it was then; what was not read is left out."""
    old, young = MARK.replace(hour=0) - 12 * DAY, MARK - 3 * DAY
    read = Span(METER.start_at, MARK)
    found = changed.starts_of(KNOWN, read, [old + 5 * HOUR, young + MINUTE, MARK, METER.start_at - MINUTE])
    assert list(found) == [old, young]


def test_windows_that_follow_each_other_are_one_stretch() -> None:
    """So that one query reads them."""
    starts = {MARK - 5 * HOUR, MARK - 4 * HOUR, MARK - 9 * HOUR, MARK - HOUR}
    found = changed.spans(KNOWN, starts, Span(MARK - DAY, MARK - 2 * HOUR))
    assert found == [Span(MARK - 9 * HOUR, MARK - 8 * HOUR), Span(MARK - 5 * HOUR, MARK - 3 * HOUR)]


def test_what_was_read_anyway_tells_nothing_of_the_question() -> None:
    """Nor does the first full reading, before which nothing was asked."""
    asked = Asked(NOW - HOUR, NOW - 2 * HOUR, NOW, frozenset({MARK - 5 * DAY}))
    differed = {MARK - 5 * DAY, MARK - 6 * DAY, MARK - HOUR}
    assert changed.beyond(asked, differed, MARK - 2 * HOUR) == {MARK - 6 * DAY}
    assert changed.beyond(asked._replace(since=None), differed, MARK - 2 * HOUR) == frozenset()


# What a round reads


def lease(**values: Any) -> Any:
    """Return what a meter looks like that was looked at just now, but for what differs."""
    plain = {
        "definitions": KNOWN,
        "mark": MARK,
        "hourly_at": NOW - MINUTE,
        "daily_at": NOW - DAY,
        "fed_until": MARK,
        "reread_from": None,
        "unread": (),
        "unread_due": (),
        "swept": None,
    }
    return SimpleNamespace(**plain | values)


def spans_of(asked: Asked | None, meter: Meter = METER, *, at_once: bool = True, **values: Any) -> list[Span]:
    """Return what a round would read."""
    coming = schedule.passes(meter, lease(**values), NOW, meter.start_at, MARK, at_once=at_once, asked=asked)
    return [each.span for each in coming]


ASKED = Asked(NOW - HOUR, NOW - 2 * HOUR, NOW, frozenset({MARK - 5 * DAY, MARK - 3 * HOUR, MARK - HOUR}))
YOUNG = Span(MARK - 2 * HOUR, MARK)


def test_a_round_reads_what_is_young_and_what_was_named() -> None:
    """Not the two days that it would read once an hour, nor the thirty once a day."""
    named = [Span(MARK - 5 * DAY, MARK - 5 * DAY + HOUR), Span(MARK - 3 * HOUR, MARK - 2 * HOUR)]
    assert spans_of(None) == [YOUNG]
    assert spans_of(ASKED, hourly_at=NOW - HOUR) == [YOUNG, *named]
    assert spans_of(ASKED, hourly_at=NOW - HOUR, at_once=False) == [YOUNG, *named]


def test_the_last_reading_of_a_round_moves_the_mark() -> None:
    """And no other."""
    coming = schedule.passes(
        METER, lease(hourly_at=NOW - HOUR), NOW, METER.start_at, MARK, at_once=True, asked=ASKED
    )
    assert [each.touched for each in coming] == [None, None, NOW]
    nothing = ASKED._replace(windows=frozenset())
    [only] = schedule.passes(
        METER, lease(hourly_at=NOW - HOUR), NOW, METER.start_at, MARK, at_once=True, asked=nothing
    )
    assert (only.span, only.touched, only.hourly, only.daily) == (YOUNG, NOW, True, False)


@pytest.mark.parametrize("first", [True, False])
def test_all_is_read_at_first_and_at_its_pace(first: bool) -> None:
    """A week after the last time; or before any answer counts."""
    asked = ASKED._replace(since=None if first else ASKED.since)
    daily_at = NOW - HOUR if first else NOW - 7 * DAY
    spans = spans_of(asked, daily_at=daily_at, hourly_at=NOW - HOUR)
    assert spans[0] == YOUNG
    assert min(each.start for each in spans) <= MARK - METER.revisit
    assert max(each.end for each in spans[1:]) == YOUNG.start


def test_what_waits_is_read_from_there_on() -> None:
    """As without a question: every time while it is young, else each hour."""
    assert spans_of(None, reread_from=MARK - DAY) == [YOUNG, Span(MARK - DAY, YOUNG.start)]
    assert spans_of(None, reread_from=MARK - 4 * DAY) == [YOUNG]
    named = Span(MARK - 5 * DAY, MARK - 5 * DAY + HOUR)
    spans = spans_of(ASKED, reread_from=MARK - 4 * DAY, hourly_at=NOW - HOUR)
    assert spans == [YOUNG, named, Span(MARK - 4 * DAY, YOUNG.start)]


def test_who_is_billed_for_the_newest_window_is_read_in_order() -> None:
    """What was named comes first, and sends again by itself what is newer."""
    seats = replace(METER, latest=True)
    coming = list(
        schedule.passes(
            seats, lease(hourly_at=NOW - HOUR), NOW, METER.start_at, MARK, at_once=True, asked=ASKED
        )
    )
    assert [each.span.start for each in coming] == sorted(each.span.start for each in coming)
    assert [each.more for each in coming] == [False, True, False]


# The source


def test_a_source_names_what_was_touched(tmp_path: Path) -> None:
    """By the query's own text, from the bound instant on, each instant once."""
    source = made(tmp_path)
    with source.touched("select used_at as window from usage where updated_at >= :since") as touching:
        found = [each for batch in touching.since(NOW - HOUR) for each in batch]
    assert found == [NOW - DAY]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("select null as window where :since is not null", "returned NULL as `window`"),
        ("select 1 as window where :since is not null", "holds a number"),
        (
            "select used_at, quantity from usage where updated_at >= :since",
            "must return one column, `window`",
        ),
        ("select used_at from usage where updated_at >= :since", "found: used_at"),
    ],
)
def test_another_shape_is_refused(query: str, says: str, tmp_path: Path) -> None:
    """What cannot be understood must not pass for nothing."""
    with (
        pytest.raises(QueryRejected, match=says),
        made(tmp_path).touched(query) as touching,
    ):
        list(touching.since(NOW - DAY))


def made(directory: Path) -> Source:
    """Return a source with a use of today's, one that was changed since, and one that was not."""
    url = f"sqlite:///{directory / 'app.db'}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("create table usage (used_at text, updated_at text, quantity integer)"))
        for used_at, updated_at in ((NOW - DAY, NOW), (NOW - DAY, NOW), (NOW - 2 * DAY, NOW - 2 * HOUR)):
            values = {"used": f"{used_at:%Y-%m-%d %H:%M:%S}", "updated": f"{updated_at:%Y-%m-%d %H:%M:%S}"}
            connection.execute(sa.text("insert into usage values (:used, :updated, 1)"), values)
    engine.dispose()
    return Source("app", url, statement_timeout=dt.timedelta(seconds=5))


# The configuration


CONFIG = """
sources: {{app: {{url: "sqlite:///app.db"}}}}
sinks: {{files: {{type: directory, directory: out}}}}
meters:
  calls:
    source: app
    sinks: [files]
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: {query}
    {keys}
"""
WINDOWS = "select customer, 1 as quantity from usage where at >= :start and at < :end"
ASKS = "changed: {query: 'select at as window from usage where updated_at >= :since', lag: 15m}"


def configured(directory: Path, keys: str, query: str = WINDOWS) -> Any:
    """Return a meter as it is configured."""
    path = directory / "aggregator.yaml"
    path.write_text(CONFIG.format(query=query, keys=keys))
    return load(path, {}).meters["calls"]


def test_a_meter_says_how_its_source_is_asked(tmp_path: Path) -> None:
    """A full reading each week, unless it says otherwise; `lag` has no default."""
    assert configured(tmp_path, ASKS).changed.revisit_fully == 7 * DAY
    with pytest.raises(ConfigError, match="lag"):
        configured(tmp_path, "changed: {query: 'select at as window from usage where updated_at >= :since'}")


@pytest.mark.parametrize(
    ("keys", "query", "says"),
    [
        (f"read: gauges\n    sample: max\n    missing: nothing\n    {ASKS}", "select 1", "samples"),
        (
            f"read: deltas\n    deltas: {{start_after: 0, upto_query: 'select 1 where :after = 0'}}\n    {ASKS}",
            "select customer from usage where id > :after and id <= :upto",
            "recount",
        ),
        ("changed: {query: 'select at as window from usage', lag: 15m}", WINDOWS, "does not use `:since`"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(keys: str, query: str, says: str, tmp_path: Path) -> None:
    """With a sentence that says why."""
    with pytest.raises(ConfigError, match=says):
        configured(tmp_path, keys, query)


# In words


def test_status_says_how_far_it_is_and_what_was_missed(tmp_path: Path) -> None:
    """Of meters that ask; one that does not any more is left out."""
    meters = {"calls": configured(tmp_path, ASKS)}
    quiet = TouchedFigures("calls", 0, None, MARK)
    [line] = report([quiet, quiet._replace(meter="other")], meters)
    assert line.startswith("calls reads again what its source names as touched, up to 2026-11-20 12:00; ")
    assert line.endswith("full readings found nothing beyond that.")
    [line] = report([quiet._replace(missed=2, missed_at=NOW)], meters)
    assert line.endswith(
        "full readings found 2 windows missed by `changed`, the last time at 2026-11-20 12:05."
    )
