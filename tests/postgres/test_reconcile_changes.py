"""Units added and removed at random places of the source, the ledger and the sandbox: one reconciliation finds each of them.

`--changes 200` makes as many; among the other tests it is a few.
"""

import csv
import datetime as dt
import io
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg
import pytest
from click.testing import CliRunner
from stripe import StripeClient

from aggregator.cli.reconcile import reconcile as command
from aggregator.cli.status import status
from aggregator.config import load
from aggregator.core.drift import Cause
from aggregator.core.model import Span
from aggregator.core.windows import DAY, HOUR, floor
from aggregator.daemon.jobs import Drained
from aggregator.errors import UsageError
from aggregator.ledger.review.parked import Choice
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.wiring.app import App, build
from aggregator.wiring.reconciling import Compared, Question, reconcile, repair
from tests.postgres.configured import written

KEY = "sk_test_reconcile"
DAYS = 5
METERS = {"calls": ["stripe", "metronome"], "bytes": ["metronome", "stripe"], "stored": ["stripe"]}
REVISIT_DAYS = 3

CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}'
sources: {{app: {{url: 'sqlite:///{source}', timezone: UTC}}}}
sinks:
  stripe: {{type: stripe, api_key: {key}, mode: test, api_base: '{sandbox}'}}
  metronome: {{type: metronome, api_key: token, quantity_encoding: text, api_base: '{sandbox}/metronome'}}
defaults:
  source: app
  window: 1h
  start_at: {start}
  revisit: {revisit}d
meters:
  calls: {{sinks: [stripe, metronome], query: "{query}"}}
  bytes: {{sinks: [stripe, metronome], query: "{query}"}}
  stored: {{sinks: [stripe], query: "{query}", stripe: {{event_time_window: hour}}}}
