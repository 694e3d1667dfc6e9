"""The proof for users: it kills the real daemon, finds nothing lost or doubled, and can say no.

The pure parts, where the kills are drawn and the sides compared, are tested one unit off at a time.
"""

import datetime as dt
import itertools
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psycopg
import pytest

from aggregator.runtime.failpoints import POINTS
from aggregator.sandbox import ControlClient
from aggregator.selftest.killing import Rest
from aggregator.selftest.schedule import ARCHIVING, READING, SENDING, AtPoint, AtRandom, schedule
from aggregator.selftest.verdict import Outcome, Reconciled, Sent, Sides, judge
from aggregator.selftest.watch import Booked as Event
from aggregator.selftest.watch import Books, Content
from aggregator.selftest.world import Slot
from tests.system.harness import Process, until
from tests.system.test_demo import alive

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)

PROOF_SECONDS = 400.0
"""Far more than a proof of few kills takes: on a busy machine each start of the daemon takes several seconds."""

SLOT = Slot("requests", "cus_a", 100)
NEXT = SLOT._replace(minute=101)
WHO = ("requests", "cus_a")
SEVEN, TWO = Decimal(7), Decimal(2)


# The real thing


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a proof works. Not below pytest's own directory: as root, Postgres is another user, and shut out of there."""
    with tempfile.TemporaryDirectory(prefix="aggregator-test-") as name:
        yield Path(name) / "proof"


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., Process]]:
    """Start proofs in `place`; whatever one leaves is cleared away."""
    started: list[Process] = []

    def begin(*arguments: str) -> Process:
        arguments = ("selftest", "--dir", str(place), *arguments)
        started.append(Process("aggregator", arguments, place.parent, "selftest"))
        return started[-1]

    yield begin
    for process in started:
        if process.code is None:
            process.stop()


def running(place: Path) -> list[str]:
    """Return which of a proof's processes run."""
    pids = {path.name: path.read_text().split("\n")[0] for path in place.rglob("*.pid")}
    return sorted(name for name, pid in pids.items() if pid and alive(int(pid)))


def test_killed_again_and_again_nothing_is_lost_or_doubled(
    start: Callable[..., Process], place: Path, request: pytest.FixtureRequest
) -> None:
    """In the end all sides agree to the unit; at no moment did the sandbox hold more than was used (B1, B2, B3)."""
    kills = request.config.getoption("--kills")
    proof = start("--kills", str(kills), "--json")

    assert proof.ended(PROOF_SECONDS + 10 * kills) == 0, proof.out + proof.err

    told = json.loads(proof.out)
    print(proof.err, proof.out)
    assert told["good"] is True
    assert told["kills"]["all"] == kills
    struck = sum(told["kills"]["at_points"].values())
    assert struck + sum(told["kills"]["missed"].values()) + told["kills"]["at_random"] == kills
    assert struck > 0, "no daemon died at a point"
    assert told["events"] > told["corrections"] > 0
    assert told["calls"] > told["events"], "nothing went wrong at the sandbox"
    assert {told[name] for name in ("lost", "doubled")} == {"0"}
    assert {told[name] for name in ("two_contents", "over")} == {0}
    assert running(place) == []


def test_it_says_no(start: Callable[..., Process], place: Path) -> None:
    """An event that nobody planned, and a row that goes after it was billed, end it with 1, each under its customer."""
    proof = start("--kills", "1", "--json")
    settings = place / "world-1" / "aggregator.yaml"
    until(settings.exists, "the proof is set up", seconds=PROOF_SECONDS, seen=lambda: proof.err)
    config = until(lambda: whole(settings), "its configuration is written")

    sandbox = ControlClient(config["sinks"]["sandbox"]["api_base"])
    booked = until(
        lambda: sandbox.events(customer="cus_02", event_name="requests"),
        "a customer is billed",
        seconds=PROOF_SECONDS,
        seen=lambda: proof.err,
    )
    plant_event(sandbox.url, "cus_01", booked[0]["timestamp"], 1000)
    gone = delete_usage(config["ledger"]["url"].replace("ledger_1", "application_1"), booked[0])

    assert proof.ended(PROOF_SECONDS) == 1, proof.out + proof.err
    told = json.loads(proof.out)
    found = {(each["customer"], each["meter"]): each for each in told["differences"]}
    assert {who: each["doubled"] for who, each in found.items()} == {
        ("cus_01", "requests"): "1000",
        ("cus_02", "requests"): str(gone),
    }
    assert told["doubled"] == str(1000 + gone)
    assert told["lost"] == "0"
    assert told["over"] > 0
    assert any("planted, which the ledger does not know" in each for each in told["wrong"])
    assert any(each.startswith("reconcile: requests of cus_01 ") for each in told["wrong"])
    assert any(each.startswith("reconcile: requests of cus_02 ") for each in told["wrong"])
    assert "NO" in proof.err


