"""What a change of the configuration would do: in words, in figures, as Markdown and as a plan that can be told stale."""

import datetime as dt
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aggregator.cli import cli
from aggregator.cli.exit_codes import ExitCode
from aggregator.config import Config
from aggregator.config.changes import blocks_of
from aggregator.config.customers import CustomerMapping
from aggregator.config.file_sinks import CsvSink, DirectorySink, S3Sink
from aggregator.config.models import Source as ConfiguredSource
from aggregator.config.models import StripeSink
from aggregator.config.sinks import MetronomeSink
from aggregator.core.model import EPOCH, Definition, Reading, Span
from aggregator.errors import SourceError, UsageError
from aggregator.ledger.cutovers import KnownCutover
from aggregator.plan import document, markdown
from aggregator.plan.changes import Change, Kind, Known, meter_changes
from aggregator.plan.cutovers import cutover_notes
from aggregator.plan.document import Basis, InForce, Plan, UnusablePlan, differences
from aggregator.plan.meaning import MEANINGS
from aggregator.plan.reading import ByCursor, HowRead, MeterFigures, read_both
from aggregator.plan.usage import TooMany, Usage, compared
from aggregator.source import Source

HOUR = dt.timedelta(hours=1)
DAY = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
SPAN = Span(DAY, DAY + 24 * HOUR)
NEXT = DAY + 30 * HOUR

FILES = '[{"sink": "files", "shadow": false}]'
REQUESTS = {"query": "select 1", "window": "1h", "delay": "5m", "sinks": FILES, "source": "app"}


def changes(new: dict[str, Any], **known: Any) -> list[str]:
    """Say in what a configuration differs from one with `requests` alone, and from when on each difference holds."""
    found = meter_changes({"requests": REQUESTS}, new, Known(**known))
    return [f"{each.kind} {each.name} {each.text}; {each.holds}" for each in found]


# In words


def test_each_kind_of_change_has_its_words() -> None:
    """What decides numbers holds from a window on, the rest at once; a block is told key by key."""
    sinks = '[{"sink": "stripe", "bill_from": "2026-12-01T00:00Z", "shadow": true}]'
    guards = '{"max_change": "10", "unusual_zero": false}'
    new = REQUESTS | {"query": "select 2", "window": "1d", "delay": "1m", "sinks": sinks, "guards": guards}
    said = changes(
        {"requests": new}, begins={"requests": NEXT}, fed_from={("requests", "stripe"): DAY + 48 * HOUR}
    )
    assert said == [
        "query requests another query; from the window 2026-11-03 06:00 UTC on",
        "definition requests window 1d (was 1h); from the window 2026-11-03 06:00 UTC on",
        "sinks requests sink files is taken off: what waits for it is not sent any more; at once",
        "sinks requests sink stripe is added (bill_from 2026-12-01T00:00Z, shadow); from the window 2026-11-04 00:00 UTC on",
        "guards requests guards.max_change 10 (was left out); at once",
        "guards requests guards.unusual_zero false (was left out); at once",
        "setting requests delay 1m (was 5m); at once",
    ]


def test_terms_of_a_sink_that_stays_are_a_change_of_it() -> None:
    """From what they were to what they are."""
    sinks = '[{"sink": "files", "bill_until": "2026-12-01T00:00Z", "shadow": false}]'
    assert changes({"requests": REQUESTS | {"sinks": sinks}}) == [
        "sinks requests sink files on other terms: bill_until 2026-12-01T00:00Z (was none); at once"
    ]


