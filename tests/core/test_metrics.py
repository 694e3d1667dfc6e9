"""One scrape, from what the ledger said: zeros where nothing is, nothing of what is gone, and how much time is left."""

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aggregator.config import Config, load
from aggregator.core.model import Limits
from aggregator.ledger.archives import Old
from aggregator.ledger.figures import (
    FeedFigures,
    MeterFigures,
    PassFigures,
    Progress,
    RecountFigures,
    SampleFigures,
    SinkFigures,
    TouchedFigures,
    UnmappedFigures,
    UsageFigures,
    WaitingFigures,
    WithoutIdFigures,
)
from aggregator.ledger.review.checks import Coverage
from aggregator.monitoring.exposition import Exposition
from aggregator.monitoring.latest import Answer
from aggregator.monitoring.metrics import FAMILIES, Answers, Context, Page
from aggregator.monitoring.parts import WAITING_STATES, RowCaches
from aggregator.monitoring.troubles import troubles
from tests.fakes import LIMITS

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
HOUR, MINUTE = dt.timedelta(hours=1), dt.timedelta(minutes=1)
Labels = tuple[str, ...]

CONFIG = """
sources:
  app: {url: "postgresql://reader@db/app"}
sinks:
  stripe: {type: stripe, api_key: rk_test_1, mode: test}
meters:
  api:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    delay: 5m
    query: select customer, quantity from usage where at >= :start and at < :end
"""


KINDS = """
ledger: {archive: archive, keep: 3mo}
sources:
  app: {url: "postgresql://reader@db/app"}
sinks:
  stripe: {type: stripe, api_key: rk_test_1, mode: test}
customers:
  accounts:
    source: app
    query: select id as key, billed_as as customer from account
    moved: future
meters:
  api:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    customers: accounts
    query: select account as customer, quantity, at as window from usage where at >= :start and at < :end
  seats:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    read: gauges
    sample: average
    missing: hold
    every: 5m
    query: select customer, quantity from seat
"""
DAY = 24 * HOUR


@pytest.fixture
def kinds(tmp_path: Path) -> Config:
    """A meter with a mapping, and one of gauges."""
    path = tmp_path / "kinds.yaml"
    path.write_text(KINDS)
    return load(path, {})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """One meter with one sink."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(CONFIG)
    return load(path, {})


def test_months_that_should_be_archived_are_counted(config: Config, tmp_path: Path) -> None:
    """Where months are archived at all; a meter that is not configured any more has no figure."""
    old = [Old(1, "api", NOW - 200 * DAY, 2), Old(2, "gone", NOW - 200 * DAY, 3)]
    made = page(config)
    made.add_old_months(old)
    assert samples(made, "old_months") == {}
    path = tmp_path / "archiving.yaml"
    path.write_text("ledger: {archive: archive, keep: 3mo}\n" + CONFIG)
    for found, months in ((old, 2), (old[1:], 0)):
        made = page(load(path, {}))
        made.add_old_months(found)
        assert samples(made, "old_months") == {("api",): months}


def page(config: Config, *, limits: Limits = LIMITS) -> Page:
    return Page(config, Context(limits=lambda _meter, _sink: limits), NOW)


def samples(made: Page, name: str) -> dict[Labels, object]:
    """Return the samples of a metric by the values of their labels."""
    found = made.families[f"aggregator_{name}"].samples
    return {tuple(sample.labels.values()): sample.value for sample in found}


def meter(mark: dt.datetime, **more: Any) -> MeterFigures:
    its = MeterFigures(
        "api", mark, None, None, NOW - MINUTE, failing=False, unread=0, guarded=0, unstable=False
    )
    return its._replace(**more)


def progress(
    meters: Sequence[MeterFigures] = (),
    feeds: Sequence[FeedFigures] = (),
    sinks: Sequence[SinkFigures] = (),
    passes: Sequence[PassFigures] = (),
) -> Progress:
    return Progress(meters, feeds, sinks, passes, stopped=False)


API = FeedFigures("api", "stripe", stopped=False)


COVERAGE = Coverage("stripe", 100, 90, NOW, NOW - HOUR, 3, 10, 2, Decimal("7.5"), Decimal(500))


def waiting(state: str, events: int = 1, **more: Any) -> WaitingFigures:
    its = WaitingFigures("api", "stripe", state, events, Decimal(7), NOW - HOUR, NOW - 2 * HOUR, None)
    return its._replace(**more)


def test_every_state_has_a_figure(config: Config) -> None:
    """Zero where nothing waits, so that no alert hangs on a figure that is not there."""
    made = page(config)
    made.add_waiting([API], [waiting("due", 3)])
    assert samples(made, "events") == {
        ("api", "stripe", state): 3 if state == "due" else 0 for state in WAITING_STATES
    }
    assert samples(made, "units")["api", "stripe", "due"] == Decimal(7)
    assert samples(made, "oldest_event_seconds") == {("api", "stripe", "due"): 3600}


def test_events_of_a_meter_that_was_removed_are_still_told(config: Config) -> None:
    """They wait for a person; where it stood, and what limits it has, is nobody's business any more."""
    made = page(config)
    made.add_progress(progress([meter(NOW, meter="gone")], [FeedFigures("gone", "stripe", stopped=True)]))
    made.add_waiting([], [waiting("held", 5, meter="gone")])
    assert samples(made, "events")["gone", "stripe", "held"] == 5
    for name in ("mark_age_seconds", "feed_stopped", "until_too_old_seconds"):
        assert samples(made, name) == {}


