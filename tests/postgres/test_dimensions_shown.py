"""Usage that dimensions keep apart, as people see it: by the values of one of them, with sums that add up."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aggregator.cli.explain import explain as explain_command
from aggregator.cli.statement import statement
from aggregator.cli.usage import usage
from aggregator.collection.explanation import ExplainedSource, Question, explain
from aggregator.core import dimensions as apart_by
from aggregator.core import story
from aggregator.core.dimensions import Dimensions
from aggregator.core.explanation import Story
from aggregator.core.model import Decreases, Reading, Span
from aggregator.core.usage import By, Usage
from aggregator.errors import UsageError
from aggregator.ledger.database import Database
from aggregator.ledger.facts import Facts
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.usage import OpenWindows, UsageReport
from tests.fakes import FakeSource
from tests.postgres.configured import written
from tests.postgres.world import HOUR, METER, MINUTE, START, World

pytestmark = pytest.mark.usefixtures("says_what_changed")

Call = Callable[..., Result]

TOKENS = replace(
    METER, name="tokens", dimensions=("model", "token_type"), fingerprint="d" * 64, decreases=Decreases.HOLD
)
SINK = "type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1'"
PERIOD = ("--period", "2026-11")
DAY = Span(START, START + 24 * HOUR)

LARGE_INPUT: Dimensions = (("model", "large"), ("token_type", "input"))
TINY_INPUT: Dimensions = (("model", "tiny"), ("token_type", "input"))


@pytest.fixture
def call(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command over the ledger of this test, whose server is fast for not being durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    path = written(tmp_path, ledger_url, SINK)
    return lambda command, *arguments: CliRunner().invoke(command, [*arguments, "--config", str(path)])


@pytest.fixture
def told(database: Database) -> World:
    """Two customers and three models: something of each is billed, held, refused, due, carried or without a model."""
    world = World(database, meter=TOKENS)
    use = world.source.use
    for model, kind, quantity in (
        ("large", "input", "10.5"),
        ("large", "output", "4"),
        ("small", "input", "7"),
        ("=tiny", "input", "0.25"),
    ):
        use("cus_a", START, Decimal(quantity), model=model, token_type=kind)
    use("cus_b", START, 100, model="large", token_type="input")
    use("cus_a", START, 3, model=None, token_type="input")
    use(None, START, 2, model="small", token_type="input")
    world.at(1, 6)
    world.collect()
    world.deliver()
    use("cus_a", START + MINUTE, -3, model="small", token_type="input")
    world.at(1, 20)
    world.collect()  # held: the bill would be lowered
    world.sink.refused = {"cus_b"}
    use("cus_b", START + HOUR, 30, model="small", token_type="output")
    world.at(2, 6)
    world.collect()
    world.deliver()
    use("cus_a", START + 2 * HOUR, 6, model="large", token_type="output")
    world.at(3, 6)
    world.collect()  # due
    return world


def of_each(report: UsageReport, dimension: str, customer: str | None = None) -> dict[str | None, Usage]:
    """Return the usage of each value of a dimension."""
    [feed] = report.feeds(None, DAY)
    lines = list(report.lines(feed, DAY, dimension=dimension, customer=customer))
    assert all(line.usage.adds_up for line in lines)
    assert all(line.customer is None and line.start is None for line in lines)
    return {line.value: line.usage for line in lines}


def test_each_value_of_a_dimension_has_a_line_that_adds_up(told: World) -> None:
    """What was billed, is held, refused, under way, carried and unmapped is that of its combinations, and of no others."""
    report = UsageReport(told.database)
    found = of_each(report, "model")
    assert list(found) == ["large", "small", "=tiny", None]
    assert found["large"] == Usage(
        used=Decimal("120.5"), billed=Decimal(114), under_way=Decimal(6), carried=Decimal("0.5")
    )
    assert found["small"] == Usage(
        used=Decimal(36), billed=Decimal(7), held=Decimal(-3), refused=Decimal(30), unmapped=Decimal(2)
    )
    assert found["=tiny"] == Usage(used=Decimal("0.25"), carried=Decimal("0.25"))
    assert found[None] == Usage(used=Decimal(3), unmapped=Decimal(3))
    by_kind = of_each(report, "token_type")
    assert {value: line.used for value, line in by_kind.items()} == {
        "input": Decimal("116.75"),
        "output": Decimal(40),
        None: Decimal(3),
    }
    of_one = of_each(report, "model", "cus_b")
    assert {value: line.used for value, line in of_one.items()} == {"large": 100, "small": 30}


def test_lines_by_value_come_to_what_all_other_lines_come_to(told: World) -> None:
    """The same figures, told apart by something else: figure by figure, of everybody and of one customer."""
    report = UsageReport(told.database)
    [feed] = report.feeds(None, DAY)
    for customer in (None, "cus_a", "cus_b"):
        sums = [
            Usage._make(map(sum, zip(*(line.usage for line in lines), strict=True)))
            for lines in (
                list(report.lines(feed, DAY, customer=customer, dimension="model")),
                list(report.lines(feed, DAY, customer=customer, dimension="token_type")),
                list(report.lines(feed, DAY, By.CUSTOMER, customer=customer)),
                list(report.lines(feed, DAY, By.HOUR, customer=customer)),
            )
        ]
        assert sums == [sums[0]] * 4


def test_open_windows_are_told_by_value_too(told: World) -> None:
    """What the source has just now counts for its value, be it one that the ledger has never seen."""
    since = START + 3 * HOUR
    with Spool() as spool:
        spool.add(
            [
                Reading(since, "cus_a", Decimal(5), since, None, dimensions=LARGE_INPUT),
                Reading(since, "cus_a", Decimal(9), since, None, dimensions=TINY_INPUT),
                Reading(
                    since, "cus_a", Decimal(1), since, "dimension `model` is NULL or blank", dimensions=None
                ),
            ]
        )
        report = UsageReport(told.database)
        [feed] = report.feeds(None, DAY)
        opened = OpenWindows(since, spool, Decimal(1))
        lines = list(report.lines(feed, DAY, dimension="model", opened=opened))
    assert all(line.usage.adds_up for line in lines)
    assert {line.value: (line.usage.open, line.usage.unmapped) for line in lines} == {
        "large": (5, 0),
        "small": (0, 2),
        "tiny": (9, 0),
        "=tiny": (0, 0),
        None: (0, 4),
    }


def test_windows_from_before_a_dimension_have_no_value_of_it(database: Database) -> None:
    """A meter that gained one has both kinds of windows, and all of their usage is on a line."""
    before = World(database, meter=replace(TOKENS, dimensions=("model",), fingerprint="e" * 64))
    for hour in range(2):
        before.source.use("cus_a", START + hour * HOUR, 5, model="large", token_type="input")
    before.at(1, 6)
    before.collect()
    after = World(database, meter=TOKENS, source=before.source, sinks=[before.sink])
    after.at(2, 6)
    after.collect()
    report = UsageReport(database)
    assert {value: line.used for value, line in of_each(report, "model").items()} == {"large": 10}
    assert {value: line.used for value, line in of_each(report, "token_type").items()} == {
        None: 5,
        "input": 5,
    }


@pytest.mark.usefixtures("told")
def test_the_command_shows_a_column_of_the_dimensions_name(call: Call) -> None:
    """In a table, in CSV and in JSON; no value is a formula to a spreadsheet."""
    shown = call(usage, "tokens", "--by", "model", *PERIOD)
    assert shown.exception is None, shown.output
    rows = [line.split() for line in shown.output.splitlines() if line[:1] == " " and line.strip(" ─")]
    assert rows[0][:3] == ["model", "used", "billed"]
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        ("large", "0"), ("small", "2"), ("=tiny", "0"), ("(no", "3"), ("total", "5"),
    ]  # fmt: skip
    told_ = list(csv.DictReader(io.StringIO(call(usage, "tokens", "--by", "model", "--csv", *PERIOD).output)))
    assert [(row["model"], row["used"]) for row in told_] == [
        ("large", "120.5"), ("small", "36"), ("'=tiny", "0.25"), ("", "3"),
    ]  # fmt: skip
    document = json.loads(call(usage, "tokens", "--by", "token_type", "--json", *PERIOD).output)
    assert document["by"] == "token_type"
    [feed] = document["feeds"]
    assert [(line["token_type"], line["used"]) for line in feed["lines"]] == [
        ("input", "116.75"), ("output", "40"), (None, "3"),
    ]  # fmt: skip
    assert feed["total"]["used"] == "159.75"


@pytest.mark.usefixtures("told")
def test_what_is_no_dimension_is_refused_by_name(call: Call) -> None:
    """The meter's own dimensions are named, and so is the meter that is missing."""
    asked = call(usage, "tokens", "--by", "region", *PERIOD)
    assert isinstance(asked.exception, UsageError)
    assert str(asked.exception) == (
        "Meter tokens has no dimension region: lines are by one of hour, day, month, customer, or by one of its "
        "dimensions, which are: model, token_type."
    )
    asked = call(usage, "--by", "model", *PERIOD)
    assert str(asked.exception) == (
        "--by model: without a METER, lines are by one of hour, day, month, customer. For a dimension, name its "
        "meter."
    )