def test_a_meter_comes_goes_or_gets_another_name() -> None:
    """One that is renamed is compared with what it was; one that the ledger has from before goes on where it was."""
    seats = REQUESTS | {"start_at": "2026-12-01T00:00Z"}
    assert changes(
        {"calls": REQUESTS | {"delay": "1m", "renamed_from": "requests"}}, renamed={"requests": "calls"}
    ) == [
        "renamed calls is called calls now, and was requests: mark, corrections and identifiers stay; at once",
        "setting calls delay 1m (was 5m); at once",
    ]
    assert changes({"seats": seats}, marks={"requests": DAY}) == [
        "removed requests is taken away, and nobody reads it again; it was read up to 2026-11-02 00:00 UTC; at once",
        "new seats is a new meter: source app, windows of 1h, for files; from the window 2026-12-01 00:00 UTC on",
    ]
    [again] = changes({"requests": REQUESTS, "seats": seats}, marks={"seats": DAY}, begins={"seats": NEXT})
    assert again == (
        "new seats is configured again, and goes on where it was, at 2026-11-02 00:00 UTC, for files; "
        "from the window 2026-11-03 06:00 UTC on"
    )


def test_nothing_is_said_of_what_stays() -> None:
    """Unless the ledger itself has another definition than was configured."""
    assert changes({"requests": REQUESTS}) == []
    [said] = changes({"requests": REQUESTS}, redefined=frozenset({"requests"}))
    assert said == (
        "definition requests the ledger has another definition than was configured; "
        "from the first window that is not read yet"
    )


# Within a block

KINDS = {
    "source": (ConfiguredSource,),
    "sink": (StripeSink, MetronomeSink, CsvSink, DirectorySink, S3Sink),
    "mapping": (CustomerMapping,),
}


@pytest.mark.parametrize("what", KINDS)
def test_each_key_says_what_another_value_of_it_means(what: str) -> None:
    """No key is forgotten, and none is there that no block has."""
    keys = {
        field.alias or name
        for model in KINDS[what]
        for name, field in model.model_fields.items()
        if name != "reports"
    }
    beside = {"source": {"url.kind", "url.host", "url.database"}, "sink": {"reports.poll"}}
    assert keys | beside.get(what, set()) == MEANINGS[what].keys()
    assert all(MEANINGS[what].values())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:Kanari@h:5433/app?sslmode=require", ("postgresql", "h:5433", "app")),
        ("postgresql://u:Kana/ri?x#y@h/app", ("postgresql", "h", "app")),
        ("postgresql://Kanari@h1:1,h2:2/app", ("postgresql", "h1:1,h2:2", "app")),
        ("postgresql:///app?host=/run/pg&password=Kanari", ("postgresql", "/run/pg", "app")),
        ("mysql+pymysql://u:Kanari@h/app", ("mysql+pymysql", "h", "app")),
        ("sqlite:////var/lib/Kanari/app.db", ("sqlite", None, "app.db")),
        ("duckdb:///:memory:", ("duckdb", None, ":memory:")),
    ],
)
def test_of_a_url_only_the_database_is_kept(url: str, said: tuple[str | None, ...]) -> None:
    """Never who is let in by it, however a password is written. More than one @ the configuration refuses."""
    source = ConfiguredSource.model_validate({"url": url})
    kept = blocks_of(Config.model_construct(sources={"app": source}, sinks={}, customers={}))["source app"]
    assert tuple(kept.get(f"url.{key}") for key in ("kind", "host", "database")) == said
    for part in ("Kan", "ari", "a/ri", "a?ri"):
        assert part not in json.dumps(kept)


# Beside cutovers

MOVES = KnownCutover("old", "new", "cus_a", NEXT, False, ["requests"], DAY, "ada", None, False)


