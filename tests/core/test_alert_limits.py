"""What people are told of and the alert rules have the same limits, so that both raise the alarm at the same time."""

import re
from pathlib import Path

from ruamel.yaml import YAML

from aggregator.monitoring import troubles

RULES = Path(__file__).parents[2] / "config" / "monitoring" / "alerts.yml"
LIMIT = re.compile(r"[<>] (\d{2,})$")
LIMITS = {
    "AggregatorMeterOverdue": troubles.OVERDUE_SECONDS,
    "AggregatorBacklog": troubles.BACKLOG_SECONDS,
    "AggregatorInDoubtSoon": troubles.SOON_IN_DOUBT_SECONDS,
    "AggregatorTooOldSoon": troubles.SOON_TOO_OLD_SECONDS,
    "AggregatorEventsInDoubt": troubles.IN_DOUBT_SECONDS,
    "AggregatorWithoutIdSoon": troubles.SOON_TOO_OLD_SECONDS,
    "AggregatorRecountDiffered": troubles.RECOUNT_SECONDS,
    "AggregatorChangedMissed": troubles.MISSED_SECONDS,
    "AggregatorSampleOverdue": troubles.NO_SAMPLE_SECONDS,
}
ALERTS_ALONE = {"AggregatorFiguresOld", "AggregatorUncheckedOld"}
"""What a message could not tell in time, or is a figure that the rules alone watch."""


def test_rules_and_messages_have_the_same_limits() -> None:
    """Each rule with a limit in seconds has that of the message, or is one that no message is about."""
    rules = YAML(typ="safe", pure=True).load(RULES.read_text())["groups"][0]["rules"]
    found = {rule["alert"]: int(limit[1]) for rule in rules if (limit := LIMIT.search(rule["expr"].strip()))}
    assert {name: limit for name, limit in found.items() if name not in ALERTS_ALONE} == LIMITS
    assert found.keys() >= ALERTS_ALONE
