"""Each account that customers name is heard by itself, and so is how imports went, whatever one of them refuses."""

from typing import Any

import pytest

from tests.system.harness import KEY, Process, World, until

SECRET = "whsec_0123456789abcdef"
RESTRICTED = KEY.replace("sk_", "rk_")


def states(world: World) -> dict[str, str]:
    """How each customer's event stands."""
    return dict(world.ledger("select customer, state::text from aggregator.event"))


def use_in_accounts(world: World) -> None:
    """One customer in each of three accounts; what goes to the one in the second is found invalid at once."""
    world.sink["accounts"] = "by_customer"
    world.sandbox.set_connected("acct_1", "acct_2", "acct_3")
    world.sandbox.set_rules(report_window_seconds=0)
    world.sandbox.set_faults(reject_customers=["cus_b"], reject_after_seconds=0)
    for account, customer in (("acct_1", "cus_a"), ("acct_2", "cus_b"), ("acct_3", "cus_c")):
        world.use(f"{account}/{customer}", 3, minute=80)


def notes(world: World) -> list[str]:
    """What `check` finds worth a note, while all is well."""
    found = world.run("check", "--json").json
    assert found["ok"], found
    return [each["text"] for each in found["findings"] if each["verdict"] == "note"]


def web(daemon: Process) -> str:
    url: str = daemon.logged("web_started")["url"]
    return f"{url}/webhooks/stripe/stripe"


def test_accounts_of_customers_are_asked(world: World) -> None:
    """One that no longer lets the platform in is said once, and keeps nobody else from being heard."""
    use_in_accounts(world)
    world.sink["reports"] = {"poll": "off"}
    world.write()
    assert world.once().code == 0
    world.sandbox.set_connected("acct_2", "acct_3")
    world.sink["reports"] = {"poll": "5s"}
    daemon = world.daemon()
    daemon.logged("reports_taken", rejected=1, messages=1)
    said = daemon.logged("reports_refused")
    assert "acct_1 could not be asked: Stripe account acct_1 cannot be used" in said["reason"]
    assert states(world) == {
        "acct_1/cus_a": "accepted",
        "acct_2/cus_b": "refused",
        "acct_3/cus_c": "accepted",
    }
    assert "does not report what it finds invalid (acct_1), since" in world.run("status").out
    assert daemon.stop() == -15
    assert len(daemon.log("reports_refused")) == 1
    assert not [note for note in notes(world) if "invalid" in note]


def test_accounts_of_customers_tell(world: World) -> None:
    """One destination for all of them: each delivery is fetched where it belongs."""
    use_in_accounts(world)
    world.sink["reports"] = {"poll": "off"}
    world.sink["webhook_secret"] = SECRET
    world.write()
    daemon = world.start_process("run", "--verbose", "--web", "127.0.0.1:0", name="daemon")
    world.sandbox.add_webhook(web(daemon), SECRET, connect=True)
    world.use("acct_3/cus_b", 5, minute=81)

    def both() -> bool:
        return [customer for customer, state in sorted(states(world).items()) if state == "refused"] == [
            "acct_2/cus_b",
            "acct_3/cus_b",
        ]

    until(both, "both are refused", seen=lambda: daemon.err[-2000:])
    assert world.one("select count(*) from aggregator.notification where came_by = 'webhook'") == 2
    assert daemon.stop() == -15


def with_files(world: World) -> None:
    """Files beside the calls, as an import takes them."""
    world.config["sinks"]["files"] = {"type": "directory", "directory": str(world.directory / "files")}
    world.sink["reports"] = {"poll": "5s"}


def test_imports_that_failed_are_heard_once(world: World) -> None:
    """Asked for, and delivered as well."""
    with_files(world)
    world.sink["webhook_secret"] = SECRET
    early = world.sandbox.import_set("failed", "usage-1.csv", reason="no column value")
    world.write()
    daemon = world.start_process("run", "--verbose", "--web", "127.0.0.1:0", name="daemon")
    said = daemon.logged("import_failed")
    assert (said["files"], said["sink"]) == (["usage-1.csv"], "stripe")
    assert "no column value" in said["reason"]
    world.sandbox.add_webhook(web(daemon), SECRET, snapshots=True)
    late = world.sandbox.import_set("succeeded_with_errors", "usage-2.csv", errors=3)
    daemon.logged("import_failed", files=["usage-2.csv"])

    def polled() -> Any:
        return world.one("select polled_until > %s from aggregator.origin where name = 'imports'", since)

    since = world.one("select now()")
    until(polled, "it was asked again", seen=lambda: daemon.err[-2000:])
    assert world.ledger("select id from aggregator.notification order by created_at, id") == [
        (early["id"],),
        (late["id"],),
    ]
    assert len(daemon.log("import_failed")) == 2
    assert daemon.stop() == -15


def test_imports_are_heard_where_there_are_only_files(world: World) -> None:
    """A Stripe sink that no meter feeds listens, in one pass as in the daemon; a person is needed."""
    with_files(world)
    world.meter["sinks"] = ["files"]
    world.sandbox.import_set("failed", "usage-1.csv", reason="no column value")
    world.use("cus_0", 3, minute=80)
    world.write()
    ran = world.once()
    assert ran.code == 4, ran.said
    assert "no column value" in ran.err
    assert world.once().code == 0
    world.sandbox.import_set("failed", "usage-2.csv", reason="no column value")
    daemon = world.daemon()
    daemon.logged("import_failed", files=["usage-2.csv"])
    assert daemon.stop() == -15
    assert world.sandbox.stats()["accepted"] == 0


@pytest.mark.parametrize("refused_by", ["key", "types"])
def test_imports_that_cannot_be_asked_for_hold_up_nothing(world: World, refused_by: str) -> None:
    """It is said once, by `check` and by `status`; usage is billed, and what is invalid is heard of."""
    with_files(world)
    world.sink["api_key"] = RESTRICTED
    world.sandbox.set_rules(report_window_seconds=0, import_events_listed=refused_by != "types")
    if refused_by == "key":
        allowed = ("meters_read", "meter_events_write", "account_read", "events_read")
        world.sandbox.set_permissions(RESTRICTED, *allowed)
    world.sandbox.set_faults(reject_customers=["cus_1"], reject_after_seconds=0)
    world.use("cus_0", 3, minute=80)
    world.use("cus_1", 4, minute=80)
    daemon = world.daemon()
    said = daemon.logged("reports_refused")
    assert "how imports went cannot be asked" in said["reason"]
    until(lambda: states(world) == {"cus_0": "accepted", "cus_1": "refused"}, "the rest goes on")
    assert "does not report what it finds invalid (imports), since" in world.run("status").out
    found = notes(world)
    assert [note for note in found if "it does not report which files it could not import" in note]
    lacking = [note for note in found if "it lacks `Events: read`" in note]
    assert len(lacking) == (refused_by == "key")
    assert daemon.stop() == -15
    assert len(daemon.log("reports_refused")) == 1
    del world.config["sinks"]["files"]
    world.write()
    assert not [note for note in notes(world) if "lacks `Events: read`" in note or "import" in note]
