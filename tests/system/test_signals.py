"""What the daemon does when it is told something: end, end at once, read its configuration again."""

import ctypes
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.system.harness import METER, OTHER_METER, Process, World, until

LATENCY_SECONDS = 1.5
"""How long calls are in the air: enough to be struck there for sure."""

FOR_EVER_SECONDS = 600.0
"""Longer than any test waits for anything."""

SLACK = 8
"""Pools of connections and of workers grow by threads as they are needed."""


def threads(process: Process) -> int:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def told_since(daemon: Process, event: str, count: int) -> bool:
    """Say whether it has logged something again since it had done so `count` times."""
    return len(daemon.log(event)) > count


def in_the_air(world: World, *, latency: float = LATENCY_SECONDS) -> Process:
    """Return a daemon with calls under way and more events waiting for their turn."""
    world.use_much(customers=20, minutes=10)
    world.sink["timeout"] = f"{20 + latency:.0f}s"
    world.sandbox.set_faults(latency_seconds=latency)
    daemon = world.daemon()
    until(
        lambda: world.sandbox.stats()["in_flight"] >= 20,
        "calls are in the air",
        seen=lambda: daemon.err[-500:],
    )
    return daemon


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_waits_for_what_is_in_the_air_and_hands_back_the_rest(
    world: World, number: int
) -> None:
    """It ends by that very signal; what had left is settled, what had not is due with no attempt counted."""
    daemon = in_the_air(world)
    assert daemon.stop(number) == -number
    assert daemon.log("daemon_stopped", signal=signal.Signals(number).name)
    states = world.ledger("select state::text, attempts, count(*) from aggregator.event group by 1, 2")
    assert {row[:2] for row in states} == {("accepted", 1), ("due", 0)}
    assert world.waiting() == {state: count for state, _, count in states}["due"]
    assert world.one("select count(*) from aggregator.outbox where claim_id is not null") == 0
    assert world.one("select count(*) from aggregator.meter where lease_owner is not null") == 0
    world.sandbox.set_faults()
    after = world.daemon()
    world.quiet()
    assert after.stop() == -signal.SIGTERM
    stats = world.sandbox.stats()
    assert (stats["accepted"], stats["duplicates_refused"], stats["double_counted"]) == (200, 0, 0)


def test_a_second_signal_ends_it_at_once(world: World) -> None:
    """Whoever does not want to wait need not; what was in the air is found out later, under the same identifiers."""
    daemon = in_the_air(world, latency=FOR_EVER_SECONDS)
    daemon.tell(signal.SIGTERM)
    daemon.logged("daemon_stopping")
    daemon.tell(signal.SIGTERM)
    assert daemon.ended() == -signal.SIGTERM
    assert world.one("select count(*) from aggregator.claim where settled_at is null") > 0


def test_a_reload_with_a_bad_configuration_keeps_the_old_one_running(world: World) -> None:
    """The reason is logged, and usage goes on being billed; a good configuration then brings the new meter (SIGHUP)."""
    world.use("cus_a", 5, minute=5)
    daemon = world.daemon()
    world.quiet()
    world.meter["windw"] = "1h"
    world.write()
    daemon.tell(signal.SIGHUP)
    refused = daemon.logged("config_refused")
    assert "windw" in refused["reason"]
    world.use("cus_a", 4, minute=6)
    world.quiet()

    del world.meter["windw"]
    world.config["meters"][OTHER_METER] = dict(world.meter)
    world.write()
    daemon.tell(signal.SIGHUP)
    assert daemon.logged("config_reloaded")["meters"] == [OTHER_METER, METER]
    daemon.logged("pass_committed", meter=OTHER_METER)
    world.use("cus_a", 3, minute=7)
    until(lambda: world.billed() == world.used(), "the old meter goes on")
    assert daemon.stop() == -signal.SIGTERM