@pytest.mark.parametrize(
    ("change", "passed", "said"),
    [
        (Change("meter", "requests", Kind.RENAMED, ""), False, ["holds under the new name"]),
        (Change("meter", "requests", Kind.REMOVED, ""), True, ["nothing more of it is sent to either sink"]),
        (Change("meter", "requests", Kind.SINKS, "", sink="new"), True, ["is billed by nobody: withdraw it"]),
        (Change("meter", "requests", Kind.SINKS, "", sink="old"), False, ["up to then is billed by nobody"]),
        (
            Change("meter", "requests", Kind.SINKS, "", sink="old"),
            True,
            ["corrections of windows before that"],
        ),
        (
            Change("meter", "requests", Kind.SINKS, "", sink="old", new="shadow"),
            False,
            ["leave that as it is"],
        ),
        (Change("meter", "requests", Kind.SINKS, "", sink="third"), False, []),
        (
            Change("meter", "requests", Kind.DEFINITION, "", "window", "1h", "1d"),
            False,
            ["No window of 1d begins then"],
        ),
        (Change("meter", "requests", Kind.DEFINITION, "", "window", "1h", "30m"), False, []),
        (Change("meter", "requests", Kind.DEFINITION, "", "window", "1h", "1d"), True, []),
        (Change("meter", "other", Kind.REMOVED, ""), False, []),
        (Change("sink", "requests", Kind.REMOVED, ""), False, []),
    ],
)
def test_how_a_cutover_stands_with_a_change_is_said(change: Change, passed: bool, said: list[str]) -> None:
    """Of a meter whose name, windows or sinks change, by the name that it will have; nothing of any other change."""
    found = list(cutover_notes([MOVES._replace(passed=passed)], [change], {}))
    assert [part in each for each, part in zip(found, said, strict=True)] == [True] * len(said)
    was = [MOVES._replace(passed=passed, meters=["formerly"])]
    assert list(cutover_notes(was, [change], {"formerly": "requests"})) == found
    assert all("at 2026-11-03T06:00Z (`aggregator cutover list`)" in each for each in found)


# In figures


def reading(customer: str | None, quantity: str | None, hour: int = 0, reason: str | None = None) -> Reading:
    """One row of the range."""
    amount = None if quantity is None else Decimal(quantity)
    return Reading(DAY + hour * HOUR, customer, amount, None, reason)


def used(*readings: Reading, unit: str = "1", **how: Any) -> Usage:
    """What rows come to."""
    usage = Usage(Decimal(unit), **how)
    usage.add(readings)
    return usage


def test_what_is_billed_is_the_floor_of_what_a_customer_used() -> None:
    """Of the sum over the range, and not of each row; exact, however many digits."""
    rows = [
        reading("a", "0.6"),
        reading("a", "0.6", 1),
        reading("b", "0.9"),
        reading("c", "1" + "0" * 40 + ".75"),
    ]
    found = used(*rows)
    assert found.billed() == {"a": 1, "b": 0, "c": Decimal("1" + "0" * 40)}
    assert compared(found, None, 0).before.billed == Decimal("1" + "0" * 39 + "1")  # type: ignore[union-attr]
    assert used(*rows, unit="0.1").billed()["a"] == Decimal("1.2")


def test_the_last_number_is_that_of_the_newest_window() -> None:
    """In whatever order the rows come; several of one window are added up."""
    rows = [reading("a", "5", 3), reading("a", "9", 1), reading("a", "2", 3)]
    assert used(*rows, latest=True).billed() == {"a": 7}
    assert used(*reversed(rows), latest=True).billed() == {"a": 7}


def test_rows_that_nobody_can_be_billed_for_are_counted_apart() -> None:
    """With what they come to, as far as they have a number."""
    found = used(
        reading(None, "3", reason="no customer"), reading("a", None, reason="no number"), reading("b", "1")
    )
    assert (found.rows, found.unmapped_rows, found.unmapped_quantity) == (3, 2, 3)
    assert found.billed() == {"b": 1}


def test_customers_who_move_most_come_first() -> None:
    """By the absolute difference, then by name; who comes and who goes is counted, and nobody whose bill stays."""
    before = used(
        reading("a", "10"),
        reading("b", "10"),
        reading("gone", "3"),
        reading("same", "4"),
        reading("zero", "0.5"),
    )
    after = used(reading("a", "15"), reading("b", "5"), reading("new", "100"), reading("same", "4.0"))
    found = compared(before, after, 3)
    assert [(each.customer, each.difference) for each in found.movers] == [("new", 100), ("a", 5), ("b", -5)]
    assert (found.differing, found.new, found.gone, found.difference) == (4, 1, 1, 97)
    assert compared(before, before, 3)[2:6] == (0, 0, 0, ())


