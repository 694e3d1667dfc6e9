"""One clock: what is stamped and compared goes by the ledger's own, and a host whose clock is wrong sends nothing."""

import datetime as dt
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.cli import cli
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.run import run_once
from aggregator.collection.backfill import Backfill
from aggregator.config import load
from aggregator.core.model import (
    Answer,
    Bounds,
    Event,
    Outcome,
    Span,
    State,
    Written,
)
from aggregator.core.windows import floor
from aggregator.delivery.sender import Sender
from aggregator.errors import ClocksApart
from aggregator.ledger.clock import LedgerClock
from aggregator.ledger.database import Database
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.outbox.files import FileClaim, Files
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.review.cancellations import Cancellations
from aggregator.ledger.review.in_doubt import InDoubt
from aggregator.reconciliation.reconciler import Reconciler
from aggregator.runtime import log
from aggregator.runtime.claim_counter import ClaimCounter
from aggregator.runtime.clock import utcnow
from aggregator.wiring.app import build
from tests.postgres.configured import written
from tests.postgres.world import HOUR, METER, MINUTE, World

SKEW = MINUTE
WRONG = [30 * HOUR, -30 * HOUR, 2 * MINUTE, -2 * MINUTE]
BOUNDS = Bounds(1_000, 900_000, dt.timedelta(0))


class Host:
    """A host whose wall clock can be set."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta(0)

    def __call__(self) -> dt.datetime:
        """Return what its clock shows."""
        return utcnow() + self.ahead


class Today(World):
    """A daemon that lives now, by the ledger's clock, on a host of its own."""

    def __init__(self, database: Database, host: Host, state: Path) -> None:
        self.host = host
        super().__init__(database, meter=replace(METER, start_at=floor(utcnow(), HOUR) - 4 * HOUR))
        self.collection._check_clock = database.now
        self.identity = LedgerIdentity(database, ClaimCounter(state))
        self.outbox = Outbox(
            database, self.owner, dt.timedelta(seconds=40), dt.timedelta(seconds=20), self.identity
        )
        self.files = Files(database, self.owner, MINUTE, self.identity)
        self.sink_id = self.registered.feeds[0].sink_id
        for number in range(1, 4):
            self.source.use(f"cus_{number}", self.meter.start_at, number)

    def worker(self) -> Sender:
        """Return what delivers, as the daemon builds it."""
        return Sender(self.outbox, self.sink, self.sink_id, self.database.instant)

    def owe(self) -> None:
        """Plan what was used, with the clock right."""
        self.collection.run_once(self.database.now())

    def stamps(self, column: str) -> list[dt.datetime]:
        """Return what stands in a column of the events, each once."""
        named = {
            "exposed_at": "select distinct exposed_at from aggregator.event where exposed_at is not null",
            "attempted_at": "select distinct attempted_at from aggregator.event where attempted_at is not null",
            "settled_at": "select distinct settled_at from aggregator.event where settled_at is not null",
            "due_at": "select distinct due_at from aggregator.outbox",
        }
        return [instant for (instant,) in self.rows(named[column])]

    def claim_file(self, now: dt.datetime) -> FileClaim | None:
        """Choose what a file is to hold."""
        around = {self.registered.feeds[0].id: 20}
        return self.files.claim_whole(self.sink_id, "here", around, BOUNDS, now, by_hand=False)


def is_now(instants: list[dt.datetime]) -> bool:
    """Tell whether there are some, and all are of the last minute or so of the real time."""
    return bool(instants) and all(abs(instant - utcnow()) < 5 * MINUTE for instant in instants)


@pytest.fixture
def today(ledger_url: str, tmp_path: Path) -> Iterator[Today]:
    """A ledger, and a host whose clock is right to begin with."""
    host = Host()
    with Database(ledger_url, clock=LedgerClock(SKEW, host)) as database:
        yield Today(database, host, tmp_path)


