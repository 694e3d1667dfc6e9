"""The alerts are made to fire, each once, by promtool; what is healthy fires none, and a scrape that fails hides none.

A rule that names a metric that nobody tells never fires, and promtool says well of a test that names an alert that nobody
has. So names are held against each other.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from aggregator.monitoring.metrics import FAMILIES, written_name
from tests.prometheus import missing, promtool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "config" / "monitoring" / "alerts.yml"
DASHBOARD = ROOT / "config" / "monitoring" / "dashboard.json"
ALERTS: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(RULES.read_text())["groups"][0]["rules"]
WRITTEN = {written_name(name) for name in FAMILIES}
METRIC = re.compile(r"\baggregator_\w+")

needs_promtool = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class Case(NamedTuple):
    """What a metric shows when an alert is to fire, and when all is well; and the labels of the series."""

    metric: str
    labels: dict[str, str]
    bad: float
    good: float


FEED = {"meter": "api", "sink": "stripe"}
CASES = {
    "AggregatorLedgerDown": Case("aggregator_ledger_up", {}, 0, 1),
    "AggregatorLedgerStopped": Case("aggregator_ledger_stopped", {}, 1, 0),
    "AggregatorClocksApart": Case("aggregator_clocks_apart", {}, 1, 0),
    "AggregatorFiguresOld": Case("aggregator_figures_age_seconds", {"figures": "waiting"}, 1000, 15),
    "AggregatorSourceDown": Case("aggregator_source_up", {"source": "app"}, 0, 1),
    "AggregatorSinkHalted": Case("aggregator_sink_halted", {"sink": "stripe"}, 1, 0),
    "AggregatorFeedStopped": Case("aggregator_feed_stopped", FEED, 1, 0),
    "AggregatorMeterOverdue": Case("aggregator_mark_overdue_seconds", {"meter": "api"}, 1234567, 600),
    "AggregatorPassFailing": Case("aggregator_pass_failing", {"meter": "api"}, 1, 0),
    "AggregatorBacklog": Case("aggregator_oldest_event_seconds", {**FEED, "state": "due"}, 1795886, 60),
    "AggregatorInDoubtSoon": Case("aggregator_until_in_doubt_seconds", FEED, 3600, 70000),
    "AggregatorTooOldSoon": Case(
        "aggregator_until_too_old_seconds", {**FEED, "state": "held"}, 86400, 2000000
    ),
    "AggregatorEventsHeld": Case("aggregator_events", {**FEED, "state": "held"}, 20261128, 0),
    "AggregatorEventsRefused": Case("aggregator_events", {**FEED, "state": "refused"}, 3, 0),
    "AggregatorEventsInDoubt": Case(
        "aggregator_oldest_event_seconds", {**FEED, "state": "in_doubt"}, 200000, 90000
    ),
    "AggregatorDrift": Case("aggregator_drift_places", {"sink": "stripe"}, 3, 0),
    "AggregatorUncheckedOld": Case("aggregator_unchecked_age_seconds", {"sink": "stripe"}, 400000, 90000),
    "AggregatorUnmapped": Case("aggregator_unmapped_rows", {"meter": "api", "kind": "unusable"}, 2, 0),
    "AggregatorWithoutIdSoon": Case(
        "aggregator_until_too_old_seconds", {**FEED, "state": "without_id"}, 86400, 2000000
    ),
    "AggregatorRecountDiffered": Case(
        "aggregator_recount_differed_age_seconds", {"meter": "api"}, 3600, 400000
    ),
    "AggregatorChangedMissed": Case("aggregator_changed_missed_age_seconds", {"meter": "api"}, 3600, 400000),
    "AggregatorSampleOverdue": Case("aggregator_sample_overdue_seconds", {"meter": "api"}, 900, 60),
    "AggregatorSampleGap": Case("aggregator_sample_gap_seconds", {"meter": "api"}, 1200, 0),
    "AggregatorMonthsStay": Case("aggregator_old_months", {"meter": "api"}, 2, 1),
    "AggregatorMeterSilent": Case("aggregator_silent_seconds", {"meter": "api"}, 7200, 0),
    "AggregatorQueryUnstable": Case("aggregator_query_unstable", {"meter": "api"}, 1, 0),
    "AggregatorWindowsUnread": Case("aggregator_unread_windows", {"meter": "api"}, 1, 0),
    "AggregatorShrinkHeld": Case("aggregator_guarded_windows", {"meter": "api"}, 1, 0),
}
"""By alert. `AggregatorDown` is about series that are not there, and has a test of its own."""

HELD_FOR = 125
"""Minutes for which something is bad: longer than any range."""


def series(case: Case, values: str) -> dict[str, str]:
    labels = ",".join(f'{name}="{value}"' for name, value in case.labels.items())
    return {"series": f"{case.metric}{{{labels}}}", "values": values}


def alert(name: str) -> dict[str, Any]:
    [found] = [each for each in ALERTS if each["alert"] == name]
    return found


def expected(name: str, case: Case) -> dict[str, Any]:
    """Return the alert as it is to be sent: numbers written out, labels filled in."""

    def filled(template: str) -> str:
        text = template.replace('{{ printf "%.0f" $value }}', f"{case.bad:.0f}")
        return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: case.labels[found[1]], text)

    its = alert(name)
    return {
        "exp_labels": {**case.labels, **its["labels"]},
        "exp_annotations": {key: filled(text) for key, text in its["annotations"].items()},
    }


def judged(tmp_path: Path, groups: list[dict[str, Any]]) -> str:
    """Let promtool judge, and return what it complains of."""
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": groups}))
    ran = promtool("test", "rules", str(path))
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    """It finds nothing wrong with them."""
    ran = promtool("check", "rules", str(RULES))
    assert ran.returncode == 0, ran.stderr
    assert f"{len(ALERTS)} rules found" in ran.stdout


def test_every_alert_has_a_case() -> None:
    """No alert is without one, and no case is of an alert that nobody has."""
    assert {each["alert"] for each in ALERTS} == CASES.keys() | {"AggregatorDown"}


@needs_promtool
def test_each_alert_fires_and_ends(tmp_path: Path) -> None:
    """With the words that a person gets; before it was bad for long, and once it is well again, it does not.

    One scrape in four fails all the while, which ends its series; the last one does, too.
    """
    groups = []
    for name, case in CASES.items():
        bad = " ".join("stale" if minute % 4 == 3 else f"{case.bad:.0f}" for minute in range(HELD_FOR))
        values = f"{case.good:.0f}x{HELD_FOR} {bad} {case.good:.0f}x{HELD_FOR}"
        at = {"before": HELD_FOR, "while": 2 * HELD_FOR - 1, "after": 3 * HELD_FOR}
        groups.append(
            {
                "interval": "1m",
                "input_series": [series(case, values)],
                "alert_rule_test": [
                    {
                        "eval_time": f"{minute}m",
                        "alertname": name,
                        "exp_alerts": [expected(name, case)] if when == "while" else [],
                    }
                    for when, minute in at.items()
                ],
            }
        )
    assert judged(tmp_path, groups) == ""


@needs_promtool
def test_nothing_heard_is_an_alert(tmp_path: Path) -> None:
    """After ten minutes, and not before; a scrape that comes again ends it, and the page alone hides nothing of it."""
    its = alert("AggregatorDown")
    fires = {"exp_labels": its["labels"] | {"part": "daemon"}, "exp_annotations": its["annotations"]}
    tests = [
        {"eval_time": f"{minute}m", "alertname": "AggregatorDown", "exp_alerts": [fires] if down else []}
        for minute, down in ((29, False), (38, False), (41, True), (61, False))
    ]
    shown = {"series": 'aggregator_build_info{version="1",part="daemon"}', "values": "1x29 _x29 1x30"}
    page = {"series": 'aggregator_build_info{version="1",part="web"}', "values": "1x60"}
    group = {"interval": "1m", "input_series": [shown, page], "alert_rule_test": tests}
    assert judged(tmp_path, [group]) == ""


@needs_promtool
def test_a_scrape_without_a_figure_is_no_alert(tmp_path: Path) -> None:
    """Where nothing waits, there is no cliff; and who has just begun has no history."""
    names = list(CASES)
    group = {
        "interval": "1m",
        "input_series": [{"series": 'aggregator_build_info{version="1",part="daemon"}', "values": "1x60"}],
        "alert_rule_test": [{"eval_time": "60m", "alertname": name, "exp_alerts": []} for name in names],
    }
    assert judged(tmp_path, [group]) == ""


@needs_promtool
def test_who_only_waits_for_an_id_is_no_alert(tmp_path: Path) -> None:
    """However many rows: a key without an id is billed once it has one, and there is an alert for when that is late."""
    case = CASES["AggregatorUnmapped"]
    waits = series(case._replace(labels={**case.labels, "kind": "without_id"}), "50x60")
    tests = [{"eval_time": "60m", "alertname": "AggregatorUnmapped", "exp_alerts": []}]
    assert judged(tmp_path, [{"interval": "1m", "input_series": [waits], "alert_rule_test": tests}]) == ""


def test_every_rule_names_what_is_told() -> None:
    """Each metric of a rule is one of ours, and each label that it asks for or shows is one of that metric's."""
    for each in ALERTS:
        [metric] = METRIC.findall(each["expr"])
        assert metric in WRITTEN, each["alert"]
        labels = FAMILIES[metric.removesuffix("_total")][2]
        asked = re.findall(r"(\w+)=~?\"", each["expr"])
        shown = re.findall(r"\$labels\.(\w+)", each["annotations"]["summary"])
        assert set(asked) | set(shown) <= set(labels), each["alert"]


def test_the_dashboard_names_what_is_told() -> None:
    """And each of its expressions is one that Prometheus can work out."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert {name for each in expressions for name in METRIC.findall(each)} <= WRITTEN
    assert len(expressions) >= len(panels) > 10


@needs_promtool
def test_the_dashboard_can_be_worked_out(tmp_path: Path) -> None:
    """Each expression is one that Prometheus understands."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rules = [
        {"record": "x:y", "labels": {"n": f"{panel['id']}{target['refId']}"}, "expr": target["expr"]}
        for panel in panels
        for target in panel["targets"]
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    ran = promtool("check", "rules", str(path))
    assert ran.returncode == 0, ran.stderr