@pytest.mark.parametrize(
    ("mark", "overdue"),
    [
        (NOW - HOUR, 0),
        (NOW - HOUR - 10 * MINUTE, 0),
        (NOW - HOUR - 11 * MINUTE, 60),
        (NOW - 5 * HOUR, 4 * 3600 - 600),
        (NOW + HOUR, 0),
    ],
)
def test_a_meter_is_overdue_once_its_next_window_should_have_been_read(
    config: Config, mark: dt.datetime, overdue: int
) -> None:
    """That is: once it has ended, its delay is over, and the alarm has rung."""
    made = page(config)
    made.add_progress(progress([meter(mark)]))
    assert samples(made, "mark_overdue_seconds") == {("api",): overdue}
    assert samples(made, "mark_age_seconds") == {("api",): (NOW - mark).total_seconds()}


def test_the_cliffs_are_told_in_time(config: Config) -> None:
    """20 hours after the first attempt without an answer, and 35 days after the first use that is not sent, or not read."""
    made = page(config)
    sent = NOW - 19 * HOUR
    made.add_progress(progress([meter(NOW - 34 * 24 * HOUR)], [API]))
    made.add_waiting(
        [API],
        [
            waiting("due", first_sent_at=sent + HOUR),
            waiting("sending", first_sent_at=sent),
            waiting("in_doubt", first_sent_at=NOW - 30 * HOUR),
            waiting("held", first_use_at=NOW - 36 * 24 * HOUR),
        ],
    )
    assert samples(made, "until_in_doubt_seconds") == {("api", "stripe"): 3600}
    too_old = samples(made, "until_too_old_seconds")
    assert too_old["api", "stripe", "unread"] == 24 * 3600
    assert too_old["api", "stripe", "held"] == -24 * 3600
    assert too_old["api", "stripe", "due"] == (35 * 24 - 2) * 3600


def test_a_sink_without_a_limit_has_no_cliff(config: Config) -> None:
    """It remembers for as long as anybody can tell."""
    made = page(
        config, limits=replace(LIMITS, memory=dt.timedelta(days=10_000), past=dt.timedelta(days=10_000))
    )
    made.add_progress(progress([meter(NOW)], [API]))
    made.add_waiting([API], [waiting("due", first_sent_at=NOW)])
    assert samples(made, "until_in_doubt_seconds") == samples(made, "until_too_old_seconds") == {}


