"""Guards against too much, as people meet them: what is held, what is said of it, and the command that sends it."""

import datetime as dt
import shlex

from aggregator.core.windows import floor
from aggregator.runtime.clock import utcnow
from tests.system.harness import HOUR, METER, World

WEEK = 7 * 24 * 60
"""In minutes."""

CUSTOMERS = [f"cus_{letter}" for letter in "abcde"]


def guarded(world: World, **guards: object) -> None:
    """Set guards, and let every customer have ten units in the same hour of two weeks before, billed."""
    world.start = floor(utcnow(), HOUR) - dt.timedelta(weeks=2, hours=2)
    world.meter.update(start_at=f"{world.start:%Y-%m-%dT%H:%MZ}", window="1h", guards=guards)
    for week in range(2):
        for customer in CUSTOMERS:
            world.use(customer, 10, minute=week * WEEK + 5)
    assert world.once().code == 0
    assert world.billed() == world.used()


def test_a_customer_ten_times_over_is_held_until_a_person_releases_it(world: World) -> None:
    """All others are billed at once; `status` and `events list` say who, how much, and what to run; then all is equal."""
    guarded(world, max_change="5x", unusual_from=20)
    for customer in CUSTOMERS:
        world.use(customer, 100 if customer == "cus_a" else 10, minute=2 * WEEK + 5)
    ran = world.once()
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    assert world.billed() == {"cus_a": 20, **dict.fromkeys(CUSTOMERS[1:], 30)}
    assert "100 units of cus_a in 1 window" in world.run("status").out
    listed = world.run("events", "list")
    assert "and 10 at most at this hour of the past 4 weeks" in " ".join(listed.out.split())
    [group] = world.run("events", "list", "--json").json["held_by_guards"]
    assert (group["customer"], group["guard"], group["units"]) == ("cus_a", "max_change", "100")
    assert (
        group["release"] == f"aggregator events release --meter {METER} --guard max_change --customer cus_a"
    )
    assert group["release"] in listed.out.replace("\n", " ")
    assert "1 event released" in world.run(*shlex.split(group["release"])[1:]).out
    assert world.once().code == 0
    assert world.billed() == world.used()


def test_a_window_that_is_unusual_as_a_whole_is_one_group(world: World) -> None:
    """What was dismissed of it is not billed; the rest is released by one command, for all customers."""
    guarded(world, max_total_change="3x", unusual_from=20)
    for customer in CUSTOMERS:
        world.use(customer, 40, minute=2 * WEEK + 5)
    assert world.once().code == 4
    dismissed = world.run("events", "dismiss", "--meter", METER, "--customer", "cus_e")
    assert "1 event dismissed" in dismissed.out
    [group] = world.run("status", "--json").json["held_by_guards"]
    assert (group["customer"], group["customers"], group["units"]) == (None, 4, "160")
    assert "4 events released" in world.run(*shlex.split(group["release"])[1:]).out
    assert world.once().code == 0
    assert world.billed() == {**dict.fromkeys(CUSTOMERS[:4], 60), "cus_e": 20}


def test_a_preview_says_what_a_limit_would_hold(world: World) -> None:
    """Before anything is sent, and with the reason."""
    guarded(world, max_per_customer_window=50)
    world.use("cus_b", 51, minute=2 * WEEK + 5)
    said = world.run("preview", METER, "--from", f"{world.start:%Y-%m-%dT%H:%MZ}", "--json").json
    [event] = [each for each in said["events"] if each["customer"] == "cus_b"]
    assert event["state"] == "held"
    assert event["reason"] == "51 units in one window, above `max_per_customer_window: 50`"


def test_the_log_counts_what_is_held(world: World) -> None:
    """The daemon's log has a line of its own for it, in events and units, which an alert can be hung on."""
    guarded(world, max_per_customer_window=50)
    world.use("cus_b", 70, minute=2 * WEEK + 5)
    world.use("cus_c", 80, minute=2 * WEEK + 5)
    daemon = world.daemon()
    line = daemon.logged("guard_held")
    assert (line["meter"], line["events"], line["units"]) == (METER, 2, "150")
    daemon.stop()


def test_a_customer_without_its_usual_usage_is_told_of(world: World) -> None:
    """`run --once` wants a person, the log has a line, and `status` names who it is; nothing is held."""
    world.start = floor(utcnow(), HOUR) - dt.timedelta(weeks=4, hours=1)
    guards = {"unusual_zero": True, "unusual_from": 5}
    world.meter.update(start_at=f"{world.start:%Y-%m-%dT%H:%MZ}", window="1h", guards=guards)
    for week in range(4):
        world.use("cus_a", 10, minute=week * WEEK + 5)
    for week in range(5):
        world.use("cus_b", 10, minute=week * WEEK + 5)
    ran = world.once()
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    assert "customers_silent" in ran.err
    [silent] = world.run("status", "--json").json["silent_customers"]
    assert (silent["customer"], silent["usual"], silent["of"]) == ("cus_a", "10", 1)
    assert "`unusual_zero`" in world.run("status").out
    assert world.billed() == world.used()
    world.use("cus_a", 1, minute=4 * WEEK + 6)
    assert world.once().code == 0
