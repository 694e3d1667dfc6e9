"""One customer whose events are always refused."""

from decimal import Decimal

from tests.system.harness import World, until


def test_the_others_go_out_and_status_names_it(world: World) -> None:
    """Everyone else is billed in the same pass; exit code 4; `status` shows whose events wait, why and how many (B11)."""
    world.use_much(customers=50, minutes=10)
    world.sandbox.set_faults(refuse_customers=["cus_7"], refuse_message="No such customer: 'cus_7'")
    ran = world.once()
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    used, billed = world.used(), world.billed()
    assert billed == {who: much for who, much in used.items() if who != "cus_7"}
    shown = world.run("status", "--json", "--limit", "100").json
    assert shown["meters"][0]["refused"] == 10
    assert {each["customer"] for each in shown["parked"]} == {"cus_7"}
    assert sum(Decimal(each["delta"]) for each in shown["parked"]) == used["cus_7"]
    assert all("No such customer" in each["reason"] for each in shown["parked"])
    table = world.run("status").out
    assert "cus_7" in table
    assert "No such customer" in table
    assert "aggregator events release" in table


def test_refused_events_can_be_sent_once_the_cause_is_gone(world: World) -> None:
    """Released by a person, they go out as the same bytes, and totals are right."""
    world.use_much(customers=5, minutes=4)
    world.sandbox.set_faults(refuse_customers=["cus_2"])
    world.once()
    world.sandbox.set_faults()
    parked = [str(each["event"]) for each in world.run("status", "--json").json["parked"]]
    assert len(parked) == 4
    assert world.run("events", "release", *parked).code == 0
    assert world.once().code == 0
    assert world.billed() == world.used()
    assert world.sandbox.stats()["double_counted"] == 0


def test_a_daemon_goes_on_past_it(world: World) -> None:
    """The daemon logs each refusal once, and bills the others' later usage."""
    world.use_much(customers=5, minutes=4)
    world.sandbox.set_faults(refuse_customers=["cus_2"])
    daemon = world.daemon()
    daemon.logged("event_refused")
    world.use("cus_3", 5, minute=60)
    expected = {who: much for who, much in world.used().items() if who != "cus_2"}
    until(
        lambda: world.billed() == expected and not world.waiting(), "the others are billed", seen=world.billed
    )
    assert len(daemon.log("event_refused")) == 4
