"""Two sinks of a meter beside each other: what differs, in numbers, and what is said of their terms."""

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aggregator.adoption.parity import Compared, Parity, compare
from aggregator.cli.feeds import findings_of, report_feeds
from aggregator.cli.parity import parity
from aggregator.cli.status import status
from aggregator.config import load
from aggregator.core.model import Answer, Event, Span, Terms
from aggregator.errors import AggregatorError
from aggregator.ledger.database import Database
from aggregator.ledger.parity import Place, PlannedUsage, Side
from aggregator.ledger.reports import FeedStatus, Reports
from tests.fakes import FakeSink
from tests.postgres.test_feed_terms import T, Two
from tests.postgres.world import HOUR, METER, START

DAY = dt.timedelta(days=1)
D = Decimal
CONFIG = """
ledger: {{url: "{url}"}}
sources: {{app: {{url: "postgresql://reader@127.0.0.1:1/app"}}}}
sinks:
  old: {{type: stripe, api_key: sk_test_1, mode: test, api_base: "http://127.0.0.1:1"}}
  new: {{type: stripe, api_key: sk_test_1, mode: test, api_base: "http://127.0.0.1:1"}}
meters:
  api_requests:
    source: app
    sinks: {sinks}
    window: 1h
    start_at: 2026-11-01T00:00Z
    query: select 1 where :start < :end
"""


