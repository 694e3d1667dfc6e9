"""The real command, from the checkout's environment: usage in SQLite, a ledger of its own, files as the sink."""

import datetime as dt
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.orchestrators.cases import tell

CHECKOUT = Path(__file__).parents[2]
METER = "api_requests"
ROWS = 7


@contextmanager
def real() -> Iterator[tuple[Path, list[str]]]:
    """Yield a configuration with usage of the last hours, and the command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        now = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)  # noqa: TID251
        with closing(sqlite3.connect(folder / "app.db")) as app, app:
            app.execute("create table request (customer text, created_at text)")
            app.executemany(
                "insert into request values ('cus_ada', ?)",
                [
                    (f"{now - dt.timedelta(hours=3, minutes=-each):%Y-%m-%d %H:%M:%S}",)
                    for each in range(ROWS)
                ],
            )
        (folder / "aggregator.yaml").write_text(json.dumps(configuration(folder, now)))
        yield folder / "aggregator.yaml", [str(CHECKOUT / ".venv" / "bin" / "aggregator")]


def configuration(folder: Path, now: dt.datetime) -> dict[str, Any]:
    """Return the configuration as YAML reads it."""
    return {
        "state_dir": str(folder / "state"),
        "sources": {"app": {"url": f"sqlite:///{folder / 'app.db'}"}},
        "sinks": {"files": {"type": "csv", "directory": str(folder / "files")}},
        "meters": {
            METER: {
                "source": "app",
                "sinks": ["files"],
                "window": "1h",
                "start_at": f"{now - dt.timedelta(hours=5):%Y-%m-%dT%H:%MZ}",
                "query": "select customer, count(*) as quantity from request"
                " where created_at >= :start and created_at < :end group by 1",
            }
        },
    }


def billed(answer: Mapping[str, Any]) -> None:
    """Hold the answer against the usage there is, and print it."""
    figures = answer["meters"][METER]
    assert answer["outcome"] == "done", answer
    assert figures["planned"] == 1, answer
    tell(f"  the real command: {answer['outcome']}, {json.dumps(figures)}")
