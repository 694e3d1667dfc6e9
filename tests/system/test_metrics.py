"""What a real daemon tells of itself, before and after it is killed."""

import re
from pathlib import Path
from urllib.request import urlopen

import pytest

from aggregator.core.windows import floor
from tests.prometheus import missing, prometheus, promtool
from tests.system.harness import HOUR, KEY, METER, Process, World, until

DAY = 24 * HOUR
RULES = Path(__file__).parents[2] / "config" / "monitoring" / "alerts.yml"

GOES_ON = re.compile(
    r"process_|aggregator_(\w*age_seconds|oldest_event_seconds|until_\w+|passes|pass_seconds|rows_read)"
)
"""What changes as time passes, and by the pass with which a daemon begins."""


def listening(world: World) -> tuple[Process, str]:
    """Start a daemon that answers, and return it with its address."""
    world.write()
    daemon = world.start_process("run", "--verbose", "--web", "127.0.0.1:0", name="daemon")
    return daemon, daemon.logged("web_started")["url"]


def figures(url: str) -> dict[str, str]:
    """Return every series of a scrape with its value."""
    with urlopen(f"{url}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = answer.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_a_daemon_that_was_killed_tells_the_same_as_before(world: World) -> None:
    """Nothing is kept in a process: what waits, what was refused, and what was ever sent is in the ledger."""
    world.start = floor(world.start, DAY) - DAY
    world.meter.update({"window": "1d", "start_at": f"{world.start:%Y-%m-%dT%H:%MZ}", "every": "1h"})
    for number in range(40):
        world.use(f"cus_{number}", 1_000_003 + number, minute=number)
    world.use(None, 7, minute=3)
    world.sink["rate_limit"] = 20
    daemon, url = listening(world)
    until(lambda: world.sandbox.stats()["accepted"] > 5, "it sends")
    world.sandbox.set_keys(revoked=[KEY])
    daemon.logged("sink_halted")
    sent = f'meter="{METER}",sink="stripe"'
    until(
        lambda: figures(url)[f'aggregator_events{{{sent},state="sending"}}'] == "0", "nothing is in the air"
    )
    before = figures(url)
    daemon.kill()
    again, url = listening(world)
    again.logged("sink_halted")
    of = f'aggregator_passes_total{{meter="{METER}",kind="live",outcome="committed"}}'
    until(lambda: int(figures(url)[of]) > int(before[of]), "it has read")
    after = figures(url)
    assert {name: value for name, value in after.items() if not GOES_ON.match(name)} == {
        name: value for name, value in before.items() if not GOES_ON.match(name)
    }
    assert before['aggregator_sink_halted{sink="stripe"}'] == "1"
    accepted = int(before[f'aggregator_attempts_total{{{sent},outcome="accepted"}}'])
    waits = int(before[f'aggregator_events{{{sent},state="due"}}'])
    assert (accepted > 5, accepted + waits) == (True, 40)
    total = sum(1_000_003 + number for number in range(40))
    [(billed,)] = world.ledger("select sum(delta) from aggregator.event where state = 'accepted'")
    assert int(before[f'aggregator_units{{{sent},state="due"}}']) == total - billed
    assert before[f'aggregator_unmapped_units{{meter="{METER}",kind="unusable"}}'] == "7"


def test_a_ledger_that_is_away_leaves_the_last_figures(world: World) -> None:
    """A scrape is answered all the same, says that they are old, and how old."""
    world.use("cus_1", 5, minute=1)
    daemon, url = listening(world)
    world.quiet()
    before = figures(url)
    assert before["aggregator_ledger_up"] == "1"
    name = world.one("select current_database()")
    world.source(f"alter database {name} allow_connections false")
    world.source("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", name)
    until(lambda: figures(url)["aggregator_ledger_up"] == "0", "the ledger is said to be away")
    away = figures(url)
    assert float(away['aggregator_figures_age_seconds{figures="progress"}']) > 0
    accepted = f'aggregator_attempts_total{{meter="{METER}",sink="stripe",outcome="accepted"}}'
    assert away[accepted] == before[accepted] == "1"
    world.source(f"alter database {name} allow_connections true")
    until(lambda: figures(url)["aggregator_ledger_up"] == "1", "it is back")
    daemon.stop()


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_prometheus_reads_it_and_raises_the_alarm(world: World, tmp_path: Path) -> None:
    """Debian's own: it takes every series, finds nothing to say of their names, and fires what a person should know."""
    for number in range(3):
        world.use(f"cus_{number}", 20261128, minute=number)
    world.sandbox.set_keys(revoked=[KEY])
    daemon, url = listening(world)
    daemon.logged("sink_halted")
    until(lambda: world.waiting() == 3, "it has read")
    with urlopen(f"{url}/metrics", timeout=20) as answer:
        page = answer.read().decode()
    checked = promtool("check", "metrics", told=page)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    with prometheus(tmp_path, url.removeprefix("http://"), RULES) as watching:
        waits = 'aggregator_units{state="due"}'
        found = until(lambda: watching.values(waits), "it is scraped")
        assert found == {(METER, "stripe", "due"): "60783384"}
        assert watching.values("up") == {(): "1"}
        told = {line.split("{")[0].split(" ")[0] for line in page.splitlines() if not line.startswith("#")}
        assert set(watching.ask("label/__name__/values")) >= told
        until(lambda: "AggregatorSinkHalted" in watching.alerts(), "the alert fires", seen=watching.alerts)
        assert watching.alerts() == {"AggregatorSinkHalted": "Sink stripe refuses every call."}
        rules = [rule for group in watching.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}
        world.sandbox.set_keys()
        daemon.logged("sink_resumed")
        until(lambda: watching.values(waits) == {(METER, "stripe", "due"): "0"}, "it is seen that they left")
    daemon.stop()
