"""Planning and applying a change: a real ledger, and a source that goes on while both definitions are read."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aggregator.cli import cli
from aggregator.cli.apply import refuse
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import load_config
from aggregator.config.changes import blocks_of, settings_of
from aggregator.core.model import Reading, Span
from aggregator.errors import PlanOutdated
from aggregator.ledger.applying import LedgerState
from aggregator.ledger.review.decisions import Decider
from aggregator.plan.document import Basis, Written, in_ledger
from aggregator.plan.reading import HowRead, read_both
from aggregator.wiring.app import build
from aggregator.wiring.opening import open_ledger
from aggregator.wiring.plans import in_force, meters_of, sides
from tests.conftest import TEMPLATE

DAY = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=1)  # noqa: TID251 - commands go by the clock
HOUR = dt.timedelta(hours=1)
KEY = "sk_test_Kanari51Hx"

CONFIG = """
ledger: {{url: '{ledger}'}}
state_dir: '{directory}/state'
sources: {{app: {{url: '{app}'}}}}
sinks:
  files: {{type: csv, directory: '{directory}/files'}}
  stripe: {{type: stripe, api_key: {key}, mode: test, api_base: 'http://127.0.0.1:1'}}
meters:
  requests:
    source: app
    sinks: [{sinks}]
    window: {window}
    start_at: {start:%Y-%m-%dT%H:%MZ}
    delay: {delay}
    query: select customer, {quantity} as quantity, at as window from used where at >= :start and at < :end
{more}
"""

PAID = "case when status < 500 then quantity end"

SEATS = """
  seats:
    source: app
    sinks: [files]
    window: 1d
    start_at: 2026-11-01T00:00Z
    query: select customer, 1 as quantity, at as window from used where at >= :start and at < :end
"""

ON_A_FAST_SERVER = """
from aggregator.cli import main
from aggregator.wiring import opening
opening.unfit = lambda database: []
main()
"""

# What a sink may be sent without being asked first, a start writes down by itself.
DUMP = """
select jsonb_build_object(
    'meter', (select jsonb_agg(to_jsonb(meter) - 'lease_until' order by id) from aggregator.meter),
    'definition', (select jsonb_agg(to_jsonb(definition) order by meter_id, since) from aggregator.definition),
    'feed', (select jsonb_agg(to_jsonb(feed) - 'cleared_at' - 'cleared_by' - 'cleared_until' order by id)
               from aggregator.feed),
    'configuration', (select jsonb_agg(to_jsonb(configuration) order by id) from aggregator.configuration))::text
