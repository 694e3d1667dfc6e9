"""A daemon whose sink refuses it for a while: it goes on by itself."""

import signal

from tests.system.harness import KEY, World, until


def test_a_key_that_was_refused_for_a_while_is_used_again(world: World) -> None:
    """Nobody does anything: both ends are in the log once, and in `status`, and what is billed is what was used."""
    world.use_much(customers=20, minutes=20)
    world.sink["rate_limit"] = 50
    daemon = world.daemon()
    until(lambda: world.sandbox.stats()["accepted"] > 50, "it sends")
    world.sandbox.set_keys(revoked=[KEY])
    halted = daemon.logged("sink_halted")
    assert "does not accept the API key of sink stripe" in halted["reason"]
    assert "Sink stripe is halted" in world.run("status").out
    world.sandbox.set_keys()
    daemon.logged("sink_resumed")
    world.quiet()
    assert "is halted" not in world.run("status").out
    assert daemon.stop() == -signal.SIGTERM
    assert len(daemon.log("sink_halted")) == len(daemon.log("sink_resumed")) == 1
    assert world.sandbox.stats()["double_counted"] == 0


def test_a_daemon_that_starts_with_a_refused_key_waits_for_it(world: World) -> None:
    """It begins to send once the key is taken; before that, nothing is claimed."""
    world.use_much(customers=3, minutes=3)
    world.sandbox.set_keys(revoked=[KEY])
    daemon = world.daemon()
    daemon.logged("sink_halted")
    until(lambda: world.waiting() == 9, "it has read")
    world.sandbox.set_keys()
    daemon.logged("sink_resumed")
    world.quiet()
    assert world.one("select max(attempts) from aggregator.event") == 1
    assert daemon.stop() == -signal.SIGTERM
