"""The check that never sleeps, combination by combination: what is exchanged between two of them has the same sum."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from aggregator.cli.status import status
from aggregator.config import load
from aggregator.core.windows import floor
from aggregator.daemon.jobs import Drained
from aggregator.ledger.database import Database
from aggregator.ledger.review.checks import Checks, Drift
from aggregator.monitoring.metrics import Figures, LedgerCollector
from aggregator.reconciliation.checker import Checked
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.wiring.app import App, build
from tests.postgres.test_checks import check, checker, coverage
from tests.postgres.test_drift import DAY, D
from tests.postgres.test_drift_apart import SMALL, Apart, two_customers
from tests.postgres.world import HOUR, START

HUGE = (("model", "huge"),)


def known(apart: Apart) -> list[Drift]:
    """Return what is on record, by what it is of."""
    return sorted(Checks(apart.world.database).drift(100), key=lambda each: each.dimensions)


@pytest.fixture
def apart(database: Database) -> Apart:
    """Two customers with usage of two models on two days, whose totals the sink must show by now."""
    return two_customers(database)


def test_what_is_exchanged_between_two_combinations_is_found(apart: Apart) -> None:
    """Neither day nor hour differs in its sum. It goes on record, and leaves it once it is right again."""
    apart.exchange("cus_b")
    done = check(apart)
    assert (done.customers, done.events, done.differing, done.needs_person) == (2, 12, 2, True)
    assert [(each.customer, each.combination, each.cause, each.amount) for each in known(apart)] == [
        ("cus_b", "model=large", "foreign", D(-30)),
        ("cus_b", "model=small", "missing", D(30)),
    ]
    assert {each.start for each in known(apart)} == {START + 3 * HOUR}
    assert [each.partition(" in ")[0] for each in done.found] == [
        "api_requests of cus_b (model=large)",
        "api_requests of cus_b (model=small)",
    ]
    found = coverage(apart)
    assert (found.places, found.lacks, found.beyond) == (2, D(30), D(30)), "they do not come to nothing here"
    apart.sink.identifiers["small"] = apart.sink.identifiers.pop("stray")._replace(
        dimensions=SMALL, identifier="small"
    )
    apart.world.source.use("cus_b", START + 3 * HOUR, 1, model="large")
    apart.round()
    apart.later()
    assert check(apart).events == 1
    assert known(apart) == []


def test_it_costs_no_more_reads_than_sums_do(apart: Apart) -> None:
    """One for all days of a customer whose combinations agree, and the hours of a day that differs."""
    assert check(apart).reads == 2
    assert apart.sink.reads == [("cus_a", DAY), ("cus_b", DAY)]
    apart.sink.reads.clear()
    apart.exchange("cus_b")
    for customer in ("cus_a", "cus_b"):
        apart.world.source.use(customer, START + 2 * HOUR, 1, model="large")
    apart.round()
    apart.later()
    done = check(apart)
    assert (done.reads, done.differing) == (3, 2)
    assert sorted(apart.sink.reads) == sorted([("cus_a", DAY), ("cus_b", DAY), ("cus_b", HOUR)])


def test_each_customer_is_asked_about_over_their_own_days(apart: Apart) -> None:
    """One whose usage comes late makes nobody else's answer longer: it has a line for each combination and day."""
    check(apart)
    apart.sink.days.clear()
    apart.world.source.use("cus_a", START + 2 * HOUR, 1, model="large")
    for hour in (48, 50):
        apart.world.source.use("cus_b", START + hour * HOUR, 1, model="large")
        apart.world.source.use("cus_a", START + hour * HOUR, 1, model="small")
    apart.round()
    apart.later()
    done = check(apart)
    assert (done.customers, done.events, done.waiting) == (2, 5, 0)
    assert sorted(apart.sink.days) == [("cus_a", 3), ("cus_b", 1)]
    assert coverage(apart).unchecked == 0


