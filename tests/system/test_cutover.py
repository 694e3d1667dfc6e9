"""docs/moving.md, followed step by step as processes: from Stripe's meters to Metronome, customer by customer.

The page's days are in the past here, and how far the meter is read is set by its `delay`.
"""

import datetime as dt
import json
import re
import shlex
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aggregator.core.windows import DAY, HOUR, floor
from aggregator.runtime.clock import utcnow
from aggregator.sandbox.metronome import MetronomeControl
from tests.system.harness import KEY, Ran, World

PAGE = (Path(__file__).parents[2] / "docs" / "moving.md").read_text()
PART = PAGE.split("## From Stripe's meters to Metronome\n")[1].split("### To be signed")[0]
TOKEN = "token_0123456789abcdefghij"
NAME = "api_requests"

REQUESTS = """
create table api_request (customer_id text not null, created_at timestamptz not null);
grant select on api_request to usage_reader
"""


class Follower:
    """Does what the page says, with its days put where they are over: November and December are one day each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.metronome = MetronomeControl(world.sandbox.url)
        self.metronome.reset()
        self.begins = floor(utcnow(), DAY) - 4 * DAY
        """What the page calls the first of November; each of its months is a day here."""
        self.moves_at = self.begins + DAY
        self.ids: list[str] = []
        self.config: dict[str, Any] = YAML(typ="safe", pure=True).load(
            re.findall(r"^```yaml\n(.*?)^```", PART, re.MULTILINE | re.DOTALL)[0]
        )
        self.config["ledger"] = {"url": world.ledger_url}
        self.config["sources"]["app"]["wait_for_writers"] = "0s"
        self.config["sinks"]["stripe"] |= {"mode": "test", "api_base": world.sandbox.url}
        self.config["sinks"]["metronome"]["api_base"] = self.metronome.url
        self.meter["start_at"] = f"{self.begins:%Y-%m-%dT%H:%MZ}"
        self.meter["sinks"][1]["bill_from"] = self.meter["start_at"]
        world.source(REQUESTS)

    @property
    def meter(self) -> dict[str, Any]:
        """The page's meter."""
        meter: dict[str, Any] = self.config["meters"][NAME]
        return meter

    @property
    def steps(self) -> list[str]:
        """The commands of the page, in their order."""
        found = re.findall(r"^\$ (.*(?:\n    .*)*)", PART, re.MULTILINE)
        return [re.sub(r"\n\s+", " ", each) for each in found]

    def use(self, customer: str, at: dt.datetime, times: int) -> None:
        """Let a customer call the API."""
        self.world.source(
            "insert into api_request select %s, %s from generate_series(1, %s)", customer, at, times
        )

    def read_up_to(self, instant: dt.datetime) -> Ran:
        """Let everything be read that was over by then, and sent."""
        self.meter["delay"] = f"{int((utcnow() - instant).total_seconds())}s"
        return self.command("run", "--once", "--json")

    def command(self, *arguments: str) -> Ran:
        """Run one of our commands with the page's configuration."""
        (self.world.directory / "aggregator.yaml").write_text(json.dumps(self.config))
        url = self.world.config["sources"]["app"]["url"]
        return self.world.run(*arguments, APP_DATABASE_URL=url, STRIPE_API_KEY=KEY, METRONOME_TOKEN=TOKEN)

    def follow(self, step: str) -> Ran | None:
        """Do what one line of the page says."""
        words = shlex.split(self._placed(step))
        if words[0] == "aggregator":
            return self.command(*words[1:])
        assert words[0] == "curl", step
        path = words[2].removeprefix("https://api.metronome.com")
        body = json.loads(words[-1])
        if "customer_id" in body:
            body["customer_id"] = self.ids[-1]
        answer = self.metronome.call("POST", path, body)
        if path == "/v1/customers":
            self.ids.append(answer["data"]["id"])
        return None

    def _placed(self, step: str) -> str:
        """Put the page's days where they are over."""
        december, january = self.moves_at, self.moves_at + DAY
        for named, day in (("2026-11-01", self.begins), ("2026-12-01", december), ("2027-01-01", january)):
            step = step.replace(named, f"{day:%Y-%m-%d}")
        return step.replace("--period 2026-12", f"--from {december:%Y-%m-%d} --to {january:%Y-%m-%d}")

    def sent(self) -> tuple[Mapping[str, Decimal], Mapping[str, Decimal]]:
        """Return what each sink was sent, by customer."""
        return self.world.sandbox.totals(NAME), self.metronome.totals(NAME)