def test_interrupted_it_leaves_nothing_running(start: Callable[..., Process], place: Path) -> None:
    """Ctrl-C in the middle of killing ends every process of it."""
    proof = start("--kills", "100")
    log = place / "world-1" / "daemon.log"
    until(log.exists, "the first daemon is started", seconds=PROOF_SECONDS, seen=lambda: proof.err)
    assert "postmaster.pid" in running(place)

    proof.tell(signal.SIGINT)

    assert proof.ended(PROOF_SECONDS) == 130
    assert running(place) == []
    assert "Traceback" not in proof.err


def whole(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def plant_event(url: str, customer: str, timestamp: int, value: int) -> None:
    """Send the sandbox an event that no daemon knows of; it may have to be sent until it is not refused by a fault."""
    parts = urlsplit(url)
    form = {
        "event_name": "requests",
        "identifier": "planted",
        "timestamp": timestamp,
        "payload[stripe_customer_id]": customer,
        "payload[value]": value,
    }

    def sent() -> bool:
        connection = HTTPConnection(parts.hostname or "", parts.port)
        headers = {
            "Authorization": "Bearer sk_test_planted",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        try:
            connection.request("POST", "/v1/billing/meter_events", urlencode(form), headers)
            connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()
        return bool(ControlClient(url).events(identifier="planted"))

    until(sent, "the planted event is booked")


def delete_usage(url: str, event: Mapping[str, Any]) -> Decimal:
    """Delete all that the customer used in the minute of an event; return how much that was."""
    start = dt.datetime.fromtimestamp(event["timestamp"] // 60 * 60, dt.UTC)
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "delete from usage where customer = %s and meter = %s and used_at >= %s and used_at < %s returning quantity",
            [event["customer"], event["event_name"], start, start + dt.timedelta(minutes=1)],
        ).fetchall()
    return sum((quantity for (quantity,) in rows), Decimal(0))


# The kills


def test_the_same_seed_kills_alike() -> None:
    """The kills are drawn from the seed alone; fewer of them are the beginning of more."""
    assert schedule(50, 7) == schedule(50, 7)
    assert schedule(50, 7) != schedule(50, 8)
    assert schedule(10, 7) == schedule(50, 7)[:10]


def test_every_point_has_its_turn() -> None:
    """Points are dealt evenly: the default number of kills strikes at each of them, and at random too."""
    kills = schedule(40, 1)
    counts = {
        name: sum(getattr(each, "name", None) == name for each in kills) for name in (*POINTS, *ARCHIVING)
    }
    assert set(READING) | set(SENDING) == set(POINTS)
    assert min(counts.values()) >= 1
    assert max(counts.values()) - min(counts.values()) <= 2
    chance = [each for each in kills if isinstance(each, AtRandom)]
    assert {each.starting for each in chance} == {each.cut for each in chance} == {True, False}


def test_those_killed_while_reading_do_not_follow_each_other() -> None:
    """Whoever is killed while it reads keeps its meters for a while: the next one is killed elsewhere."""
    kills = schedule(40, 1)
    places = ["reading" if isinstance(each, AtPoint) and each.name in READING else "" for each in kills]
    assert ("reading", "reading") not in itertools.pairwise(places)


# The quiet


def rest(**other: Any) -> Rest:
    """A ledger with nothing left to do; what is given differs."""
    read_at = NOON + dt.timedelta(seconds=1)
    return Rest(0, 0, None, NOON, deferred=False, read_at=read_at, next_at=None)._replace(**other)


def test_it_is_quiet_when_all_is_read_and_sent() -> None:
    """Nothing waits, the last window is read, and everything was read once more after the last row."""
    assert rest().what(NOON, NOON) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"waiting": 1}, "1 events to be sent"),
        ({"waiting": 2, "left_behind": 1, "due_again_by": NOON}, "due again by 12:00:00Z"),
        ({"mark": NOON - dt.timedelta(minutes=1)}, "read up to 11:59"),
        ({"deferred": True}, "read once more"),
        ({"read_at": NOON}, "read once more"),
    ],
    ids=str,
)
def test_until_then_it_says_what_it_waits_for(other: dict[str, Any], said: str) -> None:
    """Each thing that is left keeps it waiting, and is named."""
    assert said in (rest(**other).what(NOON, NOON) or "")


