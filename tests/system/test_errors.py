"""What Stripe finds invalid later reaches the ledger by itself, asked for or delivered; what is billed can be taken back."""

from decimal import Decimal
from typing import Any

from tests.system.harness import KEY, Process, World, until

SECRET = "whsec_0123456789abcdef"


def parked(world: World) -> list[dict[str, Any]]:
    """What `status` says waits for a person."""
    found: list[dict[str, Any]] = world.run("status", "--json").json["parked"]
    return found


def refused(world: World) -> int:
    return int(world.one("select count(*) from aggregator.event where state = 'refused'"))


def refuse_two(world: World) -> None:
    """Six customers, two of whom Stripe takes events for and finds unknown; it reports each at once."""
    for number in range(6):
        world.use(f"cus_{number}", number + 1, minute=80)
    world.sandbox.set_faults(reject_customers=["cus_1", "cus_4"], reject_after_seconds=0)
    world.sandbox.set_rules(report_window_seconds=0)


def listening_daemon(world: World) -> tuple[Process, str]:
    """Start a daemon that takes deliveries; return it and where."""
    world.write()
    daemon = world.start_process("run", "--verbose", "--web", "127.0.0.1:0", name="daemon")
    url: str = daemon.logged("web_started")["url"]
    daemon.logged("daemon_started")
    return daemon, f"{url}/webhooks/stripe/stripe"


def test_a_daemon_that_nothing_can_reach_hears_of_it(world: World) -> None:
    """It asks, the two events are refused and listed with Stripe's reason; released, they are billed in the end."""
    refuse_two(world)
    world.sink["reports"] = {"poll": "5s"}
    daemon = world.daemon()
    until(lambda: refused(world) == 2, "both events are refused", seen=lambda: daemon.err[-2000:])
    daemon.logged("reports_taken", rejected=2, messages=2)
    found = parked(world)
    assert {each["customer"] for each in found} == {"cus_1", "cus_4"}
    assert all("invalid by a fault setting" in each["reason"] for each in found)
    world.sandbox.set_faults()
    assert world.run("events", "release", *(str(each["event"]) for each in found)).code == 0
    world.quiet()
    assert daemon.stop() == -15


def test_a_daemon_that_is_told_hears_of_it(world: World) -> None:
    """The sandbox delivers, signed, twice and in any order; the daemon acknowledges once it is in the ledger."""
    world.sink["reports"] = {"poll": "off"}
    world.sink["webhook_secret"] = SECRET
    daemon, url = listening_daemon(world)
    world.sandbox.add_webhook(url, SECRET, twice=True, out_of_order=True)
    refuse_two(world)  # a webhook is told of what comes after it
    until(lambda: refused(world) == 2, "both events are refused", seen=lambda: daemon.err[-2000:])
    assert {each["customer"] for each in parked(world)} == {"cus_1", "cus_4"}

    def all_told() -> bool:
        told = world.sandbox.webhook_deliveries()
        return len(told) == 4 and all(each["status"] == 200 for each in told)

    until(all_told, "every delivery is acknowledged", seen=world.sandbox.webhook_deliveries)
    assert world.one("select count(*) from aggregator.notification where came_by = 'webhook'") == 2
    assert daemon.stop() == -15
    assert SECRET not in daemon.err


def test_a_forged_delivery_is_turned_away(world: World) -> None:
    """Signed with another secret: 400, said, and nothing is written."""
    world.sink["reports"] = {"poll": "off"}
    world.sink["webhook_secret"] = SECRET
    daemon, url = listening_daemon(world)
    world.sandbox.add_webhook(url, "whsec_of_somebody_else", attempts=1)
    refuse_two(world)  # a webhook is told of what comes after it
    daemon.logged("webhook_refused", sink="stripe")
    told = until(world.sandbox.webhook_deliveries, "the sandbox has an answer")
    assert told[0]["status"] == 400
    assert refused(world) == 0


