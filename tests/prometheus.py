"""Debian's Prometheus and its promtool: they read what we tell, and judge it by our alerts.

Rules
- They are one package of the system. Where it is missing, `missing` says so, and a test that needs it is skipped with that.
- It listens on loopback only, keeps nothing, and is ended by its own id.
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

SETTINGS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: aggregator
    static_configs: [{{targets: ["{target}"]}}]
"""


def missing() -> str | None:
    """Say why there can be no Prometheus here; None if there can."""
    if PROMETHEUS is None or PROMTOOL is None:
        return "prometheus is not installed: apt-get install prometheus"
    return None


def promtool(*arguments: str, told: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool, and return how it ended."""
    assert PROMTOOL is not None, missing()
    return subprocess.run(
        [PROMTOOL, *arguments], input=told, capture_output=True, text=True, timeout=600, check=False
    )


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **values: str) -> Any:
        """Ask its API; None if it does not answer."""
        query = f"?{urlencode(values)}" if values else ""
        try:
            with urlopen(f"{self.url}/api/v1/{path}{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except (URLError, ConnectionError, TimeoutError):
            return None

    def values(self, expression: str) -> dict[tuple[str, ...], str]:
        """Return what an expression comes to now, by the values of its labels in the order of their names."""
        found = self.ask("query", query=expression)
        return {
            _labels(each["metric"]): each["value"][1]
            for each in (found["result"] if found is not None else ())
        }

    def alerts(self) -> dict[str, str]:
        """Return what the alerts say that fire, by their names."""
        found = self.ask("alerts")
        return {
            each["labels"]["alertname"]: each["annotations"]["summary"]
            for each in (found["alerts"] if found else ())
            if each["state"] == "firing"
        }


def _labels(metric: Mapping[str, str]) -> tuple[str, ...]:
    left_out = {"__name__", "instance", "job"}
    return tuple(value for name, value in sorted(metric.items()) if name not in left_out)


@contextmanager
def prometheus(directory: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """Run one that scrapes a target each second, for the length of a `with` block."""
    assert PROMETHEUS is not None, missing()
    settings = directory / "prometheus.yml"
    settings.write_text(SETTINGS.format(rules=rules, target=target))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={settings}",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()