@pytest.mark.parametrize("ahead", WRONG)
def test_a_host_whose_clock_is_wrong_claims_nothing(today: Today, ahead: dt.timedelta) -> None:
    """Either way: no attempt is on record, nothing leaves, and all goes on by itself once the clock is right."""
    today.owe()
    today.host.ahead = ahead
    with pytest.raises(
        ClocksApart, match="behind the ledger's" if ahead < dt.timedelta(0) else "ahead of the ledger's"
    ):
        today.worker().run_once(today.host())
    assert today.sink.received == []
    assert today.rows("select distinct state::text, attempts, exposed_at from aggregator.event") == [
        ("due", 0, None)
    ]
    assert today.one("select count(*) from aggregator.claim") == 0
    today.host.ahead = dt.timedelta(0)
    assert today.worker().run_once(today.host()).accepted == 3


@pytest.mark.parametrize("ahead", WRONG)
def test_a_host_whose_clock_is_wrong_reads_nothing(today: Today, ahead: dt.timedelta) -> None:
    """A clock ahead would close windows that are open: neither live nor a backfill reads, and the mark stays (H-17)."""
    today.host.ahead = ahead
    span = Span(today.meter.start_at, today.meter.start_at + HOUR)
    with pytest.raises(ClocksApart):
        today.collection.run_once(today.host())
    with pytest.raises(ClocksApart):
        today.collection.backfill(span, span, today.host())
    with pytest.raises(ClocksApart):
        today.collection.restate(span, today.meters.definitions(today.registered)[0])
    assert today.one("select mark from aggregator.meter") == today.meter.start_at


def test_a_backfill_may_take_longer_than_clocks_may_differ(today: Today) -> None:
    """How long ago it began says nothing about the clocks: a backfill of an hour goes on."""
    start = today.meter.start_at
    span = Span(start, start + 2 * HOUR)
    backfill = Backfill(today.collection, today.meters.definitions(today.registered), span)
    assert backfill.run(today.database.now() - 20 * MINUTE, lambda: None).new == 3


def test_what_is_planned_goes_by_when_the_meter_was_taken(today: Today) -> None:
    """A process may stand still before it has the meter: what it plans then is not older than what it rests on."""
    today.collection.run_once(today.database.now() - 26 * HOUR)
    assert is_now([at for (at,) in today.rows("select distinct planned_at from aggregator.event")])


@pytest.mark.parametrize("ahead", WRONG)
@pytest.mark.parametrize("answer", [Answer.UNKNOWN, Answer.BUSY, Answer.REFUSED, None])
def test_a_clock_that_is_set_while_events_are_in_the_air_changes_nothing(
    today: Today, ahead: dt.timedelta, answer: Answer | None
) -> None:
    """What was claimed in time is settled, and every stamp is the ledger's, whatever this host's clock shows by then."""
    today.owe()

    def fault(event: Event) -> Answer | None:
        today.host.ahead = ahead
        return answer

    today.sink.fault = fault
    done = today.worker().run_once(today.database.now())
    assert (done.claimed, done.stale) == (3, 0)
    states = {
        Answer.UNKNOWN: ["due_at", "exposed_at"],
        Answer.BUSY: ["due_at"],
        Answer.REFUSED: ["settled_at"],
        None: ["settled_at"],
    }
    for column in (*states[answer], "attempted_at"):
        assert is_now(today.stamps(column)), column
    for instant in today.rows(
        "select claimed_at from aggregator.claim union all select at from aggregator.attempt"
    ):
        assert is_now(list(instant))


def test_what_a_caller_takes_for_the_time_has_no_say(today: Today) -> None:
    """A process that stood still between looking at the clock and claiming has an old instant: the claim has its own."""
    today.owe()
    claim = today.outbox.claim(today.sink_id, 10, today.database.now() - 26 * HOUR)
    assert claim is not None
    assert is_now([claim.at, *today.stamps("exposed_at"), *today.stamps("attempted_at")])
    assert today.outbox.claim(today.sink_id, 10, today.database.now() + 26 * HOUR) is None
    done = [Outcome(event.id, State.ACCEPTED) for event in claim.events[:1]]
    assert today.outbox.settle(claim.id, done, today.database.now() - 26 * HOUR) == 1
    assert is_now([*today.stamps("settled_at"), *today.stamps("due_at")])