def test_an_attempt_is_progress_and_reading_the_same_again_is_none() -> None:
    """An event whose attempts go wrong waits five minutes each time: as long as they are made, nothing stands still."""
    waits = rest(waiting=1, next_at=NOON)
    assert waits._replace(next_at=NOON + dt.timedelta(minutes=5)).progress != waits.progress
    assert waits._replace(read_at=NOON + dt.timedelta(minutes=9)).progress == waits.progress


# The comparison


EQUAL = Reconciled([], {"requests": SEVEN}, {"requests": SEVEN}, {"requests": (TWO, TWO)})


def sides(**other: Any) -> Sides:
    """Sides that agree about seven units of one customer in one window, sent in two events; what is given differs."""
    contents = {"one": Content(*WHO, 6000, Decimal(4)), "two": Content(*WHO, 6059, Decimal(3))}
    known: dict[str, Any] = {
        "used": {SLOT: Decimal(7)},
        "sent": {
            name: Sent(content, number, "accepted") for number, (name, content) in enumerate(contents.items())
        },
        "held": {SLOT: Decimal(7)},
        "contents": contents,
        "nobody": {"requests": Decimal(2)},
        "reconciled": EQUAL,
    }
    return Sides(**{**known, **other})


def test_agreement_is_good() -> None:
    """What agrees in everything is counted, and good."""
    verdict = judge(sides())
    assert verdict.good, verdict
    assert (verdict.events, verdict.corrections, verdict.used) == (2, 1, 7)


@pytest.mark.parametrize(
    ("other", "lost", "doubled"),
    [
        ({"used": {SLOT: Decimal(8)}}, 1, 0),
        ({"used": {SLOT: Decimal(6)}}, 0, 1),
        ({"held": {SLOT: Decimal(8)}}, 0, 1),
        ({"held": {}}, 7, 0),
        ({"held": {NEXT: SEVEN}}, 7, 7),
        ({"held": {SLOT: Decimal(8), NEXT: Decimal(-1)}}, 1, 1),
        ({"held": {SLOT: SEVEN, SLOT._replace(customer="cus_b"): Decimal(1)}}, 0, 1),
        ({"reconciled": EQUAL._replace(found=["requests of cus_a: missing"])}, 0, 0),
        ({"reconciled": EQUAL._replace(source={"requests": Decimal(6)})}, 0, 0),
        ({"reconciled": EQUAL._replace(source={})}, 0, 0),
        ({"reconciled": EQUAL._replace(in_sink={"requests": Decimal(8)})}, 0, 0),
        ({"reconciled": EQUAL._replace(in_sink={"requests": SEVEN, "tokens": Decimal(1)})}, 0, 0),
        ({"reconciled": EQUAL._replace(unmapped={"requests": (TWO, Decimal(1))})}, 0, 0),
        ({"reconciled": EQUAL._replace(unmapped={"requests": (Decimal(1), TWO)})}, 0, 0),
        ({"reconciled": EQUAL._replace(unmapped={})}, 0, 0),
        ({"nobody": {"requests": Decimal(3)}}, 0, 0),
    ],
    ids=str,
)
def test_one_unit_off_anywhere_is_bad(other: dict[str, Any], lost: int, doubled: int) -> None:
    """Too much and too little, on any side, in any window; what cancels out over windows is both lost and doubled."""
    verdict = judge(sides(**other))
    assert not verdict.good
    assert (verdict.lost, verdict.doubled) == (lost, doubled)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("one", Sent(Content(*WHO, 6000, Decimal(5)), 0, "accepted")),
        ("one", Sent(Content(*WHO, 6001, Decimal(4)), 0, "accepted")),
        ("one", Sent(Content("requests", "cus_b", 6000, Decimal(4)), 0, "accepted")),
        ("one", Sent(Content(*WHO, 6000, Decimal(4)), 0, "sending")),
        ("three", Sent(Content(*WHO, 6000, Decimal(1)), 2, "accepted")),
        ("three", Sent(Content(*WHO, 6000, Decimal(1)), 2, "held")),
        ("three", Sent(Content(*WHO, 6000, Decimal(1)), 2, "in_doubt")),
    ],
    ids=str,
)
def test_an_event_that_the_ledger_has_otherwise_is_bad(name: str, changed: Sent) -> None:
    """Another content, an event that never arrived, one that is not settled: whatever the totals say."""
    assert not judge(sides(sent={**sides().sent, name: changed})).good


