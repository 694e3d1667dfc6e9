"""A ledger restored from a backup, with real processes: it stops, is adopted, and ends equal."""

from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

from aggregator.core.windows import DAY, floor
from aggregator.ledger.database import Database
from aggregator.runtime.clock import utcnow
from tests.postgres.restore import back_up, restore
from tests.system.harness import HOUR, KEY, World

WIDE_QUERY = """
select customer, sum(quantity) as quantity, max(used_at) as at
  from usage
 where used_at >= :start and used_at < :end
 group by 1
"""


def test_a_restored_ledger_stops_is_adopted_and_ends_equal(world: World) -> None:
    """Set back behind what was sent, it sends nothing; adopted, it sends what is missing, and not a unit twice."""
    for minute in (60, 59, 58):
        world.use("cus_1", 5, minute)
    assert world.once().code in {0, 3}
    assert world.ledger_url is not None
    with Database(world.ledger_url) as database:
        backup = back_up(database)
        for minute in (57, 56, 55):
            world.use("cus_1", 7, minute)
            world.use("cus_2", 3, minute)
        world.once()
        assert world.billed() == world.used()
        restore(database, backup)
    world.use("cus_3", 2, 54)
    sent = world.sent()
    stopped = world.run("run", "--once")
    assert stopped.code == 1
    assert "wound back" in stopped.said
    assert world.sent() == sent
    looked = world.run("adopt")
    assert (looked.code, "Nothing was changed" in looked.said) == (0, True), looked.said
    early = world.run("adopt", "--yes")
    assert (early.code, "Too early" in early.said) == (1, True), early.said
    adopted = world.run("adopt", "--yes", "--quiet", "0s", "--json")
    assert adopted.code == 0, adopted.said
    [compared] = adopted.json["compared"]
    assert (compared["taken_over"], compared["missing"]) == ("30", "0")
    world.once()
    assert world.billed() == world.used()


def test_a_failover_stops_until_somebody_says_that_nothing_was_lost(world: World) -> None:
    """Nothing is sent meanwhile, and the log says why; a person's word, or the configuration's, lets it go on."""
    world.use("cus_1", 5, 60)
    assert world.once().code == 0
    for hour, said in ((59, "--nothing-lost"), (58, "lossless")):
        world.ledger("update aggregator.identity set timeline = timeline + 1 returning timeline")
        world.use("cus_1", 7, hour)
        sent = world.sent()
        stopped = world.run("run", "--once")
        assert stopped.code == 1
        assert '"event": "ledger_stopped"' in stopped.err
        assert "went from timeline" in stopped.said
        assert world.sent() == sent
        if said == "lossless":
            world.config["ledger"]["failover"] = said
            continue
        word = world.run("adopt", said)
        assert (word.code, "carries on" in word.said) == (0, True), word.said
        assert world.once().code == 0
    assert world.once().code == 0
    assert world.billed() == world.used()


def test_a_window_of_several_hours_goes_on_where_stripe_has_its_number(world: World) -> None:
    """Of each hour Stripe keeps the newest number: what comes late replaces it, and is not billed beside it."""
    configure_wide(world)
    assert world.once().code == 0
    assert world.ledger_url is not None
    with Database(world.ledger_url) as database:
        backup = back_up(database)
        world.use("cus_1", 10, 3 * 60 + 10)
        assert world.once().code == 0
        restore(database, backup)
    world.use("cus_1", 2, 5 * 60)
    assert world.run("run", "--once").code == 1
    adopted = world.run("adopt", "--yes", "--quiet", "0s", "--json")
    assert adopted.code == 0, adopted.said
    assert adopted.json["compared"][0]["taken_over"] == "10"
    assert world.once().code == 0
    assert world.sandbox.totals("wide") == {"cus_1": 12}


def test_a_window_with_numbers_in_several_hours_is_named(world: World) -> None:
    """A person overwrites one of them with zero; until then nothing is adopted."""
    configure_wide(world)
    world.use("cus_1", 10, 3 * 60 + 10)
    assert world.once().code == 0
    send_by_hand(world, "4", "first")
    stopped = world.run("adopt", "--stop", "--quiet", "0s")
    assert stopped.code == 0, stopped.said
    three, five = (f"{world.start + hours * HOUR:%Y-%m-%dT%H:%MZ}" for hours in (3, 5))
    assert f"requests of cus_1 in stripe: 10 in {three}, 4 in {five}" in stopped.out
    refused = world.run("adopt", "--yes", "--quiet", "0s")
    assert (refused.code, "numbers in several hours" in refused.err) == (1, True), refused.said
    looked = world.run("adopt", "--json")
    [named] = looked.json["split_windows"]
    assert (named["customer"], named["numbers"]) == ("cus_1", {three: "10", five: "4"})
    send_by_hand(world, "0", "second")
    assert world.run("adopt", "--yes", "--quiet", "0s").code == 0
    world.use("cus_1", 2, 4 * 60)
    assert world.once().code == 0
    assert world.sandbox.totals("wide") == {"cus_1": 12}


def configure_wide(world: World) -> None:
    """Let the meter have windows of six hours at a Stripe meter that keeps the newest number of each hour.

    Whatever the time of day, and if a day ends meanwhile, the windows of its first day are read again.
    """
    world.start = floor(utcnow(), DAY) - DAY
    world.meter.update(
        window="6h",
        revisit="3d",
        start_at=f"{world.start:%Y-%m-%dT%H:%MZ}",
        query=WIDE_QUERY,
        stripe={"event_name": "wide", "event_time_window": "hour"},
    )
    world.write()
    assert world.run("meters", "apply", "--yes").code == 0


def send_by_hand(world: World, value: str, identifier: str) -> None:
    """Tell the sandbox another number for the hour five, as a person would."""
    form = {
        "event_name": "wide",
        "identifier": identifier,
        "timestamp": str(int((world.start + 5 * HOUR).timestamp())),
        "payload[stripe_customer_id]": "cus_1",
        "payload[value]": value,
    }
    connection = HTTPConnection(urlsplit(world.sandbox.url).netloc, timeout=10)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/v1/billing/meter_events", urlencode(form), headers)
    assert connection.getresponse().status == 200
    connection.close()
