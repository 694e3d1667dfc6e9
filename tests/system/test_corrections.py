"""Rows that are added, changed or deleted after their window was billed, through a real source and real passes."""

from decimal import Decimal

from tests.system.harness import METER, World


def events(world: World, customer: str) -> list[tuple[object, ...]]:
    """Return what the ledger planned for a customer, in order: revision, delta, total, state."""
    return world.ledger(
        "select revision, delta::int, total::int, state::text from aggregator.event where customer = %s order by id",
        customer,
    )


def test_rows_that_come_after_their_window_was_billed_are_billed_by_a_correction(world: World) -> None:
    """A late row is one more event of the same slot, with the next revision; a quiet pass sends nothing (B6, B7)."""
    world.use("cus_a", 10, minute=5)
    world.use("cus_b", 3, minute=5)
    assert world.once().code == 0
    world.use("cus_a", 4, minute=5, second=59)
    world.use("cus_c", 1, minute=5, second=0)
    assert world.once().code == 0
    assert world.once().json["sinks"]["stripe"] == {"waiting": 0}
    assert events(world, "cus_a") == [(0, 10, 10, "accepted"), (1, 4, 14, "accepted")]
    assert events(world, "cus_b") == [(0, 3, 3, "accepted")]
    assert events(world, "cus_c") == [(0, 1, 1, "accepted")]
    assert world.billed() == world.used()


def test_a_decrease_waits_for_a_person(world: World) -> None:
    """A deleted row plans a correction that is held: exit code 4, listed by `status`, sent once it is released (B14)."""
    world.use("cus_a", 10, minute=5)
    world.use("cus_a", 2, minute=5)
    world.once()
    world.source("delete from usage where quantity = 2")
    ran = world.once()
    assert (ran.code, ran.json["outcome"]) == (4, "person_needed")
    assert world.billed() == {"cus_a": 12}
    [parked] = world.run("status", "--json").json["parked"]
    assert (parked["state"], parked["delta"], parked["customer"]) == ("held", "-2", "cus_a")
    assert world.run("events", "release", str(parked["event"])).code == 0
    assert world.once().code == 0
    assert events(world, "cus_a") == [(0, 12, 12, "accepted"), (1, -2, 10, "accepted")]
    assert world.billed() == world.used() == {"cus_a": 10}


def test_a_held_decrease_is_replaced_when_the_rows_change_again(world: World) -> None:
    """The newer plan takes its place; what was never sent is void, and no revision is used twice."""
    world.use("cus_a", 10, minute=5)
    world.use("cus_a", 2, minute=5)
    world.once()
    world.source("delete from usage where quantity = 2")
    world.once()
    world.use("cus_a", 7, minute=5)
    assert world.once().code == 0
    assert events(world, "cus_a") == [(0, 12, 12, "accepted"), (1, -2, 10, "void"), (2, 5, 17, "accepted")]
    assert world.billed() == world.used() == {"cus_a": 17}


def test_a_decrease_is_sent_at_once_where_the_meter_says_so(world: World) -> None:
    """`decreases: apply`."""
    world.meter["decreases"] = "apply"
    world.meter["shrink_guard"] = "100%"
    world.use("cus_a", 10, minute=5)
    world.once()
    world.source("update usage set quantity = 6")
    assert world.once().code == 0
    assert events(world, "cus_a") == [(0, 10, 10, "accepted"), (1, -4, 6, "accepted")]
    assert world.billed() == {"cus_a": 6}


def test_a_row_that_moves_to_another_window_is_taken_there_and_missed_here(world: World) -> None:
    """What it adds is sent, what it leaves waits for a person, and the customer's total never falls below what was used."""
    world.use("cus_a", 5, minute=5)
    world.once()
    world.source("update usage set used_at = used_at + interval '3 minutes'")
    assert world.once().code == 4
    assert sorted(events(world, "cus_a")) == [
        (0, 5, 5, "accepted"),
        (0, 5, 5, "accepted"),
        (1, -5, 0, "held"),
    ]


def test_usage_that_belongs_to_nobody_is_listed_and_stops_nobody(world: World) -> None:
    """Rows without a customer are counted, not dropped, and not billed (B21)."""
    world.use("cus_a", 5, minute=5)
    world.use(None, 7, minute=5)
    world.use(None, 1, minute=6)
    assert world.once().code == 0
    assert world.billed() == {"cus_a": Decimal(5)}
    shown = world.run("status", "--json").json
    assert sum(int(each["rows"]) for each in shown["unmapped"]) == 2
    assert sum(Decimal(each["quantity"]) for each in shown["unmapped"]) == 8
    assert METER in world.run("status").out


def test_a_changed_id_waits_on_both_sides_and_goes_in_one_step(world: World) -> None:
    """Named as a move by `status` and `events list`; one event released lets all of it go."""
    for minute, quantity in ((3, 4), (5, 10), (6, 7)):
        world.use("cus_a", quantity, minute=minute)
    world.once()
    world.source("update usage set customer = 'cus_b' where customer = 'cus_a'")
    assert world.once().code == 4
    assert world.billed() == {"cus_a": 21}
    for command in (["status"], ["events", "list"]):
        told = " ".join(world.run(*command).out.split())
        assert (
            f"cus_a -> cus_b: 3 windows, 21 units of {METER} to stripe moved (a customer's id changed?)"
            in told
        )
        [move] = world.run(*command, "--json").json["moves"]
        assert (move["from_customer"], move["to_customer"], move["windows"]) == ("cus_a", "cus_b", 3)
    released = world.run("events", "release", str(move["event"]))
    assert (released.code, "6 events released" in released.out) == (0, True)
    assert "5 of them were not named" in released.out
    assert world.once().code == 0
    assert world.billed() == world.used() | {"cus_a": 0}
