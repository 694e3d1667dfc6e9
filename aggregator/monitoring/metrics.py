"""What Prometheus is told: every figure is read from the ledger when it is asked for, so no restart changes it.

Rules
- A figure that may fall is a gauge. A counter that stands at 1000, 999, 1001 would be taken for two restarts.
- An age is counted to the present instant by the ledger's clock, also where the ledger has not answered for a while: it
  grows on. It is a value of its own, never a sample's timestamp: Prometheus drops one that is five minutes old.
- Whoever is gone is gone: nothing is remembered of a meter, feed or state that the ledger does not name any more. What is
  configured has its zeros.
- Without an answer of the ledger there are the last figures, with their age; before the first answer there is at least
  whether it answers. So no scrape is empty, and none fails.
- No figure is told per customer: there may be millions. `aggregator usage` has those.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import aggregator
from aggregator.config import Config, FileSink
from aggregator.config.sampling import period
from aggregator.core.archive import closed_before
from aggregator.core.model import Limits
from aggregator.core.sampling import STANDS
from aggregator.ledger.archives import Old
from aggregator.ledger.figures import (
    FeedFigures,
    MeterFigures,
    Progress,
    UnmappedFigures,
    UsageFigures,
    WaitingFigures,
)
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.review.checks import Coverage
from aggregator.monitoring.exposition import Family, Labels, labels, labels_for_each
from aggregator.monitoring.latest import Answer, Latest
from aggregator.monitoring.parts import (
    BY_STATE,
    BY_WHY,
    FEED,
    METER,
    NONE,
    NOTHING,
    OF_METER,
    SINK,
    UNMAPPED,
    WAITING_STATES,
    Parts,
    RowCaches,
    of_feed,
    of_lateness,
    of_meter,
    of_pass,
    of_total,
    of_unmapped,
    of_waiting,
)
from aggregator.runtime.clock import monotonic

LATENESS_WITHIN = dt.timedelta(days=7)
GAPS_WITHIN = dt.timedelta(days=1)
USUALLY_READ_WITHIN = dt.timedelta(minutes=5)
"""How soon after it is ready a window is read, where nobody says when a meter is looked at."""

NO_CLIFF = dt.timedelta(days=300)
"""A sink that remembers, or takes, what is so old has no limit worth a figure."""

Kind = tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, tuple[str, ...]]
GAUGE, COUNTER = GaugeMetricFamily, CounterMetricFamily

FAMILIES: dict[str, Kind] = {
    "aggregator_build_info": (GAUGE, "1, with the version that runs, and what runs.", ("version", "part")),
    "aggregator_ledger_up": (GAUGE, "1 if the ledger answered this scrape.", ()),
    "aggregator_ledger_stopped": (
        GAUGE,
        "1 if the ledger is not what it was, so nothing is read or sent.",
        (),
    ),
    "aggregator_clocks_apart": (
        GAUGE,
        "1 if this host's clock differs from the ledger's, so nothing is done.",
        (),
    ),
    "aggregator_figures_age_seconds": (
        GAUGE,
        "How old the figures of this page are: progress, waiting (events and units), or unmapped (lateness and drift, too).",
        ("figures",),
    ),
    "aggregator_source_up": (
        GAUGE,
        "1 if the last pass or glance reached the source, 0 if it could not be reached.",
        ("source",),
    ),
    "aggregator_sink_halted": (GAUGE, "1 if the sink refuses every call.", ("sink",)),
    "aggregator_feed_stopped": (
        GAUGE,
        "1 if the sink holds usage of the meter that this ledger never sent.",
        FEED,
    ),
    "aggregator_mark_timestamp_seconds": (
        GAUGE,
        "Up to where the meter has been read and committed, in seconds since 1970.",
        ("meter",),
    ),
    "aggregator_mark_age_seconds": (GAUGE, "How long ago the mark is.", ("meter",)),
    "aggregator_mark_overdue_seconds": (
        GAUGE,
        "For how long the next window should have been read; 0 if it is not due yet.",
        ("meter",),
    ),
    "aggregator_last_pass_age_seconds": (GAUGE, "How long ago the last pass or glance began.", ("meter",)),
    "aggregator_pass_failing": (GAUGE, "1 if the last pass of the meter failed.", ("meter",)),
    "aggregator_passes": (
        COUNTER,
        "Passes that wrote to the ledger; a glance that finds nothing new is none.",
        ("meter", "kind", "outcome"),
    ),
    "aggregator_pass_seconds": (
        COUNTER,
        "Seconds that these passes took in the ledger.",
        ("meter", "kind", "outcome"),
    ),
    "aggregator_rows_read": (COUNTER, "Rows of the source that these passes read.", ("meter",)),
    "aggregator_events_planned": (COUNTER, "Events that these passes planned.", ("meter",)),
    "aggregator_barrier_waiting_seconds": (
        GAUGE,
        "For how long a window waits for transactions of the source; 0 if none does.",
        ("meter",),
    ),
    "aggregator_unread_windows": (GAUGE, "Windows that the source could not deliver.", ("meter",)),
    "aggregator_guarded_windows": (
        GAUGE,
        "Windows that shrank so much that a second read must confirm it.",
        ("meter",),
    ),
    "aggregator_query_unstable": (GAUGE, "1 if the query gives another number each time.", ("meter",)),
    "aggregator_silent_seconds": (
        GAUGE,
        "For how long a meter has had no usage that always had some; 0 if that is not so.",
        ("meter",),
    ),
    "aggregator_events": (GAUGE, "Events that wait, by state.", (*FEED, "state")),
    "aggregator_units": (GAUGE, "By how much these events change what is billed.", (*FEED, "state")),
    "aggregator_oldest_event_seconds": (
        GAUGE,
        "How long the oldest of these events has waited in all, if there are any.",
        (*FEED, "state"),
    ),
    "aggregator_until_in_doubt_seconds": (
        GAUGE,
        "How long until the first event without an answer can no longer be sent again safely.",
        FEED,
    ),
    "aggregator_until_too_old_seconds": (
        GAUGE,
        "How long until the sink takes the oldest of these no more: `unread` in the source, `without_id` without customer.",
        (*FEED, "state"),
    ),
    "aggregator_attempts": (
        COUNTER,
        "Attempts at events by what became of them; `due` is to be sent again.",
        (*FEED, "outcome"),
    ),
    "aggregator_checked_events": (
        COUNTER,
        "Accepted events that were compared with the sink's own totals.",
        ("sink",),
    ),
    "aggregator_unchecked_events": (GAUGE, "Accepted events that are still to be compared.", ("sink",)),
    "aggregator_unchecked_age_seconds": (
        GAUGE,
        "How long ago the oldest of these was sent; 0 if there are none.",
        ("sink",),
    ),
    "aggregator_drift_places": (
        GAUGE,
        "Customers, spans and combinations of dimensions for which the sink's totals differ.",
        ("sink",),
    ),
    "aggregator_drift_units": (
        GAUGE,
        "By how much, summed up: what the sink lacks, or has beyond what was sent.",
        ("sink", "side"),
    ),
    "aggregator_unmapped_rows": (
        GAUGE,
        "Rows that can be billed to nobody: unusable as they are, or without_id yet.",
        BY_WHY,
    ),
    "aggregator_unmapped_units": (
        GAUGE,
        "What these rows come to, as far as they have a number.",
        BY_WHY,
    ),
    "aggregator_without_id_units": (
        GAUGE,
        "How much of that waits until its mapping gives its keys a customer.",
        ("meter",),
    ),
    "aggregator_without_id_age_seconds": (
        GAUGE,
        "How long ago the oldest window of that began; 0 if nothing waits.",
        ("meter",),
    ),
    "aggregator_recount_units": (
        COUNTER,
        "What recounts found that the cursor had missed, and what they did not find any more (taken_back).",
        ("meter", "found"),
    ),
    "aggregator_recount_differed_age_seconds": (
        GAUGE,
        "How long ago a recount last found any of that.",
        ("meter",),
    ),
    "aggregator_changed_missed_windows": (
        COUNTER,
        "Windows in which a full reading found what the query of `changed` had never named.",
        ("meter",),
    ),
    "aggregator_changed_missed_age_seconds": (GAUGE, "How long ago one last did.", ("meter",)),
    "aggregator_sample_age_seconds": (GAUGE, "How long ago the meter was sampled.", ("meter",)),
    "aggregator_sample_overdue_seconds": (
        GAUGE,
        "For how long no sample has stood that could be billed by; 0 if one does.",
        ("meter",),
    ),
    "aggregator_sample_gap_seconds": (
        GAUGE,
        "For how long, in gaps of the last day that are over, there was none.",
        ("meter",),
    ),
    "aggregator_old_months": (
        GAUGE,
        "Months that are older than `ledger.keep` and still in the ledger.",
        ("meter",),
    ),
    "aggregator_lateness_seconds": (
        GAUGE,
        "Within how long after its window's end so many percent of the slots of 7 days were found.",
        ("meter", "percentile"),
    ),
}
"""Every metric that we tell of ourselves: its kind, what it is, and its labels. A counter is written with `_total`."""


PREFIX = "aggregator_"


def written_name(name: str) -> str:
    """Return what a family's samples are called."""
    return name + "_total" if FAMILIES[name][0] is COUNTER else name