def test_what_was_done_is_counted(config: Config) -> None:
    """Passes by kind and outcome; rows and events over all of them; attempts by outcome, zeros included."""
    made = page(config)
    passes = [
        PassFigures("api", "live", False, 3, 1.5, 30, 20),
        PassFigures("api", "backfill", False, 1, 2.0, 5, 4),
        PassFigures("api", "live", True, 2, 0.5, 0, 0),
    ]
    made.add_progress(progress(feeds=[API._replace(accepted=24, in_doubt=3)], passes=passes))
    assert samples(made, "passes") == {
        ("api", "live", "committed"): 3,
        ("api", "backfill", "committed"): 1,
        ("api", "live", "failed"): 2,
    }
    assert samples(made, "rows_read") == {("api",): 35}
    assert samples(made, "events_planned") == {("api",): 24}
    assert samples(made, "attempts") == {
        ("api", "stripe", outcome): events
        for outcome, events in {"accepted": 24, "refused": 0, "in_doubt": 3, "due": 0}.items()
    }


def test_what_differs_at_a_sink_is_told(config: Config) -> None:
    """How much was compared, how old the oldest is that was not, and by how much the totals differ, either way."""
    made = page(config)
    made.add_coverage([COVERAGE])
    assert samples(made, "checked_events") == {("stripe",): 90}
    assert samples(made, "unchecked_events") == {("stripe",): 10}
    assert samples(made, "unchecked_age_seconds") == {("stripe",): 3600}
    assert samples(made, "drift_places") == {("stripe",): 2}
    assert samples(made, "drift_units") == {
        ("stripe", "lacks"): Decimal("7.5"),
        ("stripe", "beyond"): Decimal(500),
    }


def test_lateness_is_told_by_percentiles(config: Config) -> None:
    """The step within which so many of the slots were found; nothing where there were none."""
    made = page(config)
    histogram = {0: 50, 300: 45, 86400: 5}
    made.add_usage([UnmappedFigures("api", "unusable", 2, Decimal("7.5"))], {"api": histogram})
    assert samples(made, "lateness_seconds") == {
        ("api", "50"): 0,
        ("api", "90"): 300,
        ("api", "99"): 86400,
    }
    assert samples(made, "unmapped_units") == {("api", "unusable"): Decimal("7.5"), ("api", "without_id"): 0}
    nothing = page(config)
    nothing.add_usage([], {})
    assert samples(nothing, "lateness_seconds") == {}
    assert samples(nothing, "unmapped_rows") == {("api", "unusable"): 0, ("api", "without_id"): 0}


def answers(trouble: str | None, value: Progress | None, age: float | None) -> Answers:
    return Answers(Answer(value, age, trouble), Answer(None, None, trouble), Answer(None, None, trouble))


def test_a_ledger_that_is_away_leaves_a_page(config: Config) -> None:
    """Before its first answer, too: it is down, and nothing else is told of it."""
    made = page(config)
    made.add_process(answers("away", None, None), apart=False)
    assert samples(made, "ledger_up") == {(): False}
    assert samples(made, "figures_age_seconds") == {}
    later = page(config)
    later.add_process(answers("away", progress(), 90.0), apart=True)
    assert samples(later, "ledger_up") == {(): False}
    assert samples(later, "clocks_apart") == {(): True}
    assert samples(later, "figures_age_seconds") == {("progress",): 90.0}
    back = page(config)
    back.add_process(answers(None, progress(), 0.0), apart=False)
    assert samples(back, "ledger_up") == {(): True}


def test_no_series_is_written_twice(config: Config) -> None:
    """Prometheus would take the first, and say nothing."""
    made = page(config)
    made.add_process(answers(None, progress(), 0.0), apart=False)
    made.add_progress(progress([meter(NOW)], [API], [SinkFigures("stripe", NOW)]))
    made.add_waiting([API], [waiting(state) for state in WAITING_STATES])
    made.add_usage([], {})
    lines = Exposition().render(made.families.values()).decode().splitlines()
    series = Counter(line.rpartition(" ")[0] for line in lines if not line.startswith("#"))
    assert [name for name, times in series.items() if times > 1] == []
    assert len(series) > 30


