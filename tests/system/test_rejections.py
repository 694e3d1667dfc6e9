"""What the sandbox accepts and rejects later, in Stripe's own form, comes back into the balance over real HTTP."""

import datetime as dt
from typing import Any

from aggregator.config import load
from aggregator.core.model import Rejection, Report, Span
from aggregator.runtime.clock import utcnow
from aggregator.wiring.app import build
from tests.system.harness import METER, World


def as_report(told: dict[str, Any]) -> Report:
    """Read a report as Stripe makes it."""
    data = told["data"]
    named = tuple(
        Rejection(sample["request"]["identifier"], f"{kind['code']}: {sample['error_message']}")
        for kind in data["reason"]["error_types"]
        for sample in kind["sample_errors"]
    )
    span = Span(*(dt.datetime.fromisoformat(data[key]) for key in ("validation_start", "validation_end")))
    return Report(told["id"], METER, span, data["reason"]["error_count"], named)


def take_reports(world: World) -> int:
    """Give what the sandbox reports to the ledger; return how many events are refused by it."""
    with build(load(world.write(), {}), verify=False) as app:
        reconciliation = app.reconciliation("stripe")
        return sum(
            reconciliation.take(as_report(told), utcnow()).rejected for told in world.sandbox.reports()
        )


def test_what_is_rejected_later_is_owed_again_and_billed_in_the_end(world: World) -> None:
    """An event that Stripe took and could not count is listed; released, it goes out under a new name (B5)."""
    for number in range(6):
        world.use(f"cus_{number}", number + 1, minute=80)
    world.sandbox.set_faults(reject_customers=["cus_1", "cus_4"], reject_after_seconds=0)
    world.sandbox.set_rules(report_window_seconds=0)
    assert world.once().code == 0
    assert {who for who, much in world.billed().items() if much} == {"cus_0", "cus_2", "cus_3", "cus_5"}
    assert take_reports(world) == 2
    assert take_reports(world) == 0, "a report that comes twice counts once"
    parked = world.run("status", "--json").json["parked"]
    assert {each["customer"] for each in parked} == {"cus_1", "cus_4"}
    assert all(each["state"] == "refused" for each in parked)

    world.sandbox.set_faults()
    assert world.run("events", "release", *(str(each["event"]) for each in parked)).code == 0
    assert world.once().code == 0
    assert world.billed() == world.used()
    names = world.ledger("select count(*), count(distinct identifier) from aggregator.event")
    assert names == [(8, 8)]
    assert world.sandbox.stats()["duplicates_refused"] == 0