@pytest.fixture
def configured(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a configuration with the given sinks over this test's ledger, whose server is fast for not being durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    monkeypatch.setattr("aggregator.runtime.clock.utcnow", lambda: START + 3 * DAY)

    def write(sinks: str = "[old, new]") -> Path:
        path = tmp_path / "aggregator.yaml"
        path.write_text(CONFIG.format(url=ledger_url, sinks=sinks))
        return path

    return write


@pytest.fixture
def call(configured: Callable[[str], Path]) -> Callable[..., Result]:
    """Run `aggregator parity` over the ledger of this test."""

    def run(*arguments: str, sinks: str = "[old, new]") -> Result:
        return CliRunner().invoke(parity, [METER.name, *arguments, "--config", str(configured(sinks))])

    return run


def shadowed(database: Database) -> Two:
    """A meter whose new sink is tried out beside the old one, over two days."""
    two = Two(database, Terms("new", shadow=True))
    for customer, much in (("cus_a", 10), ("cus_b", 20)):
        two.source.use(customer, START, much)
        two.source.use(customer, START + 30 * HOUR, much + 1)
    two.round(31)
    return two


def differences(two: Two, days: int = 2, *, by_day: bool = True) -> tuple[Parity, list[Compared]]:
    beside = PlannedUsage(two.database)
    feeds = beside.feeds(METER.name)
    found = Parity()
    span = Span(START, START + days * DAY)
    places = beside.places(feeds["old"], feeds["new"], span, by_day=by_day)
    return found, list(found.counting(compare(places, METER.name, span)))


def test_a_shadow_that_plans_the_same_is_equal(database: Database, call: Callable[..., Result]) -> None:
    """What would have been sent is set beside what was: exit code 0, and one line for each sink."""
    two = shadowed(database)
    found, different = differences(two)
    assert (found.places, different) == (4, [])
    assert found.sums == [Side(accepted=D(62)), Side(shadow=D(62))]
    said = call("--from", "2026-11-01", "--to", "2026-11-03")
    assert (said.exit_code, said.output.splitlines()) == (
        0,
        [
            "old: 62 planned (62 accepted).",
            "new: 62 planned (62 shadow).",
            "Equal: 4 times of customers compared, none differs.",
        ],
    )


def test_only_what_differs_is_shown_with_its_day(database: Database, call: Callable[..., Result]) -> None:
    """One customer's day that one sink lacks gives two lines, one for each sink, and exit code 3."""
    two = Two(database, Terms("new", bill_from=START + DAY))
    for day in range(2):
        two.source.use("cus_a", START + day * DAY, 10)
    two.source.use("cus_b", START + DAY, 7)
    two.round(25)
    found, different = differences(two)
    assert [(each.place.customer, each.place.start) for each in different] == [("cus_a", START)]
    assert (found.places, found.sums) == (3, [Side(accepted=D(27)), Side(accepted=D(17))])
    said = call("--from", "2026-11-01", "--to", "2026-11-03")
    assert said.exit_code == 3
    told = [line.split() for line in said.output.splitlines() if "cus_" in line]
    assert told == [
        ["cus_a", "2026-11-01", "00:00", "old", "10", "10", "0", "0", "0", "-"],
        ["cus_a", "2026-11-01", "00:00", "new", "0", "0", "0", "0", "0", "-"],
    ]
    few = call("--from", "2026-11-01", "--to", "2026-11-03", "--json", "--limit", "0")
    assert [each["customer"] for each in json.loads(few.output)["differences"]] == ["cus_a"]


def test_windows_are_compared_one_by_one_if_asked_for(
    database: Database, call: Callable[..., Result]
) -> None:
    """Usage that stands in another window of the same day is equal by days, and different by windows."""
    two = Two(database, Terms("new", bill_from=START + HOUR))
    two.source.use("cus_a", START, 5)
    two.source.use("cus_a", START + HOUR, 5)
    two.round(2)
    found, different = differences(two, by_day=False)
    assert (found.places, [each.place.start for each in different]) == (2, [START])
    said = call("--from", "2026-11-01", "--to", "2026-11-02", "--by", "window", "--json")
    assert said.exit_code == 3
    told = json.loads(said.output)
    assert (told["places"], told["different"], told["equal"]) == (2, 1, False)
    [difference] = told["differences"]
    assert (difference["customer"], difference["from"]) == ("cus_a", "2026-11-01T00:00:00Z")
    assert {name: side["planned"] for name, side in difference["sinks"].items()} == {"old": "5", "new": "0"}
    shown = call("--from", "2026-11-01", "--to", "2026-11-02")
    assert shown.output.splitlines()[-1] == "1 time of customers compared, 1 differs."


def test_every_state_has_its_place(database: Database) -> None:
    """Accepted, under way, waiting and shadow are told apart, and all of them are planned."""
    two = Two(database, Terms("new", shadow=True))
    two.old.refused.add("cus_b")

    def away(event: Event) -> Answer | None:
        return Answer.BUSY if event.customer == "cus_c" else None

    two.old.fault = away
    for customer in ("cus_a", "cus_b", "cus_c"):
        two.source.use(customer, START, 5)
    two.round(1)
    found, different = differences(two)
    assert different == []
    assert found.sums == [Side(D(5), D(5), D(5), D(0)), Side(shadow=D(15))]


def test_what_was_withdrawn_counts_nowhere(database: Database) -> None:
    """A held event that a newer plan replaced is no part of what was planned."""
    two = Two(database, Terms("new", shadow=True))
    two.source.use("cus_a", START, 30)
    two.source.use("cus_a", START, 3)
    two.round(1)
    kept = two.source.uses
    two.source.uses = kept[:1]
    two.round(2)
    two.source.uses = [*kept, ("cus_a", START, D(1))]
    two.round(3)
    assert two.world.one("select count(*) from aggregator.event where state = 'void'") == 1
    found, different = differences(two)
    assert (different, found.sums) == ([], [Side(accepted=D(34)), Side(shadow=D(34), turned_away=1)])


def test_sums_are_exact(database: Database) -> None:
    """A place may have more digits than a decimal context keeps by itself: none of them is lost."""
    one = Side(accepted=D(10) ** 30, under_way=D("0.000000000001"))
    places = [Place("cus_a", START, one, one._replace(under_way=D("0.000000000002")))]
    found = Parity()
    [each] = found.counting(compare(places, METER.name, Span(START, START + DAY)))
    assert each.place.one.planned == D("1000000000000000000000000000000.000000000001")
    assert found.sums[1].planned == D("1000000000000000000000000000000.000000000002")
    assert found.different == 1


def test_the_sinks_own_totals_are_asked_for(database: Database) -> None:
    """What a sink says is compared with what it accepted: something of somebody else's, or lost, is shown with its day."""
    two = shadowed(database)
    stray = replace_event(two.old.received[0], identifier="stray", at=START + HOUR)
    two.new.identifiers["stray"] = stray
    beside = PlannedUsage(database)
    feeds = beside.feeds(METER.name)
    span = Span(START, START + 2 * DAY)
    found = Parity()
    places = beside.places(feeds["old"], feeds["new"], span, by_day=True)
    sinks: list[FakeSink] = [two.old, two.new]
    different = list(found.counting(compare(list(places), METER.name, span, sinks)))
    assert [(each.place.customer, each.place.start, each.other_says) for each in different] == [
        (stray.customer, START, stray.delta)
    ]
    assert found.says == [62, stray.delta]


def replace_event(event: Event, **values: object) -> Event:
    return event._replace(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "2026-11-02", "--to", "2026-11-01"), "is empty"),
        (
            ("--from", "2026-11-01", "--between", "old"),
            "Name the two sinks with --between A,B. api_requests feeds or fed: new, old.",
        ),
        (("--from", "2026-11-01", "--between", "old,old"), "Name the two sinks"),
        (
            ("--from", "2026-11-01", "--between", "old,other"),
            "Nothing of api_requests was ever planned for a sink other",
        ),
        (
            ("--from", "2026-11-01T05:00Z", "--ask"),
            "With --ask, --from must be the start of a UTC day, such as 2026-11-01, since sinks are asked for whole days.",
        ),
        (("--from", "2026-11-01", "--ask", "--by", "window"), "--ask goes with --by day"),
    ],
)
def test_a_wrong_call_gets_one_sentence(
    database: Database, call: Callable[..., Result], arguments: tuple[str, ...], message: str
) -> None:
    """What cannot be compared is refused before anything is asked."""
    Two(database)
    result = call(*arguments)
    assert isinstance(result.exception, AggregatorError), result.output
    assert message in str(result.exception)