def test_every_sample_has_the_labels_of_its_metric(kinds: Config) -> None:
    """In their order, and under the name that is documented."""
    made = page(kinds)
    made.add_process(answers(None, progress(), 0.0), apart=False)
    passes = [PassFigures("api", "live", False, 3, 1.5, 30, 20)]
    made.add_progress(progress([meter(NOW)], [API], [SinkFigures("stripe", NOW)], passes))
    made.add_waiting([API], [waiting(state, first_sent_at=NOW) for state in WAITING_STATES])
    made.add_usage([], {"api": {0: 1}})
    made.add_coverage([COVERAGE])
    recounts = [RecountFigures("api", Decimal(1), Decimal(0), NOW)]
    sampled = [SampleFigures("seats", NOW, dt.timedelta(0))]
    asked = [TouchedFigures("api", 1, NOW, NOW)]
    usage = UsageFigures((), {}, (), recounts=recounts, samples=sampled, touched=asked)
    made.add_kinds_of_reading(usage)
    made.add_old_months([])
    for name, family in made.families.items():
        assert family.samples or name == "aggregator_source_up", name
        for sample in family.samples:
            assert tuple(sample.labels) == FAMILIES[name][2], name
            assert sample.name == name + "_total" * (family.type == "counter")


def two_scrapes(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is written of these figures, one after the other, each beside what a new process writes."""
    kept, exposition, written = RowCaches(), Exposition(), []
    for its in rows:
        for known, writes in ((kept, exposition), (RowCaches(), Exposition())):
            made = Page(config, Context(limits=lambda _meter, _sink: LIMITS), its["now"], known)
            made.add_progress(its["progress"])
            made.add_waiting([API], its["waiting"])
            made.add_usage(its["unmapped"], its["late"])
            written.append(writes.render(filter(None, made.families.values())).decode())
    return written


FIGURES: dict[str, Any] = {
    "now": NOW,
    "progress": progress([meter(NOW)], [API], passes=[PassFigures("api", "live", False, 3, 1.5, 30, 20)]),
    "waiting": [waiting("due", 3)],
    "unmapped": [UnmappedFigures("api", "unusable", 2, Decimal(5))],
    "late": {"api": {0: 9, 60: 1}},
}

CHANGED: list[dict[str, Any]] = [
    {"now": NOW + MINUTE},
    {"progress": progress([meter(NOW + HOUR)], [API])},
    {"progress": progress([meter(NOW, waits_since=NOW - MINUTE)], [API])},
    {"progress": progress([meter(NOW, silent_since=NOW - MINUTE, unread=1, guarded=2)], [API])},
    {"progress": progress([meter(NOW, failing=True, unstable=True)], [API._replace(stopped=True)])},
    {"progress": progress([meter(NOW)], [API._replace(accepted=8)])},
    {"progress": progress([meter(NOW)], [API], passes=[PassFigures("api", "live", True, 1, 0.5, 0, 0)])},
    {"progress": progress()},
    {"waiting": []},
    {"waiting": [waiting("due", 4)]},
    {"waiting": [waiting("due", 3, units=Decimal("7.5"))]},
    {"waiting": [waiting("sending", 3, first_sent_at=NOW)]},
    {"unmapped": []},
    {"unmapped": [UnmappedFigures("api", "without_id", 2, Decimal(5))]},
    {"late": {}},
    {"late": {"api": {0: 1, 60: 9}}},
]


@pytest.mark.parametrize("changed", CHANGED)
def test_a_process_that_scrapes_again_tells_what_a_new_one_tells(
    config: Config, changed: dict[str, Any]
) -> None:
    """Whatever has changed since, and when it has changed back."""
    first, new, second, as_new, third, again = two_scrapes(config, [FIGURES, {**FIGURES, **changed}, FIGURES])
    assert (first, second, third) == (new, as_new, again)
    assert first == third != second
    told = Counter(line.rpartition(" ")[0] for line in second.splitlines())
    assert max(told.values()) == 1, "one figure per name and labels"


def test_no_label_names_a_customer() -> None:
    """There may be millions of them."""
    labels = {label for _, _, its in FAMILIES.values() for label in its}
    assert sorted(labels) == sorted(
        [
            "version",
            "part",
            "figures",
            "source",
            "side",
            "found",
            "sink",
            "meter",
            "kind",
            "outcome",
            "state",
            "percentile",
        ]
    )


def of_kinds(config: Config, **found: Any) -> tuple[Page, list[str]]:
    """Return the page of meters that are read in several ways, and what people are told."""
    usage = UsageFigures((), {}, ())._replace(**found)
    made = page(config)
    made.add_kinds_of_reading(usage)
    answers = Answers(Answer(progress(), 0, None), Answer([], 0, None), Answer(usage, 0, None))
    context = Context(limits=lambda _meter, _sink: LIMITS)
    return made, [trouble.text for trouble in troubles(config, context, answers, NOW)]


@pytest.mark.parametrize(("days", "soon"), [(31, False), (33, True)])
def test_usage_without_an_id_has_an_age_and_a_cliff(kinds: Config, days: int, soon: bool) -> None:
    """How much waits, since when, and how long its sink takes it; people are told three days before the end."""
    waits = WithoutIdFigures("api", Decimal("7.5"), NOW - days * DAY)
    waiting, unusable = (
        UnmappedFigures("api", kind, 2, Decimal("7.5")) for kind in ("without_id", "unusable")
    )
    assert of_kinds(kinds, unmapped=[waiting])[1] == []
    assert of_kinds(kinds, unmapped=[unusable])[1] == ["2 rows of api can be billed to nobody, 7.5 units."]
    made, told = of_kinds(kinds, without_id=[waits])
    assert samples(made, "without_id_units") == {("api",): Decimal("7.5")}
    assert samples(made, "without_id_age_seconds") == {("api",): days * 86400}
    left = (LIMITS.past - days * DAY).total_seconds()
    assert samples(made, "until_too_old_seconds") == {("api", "stripe", "without_id"): left}
    said = "7.5 units of api have no customer yet, and will soon be too old for stripe."
    assert told == ([said] if soon else [])


def test_a_mapping_for_which_nothing_waits_has_zeros(kinds: Config) -> None:
    """So that no alert hangs on a figure that is not there; a meter without a mapping has none."""
    made, told = of_kinds(kinds)
    assert samples(made, "without_id_units") == samples(made, "without_id_age_seconds") == {("api",): 0}
    assert samples(made, "until_too_old_seconds") == {}
    assert told == []


@pytest.mark.parametrize(("ago", "fresh"), [(None, False), (47 * HOUR, True), (49 * HOUR, False)])
def test_what_was_missed_by_changed_is_told_for_two_days(
    kinds: Config, ago: dt.timedelta | None, fresh: bool
) -> None:
    """So that a hole in the question is seen before the next full reading."""
    found = TouchedFigures("api", 3, None if ago is None else NOW - ago, NOW)
    made, told = of_kinds(kinds, touched=[found])
    assert samples(made, "changed_missed_windows") == {("api",): 3}
    ages = samples(made, "changed_missed_age_seconds")
    assert ages == ({} if ago is None else {("api",): ago.total_seconds()})
    assert bool(told) == fresh


@pytest.mark.parametrize(("ago", "fresh"), [(None, False), (47 * HOUR, True), (49 * HOUR, False)])
def test_what_recounts_found_is_told_for_two_days(
    kinds: Config, ago: dt.timedelta | None, fresh: bool
) -> None:
    """What was missed and what was taken back are counted apart."""
    found = RecountFigures("api", Decimal(12), Decimal(3), None if ago is None else NOW - ago)
    made, told = of_kinds(kinds, recounts=[found])
    assert samples(made, "recount_units") == {("api", "missed"): 12, ("api", "taken_back"): 3}
    ages = samples(made, "recount_differed_age_seconds")
    assert ages == ({} if ago is None else {("api",): ago.total_seconds()})
    assert bool(told) == fresh


def test_samples_that_are_missing_are_told(kinds: Config) -> None:
    """One stands for twice its period; what is over that is missing, and gaps of the last day are told beside it."""
    sampled = SampleFigures("seats", NOW - 16 * MINUTE, dt.timedelta(0))
    made, told = of_kinds(kinds, samples=[sampled])
    assert samples(made, "sample_age_seconds") == {("seats",): 960}
    assert samples(made, "sample_overdue_seconds") == {("seats",): 360}
    assert told == ["seats is not sampled any more: what is not sampled cannot be read later."]
    made, told = of_kinds(kinds, samples=[SampleFigures("seats", NOW - 9 * MINUTE, 20 * MINUTE)])
    assert samples(made, "sample_overdue_seconds") == {("seats",): 0}
    assert samples(made, "sample_gap_seconds") == {("seats",): 1200}
    assert told == ["seats was not sampled for 1200 seconds of the last day."]