def test_the_same_usage_has_the_same_digest() -> None:
    """Whatever the order and the zeros; any other figure, or another row without a customer, has another one."""
    one = used(reading("a", "1.50"), reading("b", "2"), unit="0.01")
    digest = compared(one, None, 0).digest
    assert compared(used(reading("b", "2.00"), reading("a", "1.5"), unit="0.01"), None, 5).digest == digest
    for other in (
        used(reading("a", "1.51"), reading("b", "2"), unit="0.01"),
        used(reading("a", "1.5"), reading("b", "2"), reading(None, "1", reason="no customer"), unit="0.01"),
    ):
        assert compared(other, None, 0).digest != digest
    assert compared(None, one, 0).digest != digest


def test_customers_are_bounded() -> None:
    """Memory is."""
    with pytest.raises(TooMany):
        used(reading("a", "1"), reading("a", "1"), reading("b", "1"), most=1)


# A source


def how(query: str = "", **other: Any) -> HowRead:
    """How a meter is read from a SQLite database."""
    text = query or "select customer, quantity, at as window from used where at >= :start and at < :end"
    settings: dict[str, Any] = {
        "source": "app",
        "query": text,
        "window": HOUR,
        "dimensions": (),
        "customers": None,
    }
    settings |= {"unit": Decimal(1), "latest": False, "read": "windows", "sinks": ("files",)}
    return HowRead(**settings | other)


@pytest.fixture
def app(tmp_path: Path) -> Source:
    """A database with usage of two customers on one day."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("create table used (customer text, quantity int, status int, at text)")
        rows = [("a", 3, 200, f"{DAY:%Y-%m-%d} 01:00:00"), ("b", 4, 500, f"{DAY:%Y-%m-%d} 02:00:00")]
        connection.executemany("insert into used values (?, ?, ?, ?)", rows)
    return Source("app", f"sqlite:///{tmp_path}/app.db", statement_timeout=dt.timedelta(minutes=1))


def read(app: Source, old: HowRead | None, new: HowRead | None, span: Span = SPAN) -> MeterFigures:
    """Read a range both ways; there are no mappings."""
    return read_both("requests", old, new, span, {"app": app}, lambda _, batch: batch, 5)


def test_a_range_is_read_by_both_definitions(app: Source) -> None:
    """Each in its own windows; what is not there, or will not be, comes to nothing."""
    paid = how(
        "select customer, quantity, at as window from used where at >= :start and at < :end and status < 500"
    )
    found = read(app, how(), paid._replace(window=24 * HOUR))
    assert found.comparison is not None
    assert (found.comparison.before.billed, found.comparison.after.billed) == (7, 3)  # type: ignore[union-attr]
    assert [each.customer for each in found.comparison.movers] == ["b"]
    assert found.notes == []
    begun, ended = read(app, None, paid).comparison, read(app, paid, None).comparison
    assert begun is not None
    assert ended is not None
    assert (begun.before, begun.new, ended.after, ended.gone) == (None, 1, None, 1)


def test_a_definition_that_fails_is_said_and_the_other_one_is_shown(app: Source) -> None:
    """Only where the new one fails, the plan does."""
    broken = how("select nothing as customer, 1 as quantity from used where at >= :start and at < :end")
    for old, new, failed in ((broken, how(), False), (how(), broken, True)):
        found = read(app, old, new)
        assert found.failed is failed
        assert "nothing" in found.notes[0]
    shown = read(app, broken, how()).comparison
    assert shown is not None
    assert (shown.before, shown.after.billed, shown.new, shown.movers) == (None, 7, 0, ())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "span", "why"),
    [
        (how(read="gauges"), SPAN, "tells nothing of the past"),
        (
            how(source="former"),
            SPAN,
            "source former, from which it is read by what holds now, is no longer configured",
        ),
        (how(), Span(DAY + HOUR / 2, DAY + HOUR), "2026-11-02T00:30Z is no boundary of its windows"),
    ],
)
def test_what_cannot_be_read_again_has_no_figures(app: Source, old: HowRead, span: Span, why: str) -> None:
    """And that is said, rather than anything guessed; it is no failure."""
    found = read(app, old, how(), span)
    assert found.comparison is None
    assert not found.failed
    assert why in " ".join(found.notes)


# By a cursor


BY_CURSOR = (
    "select customer, quantity, at, rowid as cursor from used where rowid > :after and rowid <= :upto{more}"
)
RECOUNT = (
    "select customer, 10 * quantity as quantity, at as window from used where at >= :start and at < :end "
    "and rowid <= :upto"
)


def counted(after: int = 0, recount: str | None = None, more: str = "") -> HowRead:
    """How a meter is read by a cursor."""
    query = BY_CURSOR.format(more=more)
    return how(query, read="deltas", by_cursor=ByCursor(after, recount))


def totals(found: MeterFigures) -> tuple[Decimal | None, Decimal | None]:
    """What a range comes to before and after."""
    assert found.comparison is not None, found.notes
    before, after = found.comparison.before, found.comparison.after
    return before and before.billed, after and after.billed


def test_what_is_read_by_a_cursor_is_counted_anew_over_the_range(app: Source, tmp_path: Path) -> None:
    """By all its rows behind the first cursor, in the windows that they lie in; nothing of another day."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        connection.execute("insert into used values ('b', 100, 200, ?)", [f"{DAY - HOUR:%Y-%m-%d} 23:00:00"])
    assert totals(read(app, counted(), counted(more=" and status < 500"))) == (7, 3)
    assert totals(read(app, counted(), counted(after=1))) == (7, 4)
    assert totals(read(app, None, counted())) == (None, 7)