class Context(NamedTuple):
    """What only the process that does the work can tell, or whoever else listens may leave out."""

    source_up: Callable[[], Mapping[str, bool]] = dict
    """Which sources could be reached when they were last asked."""
    read_by: Callable[[str, dt.datetime], dt.datetime | None] = lambda _, ready: ready + USUALLY_READ_WITHIN
    """By when a meter should be read whose next window is ready at an instant."""
    limits: Callable[[str, str], Limits | None] = lambda _meter, _sink: None
    """What a sink can take of a meter, if it is configured."""
    part: str = "daemon"
    """What tells: the daemon, or the page alone, of whose host nothing is read or sent."""


class Answers(NamedTuple):
    """What the ledger last said to each question."""

    progress: Answer[Progress]
    waiting: Answer[list[WaitingFigures]]
    usage: Answer[UsageFigures]


def usage_of(ledger: Ledger, config: Config) -> UsageFigures:
    """Return what the usage itself shows by now."""
    now = ledger.instant()
    old_before = closed_before(now, config.ledger.keep) if config.ledger.keep is not None else None
    return ledger.figures.usage(now - LATENESS_WITHIN, stands_of(config), now - GAPS_WITHIN, old_before)


def stands_of(config: Config) -> dict[str, dt.timedelta]:
    """Return of each meter that is sampled for how long a sample stands if no other follows."""
    sampled = (meter for meter in config.meters.values() if meter.read in ("counters", "gauges"))
    return {meter.name: STANDS * period(meter.every, meter.window) for meter in sampled}