def test_a_sink_that_was_taken_off_can_still_be_compared(
    database: Database, call: Callable[..., Result]
) -> None:
    """After a move the ledger still knows both."""
    shadowed(database)
    result = call("--from", "2026-11-01", "--to", "2026-11-03", "--between", "old,new", sinks="[new]")
    assert result.exit_code == 0, result.output


def found_by_check(two: Two, path: Path) -> list[tuple[str, str]]:
    config = load(path, {})
    return [each[1:] for each in findings_of(config, Reports(two.database).status(), two.world.now)]


def test_check_tells_what_is_too_old_before_it_is_read(
    database: Database, configured: Callable[[str], Path]
) -> None:
    """Stripe takes what is 35 days old. Once a meter has been read, it is no news any more."""
    config = load(configured("[{sink: old, shadow: true}, new]"), {})

    def told(now: dt.datetime, rows: Sequence[FeedStatus]) -> list[str]:
        return [
            each.text for each in findings_of(config, rows, now) if "takes nothing from before" in each.text
        ]

    assert told(START + 34 * DAY, []) == []
    [text] = told(START + 36 * DAY, [])
    assert text.startswith(
        "it begins at 2026-11-01T00:00Z, and new takes nothing from before 2026-11-02T01:00Z any more: "
    )
    assert told(START + 60 * DAY, list(Reports(shadowed(database).database).status())) == []


def test_check_tells_of_two_sinks_that_bill_the_same_time(
    database: Database, configured: Callable[[str], Path]
) -> None:
    """An overlap is a note, since both may be meant, and it says from when until when."""
    two = Two(database)
    entry = "[{sink: old, bill_until: 2026-11-03T00:00Z}, {sink: new, bill_from: 2026-11-02T00:00Z}]"
    [(verdict, text)] = found_by_check(two, configured(entry))
    assert verdict == "note"
    assert text.startswith(
        "old and new both bill it from 2026-11-02T00:00Z until 2026-11-03T00:00Z: twice, if both"
    )


def test_check_refuses_a_gap(database: Database, configured: Callable[[str], Path]) -> None:
    """A time that no sink bills is lost, and wrong."""
    two = Two(database)
    entry = "[{sink: old, bill_until: 2026-11-02T00:00Z}, {sink: new, bill_from: 2026-11-03T00:00Z}]"
    [(verdict, text)] = found_by_check(two, configured(entry))
    assert verdict == "wrong"
    assert text.startswith(
        "no sink bills it from 2026-11-02T00:00Z until 2026-11-03T00:00Z: usage of that time is lost"
    )


def test_check_finds_a_move_without_gap_or_overlap_well(
    database: Database, configured: Callable[[str], Path]
) -> None:
    """One ends where the other begins: there is nothing to say."""
    two = Two(database)
    entry = "[{sink: old, bill_until: 2026-11-02T00:00Z}, {sink: new, bill_from: 2026-11-02T00:00Z}]"
    assert found_by_check(two, configured(entry)) == []