def test_a_recount_is_asked_for_the_range_alone(app: Source) -> None:
    """It is what windows come to in the end; another query beside the same recount changes nothing, and that is said."""
    found = read(app, counted(), counted(recount=RECOUNT))
    assert (totals(found), found.notes) == ((7, 70), [])
    alike = read(app, counted(recount=RECOUNT), counted(recount=RECOUNT, more=" and status < 500"))
    assert totals(alike) == (70, 70)
    assert "beside the same `recount_query`" in alike.notes[0]


def test_rows_that_are_looked_through_are_bounded(app: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may be large, and nobody has asked for its range alone; it is no failure of the plan."""
    monkeypatch.setattr("aggregator.plan.reading.MOST_ROWS", 1)
    found = read(app, counted(recount=RECOUNT), counted())
    assert found.comparison is not None
    assert (found.comparison.before.billed, found.comparison.after) == (70, None)  # type: ignore[union-attr]
    assert (found.comparison.difference, found.failed) == (None, False)
    assert "no `recount_query`" in found.notes[0]


def test_more_customers_than_are_compared_are_no_failure(
    app: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and nothing of the meter is shown."""
    monkeypatch.setattr(Usage, "add", lambda *_: raise_too_many())
    found = read(app, how(), how(sinks=("stripe",)))
    assert (found.comparison, found.failed) == (None, False)
    assert found.notes == ["it has more customers than are compared"]


def raise_too_many() -> None:
    """There are too many customers."""
    raise TooMany


def test_another_database_under_the_same_name_is_read_alone(app: Source) -> None:
    """What holds now was in the one before, which nobody can ask."""
    found = read(app, how(place="one at a"), how(place="two at b"))
    assert found.comparison is not None
    assert (found.comparison.before, found.comparison.difference, found.failed) == (None, None, False)
    assert "read from one at a" in found.notes[0]
    assert totals(read(app, how(place=""), how(place="two at b"))) == (7, 7), "nobody knows"


# From samples

RESTART = "-- read: counters, resets: restart, first_value: nothing\nselect 1"


class Kept:
    """Samples, and what a range comes to by each definition."""

    def __init__(self, *since: tuple[dt.datetime, str], first: dt.datetime | None = DAY) -> None:
        self.definitions = [Definition(at, "", query, HOUR) for at, query in since]
        self._first = first

    def first(self) -> dt.datetime | None:
        """When there was one first."""
        return self._first

    def read(self, definition: str, span: Span, window: dt.timedelta) -> Iterator[list[Reading]]:
        """What they come to: the length of the definition's first line. None are kept of the day before."""
        assert window == HOUR
        if span.start < DAY:
            raise SourceError("samples of that time are not kept any more")
        yield [reading("a", str(len(definition.partition("\n")[0])))]


def sampled(kept: Kept | None, old: str | None, new: str | None, span: Span = SPAN) -> MeterFigures:
    """Count a range from samples."""
    old_how, new_how = (
        None if text is None else how(text, read=text.split()[2].rstrip(",")) for text in (old, new)
    )
    return read_both("m", old_how, new_how, span, {}, lambda _, batch: batch, 5, kept)


def test_samples_come_to_what_either_definition_makes_of_them() -> None:
    """Its source is not asked: it tells nothing of the past. A meter that goes comes to nothing."""
    ignore = RESTART.replace("restart", "ignore")
    kept = Kept((EPOCH, RESTART))
    assert totals(sampled(kept, RESTART, ignore)) == (56, 55)
    assert sampled(kept, RESTART, ignore).notes == []
    assert totals(sampled(kept, RESTART, None)) == (56, None)


def test_samples_of_a_gauge_stand_for_as_long_as_they_were_taken_for() -> None:
    """Were they taken to come more often, there would have been more of them; that is said."""
    often = "-- read: gauges, sample: last, missing: hold, every: 60s\nselect 1"
    seldom = often.replace("60s", "900s")
    found = sampled(Kept((EPOCH, seldom)), seldom, often)
    assert totals(found) == (len(seldom.partition("\n")[0]),) * 2
    assert "its samples were taken every 15m" in found.notes[0]


@pytest.mark.parametrize(
    ("kept", "why", "shown"),
    [
        (None, "no sample of it was taken yet", False),
        (Kept((EPOCH, RESTART), first=None), "no sample of it was taken yet", False),
        (Kept((EPOCH, RESTART), first=DAY + 30 * HOUR), "nothing is known of the range", False),
        (Kept((EPOCH, RESTART), first=DAY + HOUR), "its first sample is of 2026-11-02T01:00Z", True),
        (Kept((EPOCH, RESTART.replace("1", "2")), (DAY + HOUR, RESTART)), "taken by several queries", True),
        (
            Kept((EPOCH, RESTART), (DAY + 30 * HOUR, RESTART.replace("1", "2"))),
            "",
            True,
        ),
    ],
)
def test_what_no_sample_shows_is_said(kept: Kept | None, why: str, shown: bool) -> None:
    """In a sentence, and it is no failure."""
    found = sampled(kept, RESTART, RESTART)
    assert why in " ".join(found.notes)
    assert ((found.comparison is not None), found.failed) == (shown, False)


def test_what_another_query_would_have_sampled_nobody_knows() -> None:
    """Only what holds now is shown, without a difference; in all three forms."""
    found = sampled(Kept((EPOCH, RESTART)), RESTART, RESTART + " + 1")
    assert found.comparison is not None
    assert (found.comparison.after, found.comparison.difference, found.comparison.movers) == (None, None, ())
    [note] = found.notes
    assert "another query than that of the new definition" in note
    made = plan(figures=[found])
    assert note in json.loads(written(made))["meters"][0]["notes"]
    assert json.loads(written(made))["meters"][0]["figures"]["difference"] is None
    assert note in markdown.markdown(made)
    assert "| 56 | - | - |" in markdown.markdown(made)


def test_samples_that_are_kept_no_more_have_no_figures() -> None:
    """With the error's words; it is no failure of a new definition."""
    found = sampled(Kept((EPOCH, RESTART)), RESTART, RESTART, Span(DAY - 24 * HOUR, DAY + HOUR))
    assert (found.comparison, found.failed) == (None, False)
    assert "not kept any more" in found.notes[-1]


# As a document


def plan(*, changed: list[Change] | None = None, figures: list[MeterFigures] | None = None) -> Plan:
    """A plan against a ledger."""
    basis = Basis(
        {"meter requests": "1", "sink files": "2"},
        InForce("ledger", 0, {"the definitions of meter requests": "3"}),
        {"requests": "4"},
    )
    return Plan(DAY, "ledger x", SPAN, changed or [], figures or [], [], basis)


def written(made: Plan) -> str:
    """The plan as it stands in a file."""
    return json.dumps(document.as_json(made), default=str)


def test_a_plan_that_was_written_is_read_again() -> None:
    """All that `apply` goes by."""
    found = document.from_json(written(plan()))
    assert (found.made_at, found.span, found.basis) == (DAY, SPAN, plan().basis)
    assert list(differences(found.basis, plan().basis)) == []


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda text: text[:-3], "is no JSON"),
        (lambda text: "[]", "is no plan of version 1"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "is no plan of version 1"),
        (lambda text: text.replace('"generation": 0', '"generation": "x"'), "somebody has cut or changed"),
        (lambda text: text.replace('"made_of"', '"made"'), "somebody has cut or changed"),
    ],
)
def test_what_is_no_plan_is_refused(spoil: Callable[[str], str], why: str) -> None:
    """With what it is instead."""
    with pytest.raises(UnusablePlan, match=why):
        document.from_json(spoil(written(plan())))


