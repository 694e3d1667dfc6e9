"""A quick look at customers before they are compared: what it saves, and that nothing is judged by it."""

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner
from structlog.testing import capture_logs

from aggregator.cli.check import check as check_command
from aggregator.core.drift import Cause
from aggregator.core.model import Span
from aggregator.daemon.jobs import CheckedForAWhile
from aggregator.daemon.reporting import Reporter, report_checked
from aggregator.errors import CustomerUnknown, NoOverview
from aggregator.ledger.database import Database
from aggregator.reconciliation.checker import Checked
from aggregator.sinks.protocol import Overview
from tests.postgres.test_checks import check, coverage
from tests.postgres.test_drift import DAY, Compared, CountingSink
from tests.postgres.test_reconcile_changes import (
    METERS,
    Lab,
    call,
    lab,
    sandbox,
)
from tests.postgres.test_reconcile_changes import (
    test_units_changed_anywhere_are_found_and_put_right as changes_anywhere,
)
from tests.postgres.world import HOUR, START

D = Decimal

__all__ = ["lab", "sandbox"]


class LookedAt(CountingSink):
    """A sink with a quick look, which shows what was booked by an instant, or something else."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[str] = []
        self.lag = HOUR
        self.now = START
        self.hidden: set[str] = set()
        self.failure: Exception | None = None

    def overview(self, meter: str, customer: str, span: Span, step: dt.timedelta) -> Overview | None:
        """Return what a look shows: nothing of who is hidden."""
        self.looks.append(customer)
        if self.failure is not None:
            raise self.failure
        found = {} if customer in self.hidden else self.summed(meter, customer, span, step)
        return Overview(found, self.now - self.lag, 1)


@pytest.fixture
def three(database: Database, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Three customers with usage on two days each, all of it billed to a sink that has a quick look."""
    monkeypatch.setattr("tests.postgres.test_drift.CountingSink", LookedAt)
    compared = Compared(database)
    for number, customer in enumerate(("cus_a", "cus_b", "cus_c")):
        for hour in (2, 3, 30):
            compared.world.source.use(customer, START + hour * HOUR, hour + number)
    compared.settled()
    looked_at(compared).now = compared.world.now
    return compared


def looked_at(compared: Compared) -> LookedAt:
    """Return the sink."""
    assert isinstance(compared.sink, LookedAt)
    return compared.sink


def test_who_is_there_as_booked_is_not_asked_about_again(three: Compared) -> None:
    """One look each, and no more; up to when it was fresh is known."""
    found, summary = three.compare()
    assert (found, three.sink.reads, summary.reads) == ([], [], 3)
    assert sorted(looked_at(three).looks) == ["cus_a", "cus_b", "cus_c"]
    assert (summary.by_overview, summary.asked_again) == (3, 0)
    assert summary.fresh_to == three.world.now - HOUR
    assert summary.whole[1:] == (*[D(2 * 3 + 3 * 35 + 3)] * 4, D(0), 0)


def test_what_differs_is_judged_by_what_proves_something(three: Compared) -> None:
    """Days and then hours, of that customer alone; what only the look lacks is no difference."""
    three.sink.book("cus_b", START + 5 * HOUR, 500)
    looked_at(three).hidden.add("cus_c")
    assert three.said() == [("cus_b", 5, Cause.FOREIGN, D(-500))]
    assert sorted(three.sink.reads) == [("cus_b", HOUR), ("cus_b", DAY), ("cus_c", DAY)]
    _, summary = three.compare()
    assert (summary.by_overview, summary.asked_again, summary.reads) == (1, 2, 6)


def test_a_look_that_is_older_than_an_event_says_nothing_of_its_customer(three: Compared) -> None:
    """Neither that it is there, nor that it is absent: whoever is newer than the look is read as ever."""
    looked_at(three).lag = three.world.now - (START + 60 * HOUR)
    looked_at(three).hidden |= {"cus_a", "cus_b", "cus_c"}
    found, summary = three.compare()
    assert (found, summary.by_overview) == ([], 0)
    assert sorted(three.sink.reads) == [(each, DAY) for each in ("cus_a", "cus_b", "cus_c")]
    looked_at(three).hidden.clear()
    three.sink.reads.clear()
    _, summary = three.compare()
    assert (summary.by_overview, len(three.sink.reads)) == (0, 3)


def test_once_a_look_was_too_old_none_is_had_of_who_is_newer(three: Compared) -> None:
    """It would cost a read and show nothing."""
    three.world.source.use("cus_d", START + 40 * HOUR, 9)
    three.world.source.use("cus_e", START + 40 * HOUR, 9)
    three.world.now += HOUR
    three.round()
    looked_at(three).now = three.world.now
    looks = looked_at(three).looks
    looks.clear()
    report = three.compare()[1]
    assert report.by_overview == 3
    assert {"cus_a", "cus_b", "cus_c"} <= set(looks)
    three.sink.reads.clear()
    assert three.said() == []
    assert {each for each, _ in three.sink.reads} == {"cus_d", "cus_e"}


@pytest.mark.parametrize("minutes", [4, 6])
def test_clocks_may_be_apart_by_minutes(three: Compared, minutes: int) -> None:
    """What was sent within five minutes of the look may not be in it."""
    [sent] = three.world.rows("select max(attempted_at) from aggregator.event")
    looked_at(three).lag = three.world.now - (sent[0] + dt.timedelta(minutes=minutes))
    assert three.compare()[1].by_overview == (3 if minutes == 6 else 0)