@pytest.mark.parametrize("ahead", WRONG)
def test_a_file_is_neither_begun_nor_taken_over_by_a_wrong_clock(today: Today, ahead: dt.timedelta) -> None:
    """And what was begun in time is settled with the ledger's own stamps."""
    today.owe()
    today.host.ahead = ahead
    with pytest.raises(ClocksApart):
        today.claim_file(today.host())
    today.host.ahead = dt.timedelta(0)
    claim = today.claim_file(today.host() - 26 * HOUR)
    assert claim is not None
    assert is_now([claim.claimed_at])
    today.files.put_off(claim, today.database.instant() - MINUTE, "left")
    today.host.ahead = ahead
    with pytest.raises(ClocksApart):
        today.files.take_over(today.sink_id, "here", today.host())
    assert today.files.renew(claim, today.host())
    assert today.one("select held_until < clock_timestamp() + interval '2 minutes' from aggregator.file")
    start = today.meter.start_at
    written = Written("file_1", (METER.name,), start, start, 3, 100, "0" * 64)
    assert today.files.settle(claim, written, today.host()) == 3
    assert is_now(today.stamps("settled_at"))
    assert is_now([today.one("select written_at from aggregator.file")])


@pytest.mark.parametrize("ahead", WRONG)
def test_a_cancellation_is_tried_by_the_ledgers_clock(today: Today, ahead: dt.timedelta) -> None:
    """Not at all while the host's is wrong; and stamped with the ledger's, though the round began long ago."""
    today.owe()
    today.worker().run_once(today.database.now())
    cancellations = Cancellations(today.database)
    began = today.database.instant() - 3 * HOUR
    [event, *_] = [row[0] for row in today.rows("select id from aggregator.event order by id")]
    assert cancellations.ask(today.sink_id, [event], began) == [event]
    [wanted] = cancellations.wanted(today.sink_id, now=began, limit=1)
    today.host.ahead = ahead
    with pytest.raises(ClocksApart):
        cancellations.begin(wanted, began, began + MINUTE)
    tries = "select tries, tried_at, next_at from aggregator.cancellation"
    assert today.rows(tries)[0][0] == 0
    today.host.ahead = dt.timedelta(0)
    begun = cancellations.begin(wanted, began, began + MINUTE)
    assert begun is not None
    [(count, tried_at, next_at)] = today.rows(tries)
    assert (count, tried_at, next_at) == (1, begun.tried_at, tried_at + MINUTE)
    assert is_now([tried_at])


def test_an_answer_of_long_ago_is_not_proven_by_a_wrong_clock(today: Today) -> None:
    """A host 30 h ahead would read back at once what can be proven in a day: whoever asks it for the time is refused."""
    today.owe()
    today.sink.fault = lambda event: Answer.UNKNOWN
    today.worker().run_once(today.database.now())
    today.execute("update aggregator.outbox set exposed_at = exposed_at - interval '21 hours'")
    today.execute("update aggregator.outbox set due_at = clock_timestamp()")
    assert today.worker().run_once(today.database.now()).in_doubt == 3
    today.host.ahead = 30 * HOUR
    with pytest.raises(ClocksApart):
        today.database.now()
    reconciliation = Reconciler(InDoubt(today.database), today.sink, today.sink_id)
    assert reconciliation.run_once(today.database.instant()).figures() == {}
    assert today.rows("select distinct state::text from aggregator.event") == [("in_doubt",)]


def test_a_ledger_whose_clock_is_set_back_bills_nothing_twice(today: Today) -> None:
    """Attempts are stamped 30 h ahead, host and ledger both; set right, they are in doubt before the sink forgets them."""
    today.owe()
    today.sink.lost_after_booking = lambda event: True
    assert today.worker().run_once(today.database.now()).again == 3
    for statement in (
        "update aggregator.outbox set exposed_at = exposed_at + interval '30 h'",
        "update aggregator.outbox set attempted_at = attempted_at + interval '30 h'",
        "update aggregator.outbox set due_at = due_at + interval '30 h'",
        "update aggregator.identity set claimed_at = claimed_at + interval '30 h'",
    ):
        today.execute(statement)
    assert today.worker().run_once(today.database.now()).claimed == 0
    said = today.outbox.clock_set_back(today.database.now())
    assert said is not None
    assert "was set back" in said
    assert today.outbox.clock_set_back(today.database.now()) is None
    today.execute("update aggregator.outbox set due_at = due_at - interval '2 minutes'")
    today.sink.identifiers.clear()  # by the time it would have been due, the sink has forgotten
    assert today.worker().run_once(today.database.now()).in_doubt == 3
    assert is_now(today.stamps("attempted_at"))
    assert sorted(today.sink.booked.values()) == [Decimal(1), Decimal(2), Decimal(3)]


