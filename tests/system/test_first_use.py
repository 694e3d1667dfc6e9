"""A ledger that begins anew in front of a meter that has usage: real processes, and not a unit twice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TEMPLATE
from tests.system.harness import METER, MINUTE, OTHER_METER, World, until


@pytest.fixture
def lose_ledger(world: World, create_database: Callable[[str | None], str]) -> Callable[[], None]:
    """Return what puts an empty ledger in the place of the old one, with nothing beside it that tells."""

    def lose() -> None:
        world.ledger_url = create_database(TEMPLATE)
        world.config["ledger"]["url"] = world.ledger_url
        world.ledger(
            "update aggregator.identity set ledger_id = gen_random_uuid()"
        )  # the template's is everybody's
        shutil.rmtree(world.directory / ".aggregator")
        world.write()

    return lose


@pytest.fixture
def billed(world: World, lose_ledger: Callable[[], None]) -> World:
    """A world whose usage was billed by a ledger that is lost now."""
    world.use_much(customers=12, minutes=60)
    assert world.once().code == 0
    assert world.billed() == world.used()
    lose_ledger()
    return world


def test_a_new_ledger_in_front_of_usage_sends_nothing(billed: World) -> None:
    """The meter stops at that sink with the figures and the choices, in the log, in status, in check, and by exit code 4."""
    before = billed.sent()
    ran = billed.once()
    assert ran.code == 4, ran.said
    assert billed.sent() == before
    assert "holds usage of requests" in ran.err
    assert "feed_stopped" in ran.err
    status = billed.run("status")
    for word in ("requests sends nothing to stripe", "aggregator adopt --stop", "bill_from", "--first-time"):
        assert word in " ".join(status.out.split())
    check = billed.run("check", "--json")
    assert check.code == 1
    assert [each["what"] for each in check.json["findings"] if each["verdict"] == "wrong"] == [
        "meter requests"
    ]


def test_only_the_meter_that_is_billed_already_stops(billed: World) -> None:
    """Another meter of the same sink, which has no usage there, is sent."""
    billed.config["meters"][OTHER_METER] = {**billed.meter}
    assert billed.once().code == 4
    assert billed.sandbox.totals(OTHER_METER) == billed.used()
    assert billed.billed() == billed.used()


def test_a_new_ledger_takes_over_what_the_sink_has(billed: World) -> None:
    """Adopted, it sends what came since, and nothing twice."""
    billed.use("cus_1", 100, 70)
    assert billed.once().code == 4
    assert billed.run("adopt", "--stop").code == 0
    assert billed.run("adopt", "--yes", "--quiet", "0s").code == 0
    assert billed.once().code == 0
    assert billed.billed() == billed.used()


def test_a_new_ledger_bills_from_where_the_old_one_ended(billed: World) -> None:
    """With `bill_from` behind what is there, what was planned before is taken back, and the rest is sent."""
    billed.use("cus_1", 100, 70)
    assert billed.once().code == 4
    begin = billed.start + 60 * MINUTE
    billed.meter["sinks"] = [{"sink": "stripe", "bill_from": f"{begin:%Y-%m-%dT%H:%MZ}"}]
    assert billed.once().code == 0
    assert billed.billed() == billed.used()
    assert billed.one("select count(*) from aggregator.event where state = 'void'") > 0


def test_a_person_s_word_is_said_once_and_kept(billed: World) -> None:
    """`--first-time` lets the meter send beside what is there; the ledger knows who said so, and nobody says it again."""
    ran = billed.run("run", "--once", "--first-time")
    assert ran.code == 0, ran.said
    assert {who: 2 * much for who, much in billed.used().items()} == billed.billed()
    [(who, at)] = billed.ledger("select cleared_by, cleared_at from aggregator.feed")
    assert " on " in who
    assert at is not None
    assert billed.once().code == 0


def test_a_backfill_of_a_new_ledger_stops_too(billed: World) -> None:
    """It exits with 4 and says what the sink holds; with `--first-time` it sends."""
    before = billed.sent()
    ran = billed.run("backfill", METER, "--from", f"{billed.start:%Y-%m-%dT%H:%MZ}")
    assert ran.code == 4, ran.said
    assert "holds usage of requests" in ran.err
    assert billed.sent() == before
    assert (
        billed.run("backfill", METER, "--from", f"{billed.start:%Y-%m-%dT%H:%MZ}", "--first-time").code == 0
    )
    assert billed.sent() > before


def test_a_daemon_of_a_new_ledger_stops_and_goes_on(billed: World) -> None:
    """It says once that it does not send, and goes on by itself once a person has let it."""
    daemon = billed.daemon()
    daemon.logged("feed_stopped", meter=METER)
    assert billed.billed() == billed.used()
    assert billed.run("run", "--once", "--first-time").code in {0, 3}
    until(lambda: not billed.waiting(), "what waited has left")
    assert len(daemon.log("feed_stopped")) == 1


def test_check_refuses_a_state_directory_that_cannot_be_kept(world: World) -> None:
    """Where the ledger is a Postgres by URL, nothing else tells that it was set back."""
    (world.directory / "file").write_text("")
    world.config["state_dir"] = "file/state"
    world.write()
    ran = world.run("check", "--json")
    [finding] = [each for each in ran.json["findings"] if each["what"] == "state directory"]
    assert (ran.code, finding["verdict"]) == (1, "wrong")
    assert "would not be noticed" in finding["text"]


def test_files_cannot_be_asked_and_check_says_so(world: World, tmp_path: Path) -> None:
    """They are written at once."""
    world.config["sinks"]["stripe"] = {"type": "directory", "directory": str(tmp_path / "files")}
    world.use("cus_1", 5, 3)
    assert world.once().code == 0
    findings = world.run("check", "--json").json["findings"]
    assert any("cannot be asked what it holds" in each["text"] for each in findings)