def answers_now(ledger: Ledger, config: Config) -> Answers:
    """Ask everything once, and wait for it, however long it takes. Raises what the ledger raises."""
    progress, waiting, usage = ledger.figures.progress(), ledger.figures.waiting(), usage_of(ledger, config)
    return Answers(Answer(progress, 0, None), Answer(waiting, 0, None), Answer(usage, 0, None))


class Figures:
    """The questions to one ledger, each asked by one thread at a time."""

    def __init__(self, ledger: Ledger, config: Config, elapsed: Callable[[], float] = monotonic) -> None:
        self.ledger = ledger
        self._progress = Latest(ledger.figures.progress, elapsed)
        self._waiting = Latest(ledger.figures.waiting, elapsed)
        self._usage = Latest(lambda: usage_of(ledger, config), elapsed)

    def answers(self) -> Answers:
        """Return the latest answers. All questions are asked at once, so the slowest one decides how long it takes."""
        for each in (self._progress, self._waiting, self._usage):
            each.begin()
        return Answers(self._progress.get(), self._waiting.get(), self._usage.get())


class LedgerCollector(Collector):
    """A collector for prometheus-client: whoever has a registry of their own can register it there."""

    def __init__(self, config: Config, figures: Figures, context: Context | None = None) -> None:
        self._config = config
        self._figures = figures
        self._context = context or Context()
        self._kept = RowCaches()

    def collect(self) -> Iterator[Metric]:
        """Yield every family of `FAMILIES`, in that order, those without a sample left out."""
        answers = self._figures.answers()
        ledger = self._figures.ledger
        page = Page(self._config, self._context, ledger.instant(), self._kept)
        page.add_process(answers, apart=ledger.clocks_differ())
        if answers.progress.value is not None:
            page.add_progress(answers.progress.value)
        if answers.waiting.value is not None:
            feeds = answers.progress.value.feeds if answers.progress.value else ()
            page.add_waiting(feeds, answers.waiting.value)
        if answers.usage.value is not None:
            page.add_usage(answers.usage.value.unmapped, answers.usage.value.lateness)
            page.add_kinds_of_reading(answers.usage.value)
            page.add_coverage(answers.usage.value.coverage)
            page.add_old_months(answers.usage.value.old)
        yield from filter(None, page.families.values())


