"""Whoever watches us finds every figure and every alert explained."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from aggregator.cli import cli
from aggregator.monitoring.metrics import COUNTER, FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ALERTS: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (ROOT / "config" / "monitoring" / "alerts.yml").read_text()
)["groups"][0]["rules"]


def test_every_metric_is_documented() -> None:
    """docs/monitoring.md has a row for each metric as it is written, with its kind, labels and words, and no other."""
    told = re.findall(r"^\| `(aggregator_\w+)` \| (\w+) \| (.*?) ?\| (.*?) \|$", PAGE, re.MULTILINE)
    assert told == [
        (
            name + "_total" * (kind is COUNTER),
            "counter" if kind is COUNTER else "gauge",
            ", ".join(f"`{label}`" for label in labels),
            text,
        )
        for name, (kind, text, labels) in FAMILIES.items()
    ]


def test_every_alert_has_its_paragraph() -> None:
    """docs/runbook.md has a heading for each alert, in the order of the rules, and no other; each alert links to its own."""
    names = [each["alert"] for each in ALERTS]
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == names
    links = [each["annotations"]["runbook_url"] for each in ALERTS]
    assert links == [f"docs/runbook.md#{name.lower()}" for name in names]


def paragraphs() -> dict[str, str]:
    """What the runbook says of each alert."""
    found = re.split(r"^## (\w+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_paragraph_says_the_five_things(alert: dict[str, Any]) -> None:
    """What it means, what to look at, the very command of the rule, when it is over, and what never to do; in that order."""
    said = paragraphs()[alert["alert"]]
    parts = re.findall(r"^- \*\*(.+?)\*\*: (.*?)(?=^- \*\*|\Z)", said, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in parts] == ["Means", "Look at", "Run", "Over when", "Never"]
    assert all(len(text.split()) > 3 for name, text in parts if name != "Run")
    assert dict(parts)["Run"].strip() == f"`{alert['annotations']['command']}`"


def test_every_command_of_an_alert_is_one() -> None:
    """What an alert says to run first is a command of ours with options that it has, or one of the system."""
    for each in ALERTS:
        program, *words = each["annotations"]["command"].split()
        if program != "aggregator":
            assert program in {"systemctl", "timedatectl"}
            continue
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known, each["alert"]