@pytest.fixture
def follower(world: World) -> Follower:
    """Somebody with two customers who call the API each hour of four days."""
    found = Follower(world)
    for hour in range(80):
        for customer, times in (("cus_ada", hour % 5 + 1), ("cus_bob", 2)):
            found.use(customer, found.begins + hour * HOUR, times)
    return found


def test_the_page_leads_from_stripe_to_metronome(follower: Follower) -> None:
    """Each command in its order, with what it prints: nothing is billed twice or lost, and the report can be signed."""
    steps = iter(follower.steps)
    turn = follower.moves_at
    assert follower.command("meters", "apply", "--yes").code == 0

    for _ in range(4):  # 1. metric, customer, billable status, contract
        follower.follow(next(steps))
    assert follower.read_up_to(turn - 5 * HOUR).code == 0  # 2.
    parity = follower.follow(next(steps))
    assert parity is not None
    assert (parity.code, "none differs" in parity.out) == (0, True), parity.said
    assert follower.metronome.events() == []

    check = next(steps)  # 3.
    early = follower.follow(check)
    assert early is not None
    assert (early.code, "cus_ada is unbillable at Metronome" in early.out) == (4, True), early.said
    follower.follow(next(steps))  # 4.
    ready = follower.follow(check)
    assert ready is not None
    assert (ready.code, "nothing is missing" in ready.out) == (0, True), ready.said
    done = follower.follow(next(steps))
    assert done is not None
    assert "1 customer: stripe bills until" in done.out, done.said
    listed = follower.follow(next(steps))
    assert listed is not None
    assert "first of the migration" in listed.out

    assert follower.read_up_to(turn + 4 * HOUR).code == 0
    follower.use("cus_ada", turn - HOUR, 100)  # what comes late belongs to the side of its window
    follower.use("cus_ada", turn, 1_000)
    assert follower.read_up_to(turn + 2 * DAY).code in (0, 3)
    follower.command(
        "backfill", "--from", f"{follower.begins:%Y-%m-%d}", "--to", f"{turn + 2 * DAY:%Y-%m-%d}"
    )
    assert follower.command("run", "--once").code == 0
    compared = follower.command("reconcile")  # cus_bob is not at Metronome yet, and need not be
    assert (compared.code, "source = ledger = sinks for 2 customers and 1 meter: yes" in compared.out) == (
        0,
        True,
    ), compared.said

    report = follower.follow(next(steps))  # 5.
    assert report is not None
    assert report.code == 0, report.said
    assert report.out.count(" equal") == 3
    [ada_line] = [line.split() for line in report.out.splitlines() if "cus_ada" in line]
    assert ada_line[2:] == ["0", "1,071", "1,071", "0", "1,071", "0", "equal"]
    assert "Signed  ____" in report.out
    ada = sum(hour % 5 + 1 for hour in range(24, 72)) + 1_000
    stripe, metronome = follower.sent()
    assert metronome == {"cus_ada": ada}
    assert stripe["cus_ada"] == sum(hour % 5 + 1 for hour in range(24)) + 100
    assert stripe["cus_bob"] == 2 * 72

    everybody = next(steps)  # 6.
    assert list(steps) == []
    late = follower.follow(everybody)
    assert late is not None
    assert (late.code, "was read up to" in late.err) == (2, True), late.said
    missing = follower.command(*_later(everybody, turn + 2 * DAY))
    assert (missing.code, "ingest alias cus_bob" in missing.out) == (4, True), missing.said
    bob = follower.metronome.add_customer("Bob", "cus_bob")
    follower.metronome.add_contract(bob, f"{follower.begins:%Y-%m-%dT%H:%M:%SZ}")
    assert follower.command(*_later(everybody, turn + 2 * DAY)).code == 0
    ended = follower.read_up_to(follower.begins + 80 * HOUR)
    assert ended.code == 0, ended.said
    stripe, metronome = follower.sent()
    assert (stripe["cus_bob"], metronome["cus_bob"]) == (2 * 72, 2 * 8)


def _later(step: str, at: dt.datetime) -> list[str]:
    """The page's last command, with a time that lies ahead."""
    words = shlex.split(step)[1:]
    words[words.index("--at") + 1] = f"{at:%Y-%m-%d}"
    return words