def test_once_the_days_reads_are_used_up_the_other_days_wait(apart: Apart) -> None:
    """Whoever was not looked at is neither struck off nor put off."""
    check(apart)
    apart.world.source.use("cus_a", START + 2 * HOUR, 1, model="large")
    apart.world.source.use("cus_b", START + 48 * HOUR, 1, model="large")
    apart.round()
    apart.later()
    allowed = iter([True, True, True])
    first = checker(apart, may_ask=lambda: next(allowed, False)).run_once(apart.world.now)
    assert (first.customers, first.reads, coverage(apart).unchecked) == (1, 1, 1)
    assert check(apart).customers == 1


def test_a_combination_that_only_the_sink_knows_has_its_name(apart: Apart) -> None:
    """Nothing of ours ever had it, so it stands in no dictionary."""
    apart.book_of(HUGE, "cus_a", 7)
    assert check(apart).differing == 1
    [found] = known(apart)
    assert (found.dimensions, found.cause, found.amount) == (HUGE, "foreign", D(-7))
    assert apart.world.rows("select dimensions from aggregator.drift") == [({"model": "huge"},)]


def test_a_sink_without_such_figures_is_compared_by_sums(apart: Apart) -> None:
    """What is exchanged is not seen there, and what lacks is of no combination by name."""
    apart.sink.tells = False
    apart.exchange("cus_b")
    apart.sink.forget("cus_a", 20)
    done = check(apart)
    assert done.differing == 1
    assert done.found[0].startswith("api_requests of cus_a in ")
    [found] = known(apart)
    assert (found.customer, found.dimensions, found.combination, found.amount) == ("cus_a", (), "", D(20))


# -- with the sandbox of a sink that tells combinations apart -------------------------------------

CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}'
sources: {{app: {{url: 'sqlite:///{directory}/app.db', timezone: UTC}}}}
sinks:
  stripe: {{type: stripe, api_key: sk_test_apart, mode: test, api_base: '{sandbox}'}}
  metronome: {{type: metronome, api_key: token, quantity_encoding: text, api_base: '{sandbox}/metronome'}}
meters:
  tokens:
    source: app
    sinks: [{sinks}]
    window: 1h
    start_at: {start}
    dimensions: [model]
    query: |
      select customer, model, sum(quantity) as quantity, hour as window from use
       where hour >= :start and hour < :end group by customer, model, hour
"""


class Lab:
    """One customer's usage of some models in an hour of yesterday: billed to both sinks, days ago as the ledger has it."""

    def __init__(self, app: App, ledger: str, control: MetronomeControl) -> None:
        self.app, self._ledger, self.metronome = app, ledger, control
        self.hour = floor(utcnow(), DAY) - DAY + 5 * HOUR

    def use(self, directory: Path, models: dict[str, int]) -> None:
        """Let the customer use something of some models."""
        with closing(sqlite3.connect(directory / "app.db")) as connection, connection:
            connection.execute(
                "create table if not exists use (customer text, model text, hour timestamp, quantity integer)"
            )
            rows = [
                ("cus_a", model, f"{self.hour:%Y-%m-%d %H:%M:%S.%f}", much) for model, much in models.items()
            ]
            connection.executemany("insert into use values (?, ?, ?, ?)", rows)

    def fill(self) -> None:
        """Bill it, days ago."""
        self.metronome.add_customer("a", "cus_a")
        self.app.first_time(["tokens"], "a test", utcnow())
        self.pass_over()
        with psycopg.connect(self._ledger, autocommit=True) as ledger:
            ledger.execute(
                "update aggregator.event_at_rest set attempted_at = attempted_at - interval '3 days', "
                "exposed_at = exposed_at - interval '3 days', settled_at = settled_at - interval '3 days'"
            )
            ledger.execute(
                "update aggregator.claim set claimed_at = claimed_at - interval '3 days', "
                "settled_at = settled_at - interval '3 days'"
            )

    def pass_over(self) -> None:
        """Read the meter and send what is due, as somebody who has just started would."""
        with build(self.app.config, name="test") as app:
            while app.collections["tokens"].run_once(app.ledger.instant()).more:
                pass
            for sink in app.sink_ids:
                Drained(app, sink).run_once(app.ledger.instant())

    def again(self) -> None:
        """Let all of it be compared once more."""
        with psycopg.connect(self._ledger, autocommit=True) as connection:
            connection.execute("update aggregator.checking set listed_claim = 0")

    def exchange(self, much: int) -> None:
        """Let somebody else move usage of the small model to the large one."""
        for model, by in (("small", -much), ("large", much)):
            self.send(model, by)

    def send(self, model: str, much: int) -> None:
        """Send an event that is not ours."""
        event = {
            "transaction_id": f"stray_{model}",
            "customer_id": "cus_a",
            "event_type": "tokens",
            "timestamp": f"{self.hour:%Y-%m-%dT%H:30:00Z}",
            "properties": {"quantity": str(much), "model": model},
        }
        self.metronome.call("POST", "/v1/ingest", [event])

    def check(self, sink: str) -> Checked:
        """Let the daemon's check compare all of it."""
        done = self.app.checking(sink).run_once(self.app.ledger.instant())
        assert (done.customers, done.more) == (1, False)
        return done