def test_a_look_from_the_future_is_not_believed(three: Compared) -> None:
    """Whatever it shows: such an instant means that its meaning is not understood."""
    looked_at(three).lag = -2 * DAY
    found, summary = three.compare()
    assert (found, summary.by_overview, len(three.sink.reads)) == ([], 0, 3)


def test_hours_are_never_looked_at_quickly(three: Compared) -> None:
    """Who asks for every hour wants to know."""
    found, summary = three.compare(every_hour=True)
    assert (found, looked_at(three).looks, summary.reads) == ([], [], 6)


@pytest.mark.parametrize("failure", [NoOverview("There is no preview."), CustomerUnknown("Who?")])
def test_without_a_look_everything_is_as_ever(three: Compared, failure: Exception) -> None:
    """What the figures that prove something say is what counts; why there was no look is known."""
    looked_at(three).failure = failure
    three.sink.forget("cus_a", 30)
    assert three.said() == [("cus_a", 30, Cause.MISSING, D(30))]
    _, summary = three.compare()
    assert summary.unasked == []
    assert summary.no_overview == ("There is no preview." if isinstance(failure, NoOverview) else None)


def test_the_check_that_never_sleeps_looks_first(three: Compared) -> None:
    """What differs goes on record as ever; who is as booked takes one look."""
    three.sink.forget("cus_c", 32)
    three.world.now += 27 * HOUR
    looked_at(three).now = three.world.now
    done = check(three)
    assert (done.customers, done.events, done.differing) == (3, 9, 1)
    assert sorted(three.sink.reads) == [("cus_c", HOUR), ("cus_c", DAY)]
    assert done.reads == 5
    assert (coverage(three).places, coverage(three).lacks) == (1, D(32))


def test_the_daemon_says_once_that_there_is_no_look() -> None:
    """Not with each round."""
    said: dict[str, str] = {}
    with capture_logs() as logs:
        for _ in range(3):
            to = Reporter("stripe", structlog.get_logger(), once=False, said=said)
            report_checked(to, Checked(no_overview="There is no preview."))
    assert [(each["event"], each["reason"]) for each in logs] == [
        ("sink_cannot_promise", "There is no preview.")
    ]


# -- with the sink and the sandbox --------------------------------------------------------------------


@pytest.fixture(autouse=True)
def by_meter_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sandbox's Stripe be looked at by meter usage."""
    from tests.postgres import test_reconcile_changes as changes

    text = changes.CONFIG.replace("mode: test, api_base", "mode: test, totals_by: meter_usage, api_base")
    monkeypatch.setattr(changes, "CONFIG", text)


def told(lab: Lab) -> Any:
    """Return what `reconcile --json` says."""
    return json.loads(call(lab, "--json").out)


def reads(lab: Lab) -> list[int]:
    """Return how many reads each meter took at Stripe."""
    by_meter = {each["meter"]: each["reads"] for each in told(lab)["feeds"] if each["sink"] == "stripe"}
    return [by_meter[meter] for meter in sorted(METERS)]


def test_several_meters_of_a_customer_take_one_read(lab: Lab) -> None:
    """Three customers and three meters: three reads instead of nine; the command says as of when."""
    lab.sandbox.set_rules()
    assert reads(lab) == [3, 3, 3]
    lab.sandbox.set_rules(meter_usage=True)
    before = lab.sandbox.stats()["requests"]
    assert reads(lab) == [3, 0, 0]
    asked = lab.sandbox.stats()["requests"] - before
    out = call(lab).out
    assert "Compared by `meter_usage`, as stripe had it at " in out
    assert ": 3 customers of bytes. By event summaries, since something differs or is newer: 0." in out
    assert asked < 9


def test_an_account_without_the_preview_is_compared_by_summaries_and_says_so(lab: Lab) -> None:
    """No figure changes; the command and `check` say what to do."""
    lab.sandbox.set_rules(meter_usage_status=403)
    said = call(lab)
    assert said.code == 0
    assert said.out.count("Stripe does not give sink stripe meter usage") == 1
    assert "or take `totals_by: meter_usage` off the sink." in " ".join(said.out.split())
    path = Path(lab.app.config.state_dir) / "aggregator.yaml"
    out = CliRunner().invoke(check_command, ["--config", str(path)]).output
    assert "Ask Stripe for the preview" in " ".join(out.split())


def test_a_check_goes_on_with_every_meter(lab: Lab) -> None:
    """However few customers one of them has: it ends when nothing of the sink is left to be compared."""
    lab.sandbox.set_rules(meter_usage=True)
    now = lab.app.ledger.instant() + 2 * DAY
    done = CheckedForAWhile(lab.app, "stripe", lambda: 0.0).run_once(now)
    assert (done.customers, done.more, lab.unchecked("stripe")) == (9, False, 0)
    assert done.reads == 3


def test_a_lagging_look_judges_nothing(lab: Lab) -> None:
    """Not what it lacks, nor what it cannot show yet; what summaries show is what is said."""
    lab.sandbox.set_rules(meter_usage=True, meter_usage_lag_seconds=6 * 86400)
    said = call(lab)
    assert said.code == 0
    assert "or is newer than `meter_usage` shows: 3 customers of calls." in " ".join(said.out.split())
    meter, customer, hour = next(place for place in sorted(lab.quantities) if place[0] == "calls")
    lab.send("stripe", meter, customer, hour, 500)
    [found] = told(lab)["differences"]
    assert (found["cause"], found["customer"], found["sink"]) == ("foreign", customer, "stripe")


def test_units_changed_anywhere_are_found_by_a_look_too(lab: Lab, request: pytest.FixtureRequest) -> None:
    """The same changes, causes and repairs as by summaries alone."""
    lab.sandbox.set_rules(meter_usage=True)
    changes_anywhere(lab, request)