def test_what_has_changed_since_is_named() -> None:
    """Thing by thing: of the configuration, of the ledger, and of what the source says where that was asked again."""
    planned = plan().basis
    assert planned.ledger is not None
    now = Basis(
        {"meter requests": "other", "meter seats": "1"},
        planned.ledger._replace(things={"the definitions of meter requests": "other"}),
        {"requests": "other"},
    )
    assert list(differences(planned, now)) == [
        "meter requests in the configuration",
        "meter seats in the configuration, which is new",
        "sink files in the configuration, which is gone",
        "the definitions of meter requests in the ledger",
        "what the source says of meter requests over the range",
    ]
    assert list(differences(planned, planned._replace(read={}))) == []
    for ledger, said in (
        (planned.ledger._replace(ledger_id="y"), "the ledger: the plan is for ledger, and this is y"),
        (planned.ledger._replace(generation=7), "the ledger's generation: it was adopted meanwhile"),
    ):
        assert list(differences(planned, planned._replace(ledger=ledger))) == [said]


# As Markdown

HOSTILE = "x`|<img src=y>\n@everyone **b**"


def hostile() -> Plan:
    """A plan in which names, customers, settings and queries hold whatever they like."""
    comparison = compared(used(reading(HOSTILE, "1")), used(), 5)
    changed = [
        Change("meter", HOSTILE, Kind.SETTING, f"description {HOSTILE} (was left out)"),
        Change("meter", "q", Kind.QUERY, "another query", old="select 1", new="select '```'\n</details>"),
    ]
    return plan(changed=changed, figures=[MeterFigures(HOSTILE, ("a",), ("b",), comparison, [HOSTILE])])