"""


class World:
    """A configuration in force, another one beside it, and a database with usage of yesterday."""

    def __init__(self, directory: Path, ledger: str, app: str) -> None:
        self.directory, self.ledger, self.app = directory, ledger, app
        self.plan = directory / "plan.json"
        self.use("create table used (customer text, quantity numeric, status int, at timestamptz)")
        self.insert(("cus_a", 10, 200, 1), ("cus_a", 5, 500, 2), ("cus_b", 7, 500, 3), (None, 2, 200, 4))
        with build(load_config(self.write("now.yaml")), name="test") as found:
            assert found.registered.keys() == {"requests"}
        self.new = self.write("new.yaml", quantity=PAID)

    def use(self, statement: str, values: Any = None) -> None:
        """Do something to the application's database."""
        with psycopg.connect(self.app, autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    def insert(self, *rows: tuple[str | None, int, int, int]) -> None:
        """Add usage: customer, quantity, status, and the hour of yesterday."""
        for customer, quantity, status, hour in rows:
            at = DAY + hour * HOUR
            self.use("insert into used values (%s, %s, %s, %s)", (customer, quantity, status, at))

    def write(self, name: str, **other: Any) -> Path:
        """Write a configuration."""
        said: dict[str, Any] = {
            "sinks": "files",
            "window": "1h",
            "delay": "5m",
            "quantity": "quantity",
            "more": "",
        }
        said |= {
            "ledger": self.ledger,
            "app": self.app,
            "directory": self.directory,
            "key": KEY,
            "start": DAY,
        } | other
        path = self.directory / name
        path.write_text(CONFIG.format(**said))
        return path

    def call(self, *words: object, config: Path | None = None) -> Result:
        """Run a command within this process; no word of the key comes out."""
        ran = CliRunner().invoke(cli, [*map(str, words), "--config", str(config or self.new)])
        assert "Kanari" not in ran.output + str(ran.exception)
        return ran

    def planned(self, *words: object, config: Path | None = None) -> dict[str, Any]:
        """Plan to the file, and return what it says."""
        ran = self.call("plan", "--out", self.plan, *words, config=config)
        assert ran.exit_code == ExitCode.DONE, ran.output
        assert "Kanari" not in self.plan.read_text()
        found: dict[str, Any] = json.loads(self.plan.read_text())
        return found

    def outdated(self, *words: object, config: Path | None = None) -> str:
        """Apply the plan, which must be refused with nothing done; return what the error says."""
        before = self.dump()
        ran = self.call("apply", self.plan, *words, config=config)
        assert isinstance(ran.exception, PlanOutdated), ran.output
        assert self.dump() == before
        return str(ran.exception)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the ledger."""
        with psycopg.connect(self.ledger, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def dump(self) -> str:
        """Return all that a configuration makes in the ledger."""
        [(text,)] = self.rows(DUMP)
        return str(text)


@pytest.fixture
def world(tmp_path: Path, ledger_url: str, source_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with one meter in force, of which nothing was read; the ledger's server is fast for not being durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    return World(tmp_path, ledger_url, source_url)


def test_a_plan_says_what_a_day_comes_to_and_writes_nothing(world: World) -> None:
    """By both queries, customer by customer; with what nobody is billed for, and from when on it would hold."""
    before = world.dump()
    found = world.planned()
    assert world.dump() == before
    [change] = found["changed"]
    assert (change["kind"], change["holds_from"]) == ("query", f"{DAY:%Y-%m-%dT%H:%M:%SZ}")
    [meter] = found["meters"]
    figures = meter["figures"]
    assert (figures["before"]["billed"], figures["after"]["billed"], figures["difference"]) == (
        "22",
        "10",
        "-12",
    )
    assert [(each["customer"], each["difference"]) for each in figures["movers"]] == [
        ("cus_b", "-7"),
        ("cus_a", "-5"),
    ]
    assert (figures["gone_customers"], figures["new_customers"]) == (1, 0)
    assert (figures["before"]["unmapped_rows"], figures["after"]["unmapped_rows"]) == (1, 3)
    assert world.call("plan", "--exit-code").exit_code == ExitCode.WORK_LEFT
    assert world.call("plan", "--exit-code", config=world.directory / "now.yaml").exit_code == ExitCode.DONE


def test_both_definitions_are_read_in_one_snapshot(world: World) -> None:
    """A row that is committed between the two readings is in neither."""
    with (
        open_ledger(load_config(world.new), may_migrate=False) as ledger,
        build(load_config(world.new), looks=True) as app,
    ):
        looked = ledger.applying.look(meters_of(app.config, {}))
        [(old, new)] = sides(app.config, looked).values()
        assert old is not None
        assert new is not None

        def resolve(_: str, batch: list[Reading]) -> list[Reading]:
            world.insert(("cus_late", 100, 200, 5))
            return batch

        def by_key(how: HowRead) -> HowRead:
            return how._replace(customers="accounts")

        found = read_both(
            "requests", by_key(old), by_key(new), Span(DAY, DAY + 24 * HOUR), app.sources, resolve, 5
        )
    assert found.comparison is not None
    assert found.notes == []
    assert (found.comparison.before.billed, found.comparison.after.billed) == (22, 10)  # type: ignore[union-attr]
    assert world.planned()["meters"][0]["figures"]["before"]["billed"] == "222", "they are there by now"


def test_what_was_planned_is_applied_at_once_and_stays_on_record(world: World) -> None:
    """With who wanted it and why; a start with the same files finds nothing to change, and so does a second apply."""
    config = world.write("new.yaml", quantity="2 * quantity", window="1d", sinks="files, stripe", more=SEATS)
    changed = {f"{each['name']} {each['kind']}" for each in world.planned(config=config)["changed"]}
    assert changed == {"requests query", "requests definition", "requests sinks", "seats new"}
    ran = world.call("apply", world.plan, "--recheck", "--reason", "prices of December", config=config)
    assert ran.exit_code == ExitCode.DONE, ran.output
    assert "4 changes of the configuration hold now" in ran.stdout
    after = world.dump()
    [(by, reason)] = world.rows(
        "select applied_by, reason from aggregator.configuration order by id desc limit 1"
    )
    assert by
    assert reason == "prices of December"
    with build(load_config(config), name="test"):
        assert world.dump() == after
    again = world.call("apply", world.plan, config=config)
    assert again.exit_code == ExitCode.DONE, again.output
    assert "holds already" in again.stdout
    assert reason in again.stdout
    assert world.dump() == after
    assert "applied by" in world.call("status", config=config).stdout
    assert json.loads(world.call("plan", "--json", config=config).stdout)["changed"] == []


def test_nothing_is_read_or_sent_by_applying(world: World) -> None:
    """The source may be away, and the sink is; no event is planned."""
    world.planned()
    world.use("drop table used")
    assert world.call("apply", world.plan).exit_code == ExitCode.DONE
    assert world.rows(
        "select count(*) from aggregator.event union all select count(*) from aggregator.pass"
    ) == [
        (0,),
        (0,),
    ]


def other_file(world: World) -> Path:
    """The file says something else by now."""
    return world.write("new.yaml", quantity="3 * quantity")


def registered(world: World) -> None:
    """Somebody started a daemon with another query meanwhile."""
    with build(load_config(world.write("third.yaml", quantity="3 * quantity")), name="test"):
        pass


def settings(world: World) -> None:
    """Or with another delay."""
    with build(load_config(world.write("third.yaml", delay="7m")), name="test"):
        pass


def another_meter(world: World) -> None:
    """Or with one meter more."""
    with build(load_config(world.write("third.yaml", more=SEATS)), name="test"):
        pass


def another_sink(world: World) -> None:
    """Or with a sink elsewhere."""
    with build(load_config(world.write("third.yaml", key=f"{KEY}, rate_limit: 3")), name="test"):
        pass


def adopted(world: World) -> None:
    """The ledger was set back and adopted."""
    with psycopg.connect(world.ledger, autocommit=True) as connection:
        connection.execute("update aggregator.identity set generation = 7")


@pytest.mark.parametrize(
    ("meanwhile", "named"),
    [
        (other_file, "meter requests in the configuration"),
        (registered, "the definitions of meter requests in the ledger"),
        (settings, "the settings of meter requests in the ledger"),
        (another_meter, "the definitions of meter seats in the ledger, which is new"),
        (another_sink, "the settings of sink stripe in the ledger"),
        (adopted, "the ledger's generation"),
    ],
)
def test_a_plan_is_refused_once_something_has_changed(
    world: World, meanwhile: Callable[[World], object], named: str
) -> None:
    """What it is, is named; nothing is applied."""
    world.planned()
    meanwhile(world)
    said = world.outdated()
    assert named in said
    assert "Plan again" in said


def test_what_the_source_says_is_read_again_only_if_that_is_wanted(world: World) -> None:
    """Rows that came late change the figures, and not what would be applied."""
    world.planned()
    world.insert(("cus_c", 1, 200, 6))
    assert "what the source says of meter requests over the range" in world.outdated("--recheck")
    assert world.call("apply", world.plan).exit_code == ExitCode.DONE


def test_progress_of_reading_is_no_change(world: World) -> None:
    """The mark moves all the time: the definition begins behind it, wherever that is by then."""
    world.planned()
    with psycopg.connect(world.ledger, autocommit=True) as connection:
        connection.execute("update aggregator.meter set mark = %s", [DAY + 3 * HOUR])
        connection.execute("update aggregator.feed set read_until = %s", [DAY + 3 * HOUR])
    assert world.call("apply", world.plan).exit_code == ExitCode.DONE
    begins = world.rows("select max(since) from aggregator.definition")
    assert begins == [(DAY + 3 * HOUR,)]


def test_another_ledger_is_named(world: World, create_database: Callable[[str | None], str]) -> None:
    """A plan is for the one that it was made against."""
    world.planned()
    world.ledger = create_database(TEMPLATE)
    with psycopg.connect(world.ledger, autocommit=True) as connection:
        connection.execute("update aggregator.identity set ledger_id = gen_random_uuid()")
    assert "the ledger: the plan is for" in world.outdated(config=world.write("other.yaml", quantity=PAID))


def test_whoever_registers_at_the_same_time_is_seen(world: World) -> None:
    """What the plan goes by is looked at in the very transaction that applies it."""
    config = load_config(world.new)
    with open_ledger(config, may_migrate=False) as ledger:
        meters = meters_of(config, {})
        planned = in_force(ledger.applying.look(meters).state)
        registered(world)
        before = world.dump()

        def check(state: LedgerState) -> None:
            refuse(list(in_ledger(planned, in_force(state))), Written(DAY, None, Basis({}, planned, {})))

        with pytest.raises(PlanOutdated, match="the definitions of meter requests in the ledger"):
            ledger.applying.apply(meters, settings_of(config.meters), blocks_of(config), Decider("a"), check)
        assert world.dump() == before


def test_killed_it_holds_as_a_whole_or_not_at_all(world: World) -> None:
    """Before it is committed nothing does, after it everything; and applying it again ends the same."""
    world.planned()
    before = world.dump()
    words = [sys.executable, "-c", ON_A_FAST_SERVER, "apply", str(world.plan), "--config", str(world.new)]
    for point, holds in (("plan_applied", False), ("plan_committed", True)):
        environment = os.environ | {"AGGREGATOR_KILL_AT": point}
        ran = subprocess.run(words, env=environment, capture_output=True, check=False, timeout=300)
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        assert (world.dump() != before) is holds
    again = world.call("apply", world.plan)
    assert again.exit_code == ExitCode.DONE, again.output
    assert "holds already" in again.stdout
    assert len(world.rows("select from aggregator.configuration where applied_by is not null")) == 1


def test_a_query_that_fails_fails_the_plan(world: World) -> None:
    """What it changes is shown all the same; nothing is written to the file."""
    config = world.write("new.yaml", quantity="nothing")
    ran = world.call("plan", "--out", world.plan, config=config)
    assert ran.exit_code == ExitCode.FAILED
    assert "another query" in ran.stdout
    assert "it cannot be read by the new definition" in ran.stdout
    assert not world.plan.exists()


def test_a_removed_meter_comes_to_nothing(world: World) -> None:
    """Its source is asked what it would have billed."""
    with build(load_config(world.write("third.yaml", more=SEATS)), name="test"):
        pass
    found = world.planned(config=world.directory / "now.yaml")
    assert [(each["name"], each["kind"]) for each in found["changed"]] == [("seats", "removed")]
    [meter] = found["meters"]
    assert (meter["sinks_after"], meter["figures"]["after"]) == ([], None)
    assert meter["figures"]["before"]["billed"] == "3"


COUNTED = """
  calls:
    source: app
    sinks: [files]
    window: 1h
    start_at: {start:%Y-%m-%dT%H:%MZ}
    read: counters
    resets: {resets}
    query: {query}
"""

SAMPLED = """
with counter as (
    insert into aggregator.series (meter_id, customer, name, at, value, generation)
    select id, 'cus_a', '', %(at)s::timestamptz + interval '2 hours', 3, 0 from aggregator.meter where name = 'calls'
    returning id, meter_id
), taken as (
    insert into aggregator.sampling (meter_id, due, at, rows, unusable)
    select meter_id, at, at, 1, 0 from counter, generate_series(%(at)s, %(at)s + interval '2 hours', interval '1 hour') as at
)
insert into aggregator.sample (meter_id, at, series_id, value, previous, previous_at, adopted)
select meter_id, %(at)s::timestamptz + interval '1 hour' * nr, id, value, previous,
       case when previous is not null then %(at)s::timestamptz + interval '1 hour' * (nr - 1) end, false
  from counter, (values (0, 5, null), (1, 15, 5), (2, 3, 15)) as seen (nr, value, previous)
"""


def test_what_is_sampled_is_counted_from_the_samples_that_are_kept(world: World) -> None:
    """Its source tells nothing of the past; another query could not have been asked then, and that is said."""

    def configured(name: str, resets: str, query: str = "select customer, 1 as quantity from used") -> Path:
        return world.write(name, more=COUNTED.format(start=DAY, resets=resets, query=query))

    with build(load_config(configured("third.yaml", "restart")), name="test"):
        pass
    with psycopg.connect(world.ledger, autocommit=True) as connection:
        connection.execute(SAMPLED.encode(), {"at": DAY + HOUR})
    [meter] = world.planned(config=configured("new.yaml", "ignore"))["meters"]
    figures = meter["figures"]
    assert (figures["before"]["billed"], figures["after"]["billed"], figures["difference"]) == (
        "13",
        "10",
        "-3",
    )
    assert [each["customer"] for each in figures["movers"]] == ["cus_a"]
    assert world.call("apply", world.plan, "--recheck").exit_code == ExitCode.DONE
    other = configured("other.yaml", "ignore", "select customer, 2 as quantity from used")
    [meter] = world.planned(config=other)["meters"]
    assert (meter["figures"]["before"]["billed"], meter["figures"]["after"]) == ("10", None)
    assert "its source cannot be asked any more" in " ".join(meter["notes"])
    assert "its source cannot be asked any more" in world.call("plan", config=other).stdout


def test_what_changes_within_a_source_or_a_sink_is_told_with_what_it_means(
    world: World, create_database: Callable[[str | None], str], reached: Callable[[str], str]
) -> None:
    """Compared with what the ledger keeps, in which there is no secret; the database before is not asked any more."""
    assert "Kanari" not in world.dump()
    assert world.planned(config=world.directory / "now.yaml")["changed"] == []
    before, key = world.app, "sk_test_Kanari52Hx"
    world.app = reached(create_database(None))
    world.use("create table used (customer text, quantity numeric, status int, at timestamptz)")
    world.insert(("cus_n", 4, 200, 1))
    other = world.write("new.yaml", key=f"{key}, transport: v2, rate_limit: 7")
    found = world.planned(config=other)
    changed = {(each["name"], each["key"]): each for each in found["changed"]}
    assert changed.keys() == {("app", "url.database"), ("stripe", "transport"), ("stripe", "rate_limit")}
    assert (
        "marks, cursors and samples refer to the database before" in changed["app", "url.database"]["means"]
    )
    assert "each keeps its identifier" in changed["stripe", "transport"]["means"]
    [meter] = found["meters"]
    assert (
        meter["figures"]["before"],
        meter["figures"]["after"]["billed"],
        meter["figures"]["difference"],
    ) == (
        None,
        "4",
        None,
    )
    assert before.rpartition("/")[2].partition("?")[0] in meter["notes"][0]
    for form in ("--markdown", "--json"):
        assert "refer to the database before" in world.call("plan", form, config=other).stdout
    ran = world.call("apply", world.plan, config=other)
    assert ran.exit_code == ExitCode.DONE, ran.output
    assert "Kanari" not in world.dump()
    assert "transport v2 (was v1)" in world.call("status", config=other).stdout
    assert world.planned(config=other)["changed"] == []


def test_a_cutover_that_is_killed_holds_as_a_whole_or_not_at_all(world: World) -> None:
    """Setting it again ends the same; and a plan that takes its sink off says what that does."""
    both = "files, {sink: stripe, shadow: true}"
    config = world.write("third.yaml", sinks=both)
    with build(load_config(config), name="test"):
        pass
    words = ["cutover", "set", "cus_a", "--from-sink", "files", "--to-sink", "stripe", "--unchecked"]
    words += ["--at", f"{DAY + 9 * HOUR:%Y-%m-%dT%H:%MZ}"]
    cutovers = "select customer, at, parallel from aggregator.cutover"
    for point, holds in (("cutover_written", False), ("cutover_committed", True)):
        ran = subprocess.run(
            [sys.executable, "-c", ON_A_FAST_SERVER, *words, "--config", str(config)],
            env=os.environ | {"AGGREGATOR_KILL_AT": point},
            capture_output=True,
            check=False,
            timeout=300,
        )
        assert ran.returncode == -signal.SIGKILL, ran.stderr
        assert world.rows(cutovers) == ([("cus_a", DAY + 9 * HOUR, False)] if holds else [])
        assert world.rows("select bool_and(parted) from aggregator.feed") == [(holds,)]
    again = world.call(*words, config=config)
    assert (again.exit_code, "That was set already." in again.stdout) == (ExitCode.DONE, True), again.output
    assert len(world.rows(cutovers)) == 1
    found = world.planned("--no-source", config=world.directory / "now.yaml")
    assert "is billed by nobody" in " ".join(found["notes"])