def test_a_dimension_that_is_called_as_a_figure_has_a_column_of_its_own(
    database: Database, call: Call
) -> None:
    """Else one of the two would be lost."""
    world = World(database, meter=replace(TOKENS, dimensions=("open",)))
    world.source.use("cus_a", START, 5, open="yes")
    world.at(1, 6)
    world.collect()
    [feed] = json.loads(call(usage, "tokens", "--by", "open", "--json", *PERIOD).output)["feeds"]
    [line] = feed["lines"]
    assert (line["dimension_open"], line["open"], line["used"]) == ("yes", "0", "5")


@dataclass
class Shown(FakeSource):
    """The source of a world, whose query can be shown."""

    name: str = "app"

    def filled(self, query: str, span: Span) -> str:
        """Return the query."""
        return f"{query} {span}"

    def rows_behind(
        self, query: str, span: Span, customer: str, most: int
    ) -> tuple[list[str], list[tuple[object, ...]], bool]:
        """Return one row."""
        return ["query"], [(query, span, customer, most)], False


def explained(world: World, span: Span, **more: Any) -> list[Story]:
    """Return the stories of cus_a, with what the source says now."""
    source = Shown(kept_apart=world.source.kept_apart)
    question = Question("tokens", "cus_a", span, world.now, live=True, **more)
    shown = ExplainedSource(source, Decimal(1), "detail")
    return list(explain(Facts(world.database), question, ["tokens"], lambda _: shown).stories)