def drift_of(app: App) -> dict[str, float]:
    """Return what the figures for monitoring say of the one sink."""
    families = {
        each.name: each for each in LedgerCollector(app.config, Figures(app.ledger, app.config)).collect()
    }
    its = [
        (each.labels.get("side", "places"), each.value)
        for name in ("aggregator_drift_places", "aggregator_drift_units")
        for each in families[name].samples
        if each.labels["sink"] == "metronome"
    ]
    return dict(its)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[RunningSandbox]:
    """Both sandboxes in one server."""
    with running(SandboxOptions(meters=(MeterSpec("tokens"),))) as server:
        yield server


@contextmanager
def laboratory(
    ledger: str, directory: Path, sandbox: RunningSandbox, sinks: str = "stripe, metronome"
) -> Iterator[Lab]:
    """Open one in which nothing was used yet."""
    sandbox.reset()
    control = MetronomeControl(sandbox.url)
    control.reset()
    start = f"{floor(utcnow(), DAY) - DAY:%Y-%m-%dT%H:%MZ}"
    path = directory / "aggregator.yaml"
    path.write_text(
        CONFIG.format(ledger=ledger, directory=directory, sandbox=sandbox.url, start=start, sinks=sinks)
    )
    with build(load(path, {}), name="test") as app:
        yield Lab(app, ledger, control)


@pytest.fixture
def lab(
    ledger_url: str, tmp_path: Path, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    """One with both sinks."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    with laboratory(ledger_url, tmp_path, sandbox) as lab:
        yield lab


def test_the_daemon_names_the_combinations_that_a_sink_has_exchanged(lab: Lab, tmp_path: Path) -> None:
    """In its log, by `status`, and in its figures; the other sink has the right sum, and nothing is said of it."""
    lab.metronome.add_metric("tokens", filters=[{"name": "model"}], group_keys=[["model"]])
    lab.use(tmp_path, {"large": 100, "small": 40})
    lab.fill()
    lab.exchange(25)
    done = lab.check("metronome")
    assert (done.differing, lab.check("stripe").differing) == (2, 0)
    assert [each.partition(" in ")[0] for each in done.found] == [
        "tokens of cus_a (model=large)",
        "tokens of cus_a (model=small)",
    ]
    ran = CliRunner().invoke(status, ["--config", str(tmp_path / "aggregator.yaml")], terminal_width=200)
    assert (
        "Sink metronome differs from what it accepted in 2 places: it lacks 25 and has 25 too much"
        in ran.output
    )
    assert "dimensions" in ran.output
    assert "model=large" in ran.output
    as_json = CliRunner().invoke(status, ["--json", "--config", str(tmp_path / "aggregator.yaml")]).output
    assert '"dimensions": "model=small"' in as_json
    assert drift_of(lab.app) == {"places": 2, "lacks": 25, "beyond": 25}


def test_a_metric_without_a_group_key_is_compared_by_sums(lab: Lab, tmp_path: Path) -> None:
    """So what is exchanged is not seen; and what differs is of no combination by name."""
    lab.metronome.add_metric("tokens", filters=[{"name": "model"}])
    lab.use(tmp_path, {"large": 100, "small": 40})
    lab.fill()
    lab.exchange(25)
    assert lab.check("metronome").differing == 0
    lab.send("huge", 7)
    lab.again()
    [found] = lab.check("metronome").found
    assert found.startswith("tokens of cus_a in ")