"""

QUERY = (
    "select customer, sum(quantity) as quantity, hour as window from {meter} "
    "where hour >= :start and hour < :end group by customer, hour"
)


class Change(NamedTuple):
    """One unit, added or removed somewhere: who has it, and what is to be said of it."""

    where: str
    meter: str
    sink: str | None
    """Where it is seen; None: at every sink."""
    customer: str
    hour: dt.datetime
    cause: Cause


class Lab:
    """A source, a ledger and the sandboxes of two sinks, in which everything was billed days ago."""

    def __init__(self, app: App, source: Path, sandbox: RunningSandbox, ledger: str, changes: int) -> None:
        self.app = app
        self.customers = [f"cus_{number}" for number in range(2 + changes // (DAYS * len(METERS)))]
        self.sandbox = sandbox
        self.metronome = MetronomeControl(sandbox.url)
        self.stripe = StripeClient(
            KEY,
            base_addresses={
                "api": sandbox.url,
                "meter_events": sandbox.url,
                "files": sandbox.url,
                "connect": sandbox.url,
            },
        )
        self._source, self._ledger, self._random = source, ledger, Random(changes)
        self.end = floor(utcnow(), DAY)
        self.start = self.end - DAYS * DAY
        self.quantities: dict[tuple[str, str, dt.datetime], int] = {}
        self._number = 0

    def fill(self) -> None:
        """Let every customer use something in a few hours of every day, and bill it."""
        for meter in METERS:
            self.source(f"create table {meter} (customer text, hour timestamp, quantity integer)")
            for customer in self.customers:
                for hour in range(1, DAYS * 24, 8):
                    at, much = self.start + hour * HOUR, self._random.choice((1, 3, 5, 8))
                    self.quantities[meter, customer, at] = much
            its = [
                (who, self.text(at), much)
                for (name, who, at), much in self.quantities.items()
                if name == meter
            ]
            with closing(sqlite3.connect(self._source)) as connection, connection:
                connection.executemany(f"insert into {meter} values (?, ?, ?)", its)
        for customer in self.customers:
            self.metronome.add_customer(customer, customer)
        for meter in ("calls", "bytes"):
            self.metronome.add_metric(meter)
        self.app.first_time(METERS, "a test", utcnow())
        self.pass_over()

    def text(self, at: dt.datetime) -> str:
        """Write an instant as the source has it."""
        return f"{at:%Y-%m-%d %H:%M:%S.%f}"

    def source(self, statement: str, *values: object) -> None:
        """Change the source."""
        with closing(sqlite3.connect(self._source)) as connection, connection:
            connection.execute(statement, values)

    def ledger(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Change the ledger, or ask it."""
        with psycopg.connect(self._ledger, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def unchecked(self, sink: str) -> int:
        """Return how many events of a sink were not compared yet."""
        return sum(each.unchecked for each in self.app.ledger.checks.coverage() if each.sink == sink)

    def pass_over(self) -> None:
        """Let every meter be read, everything be sent, and all of it be days ago."""
        for meter in self.app.collections.values():
            while meter.run_once(self.app.ledger.instant()).more:
                pass
        for sink in self.app.sink_ids:
            Drained(self.app, sink).run_once(self.app.ledger.instant())
        self.ledger(
            "update aggregator.event_at_rest set attempted_at = attempted_at - interval '3 days', "
            "exposed_at = exposed_at - interval '3 days', settled_at = settled_at - interval '3 days' "
            "where settled_at > now() - interval '1 day'"
        )

    def compare(self, stack: ExitStack) -> list[Compared]:
        """Compare everything."""
        question = Question(Span(self.start, self.end), list(METERS), self.app.ledger.instant())
        return list(reconcile(self.app, question, stack))

    def release(self) -> int:
        """Release all that is held, as a person would after a look."""
        held = self.app.ledger.parked.waiting(Choice(state="held"), 10_000)
        return len(self.app.ledger.outbox.release([each.event for each in held], self.app.ledger.instant()))

    def received(self) -> tuple[int, int]:
        """Return how many events each sandbox has."""
        return self.sandbox.stats()["accepted"], len(self.metronome.events())

    def change(self, place: tuple[str, str, dt.datetime]) -> Change:
        """Add or remove a unit somewhere, at a place that nothing else is changed at."""
        where, by = self._random.choice(("source", "ledger", "sandbox")), self._random.choice((1, -1))
        meter, customer, hour = place
        its = {"source": self._in_source, "ledger": self._in_ledger, "sandbox": self._in_sandbox}
        sink, cause = its[where](meter, customer, hour, by)
        return Change(f"{where} {by:+}", meter, sink, customer, hour, cause)

    def _in_source(self, meter: str, customer: str, hour: dt.datetime, by: int) -> tuple[None, Cause]:
        self.source(f"insert into {meter} values (?, ?, ?)", customer, self.text(hour), by)
        found_by_itself = by > 0 and hour >= self._mark(meter) - REVISIT_DAYS * DAY
        return None, Cause.LATE if found_by_itself else Cause.CHANGED

    def _mark(self, meter: str) -> dt.datetime:
        [(mark,)] = self.ledger("select mark from aggregator.meter where name = %s", meter)
        return mark  # type: ignore[no-any-return]

    def _in_ledger(self, meter: str, customer: str, hour: dt.datetime, by: int) -> tuple[str, Cause]:
        sink = self._random.choice(METERS[meter])
        [(feed,)] = self.ledger(
            "select feed.id from aggregator.feed join aggregator.meter on meter.id = feed.meter_id "
            "join aggregator.sink on sink.id = feed.sink_id where meter.name = %s and sink.name = %s",
            meter,
            sink,
        )
        self.ledger("alter table aggregator.event_at_rest disable trigger event_is_frozen")
        for statement in (
            "update aggregator.event_at_rest set delta = delta + %s, total = total + %s",
            "update aggregator.slot set quantity = quantity + %s, total = total + %s",
        ):
            self.ledger(
                f"{statement} where feed_id = %s and customer = %s and window_start = %s",
                by,
                by,
                feed,
                customer,
                hour,
            )
        self.ledger("alter table aggregator.event_at_rest enable trigger event_is_frozen")
        return sink, Cause.UNEXPLAINED

    def _in_sandbox(self, meter: str, customer: str, hour: dt.datetime, by: int) -> tuple[str, Cause]:
        sink = self._random.choice(METERS[meter])
        much = self.quantities[meter, customer, hour]
        if sink == "metronome":
            self.send(sink, meter, customer, hour, by)
            return sink, Cause.MISSING if -by == much else Cause.FOREIGN
        if by < 0 and much == 1 and meter != "stored":
            [(name,)] = self.ledger(
                "select identifier from aggregator.event join aggregator.feed on feed.id = event.feed_id "
                "join aggregator.meter on meter.id = feed.meter_id join aggregator.sink on sink.id = feed.sink_id "
                "where meter.name = %s and sink.name = 'stripe' and event.customer = %s and window_start = %s",
                meter,
                customer,
                hour,
            )
            self.stripe.v1.billing.meter_event_adjustments.create(
                {"event_name": meter, "type": "cancel", "cancel": {"identifier": name}}
            )
            return sink, Cause.MISSING
        self.send(sink, meter, customer, hour, much + by if meter == "stored" else by)
        return sink, Cause.MISSING if -by == much else Cause.FOREIGN

    def send(self, sink: str, meter: str, customer: str, hour: dt.datetime, much: int) -> None:
        """Send an event that is not ours."""
        self._number += 1
        stray = f"stray_{self._number}"
        if sink == "metronome":
            event = {
                "transaction_id": stray,
                "customer_id": customer,
                "event_type": meter,
                "timestamp": f"{hour:%Y-%m-%dT%H:30:00Z}",
                "properties": {"quantity": str(much)},
            }
            self.metronome.call("POST", "/v1/ingest", [event])
            return
        self.stripe.v1.billing.meter_events.create(
            {
                "event_name": meter,
                "identifier": stray,
                "timestamp": int((hour + HOUR / 2).timestamp()),
                "payload": {"stripe_customer_id": customer, "value": str(much)},
            }
        )


@pytest.fixture(scope="module")
def sandbox() -> Iterator[RunningSandbox]:
    """Both sandboxes in one server."""
    specs = (MeterSpec("calls"), MeterSpec("bytes"), MeterSpec("stored", "sum", "hour"))
    with running(SandboxOptions(meters=specs)) as server:
        yield server


@pytest.fixture
def lab(
    ledger_url: str,
    tmp_path: Path,
    sandbox: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Lab]:
    """Everything billed."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    sandbox.reset()
    MetronomeControl(sandbox.url).reset()
    source = tmp_path / "app.db"
    text = CONFIG.format(
        ledger=ledger_url,
        directory=tmp_path,
        source=source,
        key=KEY,
        sandbox=sandbox.url,
        start=f"{floor(utcnow(), DAY) - DAYS * DAY:%Y-%m-%dT%H:%MZ}",
        revisit=REVISIT_DAYS,
        query="{query}",
    )
    for meter in METERS:
        text = text.replace("{query}", QUERY.format(meter=meter), 1)
    (tmp_path / "aggregator.yaml").write_text(text)
    with build(load(tmp_path / "aggregator.yaml", {}), name="test") as app:
        lab = Lab(app, source, sandbox, ledger_url, request.config.getoption("--changes"))
        lab.fill()
        yield lab


class Called(NamedTuple):
    """What a command printed, and how it ended."""

    code: int
    out: str


def call(lab: Lab, *arguments: str) -> Called:
    """Run `aggregator reconcile` over the time of the lab."""
    span = ["--from", f"{lab.start:%Y-%m-%d}", "--to", f"{lab.end:%Y-%m-%d}"]
    path = lab.app.config.state_dir / "aggregator.yaml"
    said = CliRunner().invoke(command, [*arguments, *span, "--config", str(path)])
    return Called(said.exit_code, said.output)


def said(compared: list[Compared]) -> set[tuple[str, str, str, dt.datetime, Cause]]:
    """Return all that differs, without the amounts."""
    return {
        (found.meter, found.sink, found.place.customer, found.place.span.start, each.cause)
        for one in compared
        for found in one.found.all()
        for each in found.differences
    }


def test_units_changed_anywhere_are_found_and_put_right(lab: Lab, request: pytest.FixtureRequest) -> None:
    """Each has its place and its cause, and there is nothing else; after a repair all is equal, and stays so."""
    with ExitStack() as stack:
        assert said(lab.compare(stack)) == set()
    chance = Random(request.config.getoption("--seed"))
    days: dict[tuple[str, str, dt.date], list[tuple[str, str, dt.datetime]]] = {}
    for place in sorted(lab.quantities):
        days.setdefault((*place[:2], place[2].date()), []).append(place)
    places = [
        chance.choice(days[day]) for day in chance.sample(sorted(days), request.config.getoption("--changes"))
    ]
    changes = [lab.change(place) for place in places]
    expected = {
        (each.meter, sink, each.customer, each.hour, each.cause)
        for each in changes
        for sink in (METERS[each.meter] if each.sink is None else [each.sink])
    }
    with ExitStack() as stack:
        compared = lab.compare(stack)
        assert said(compared) == expected, changes
        before = lab.received()
        done = [each for one in compared for each in repair(lab.app, one, lab.app.ledger.instant())]
        assert lab.received() == before, "a repair sends nothing by itself"
        assert [each.left for _, each in done if each.left] == []
    lab.pass_over()
    lab.release()
    lab.pass_over()
    with ExitStack() as stack:
        compared = lab.compare(stack)
        assert said(compared) == set()
        assert all(each.summary.whole.source == each.summary.whole.in_sink for each in compared)
    before = lab.received()
    with ExitStack() as stack:
        assert [each for one in lab.compare(stack) for each in repair(lab.app, one, utcnow())] == []
    lab.pass_over()
    assert lab.received() == before, "a second run sends nothing"


def test_the_command_says_what_differs_and_what_to_type_next(lab: Lab) -> None:
    """Exit code 3, each difference with figures, cause and command; CSV and JSON have the same, with all digits."""
    equal = call(lab)
    assert equal.code == 0
    assert f"Equal: {len(lab.customers) * DAYS * 5} days of customers" in equal.out
    assert equal.out.splitlines()[-1] == "source = ledger = sinks for 3 customers and 3 meters: yes"
    places = sorted(place for place in lab.quantities if place[0] == "calls")
    lab.send("metronome", *places[0], 500)
    late = places[-1]
    lab.source("insert into calls values (?, ?, ?)", late[1], lab.text(late[2]), 120)
    day, much = places[0][2], lab.quantities[places[0]]
    found = call(lab)
    assert found.code == 3
    lines = [line.split() for line in found.out.splitlines() if line.startswith(" calls")]
    stray = [
        "calls",
        "metronome",
        "cus_0",
        f"{day:%Y-%m-%d}",
        f"{day:%H:%M}",
        *["sent", "by", "somebody", "else"],
    ]
    assert [*stray, "-500", str(much), str(much), str(much), str(much + 500)] in lines
    command = f"aggregator reconcile calls --customer cus_0 --from {day:%Y-%m-%d} --to {day + DAY:%Y-%m-%d} --repair"
    assert f"   {command}" in found.out.splitlines()
    assert "The source of calls has changed since it was billed to stripe: 1 customer, +120." in found.out
    told = json.loads(call(lab, "calls", "--json").out)
    assert (told["equal"], {each["cause"] for each in told["differences"]}) == (False, {"foreign", "late"})
    rows = list(csv.DictReader(io.StringIO(call(lab, "calls", "--csv").out)))
    assert [(row["sink"], row["cause"], row["amount"]) for row in rows] == [
        ("metronome", "foreign", "-500"),
        ("metronome", "late", "120"),
        ("stripe", "late", "120"),
    ]
    assert rows[0]["next"] == command
    only = json.loads(call(lab, "calls", "--customer", "cus_0", "--no-source", "--json").out)
    assert [each["cause"] for each in only["differences"]] == ["foreign"]
    mended = call(lab, "--repair")
    [held] = lab.app.ledger.parked.waiting(Choice(state="held"), 10)
    assert (mended.code, held.delta) == (3, -500)
    assert f"aggregator events release {held.event}" in mended.out


def figures(text: str, begin: str) -> list[str]:
    """Return the words of a table's line, without how it begins."""
    [line] = [line for line in text.splitlines() if line.strip().startswith(begin)]
    return line.strip().removeprefix(begin).split()


def used(lab: Lab, meter: str, *customers: str) -> int:
    """Return what customers used of a meter."""
    return sum(much for (name, who, _), much in lab.quantities.items() if name == meter and who in customers)


def test_each_customer_can_have_a_line_and_the_last_one_is_the_answer(lab: Lab) -> None:
    """Those with the most usage first, the others summed up, and what has no customer: carried, unmapped, on its way."""
    at = next(hour for meter, who, hour in sorted(lab.quantities, reverse=True) if meter == "stored")
    for who, much in (("cus_0", "1000.5"), (None, "7")):
        lab.source("insert into stored values (?, ?, ?)", who, lab.text(at), much)
    first = call(lab, "stored", "--customers", "1")
    most = used(lab, "stored", "cus_0")
    others = used(lab, "stored", "cus_1", "cus_2")
    assert figures(first.out, "cus_0 ") == [
        *(f"{most + 1000.5:,}", f"{most:,}", f"{most:,}", f"{most:,}", "0", "DIFFERS")
    ]
    assert figures(first.out, "(no customer)") == ["7", "0", "-", "-", "-", "not", "read", "yet"]
    assert (first.code, first.out.splitlines()[-1]) == (
        3,
        "source = ledger = stripe for 3 customers and 1 meter: not yet",
    )
    call(lab, "stored", "--repair")
    lab.pass_over()
    equal = call(lab, "stored", "--customers", "1")
    assert figures(equal.out, "cus_0 ") == [
        *(f"{most + 1000.5:,}", f"{most + 1000.5:,}", f"{most + 1000:,}", f"{most + 1000:,}", "0.5", "equal")
    ]
    assert figures(equal.out, "2 more") == [*[f"{others:,}"] * 4, "0", "equal"]
    assert figures(equal.out, "all 3 customers")[4:] == ["0.5", "equal"]
    assert figures(equal.out, "(no customer)") == ["7", "7", "-", "-", "-", "unmapped"]
    assert "7 of stored has no customer, or no usable number: it is kept and named" in equal.out
    assert "carried: used, but less than the last decimal that is billed" in equal.out
    assert (equal.code, equal.out.splitlines()[-1]) == (
        0,
        "source = ledger = stripe for 3 customers and 1 meter: yes",
    )
    told = json.loads(call(lab, "stored", "--customers", "1", "--json").out)["feeds"][0]
    assert [each["customer"] for each in told["by_customer"]] == ["cus_0"]
    assert (told["carried"], told["unmapped"]) == ("0.5", {"source": "7", "ledger": "7"})
    for who, hour in (("cus_1", at), ("cus_2", at)):
        lab.send(
            "stripe", "stored", who, hour, lab.quantities["stored", who, hour] + (1 if who == "cus_1" else -1)
        )
    wrong = call(lab, "stored", "--customers", "5", "--no-source")
    assert [figures(wrong.out, f"{who} ")[-1] for who in ("cus_1", "cus_2")] == ["DIFFERS", "DIFFERS"]
    whole = figures(wrong.out, "all 3 customers")
    assert (whole[2], whole[-1]) == (whole[3], "DIFFERS"), "what cancels out is different all the same"
    assert (wrong.code, wrong.out.splitlines()[-1]) == (3, "ledger = stripe for 3 customers and 1 meter: NO")


def test_the_daemons_check_covers_everything_and_status_says_so(lab: Lab) -> None:
    """Every accepted event of both sinks is compared, what differs is listed, and a second round asks nothing."""
    lab.ledger(
        "update aggregator.claim set claimed_at = claimed_at - interval '3 days', "
        "settled_at = settled_at - interval '3 days'"
    )
    lab.send("stripe", *next(place for place in sorted(lab.quantities) if place[0] == "calls"), 500)
    for sink in ("stripe", "metronome"):
        while lab.app.checking(sink).run_once(lab.app.ledger.instant()).more or lab.unchecked(sink):
            pass
    found = {each.sink: each for each in lab.app.ledger.checks.coverage()}
    events = len(lab.quantities)
    calls_and_bytes = sum(meter != "stored" for meter, _, _ in lab.quantities)
    assert (found["stripe"].checked, found["metronome"].checked) == (events, calls_and_bytes)
    assert [each.places for each in found.values()].count(1) == 1
    path = lab.app.config.state_dir / "aggregator.yaml"
    said = CliRunner().invoke(status, ["--config", str(path)]).output
    assert f"Sink stripe: {events:,} of {events:,} accepted events checked (100.0%)." in said
    assert "it lacks 0 and has 500 too much" in said
    reads = dict(lab.app.ledger.reads.today())
    assert lab.app.checking("stripe").run_once(lab.app.ledger.instant()).reads == 0
    assert lab.app.ledger.reads.today() == reads


def test_a_sink_is_asked_no_more_often_than_is_declared(lab: Lab) -> None:
    """With the day's reads used up, the rest is left out, which is said; the other sink is asked as before."""
    allowance = lab.app.allowances["stripe"]
    lab.app.ledger.reads.book(lab.app.sink_ids["stripe"], 1_000)
    allowance.per_day = 10
    with ExitStack() as stack:
        compared = lab.compare(stack)
        for each in compared:
            asked = each.summary.sink == "metronome"
            assert (each.summary.left_out == 0) == asked
            assert each.unfinished is not asked
        said = [note for each in compared for note in each.notes]
    assert any("stripe was asked as often today as `reads_per_day` allows" in note for note in said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "There is no meter nothing"),
        (["--csv", "--json"], "Give either --csv or --json"),
        (["--from", "2026-11-01T05:00Z"], "--from must be the start of a UTC day, such as 2026-11-01"),
        (["--from", "2026-11-02", "--to", "2026-11-02"], "is empty"),
    ],
)
def test_a_wrong_call_gets_one_sentence(
    arguments: list[str], said: str, ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names what is wrong, and what to write."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    sink = "type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1'"
    path = written(tmp_path, ledger_url, sink)
    with pytest.raises(UsageError, match=re.escape(said)):
        CliRunner().invoke(command, [*arguments, "--config", str(path)], catch_exceptions=False)