def test_nothing_that_a_plan_names_becomes_markup() -> None:
    """No row ends early, nobody is mentioned, and no block of code is left."""
    text = markdown.markdown(hostile())
    body, _, query = text.partition("````diff\n")
    assert "+select '```'\n+</details>\n````\n" in query
    for line in body.splitlines():
        if line.startswith("|"):
            cells = [line.replace("\\|", "").count("|")]
            assert cells in ([4], [5], [10]), line
    assert "<img" not in body.replace("`` x`\\|<img src=y> @everyone **b** ``", "")
    assert "@everyone" not in body.replace("`` x`\\|<img src=y> @everyone **b** ``", "")


def test_a_comment_is_short_enough() -> None:
    """Details that do not fit are left out, and that is said."""
    changed = [
        Change("meter", f"m{number}", Kind.QUERY, "another query", old="select 1", new="x\n" * 10_000)
        for number in range(3)
    ]
    text = markdown.markdown(plan(changed=changed))
    assert len(text) <= markdown.LONGEST
    assert text.rstrip().endswith(markdown.LEFT_OUT)
    assert text.count("<details>") == text.count("</details>") == 1


def test_a_plan_without_changes_is_one_line() -> None:
    """Without a table."""
    assert markdown.markdown(plan()).strip() == "### Nothing changes for usage that is billed"