def test_an_event_that_the_ledger_does_not_know_is_bad() -> None:
    """A stranger in the sandbox's books is named."""
    verdict = judge(sides(sent={"one": sides().sent["one"]}))
    assert not verdict.good
    assert "two, which the ledger does not know" in verdict.wrong[0]


def test_nothing_billed_is_no_proof() -> None:
    """Sides that agree that there is nothing prove nothing."""
    assert not judge(Sides({}, {}, {}, {}, {}, Reconciled([], {}, {}, {}))).good


def test_worlds_add_up() -> None:
    """One bad world among good ones is bad, with all its figures."""
    whole = Outcome(verdict=judge(sides()))
    whole.add(Outcome())
    whole.add(Outcome(verdict=judge(sides(used={SLOT: Decimal(8)}))))
    assert not whole.good
    assert (whole.verdict.lost, whole.verdict.used, whole.verdict.events) == (1, 15, 4)


# Never over


def event(identifier: str, value: int, received_at: float, minute: int = 100) -> Event:
    """An event of the customer, booked at some moment."""
    return Event(identifier, Content(*WHO, minute * 60, Decimal(value)), received_at)


def test_what_was_committed_by_the_moment_may_be_held() -> None:
    """Four units committed at 10 and three at 20 allow four from 10 on, and seven from 20 on."""
    books = Books()
    grown = {SLOT: [(20.0, Decimal(3)), (10.0, Decimal(4))]}
    books.take([event("one", 4, 10.0), event("two", 3, 20.5)], grown)
    assert books.over == []
    assert books.held == {SLOT: 7}


@pytest.mark.parametrize(
    "events",
    [
        [event("one", 5, 15.0)],
        [event("one", 4, 9.9)],
        [event("one", 4, 15.0), event("two", 1, 19.9)],
        [event("one", 4, 25.0), event("two", 4, 25.0)],
        [event("one", 1, 25.0, minute=101)],
    ],
    ids=str,
)
def test_a_moment_above_the_source_is_seen(events: list[Event]) -> None:
    """Even if the source catches up later, and even if it is another window that has the usage."""
    books = Books()
    books.take(events, {SLOT: [(10.0, Decimal(4)), (20.0, Decimal(3))]})
    assert len(books.over) == 1


def test_one_identifier_with_two_contents_is_seen() -> None:
    """The same event booked twice is over; another one under its name is a fault of its own."""
    books = Books()
    grown = {SLOT: [(1.0, Decimal(9))]}
    books.take([event("one", 4, 10.0), event("one", 4, 11.0)], grown)
    assert books.two_contents == set()
    books.take([event("one", 1, 12.0)], grown)
    assert books.two_contents == {"one"}