def test_a_reload_keeps_the_port(world: World) -> None:
    """SIGHUP builds everything anew; who delivers meanwhile waits, and is answered, or delivers again."""
    world.sink["webhook_secret"] = SECRET
    daemon, url = listening_daemon(world)
    world.sandbox.add_webhook(url, SECRET)
    daemon.tell(1)
    for _ in range(3):
        world.sandbox.notify("v1.billing.meter.created")
    daemon.logged("config_unchanged")
    until(
        lambda: (
            len({each["event"] for each in world.sandbox.webhook_deliveries() if each["status"] == 200}) == 3
        ),
        "all three are acknowledged",
        seen=lambda: (world.sandbox.webhook_deliveries(), daemon.err[-2000:]),
    )


def test_a_key_that_may_not_ask_is_said_and_the_rest_goes_on(world: World) -> None:
    """Once in the log, in `check` and in `status`; usage is billed as ever; once it is granted, nothing is missing."""
    key = KEY.replace("sk_", "rk_")
    world.sink["api_key"] = key
    world.sandbox.set_permissions(key, "meters_read", "meter_events_write", "account_read")
    world.sink["reports"] = {"poll": "5s"}
    refuse_two(world)
    daemon = world.daemon()
    daemon.logged("reports_refused", sink="stripe")
    world.use("cus_0", 7, minute=81)
    until(lambda: world.billed().get("cus_0") == 8, "usage is billed", seen=lambda: daemon.err[-2000:])
    assert len(daemon.log("reports_refused")) == 1
    said = world.run("status").out
    assert "Sink stripe does not report what it finds invalid" in said
    check = world.run("check", "--json").json
    [note] = [each for each in check["findings"] if "does not report" in each["text"]]
    assert (check["ok"], note["verdict"]) == (True, "note")
    assert daemon.stop() == -15
    world.sandbox.set_keys()
    assert world.once().code == 4, "refused events want a person"
    assert refused(world) == 2
    assert "does not report" not in world.run("status").out
    assert key not in daemon.err


def test_an_event_is_taken_back_and_billed_as_the_source_says(world: World) -> None:
    """Ten were billed, four were used: the source is corrected, the event cancelled, and four are billed in the end."""
    world.use("cus_0", 10, minute=80)
    assert world.once().code == 0
    assert world.billed() == {"cus_0": Decimal(10)}
    world.sandbox.set_rules(adjustment_complete_at_once=True)
    event = str(world.one("select id from aggregator.event"))
    world.source("update usage set quantity = 4")
    asked = world.run("events", "cancel", event, "--sink", "stripe")
    assert asked.code != 0, "nobody is there to say yes"
    assert "Cancel them?" in asked.said
    assert "to be cancelled at stripe" in asked.out
    assert world.billed() == {"cus_0": Decimal(10)}
    done = world.run("events", "cancel", event, "--sink", "stripe", "--yes")
    assert done.code == 0, done.said
    assert "1 event cancelled" in done.out
    assert world.billed() == {"cus_0": Decimal(0)}
    world.quiet_by_passes()
    assert world.billed() == {"cus_0": Decimal(4)}
    again = world.run("events", "cancel", event, "--sink", "stripe", "--yes")
    assert again.code == 2
    assert f"{event}: it is void" in again.err


def test_a_cancellation_without_an_answer_is_finished_by_the_daemon(world: World) -> None:
    """The command's answer is lost; the daemon asks again, and the event ends as cancelled."""
    world.use("cus_0", 10, minute=80)
    assert world.once().code == 0
    world.sandbox.set_rules(adjustment_complete_at_once=True)
    world.sandbox.set_faults(drop_after=1.0, applies_to="all")
    event = str(world.one("select id from aggregator.event"))
    told = world.run("events", "cancel", event, "--sink", "stripe", "--yes", "--json").json
    assert (told["asked"], told["again"], list(told["going_on"])) == ([int(event)], 1, [event])
    assert world.one("select state::text from aggregator.event") == "accepted"
    world.sandbox.set_faults()
    said = world.run("status").out
    assert f"Event {event} (10 for cus_0 of requests) is being cancelled" in said
    world.ledger("update aggregator.cancellation set next_at = now()")
    daemon = world.daemon()
    until(lambda: refused(world) == 1, "the event is refused", seen=lambda: daemon.err[-2000:])
    assert world.one("select state from aggregator.cancellation") == "done"
    assert world.billed() == {"cus_0": Decimal(0)}