def test_check_tells_what_an_end_in_the_past_leaves(
    database: Database, configured: Callable[[str], Path]
) -> None:
    """Before it holds, that windows were read beyond it; once it does, up to where they were planned."""
    two = Two(database)
    for hour in range(6):
        two.source.use("cus_a", START + hour * HOUR)
    two.round(7)
    path = configured(
        "[{sink: old, bill_until: 2026-11-01T05:00Z}, {sink: new, bill_from: 2026-11-01T05:00Z}]"
    )
    [(_, before)] = found_by_check(two, path)
    assert "was read up to 2026-11-01T07:00Z: what was planned for it in between stays billed there" in before
    two.on(Terms("old", bill_until=T), Terms("new", bill_from=T))
    [(_, after)] = found_by_check(two, path)
    assert after.startswith(
        "old was given windows of api_requests up to 2026-11-01T06:00Z before it had `bill_until"
    )


def test_what_is_said_of_an_end_in_the_past_leaves_no_window_without_a_sink(
    database: Database, configured: Callable[[str], Path]
) -> None:
    """Whoever does as told has what comes late billed once, between the two instants, too."""
    two = Two(database, Terms("old"), Terms("new", bill_from=START + 1_000 * HOUR))
    for hour in range(9):
        two.source.use("cus_a", START + hour * HOUR)
    two.round(7)
    two.on(Terms("old", bill_until=T), Terms("new", bill_from=START + 7 * HOUR))
    two.round(8)
    path = configured(
        "[{sink: old, bill_until: 2026-11-01T05:00Z}, {sink: new, bill_from: 2026-11-01T07:00Z}]"
    )
    told = " ".join(text for _, text in found_by_check(two, path))
    assert "what comes late for them is billed nowhere. Set that to `bill_until: 2026-11-01T07:00Z`" in told
    two.source.use("cus_a", START + 6 * HOUR, 100)
    two.on(Terms("old", bill_until=START + 7 * HOUR), Terms("new", bill_from=START + 7 * HOUR))
    two.round(9)
    assert two.held(two.old) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 101}
    assert two.held(two.new) == {7: 1, 8: 1}


def test_check_and_status_tell_what_a_shadow_leaves(
    database: Database, configured: Callable[[str], Path]
) -> None:
    """While it lasts, when it is about to end, and once it has ended, with what stays unsent."""
    two = shadowed(database)
    [(_, lasting)] = found_by_check(two, configured("[old, {sink: new, shadow: true}]"))
    assert lasting == "new gets it in shadow: events are planned and recorded, and never sent"
    moved = "[{{sink: old, bill_until: {0}}}, {{sink: new, bill_from: {0}}}]"
    told = [text for _, text in found_by_check(two, configured(moved.format("2026-11-01T05:00Z")))]
    assert any(
        "new has `bill_from: 2026-11-01T05:00Z` and was a shadow until 2026-11-02T07:00Z" in text
        for text in told
    )
    assert found_by_check(two, configured(moved.format("2026-11-02T07:00Z"))) == []
    config = load(configured("[old, new]"), {})
    assert list(report_feeds(config, Reports(database).status(), two.world.now)) == [
        "new gets api_requests in shadow: its events are planned and recorded, and never sent."
    ]
    two.on()
    assert list(report_feeds(config, Reports(database).status(), two.world.now)) == [
        "new had api_requests in shadow until 2026-11-02T07:00Z: earlier events stay unsent."
    ]


def test_status_shows_windows_that_a_sink_lacks(
    database: Database, configured: Callable[[str], Path]
) -> None:
    """The sentence of the log stands in the status until something is done about it."""
    two = Two(database)
    two.round(2)
    two.on(sinks=[two.new])
    two.round(8)
    two.meter = replace(METER, retained=START + 6 * HOUR)
    two.on()
    two.round(9)
    result = CliRunner().invoke(status, ["--config", str(configured("[old, new]"))])
    assert "old lacks the windows [2026-11-01T02:00Z, 2026-11-01T06:00Z) of api_requests" in result.output
    told = CliRunner().invoke(status, ["--json", "--config", str(configured("[old, new]"))])
    assert [note[:14] for note in json.loads(told.output)["notes"]] == ["old lacks the "]