def test_a_reload_that_changes_nothing_says_so(world: World) -> None:
    """Whoever waits for a change to take effect must not be told that it has; a rotated secret is a change (SIGHUP)."""
    secret = world.directory / "webhook_secret"
    secret.write_text("whsec_one\n")
    world.sink["webhook_secret_file"] = str(secret)
    daemon = world.daemon()
    daemon.logged("daemon_started")
    path = world.write()
    path.write_text(f"{path.read_text()}\n# in other words\n")
    daemon.tell(signal.SIGHUP)
    assert daemon.logged("config_unchanged")["meters"] == [METER]
    assert not daemon.log("config_reloaded")
    secret.write_text("whsec_two\n")
    daemon.tell(signal.SIGHUP)
    assert daemon.logged("config_reloaded")["meters"] == [METER]
    assert daemon.stop() == -signal.SIGTERM


def test_a_reload_with_a_cron_line_of_which_no_alarm_can_be_made(world: World) -> None:
    """It is refused before anything stops, and what ran goes on (SIGHUP)."""
    world.use("cus_a", 5, minute=5)
    daemon = world.daemon()
    world.quiet()
    every = world.meter.pop("every")
    for number, cron in enumerate(("0 0 * * 8", "*/90 * * * *", "0 0 30 2 *", "5/15 * * * *")):
        world.meter["cron"] = cron
        world.write()
        daemon.tell(signal.SIGHUP)
        until(partial(told_since, daemon, "config_refused", number), "it refuses", seen=lambda: daemon.err)
        assert "cron" in daemon.log("config_refused")[-1]["reason"]
        world.use("cus_a", 4, minute=6 + number)
        world.quiet()
    del world.meter["cron"]
    world.meter["every"] = every
    world.write()
    assert daemon.stop() == -signal.SIGTERM


def test_a_key_of_another_account_stops_nobody_who_has_the_right_one(world: World) -> None:
    """Nothing was sent with it. The daemon goes on with its own (SIGHUP), and with the key set back everything does."""
    world.use("cus_a", 5, minute=5)
    daemon = world.daemon()
    world.quiet()
    right = dict(world.sink)
    world.sink.update(api_key="sk_live_sandbox", mode="live")
    world.write()
    daemon.tell(signal.SIGHUP)
    assert "goes to acct_sandbox live now" in daemon.logged("config_refused")["reason"]
    assert "goes to acct_sandbox live now" in world.once().err
    world.use("cus_a", 4, minute=6)
    world.quiet()
    assert daemon.stop() == -signal.SIGTERM
    world.sink.update(right)
    world.use("cus_a", 3, minute=7)
    after = world.daemon()
    world.quiet()
    assert after.stop() == -signal.SIGTERM


def test_a_reload_does_not_leave_anything_running_of_what_was_before(world: World) -> None:
    """After five reloads it has about as many threads as before, and no event was sent twice."""
    world.use_much(customers=10, minutes=5)
    daemon = world.daemon()
    world.quiet()
    before = threads(daemon)
    for reloads in range(5):
        daemon.tell(signal.SIGHUP)
        until(partial(told_since, daemon, "config_unchanged", reloads), "it reloads", seen=lambda: daemon.err)
    world.use_much(customers=10, minutes=5)
    world.quiet()
    assert threads(daemon) <= before + SLACK
    assert daemon.stop() == -signal.SIGTERM
    assert world.sandbox.stats()["double_counted"] == 0
    assert world.sandbox.stats()["duplicates_refused"] == 0


def test_a_signal_that_reaches_another_thread_is_heard(world: World) -> None:
    """The system may give a signal to any thread; a daemon that only its main thread could wake would never end."""
    daemon = world.daemon()
    others = [
        int(task.name) for task in Path(f"/proc/{daemon.pid}/task").iterdir() if int(task.name) != daemon.pid
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.tgkill(daemon.pid, others[0], int(signal.SIGTERM)) == 0, ctypes.get_errno()
    assert daemon.ended() == -signal.SIGTERM
    assert daemon.log("daemon_stopped", signal="SIGTERM")