class Page:
    """One scrape, in the making. `kept` holds what was made of the same configuration before."""

    def __init__(
        self, config: Config, context: Context, now: dt.datetime, kept: RowCaches | None = None
    ) -> None:
        self._config = config
        self._context = context
        self._now = now
        self._kept = kept or RowCaches()
        self._allowed: dict[tuple[str, str, str], float | None] = {}
        self._sinks = {name: meter.sinks for name, meter in config.meters.items()}
        self.families: dict[str, Family] = {
            name: Family(name, text, "counter" if kind is COUNTER else "gauge")
            for name, (kind, text, _) in FAMILIES.items()
        }
        self._named = {name.removeprefix(PREFIX): family for name, family in self.families.items()}

    def _add(self, name: str, of: Labels, value: Decimal | float) -> None:
        self._named[name].add((of,), (value,))

    def _add_parts(self, names: Iterable[str], rows: Iterable[Parts]) -> None:
        """Add what rows come to, to the families that their parts are of."""
        for name, parts in zip(names, zip(*(row.families for row in rows), strict=True), strict=False):
            self._named[name].parts += filter(None, parts)

    def _seconds(self, since: dt.datetime | None) -> float:
        return (self._now - since).total_seconds() if since is not None else 0

    def add_process(self, answers: Answers, *, apart: bool) -> None:
        """Add whether the ledger answers, and how old what it said is; and what this process knows by itself."""
        of = labels(("version", "part"), aggregator.__version__, self._context.part)
        self._add("build_info", of, 1)
        self._add("ledger_up", NONE, answers.progress.trouble is None and answers.progress.value is not None)
        if self._context.part == "daemon":
            self._add("clocks_apart", NONE, apart)
        progress, waiting, usage = answers
        ages = {
            "progress": progress.age_seconds,
            "waiting": waiting.age_seconds,
            "unmapped": usage.age_seconds,
        }
        for figures, age in ages.items():
            if age is not None:
                self._add("figures_age_seconds", labels(("figures",), figures), age)
        for source, up in sorted(self._context.source_up().items()):
            self._add("source_up", labels(("source",), source), up)

    def add_progress(self, progress: Progress) -> None:
        """Add what was done, and how meters, feeds and sinks stand, as far as they are configured."""
        self._add("ledger_stopped", NONE, progress.stopped)
        for sink in progress.sinks:
            if sink.sink in self._config.sinks:
                self._add("sink_halted", labels(SINK, sink.sink), sink.halted_at is not None)
        self._add_parts(("feed_stopped", "attempts"), self._kept.feeds.made(progress.feeds, self._of_feed))
        self._add_meters(progress)
        self._add_passes(progress)

    def _add_meters(self, progress: Progress) -> None:
        """Add how each meter is read, family by family."""
        named, seconds, sinks = self._named, self._seconds, self._sinks
        rows = [row for row in progress.meters if row.meter in self._config.meters]
        made = self._kept.meters.made(rows, self._of_meter)
        self._add_parts(OF_METER, made)
        of = [labels(METER, row.meter) for row in rows]
        named["mark_age_seconds"].add(of, [seconds(each.mark) for each in rows])
        named["mark_overdue_seconds"].add(of, [max(0.0, seconds(each.due)) for each in made])
        for name, since in (
            ("last_pass_age_seconds", [each.last_pass_at for each in rows]),
            ("barrier_waiting_seconds", [each.waits_since for each in rows]),
            ("silent_seconds", [each.silent_since for each in rows]),
        ):
            known = [(each, at) for each, at in zip(of, since, strict=True) if at is not None]
            named[name].add([each for each, _ in known], [seconds(at) for _, at in known])
        for each in rows:
            for sink in sinks[each.meter]:
                self._add_cliff("until_too_old_seconds", each.meter, sink, each.mark, "unread")

    def _of_feed(self, row: FeedFigures) -> Parts:
        return of_feed(row, configured=self._is_configured(row.meter, row.sink))

    def _of_meter(self, row: MeterFigures) -> Parts:
        meter = self._config.meters[row.meter]
        return of_meter(row, self._context.read_by(row.meter, row.mark + meter.window + meter.delay))

    def _add_passes(self, progress: Progress) -> None:
        self._add_parts(("passes", "pass_seconds"), self._kept.passes.made(progress.passes, of_pass))
        totals: dict[str, tuple[int, int]] = {}
        for row in progress.passes:
            rows, planned = totals.get(row.meter, (0, 0))
            totals[row.meter] = rows + row.rows, planned + row.planned
        by_meter = [(meter, *those) for meter, those in totals.items()]
        self._add_parts(("rows_read", "events_planned"), self._kept.totals.made(by_meter, of_total))

    def add_waiting(self, feeds: Iterable[FeedFigures], waiting: Iterable[WaitingFigures]) -> None:
        """Add what waits, and until when it must be gone; zeros where nothing does."""
        found: dict[tuple[str, str], dict[str, WaitingFigures]] = {
            (feed.meter, feed.sink): {} for feed in feeds
        }
        oldest = self._named["oldest_event_seconds"]
        for row in waiting:
            found.setdefault((row.meter, row.sink), {})[row.state] = row
            of = labels(BY_STATE, row.meter, row.sink, row.state)
            oldest.add((of,), (self._seconds(row.oldest_at),))
            self._add_cliff("until_too_old_seconds", row.meter, row.sink, row.first_use_at, row.state)
        for (meter, sink), rows in found.items():
            sent = [rows[state].first_sent_at for state in ("due", "sending") if state in rows]
            if since := min(filter(None, sent), default=None):
                self._add_cliff("until_in_doubt_seconds", meter, sink, since)
        in_order = [
            (*where, tuple(map(rows.get, WAITING_STATES)) if rows else NOTHING)
            for where, rows in found.items()
        ]
        self._add_parts(("events", "units"), self._kept.waiting.made(in_order, of_waiting))

    def add_usage(
        self, unmapped: Iterable[UnmappedFigures], lateness: Mapping[str, Mapping[int, int]]
    ) -> None:
        """Add what can be billed to nobody, and how late usage comes."""
        found = {(row.meter, row.kind): row for row in unmapped}
        rows = [
            (meter, tuple(found.get((meter, kind)) for kind in UNMAPPED)) for meter in self._config.meters
        ]
        self._add_parts(("unmapped_rows", "unmapped_units"), self._kept.unmapped.made(rows, of_unmapped))
        late = [(meter, lateness[meter]) for meter in self._config.meters if meter in lateness]
        self._add_parts(("lateness_seconds",), self._kept.late.made(late, of_lateness))

    def add_kinds_of_reading(self, usage: UsageFigures) -> None:
        """Add what waits for a customer's id, what recounts found, and where samples are missing."""
        config, named = self._config.meters, self._named
        waits = {row.meter: row for row in usage.without_id}
        for meter in (meter for meter in config.values() if meter.customers is not None):
            row, of = waits.get(meter.name), labels(METER, meter.name)
            named["without_id_units"].add((of,), (row.units if row else 0,))
            named["without_id_age_seconds"].add((of,), (self._seconds(row.first_window) if row else 0,))
            for sink in meter.sinks if row else ():
                assert row is not None
                self._add_cliff("until_too_old_seconds", meter.name, sink, row.first_window, "without_id")
        for found in (row for row in usage.recounts if row.meter in config):
            every = labels_for_each(("meter", "found"), ("missed", "taken_back"), found.meter)
            named["recount_units"].add(every, (found.missed, found.taken_back))
            if found.differed_at is not None:
                self._add(
                    "recount_differed_age_seconds",
                    labels(METER, found.meter),
                    self._seconds(found.differed_at),
                )
        for asked in (row for row in usage.touched if row.meter in config):
            of = labels(METER, asked.meter)
            self._add("changed_missed_windows", of, asked.missed)
            if asked.missed_at is not None:
                self._add("changed_missed_age_seconds", of, self._seconds(asked.missed_at))
        stands = stands_of(self._config)
        for sampled in (row for row in usage.samples if row.meter in stands):
            of, age = labels(METER, sampled.meter), self._seconds(sampled.sampled_at)
            self._add("sample_age_seconds", of, age)
            self._add("sample_overdue_seconds", of, max(0.0, age - stands[sampled.meter].total_seconds()))
            self._add("sample_gap_seconds", of, sampled.missing.total_seconds())

    def add_coverage(self, coverage: Iterable[Coverage]) -> None:
        """Add how much of what each sink accepted was compared with its own totals, and what differs."""
        for row in coverage:
            of = labels(SINK, row.sink)
            self._add("checked_events", of, row.checked)
            self._add("unchecked_events", of, row.unchecked)
            self._add("unchecked_age_seconds", of, self._seconds(row.oldest))
            self._add("drift_places", of, row.places)
            for side, units in (("lacks", row.lacks), ("beyond", row.beyond)):
                self._add("drift_units", labels(("sink", "side"), row.sink, side), units)

    def add_old_months(self, old: Iterable[Old]) -> None:
        """Add how many months are to be archived and are still here, if months are archived at all."""
        if self._config.ledger.keep is None:
            return
        months = {row.meter: row.months for row in old}
        for meter in self._config.meters:
            self._add("old_months", labels(METER, meter), months.get(meter, 0))

    def _add_cliff(self, name: str, meter: str, sink: str, since: dt.datetime, state: str = "") -> None:
        """Add how long is left of what the sink allows since an instant, if it sets a limit."""
        if (meter, sink, name) not in self._allowed:
            self._allowed[meter, sink, name] = self._allows(name, meter, sink)
        allowed = self._allowed[meter, sink, name]
        if allowed is not None:
            of = labels(BY_STATE, meter, sink, state) if state else labels(FEED, meter, sink)
            self._add(name, of, allowed - self._seconds(since))

    def _allows(self, name: str, meter: str, sink: str) -> float | None:
        """Return for how many seconds a sink takes what is old, or remembers it; None where it sets no limit."""
        limits = self._context.limits(meter, sink) if self._is_configured(meter, sink) else None
        if limits is None:
            return None
        if name == "until_too_old_seconds":
            allowed = limits.past
        elif isinstance(self._config.sinks[sink], FileSink):
            return None  # a file is written again, whenever
        else:
            allowed = limits.memory
        return allowed.total_seconds() if allowed < NO_CLIFF else None

    def _is_configured(self, meter: str, sink: str) -> bool:
        return sink in self._sinks.get(meter, ())