def test_each_combination_has_a_story_of_its_own(told: World) -> None:
    """With its events, what it came to, and what the source says of it now; what has no value is said with each."""
    told.source.use("cus_a", START, 8, model="new", token_type="input")
    stories = {each.facts.dimensions: each for each in explained(told, Span(START, START + HOUR), rows=5)}
    assert [apart_by.shown(each) for each in stories] == [
        "model==tiny, token_type=input",
        "model=large, token_type=input",
        "model=large, token_type=output",
        "model=new, token_type=input",
        "model=small, token_type=input",
    ]
    large = stories[LARGE_INPUT]
    assert story.headline(large.facts) == (
        "tokens for cus_a, model=large, token_type=input, 2026-11-01 00:00 to 01:00 UTC, to fake"
    )
    assert story.balance(large.facts) == "10.5 used = 10 billed + 0.5 carried"
    assert [event.delta for event in large.facts.events] == [10]
    assert large.now is not None
    assert large.now.quantity == Decimal("10.5")
    small = stories[("model", "small"), ("token_type", "input")]
    assert story.balance(small.facts) == "4 used = 7 billed + -3 held or refused"
    new = stories[("model", "new"), ("token_type", "input")]
    assert (new.facts.quantity, new.facts.events, new.now and new.now.quantity) == (None, (), 8)
    for each in stories.values():
        assert any("belong to no combination, and are not billed" in said.text for said in each.sentences)
    assert [each.detail is not None for each in stories.values()] == [False] * 4 + [True]


def test_only_combinations_with_a_story_are_told_of_a_range(told: World) -> None:
    """The others are counted; as many stories are told as were asked for; an event leads to its combination."""
    day = [(each.facts.window.start, apart_by.shown(each.facts.dimensions)) for each in explained(told, DAY)]
    assert day == [
        (START, "model=small, token_type=input"),
        (START + 2 * HOUR, "model=large, token_type=output"),
    ]
    assert len(explained(told, DAY, stories=1)) == 1
    [(event,)] = told.rows("select id from aggregator.event where delta = -3 and state = 'held'")
    place = Facts(told.database).place(str(event), told.now)
    assert place is not None
    assert apart_by.shown(place.dimensions) == "model=small, token_type=input"
    [one] = explained(told, place.window, dimensions=place.dimensions)
    assert [each.delta for each in one.facts.events] == [7, -3]


def test_the_command_explains_an_event_by_its_combination(told: World, call: Call) -> None:
    """The headline and the query say which; programs have the values."""
    [(event,)] = told.rows("select id from aggregator.event where delta = -3 and state = 'held'")
    ran = call(explain_command, "--event", str(event))
    assert ran.exception is None, ran.output
    assert ran.output.startswith("tokens for cus_a, model=small, token_type=input, 2026-11-01 00:00")
    assert "to be pasted into the source; this is its row of model=small, token_type=input:" in ran.output
    [window] = json.loads(call(explain_command, "--event", str(event), "--json").output)["windows"]
    assert window["dimensions"] == {"model": "small", "token_type": "input"}


@pytest.mark.usefixtures("told")
def test_a_statement_has_a_column_for_each_dimension(call: Call) -> None:
    """In its tables, in CSV and in JSON; what combinations were billed comes to what the customer was billed."""
    shown = call(statement, "cus_a", *PERIOD)
    assert shown.exception is None, shown.output
    rows = [line.split() for line in shown.output.splitlines() if line[:1] == " "]
    assert ["model", "token", "type", "usage", "corrections", "billed", "not", "billed"] in rows
    assert ["large", "input", "10", "0", "10", "0"] in rows
    assert ["large", "output", "4", "0", "4", "6"] in rows
    assert ["small", "input", "7", "0", "7", "-3"] in rows
    assert any(row[5:9] == ["correction", "small", "input", "-3"] for row in rows)
    entries = list(csv.DictReader(io.StringIO(call(statement, "cus_a", *PERIOD, "--csv").output)))
    assert sorted((row["model"], row["token_type"], row["quantity"]) for row in entries) == [
        ("large", "input", "10"), ("large", "output", "4"), ("large", "output", "6"),
        ("small", "input", "-3"), ("small", "input", "7"),
    ]  # fmt: skip
    [feed] = json.loads(call(statement, "cus_a", *PERIOD, "--json").output)["feeds"]
    assert {"model": "small", "token_type": "input"} in [each["dimensions"] for each in feed["entries"]]
    assert sum(Decimal(each["billed"]) for each in feed["combinations"]) == Decimal(feed["total"]["billed"])
