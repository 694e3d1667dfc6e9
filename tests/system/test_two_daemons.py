"""Two daemons on one ledger, and one that sleeps past its lease."""

import signal

from aggregator.core.windows import floor
from aggregator.runtime.clock import utcnow
from tests.system.harness import (
    LOCK,
    METER,
    MINUTE,
    SLOW_QUERY,
    UNLOCK,
    WHILE_LOCKED,
    Load,
    Watch,
    World,
    until,
    wait,
)

LEASE_SECONDS = 5
"""The shortest that the configuration allows."""

CORRECTIONS = "select count(*) from aggregator.event where revision > 0"

READING = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
"""Whether a query that takes long is at that."""


def test_two_daemons_share_the_work_and_do_none_of_it_twice(world: World) -> None:
    """Each event is sent once by one of them; totals are right, and never too high on the way (B12)."""
    world.use_much(customers=20, minutes=60)
    world.sink["rate_limit"] = (
        60  # slow enough that there is something to share: a batch is five seconds' worth
    )
    load = Load(world, customers=20, rows_per_second=20, newest=floor(utcnow(), MINUTE), seed=3)
    with Watch(world) as watch:
        daemons = [world.daemon(started=False), world.daemon(started=False)]
        with load:
            for daemon in daemons:
                daemon.logged("batch_delivered")
            until(lambda: world.one(CORRECTIONS) > 10, "what comes late is billed beside the rest")
        world.quiet()
        watch.look()
    for daemon in daemons:
        assert daemon.stop() == -signal.SIGTERM
        assert daemon.log("batch_delivered"), "both take part"
    stats = world.sandbox.stats()
    assert not watch.wrong, watch.wrong[:20]
    assert world.sent() == stats["accepted"] == world.one("select count(*) from aggregator.event")
    assert world.one("select max(attempts) from aggregator.event") == 1


def test_one_that_slept_past_its_lease_changes_nothing_when_it_wakes(world: World) -> None:
    """It is stopped while it reads; another takes the meter and bills; its own commit is refused (B12, invariant 9)."""
    world.use_much(customers=10, minutes=30)
    world.meter["query"] = SLOW_QUERY.format(seconds=WHILE_LOCKED.format(seconds=10))
    world.source(LOCK)
    sleeper = world.daemon()
    until(lambda: world.source(READING), "it reads")
    sleeper.tell(signal.SIGSTOP)
    world.source(UNLOCK)
    [(stale,)] = world.ledger("select epoch from aggregator.meter where lease_owner is not null")
    assert world.one("select count(*) from aggregator.pass where epoch = %s", stale) == 0, (
        "it committed too soon"
    )

    other = world.daemon()
    world.quiet()
    before = world.ledger("select id, epoch from aggregator.pass where epoch > %s order by id", stale)
    assert before
    world.use("cus_1", 5, minute=3)
    sleeper.tell(signal.SIGCONT)
    refused = sleeper.logged("pass_skipped", meter=METER)
    assert "Another process" in refused["reason"]
    assert world.one("select count(*) from aggregator.pass where epoch = %s", stale) == 0
    world.quiet()
    assert [daemon.stop() for daemon in (sleeper, other)] == [-signal.SIGTERM] * 2
    stats = world.sandbox.stats()
    assert (stats["double_counted"], stats["duplicates_refused"]) == (0, 0)


def test_a_query_that_takes_longer_than_the_lease_is_billed_by_one_of_them(world: World) -> None:
    """Who waits for a query is alive: the other does not take its meter away, again and again, with nothing ever billed."""
    world.use_much(customers=5, minutes=10)
    world.meter["query"] = SLOW_QUERY.format(seconds=LEASE_SECONDS - 2)
    daemons = [world.daemon(started=False), world.daemon(started=False)]
    world.quiet()
    assert world.sent() == 50
    leases, passes = (
        world.one("select epoch from aggregator.meter"),
        world.one("select count(*) from aggregator.pass"),
    )
    assert leases - passes <= 1, "a lease was lost in the middle of a pass"
    assert [daemon.stop() for daemon in daemons] == [-signal.SIGTERM] * 2


def test_one_that_slept_while_its_events_were_in_the_air_doubles_nothing(world: World) -> None:
    """It wakes long after its calls have timed out, and sends the same bytes again; the other one waits its turn."""
    world.use_much(customers=20, minutes=5)
    world.sandbox.set_faults(latency_seconds=1.0)
    sleeper = world.daemon()
    until(lambda: world.sandbox.stats()["in_flight"] >= 20, "calls are in the air")
    sleeper.tell(signal.SIGSTOP)
    other = world.daemon()
    wait(LEASE_SECONDS)
    world.use_much(customers=20, minutes=5)
    world.sandbox.set_faults()
    sleeper.tell(signal.SIGCONT)
    world.quiet()
    assert [daemon.stop() for daemon in (sleeper, other)] == [-signal.SIGTERM] * 2
    assert world.sandbox.stats()["double_counted"] == 0