def test_what_a_clock_that_is_set_back_had_put_off_is_not_waited_for(today: Today) -> None:
    """What is in doubt, unread, to be sent again or to be taken back comes to its turn as if it were put off just now."""
    today.owe()
    today.sink.lost_after_booking = lambda event: True
    today.worker().run_once(today.database.now())
    feed, meter = today.registered.feeds[0].id, today.registered.id
    for statement in (
        "update aggregator.outbox set exposed_at = exposed_at - interval '21 hours'",
        "update aggregator.outbox set due_at = clock_timestamp()",
    ):
        today.execute(statement)
    assert today.worker().run_once(today.database.now()).in_doubt == 3
    for statement in (
        "update aggregator.identity set claimed_at = clock_timestamp() + interval '30 days'",
        "update aggregator.event_at_rest set attempted_at = clock_timestamp() + interval '30 days'",
        "update aggregator.parked set look_at = clock_timestamp() + interval '30 days'",
        f"""
        insert into aggregator.unread (meter_id, window_start, reason, since, next_at)
        values ({meter}, '2026-01-01', 'slow', clock_timestamp(), clock_timestamp() + interval '30 days')
        """,
        f"""
        insert into aggregator.reassertion (feed_id, window_start, customer, due_at)
        values ({feed}, '2026-01-01', 'cus_1', clock_timestamp() + interval '30 days')
        """,
        f"""
        insert into aggregator.cancellation (event_id, sink_id, state, asked_at, next_at)
        select min(id), {today.sink_id}, 'asked', clock_timestamp(), clock_timestamp() + interval '30 days'
          from aggregator.event
        """,
    ):
        today.execute(statement)
    assert today.outbox.clock_set_back(today.database.now()) is not None
    latest = today.one(
        """
        select greatest((select max(attempted_at) from aggregator.event), (select max(look_at) from aggregator.parked),
                        (select max(next_at) from aggregator.unread), (select max(due_at) from aggregator.reassertion),
                        (select max(next_at) from aggregator.cancellation))
        """
    )
    assert latest <= today.database.now() + 6 * HOUR


def test_a_file_that_was_held_by_a_clock_of_before_is_taken_over_soon(today: Today) -> None:
    """It was begun while the ledger's clock was 30 h ahead: nobody waits for that time to come again."""
    today.owe()
    assert today.claim_file(today.database.now()) is not None
    today.execute("update aggregator.file set held_until = held_until + interval '30 h'")
    today.execute("update aggregator.identity set claimed_at = claimed_at + interval '30 h'")
    assert today.outbox.clock_set_back(today.database.now()) is not None
    assert is_now([held for (held,) in today.rows("select held_until from aggregator.file")])


def test_a_ledger_whose_clock_goes_on_is_not_called_set_back(today: Today) -> None:
    """Claims of the last minutes, and what is put off for a while, stay as they are."""
    assert today.outbox.clock_set_back(today.database.now()) is None
    today.owe()
    today.sink.fault = lambda event: Answer.BUSY
    today.worker().run_once(today.database.now())
    due = today.stamps("due_at")
    assert today.outbox.clock_set_back(today.database.now()) is None
    assert today.stamps("due_at") == due