# Files alone

CONFIG = """
ledger: {{url: "postgresql://user:{password}@127.0.0.1:1/ledger"}}
sources: {{app: {{url: "postgresql://reader:{password}@127.0.0.1:1/app", statement_timeout: {timeout}}}}}
sinks: {{files: {{type: csv, directory: files}}, stripe: {{type: stripe, api_key: sk_test_{password}, mode: test}}}}
meters:
  requests:
    source: app
    sinks: [{sinks}]
    window: 1h
    start_at: 2026-11-01T00:00Z
    delay: {delay}
    query: select customer, quantity from used where at >= :start and at < :end
"""


def config(
    path: Path, password: str = "Kanari1", timeout: str = "60s", sinks: str = "files", delay: str = "5m"
) -> Path:
    """Write a configuration whose addresses answer nobody."""
    path.write_text(CONFIG.format(password=password, timeout=timeout, sinks=sinks, delay=delay))
    return path


def planned(*arguments: object) -> Result:
    """Run `aggregator plan` within this process."""
    return CliRunner().invoke(cli, ["plan", *map(str, arguments)])


def test_two_files_are_compared_without_asking_anybody(tmp_path: Path) -> None:
    """Meters, sources and sinks; of a secret only that it is another one."""
    old = config(tmp_path / "old.yaml")
    new = config(tmp_path / "new.yaml", password="Kanari2", timeout="2m", sinks="files, stripe", delay="1m")
    ran = planned("--against", old, "--config", new, "--exit-code", "--json")
    assert ran.exit_code == ExitCode.WORK_LEFT, ran.output
    found = json.loads(ran.stdout)
    assert [f"{each['what']} {each['name']}: {each['text']}" for each in found["changed"]] == [
        "meter requests: sink stripe is added",
        "meter requests: delay 1m (was 5m)",
        "source app: statement_timeout 2m (was 1m)",
        "source app: url *** (was ***)",
        "sink stripe: api_key *** (was ***)",
    ]
    for form in ("--json", "--markdown"):
        assert "Kanari" not in planned("--against", old, "--config", new, form).output
    assert "Kanari" not in planned("--against", old, "--config", new).output


def test_files_that_say_the_same_change_nothing(tmp_path: Path) -> None:
    """Whatever they look like; `--exit-code` tells the two cases apart, and without it both are well."""
    old = config(tmp_path / "old.yaml")
    new = config(tmp_path / "new.yaml", delay="300s")
    assert planned("--against", old, "--config", new, "--exit-code").exit_code == ExitCode.DONE
    changed = config(tmp_path / "new.yaml", delay="1m")
    assert planned("--against", old, "--config", changed).exit_code == ExitCode.DONE


@pytest.mark.parametrize("option", [["--out", "plan.json"], ["--from", "2026-11-01"], ["--to", "2026-11-01"]])
def test_files_alone_are_no_plan_to_apply(tmp_path: Path, option: list[str]) -> None:
    """Nor is any range read."""
    file = config(tmp_path / "aggregator.yaml")
    ran = planned("--against", file, "--config", file, *option)
    assert isinstance(ran.exception, UsageError)
