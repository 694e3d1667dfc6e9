"""A ledger that a later release has migrated: who runs already goes on, and who is started anew is refused."""

import signal

from tests.system.harness import World

LATER = "0002"

MIGRATE = """
alter table aggregator.event_at_rest add column later_release text;
update aggregator.alembic_version set version_num = '0002';
"""
"""What a migration of a later release leaves: all that this version needs, and more."""


def test_a_running_daemon_goes_on_and_a_new_process_is_refused(world: World) -> None:
    """Nothing is lost meanwhile, whatever is refused; with the revision as it was, everything is as before."""
    world.use("cus_1", 5, 1)
    daemon = world.daemon()
    world.quiet()
    world.ledger(MIGRATE)
    world.use("cus_1", 7, 2)
    world.use("cus_2", 3, 2)
    world.quiet()
    for words, said in (
        (("run", "--once"), f"The ledger is at revision {LATER}"),
        (("status",), f"The ledger is at revision {LATER}"),
        (("migrate",), f"The ledger is at revision {LATER}, which this version does not know"),
    ):
        refused = world.run(*words)
        assert (refused.code, said in refused.said) == (1, True), refused.said
    world.config["ledger"]["lease"] = "6s"
    world.write()
    daemon.tell(signal.SIGHUP)
    daemon.logged("config_refused")
    world.use("cus_3", 2, 3)
    world.quiet()
    assert daemon.stop() == -signal.SIGTERM
    world.use("cus_3", 2, 4)
    refused = world.once()
    assert refused.code == 1
    assert world.ledger("select version_num from aggregator.alembic_version") == [(LATER,)]
    world.ledger("update aggregator.alembic_version set version_num = '0001'")
    assert world.once().code == 0
    assert world.billed() == world.used()