@pytest.fixture
def configured(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with something to bill, on the tests' own server, which is fast because it is not durable."""
    monkeypatch.setattr("aggregator.wiring.opening.unfit", lambda database: [])
    start = floor(utcnow(), HOUR) - 3 * HOUR
    with closing(sqlite3.connect(tmp_path / "app.db")) as app:
        app.execute("create table usage (customer text, quantity int, at text)")
        app.execute("insert into usage values ('cus_1', 7, ?)", [f"{start + MINUTE:%Y-%m-%d %H:%M:%S}"])
        app.commit()
    (tmp_path / "folder").mkdir()
    return written(
        tmp_path,
        ledger_url,
        f"type: directory, directory: '{tmp_path}/folder'",
        name="folder",
        app=f"sqlite:///{tmp_path}/app.db",
        start=f"{start:%Y-%m-%dT%H:%MZ}",
        query="select customer, quantity, at from usage where at >= :start and at < :end",
    )


@pytest.mark.parametrize("ahead", WRONG)
def test_one_pass_on_such_a_host_fails_says_so_once_and_touches_nothing(
    configured: Path, ahead: dt.timedelta
) -> None:
    """Nothing is read or written; the next call, with the clock right, does it all."""
    host, said = Host(), io.StringIO()
    log.configure(stream=said)
    config = load(configured, {})
    for host.ahead, outcome, files in ((ahead, ExitCode.FAILED, 0), (dt.timedelta(0), ExitCode.DONE, 1)):
        with build(config, verify=True, host=host) as app:
            assert run_once(app) is outcome
        assert len(list((configured.parent / "folder").iterdir())) == files
    events = [json.loads(line)["event"] for line in said.getvalue().splitlines()]
    assert events.count(log.CLOCKS_APART) == 1
    assert events[0] == log.CLOCKS_APART
    assert log.PASS_FAILED not in events


@pytest.mark.parametrize("command", ["status", "check"])
def test_whoever_looks_is_told_of_clocks_that_differ(
    configured: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` and `check` on such a host say by how much; `check` fails."""
    host = Host()
    monkeypatch.setattr("aggregator.wiring.opening.LedgerClock", lambda skew, _: LedgerClock(skew, host))
    right = CliRunner().invoke(cli, [command, "--config", str(configured)])
    assert "ahead of the ledger's" not in right.output
    host.ahead = 30 * HOUR
    wrong = CliRunner().invoke(cli, [command, "--config", str(configured)])
    assert "ahead of the ledger's" in " ".join(wrong.output.split())
    assert (wrong.exit_code == 1) is (command == "check")


@pytest.mark.parametrize(
    "command",
    [
        ["backfill", "--from"],
        ["events", "release"],
        ["events", "dismiss"],
        ["events", "mark-missing"],
        ["events", "give-up", "--meter", "removed", "--sink"],
    ],
)
def test_no_command_that_changes_something_goes_by_a_wrong_clock(
    configured: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is refused with the reason, before anything is done."""
    host = Host()
    host.ahead = -30 * HOUR
    monkeypatch.setattr("aggregator.wiring.opening.LedgerClock", lambda skew, _: LedgerClock(skew, host))
    last = f"{floor(utcnow(), HOUR) - 3 * HOUR:%Y-%m-%dT%H:%MZ}" if command[0] == "backfill" else "1"
    done = CliRunner().invoke(cli, [*command, last, "--config", str(configured)])
    assert isinstance(done.exception, ClocksApart), done.output


def test_whether_an_event_may_be_sent_again_is_judged_as_of_its_claim(today: Today) -> None:
    """A caller that stood still has an old instant, by which the sink would still remember: nothing is sent again."""
    today.owe()
    today.sink.fault = lambda event: Answer.UNKNOWN
    today.worker().run_once(today.database.now())
    today.execute("update aggregator.outbox set exposed_at = exposed_at - interval '21 hours'")
    today.execute("update aggregator.outbox set due_at = clock_timestamp()")
    sent = len(today.sink.received)
    assert today.worker().run_once(today.database.now() - 5 * HOUR).in_doubt == 3
    assert len(today.sink.received) == sent


@pytest.mark.parametrize("ahead", [30 * HOUR, -30 * HOUR, 10 * MINUTE, -10 * MINUTE])
def test_every_part_that_is_put_together_asks_the_same_clock(configured: Path, ahead: dt.timedelta) -> None:
    """Whoever reads, or begins a file, on such a host is refused by the part itself, whatever it is told the time is."""
    host = Host()
    host.ahead = ahead
    with build(load(configured, {}), host=host) as app:
        with pytest.raises(ClocksApart):
            app.collections["api_requests"].run_once(app.ledger.instant())
        with pytest.raises(ClocksApart):
            app.delivery("folder", at_once=True).run_once(app.ledger.instant())
