"""`aggregator usage` over ledgers with a past: sinks that left, windows that are missing, numbers that do not add up."""

import json
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from aggregator.cli.usage import usage
from aggregator.core.usage import Usage
from aggregator.errors import UsageError
from tests.postgres.configured import written
from tests.postgres.made_usage import HOUR, START, Made

RANGE = ("--from", "2026-10-31", "--to", "2026-11-03")
SINK = "type: stripe, api_key: sk_test_1, mode: test, api_base: 'http://127.0.0.1:1'"


@pytest.fixture
def call(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command over the ledger of this test, whose server is fast for not being durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    monkeypatch.setattr("aggregator.cli.usage_output.AT_ONCE", 7)  # so that lists go on in another piece
    path = written(tmp_path, ledger_url, SINK)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(usage, [*arguments, *RANGE, "--config", str(path)])

    return run


@pytest.fixture
def connection(ledger_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of the ledger."""
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        yield connection


def made(connection: psycopg.Connection[Any], *, last: bool) -> None:
    """Make a meter that fed two sinks, and is in no configuration."""
    Made(connection, random.Random(7)).meter("seats")
    connection.execute("update aggregator.feed set ordered = %s", [last])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("by", ["hour", "day", "month", "customer"])
def test_lines_and_total_are_told_by_sink(
    call: Callable[..., Result], connection: psycopg.Connection[Any], by: str, *, last: bool
) -> None:
    """Each sink has lines that add up; a total, where numbers add up over the lines; and a word where they do not."""
    made(connection, last=last)
    told = json.loads(call("seats", "--by", by, "--json").output)
    assert [feed["sink"] for feed in told["feeds"]] == ["one", "two"]
    for feed in told["feeds"]:
        found = [Usage._make(Decimal(line[name]) for name in Usage._fields) for line in feed["lines"]]
        assert found
        assert all(each.adds_up for each in found)
        adds_up = by == "customer" or not last
        assert (feed["total"] is not None) == adds_up
        if adds_up:
            assert Decimal(feed["total"]["used"]) == sum(each.used for each in found)
        assert any("last number" in note for note in feed["notes"]) != adds_up
    shown = call("seats", "--by", by, "--limit", "0").output
    assert shown.count("\n total ") == 2 * (by == "customer" or not last)


def test_what_is_missing_is_told(call: Callable[..., Result], connection: psycopg.Connection[Any]) -> None:
    """Windows that could not be read, changes that wait, and a sink that was not planned for up to the mark."""
    made(connection, last=False)
    connection.execute(
        "insert into aggregator.unread (meter_id, window_start, reason, since, next_at) values (1, %s, 'slow', %s, %s)",
        [START, START, START],
    )
    connection.execute("update aggregator.meter set reread_from = %s", [START + HOUR])
    connection.execute(
        "update aggregator.feed set until = null, read_until = %s where sink_id = 2", [START + 5 * HOUR]
    )
    said = call().output
    assert "seats is read up to 2026-11-02T12:00Z." in said
    assert "seats: the source could not give 1 window of the range (`aggregator status`)." in said
    assert "seats: windows from 2026-10-31T01:00Z on are read again soon" in said
    assert "seats is planned for two up to 2026-10-31T05:00Z only" in said


def test_a_source_that_is_not_configured_cannot_be_asked(
    call: Callable[..., Result], connection: psycopg.Connection[Any]
) -> None:
    """Whoever asks for that meter is told; among others it is shown without, and that is said."""
    made(connection, last=False)
    asked = call("seats", "--live")
    assert isinstance(asked.exception, UsageError)
    assert str(asked.exception) == (
        "seats is not in the configuration, so its source cannot be asked: leave out --live."
    )
    assert "seats is not in the configuration, so its source cannot be asked." in call("--live").output
