"""Months leave the ledger for an archive: whatever is asked of them is answered as before, whoever is killed on the way."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from aggregator.archive import parquet
from aggregator.archive.archiver import Archived
from aggregator.archive.places import InBucket
from aggregator.archive.reader import bring_back, trouble_of
from aggregator.core.archive import LEAST_KEPT, closed_before, later
from aggregator.core.model import Span
from aggregator.core.usage import By
from aggregator.errors import ArchiveError, InvariantBroken, LedgerError, MonthClosed
from aggregator.ledger.archived import Archived as Beside
from aggregator.ledger.archives import Archive
from aggregator.ledger.database import Database
from aggregator.ledger.facts import Facts
from aggregator.ledger.figures import Figures
from aggregator.ledger.identity import LedgerIdentity
from aggregator.ledger.outbox.outbox import Outbox
from aggregator.ledger.passes.passes import Pass
from aggregator.ledger.passes.spool import Spool
from aggregator.ledger.review.parked import Choice, ParkedEvents
from aggregator.ledger.usage import UsageReport
from aggregator.ledger.usage_days import UsageDays
from aggregator.runtime import failpoints
from aggregator.runtime.claim_counter import ClaimCount, ClaimCounter
from aggregator.sinks.files.bucket import Bucket, Keys
from tests.object_store import KEY_ID, REGION, SECRET, Store
from tests.postgres.archived_world import (
    DAY,
    HISTORIC,
    START,
    WHOLE,
    History,
    after_history,
    historic,
    in_directory,
    without_claims,
)
from tests.postgres.world import MINUTE, World

JULY, AUGUST = START, later(START, 1)


@pytest.fixture
def world(
    lived: str, create_database: Callable[[str | None], str], reached: Callable[[str], str]
) -> Iterator[World]:
    """Four months of usage, of which two can be archived."""
    with Database(reached(create_database(lived))) as database:
        yield after_history(database)


@pytest.fixture
def history(world: World, tmp_path: Path) -> History:
    """Its archives, in a directory."""
    return in_directory(world, tmp_path / "archive")


def archive(history: History) -> Archived:
    """Archive what can be, and see that it went well."""
    found = history.archiver.run_once(history.world.now)
    assert (found.waits, found.troubles) == ([], [])
    return found


def archives_of(history: History) -> dict[dt.datetime, Archive]:
    """Return the archives by month."""
    return {each.month: each for each in history.archives.listed()}


def test_every_question_is_answered_as_before(history: History) -> None:
    """Usage by any period and customer, stories with all their tries, statements, reconciliations, and pages."""
    before = without_claims(history.answers())
    found = archive(history)
    assert (found.written, found.removed, found.days) == (2, 2, 62)
    left = history.left()
    assert set(left) == {"2026-07", "2026-09", "2026-10"}
    assert left["2026-07"] < 10, "what a person dismissed stays, and all else has left"
    after = without_claims(history.answers())
    assert {question for question in before if before[question] != after[question]} == set()
    [ada] = [answer for question, answer in after.items() if question == "windows of cus_ada"]
    assert any(event.tries for facts in ada for event in facts.events), "failed tries are in the archive"
    assert archive(history).figures() == {}, "there is nothing more to do"


def test_numbers_are_written_as_before(history: History) -> None:
    """A file has eighteen places after the point for each; nobody gets to see those."""
    [feed] = history.usage.feeds(None, WHOLE)

    def written() -> list[str]:
        lines = history.usage.lines(feed, WHOLE, By.DAY, customer="cus_ada")
        return [str(line.usage.used) for line in lines]

    before = written()
    archive(history)
    assert written() == before
    assert not [number for number in before if number.endswith("000")]


@pytest.mark.parametrize("part", [Span(START + 3 * DAY, START + 40 * DAY), Span(START + 45 * DAY, WHOLE.end)])
def test_a_question_may_begin_within_an_archive(history: History, part: Span) -> None:
    """Sums of a month do not answer it then."""
    before = without_claims(history.answers(part))
    archive(history)
    after = without_claims(history.answers(part))
    assert {question for question in before if before[question] != after[question]} == set()


@pytest.mark.parametrize(
    "point", [point for point in failpoints.ARCHIVE_POINTS if point != "archive_restored"]
)
def test_whoever_is_cut_off_is_followed_up(
    history: History, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step, and at the tenth day: what is asked is answered as before, at once and in the end."""
    before = without_claims(history.answers())
    passed = iter(range(100))

    def cut(name: str) -> None:
        if name == point and (point != "archive_day_removed" or next(passed) == 10):
            raise KeyboardInterrupt

    with monkeypatch.context() as cutting:
        cutting.setattr(failpoints, "passing", cut)
        with pytest.raises(KeyboardInterrupt):
            history.archiver.run_once(history.world.now)
    between = without_claims(history.answers())
    assert {question for question in before if before[question] != between[question]} == set()
    archive(history)
    assert {month: each.removed_at is not None for month, each in archives_of(history).items()} == {
        JULY: True,
        AUGUST: True,
    }
    after = without_claims(history.answers())
    assert {question for question in before if before[question] != after[question]} == set()


def test_an_identifier_is_made_again_and_one_of_another_generation_is_kept(history: History) -> None:
    """So that no event has another name for having been archived."""
    names = dict(history.world.rows("select id, identifier from aggregator.event"))
    made = "(select min(id) from aggregator.event where window_start >= %s)"
    history.world.execute("alter table aggregator.event_at_rest disable trigger event_is_frozen")
    history.world.execute(
        f"update aggregator.event_at_rest set identifier = 'agg_of_old' where id = {made}", AUGUST
    )
    history.world.execute("alter table aggregator.event_at_rest enable trigger event_is_frozen")
    odd = history.world.one("select id from aggregator.event where identifier = 'agg_of_old'")
    names[odd] = "agg_of_old"
    archive(history)
    found: dict[int | None, str | None] = {}
    for each in archives_of(history).values():
        with history.place.fetched(each.name) as path:
            found |= {row.event_id: row.identifier for row in parquet.read(path)}
    assert found == {event: names[event] for event in found if event is not None}
    assert odd in found
    place = history.facts.place("agg_of_old", history.world.now)
    assert place is not None
    assert place.window.start >= AUGUST
    first = min(event for event in found if event is not None)
    assert history.facts.place(str(first), history.world.now) == history.facts.place(
        names[first], history.world.now
    )
    assert history.facts.place("agg_nobody", history.world.now) is None


def test_a_refusal_between_writing_and_removing_has_the_month_written_again(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink may report an event as invalid late: what is removed is what is in the file, or nothing is."""

    def late(name: str) -> None:
        if name == "archive_verified":
            monkeypatch.undo()
            refuse_one(history.world, JULY)

    monkeypatch.setattr(failpoints, "passing", late)
    first = history.archiver.run_once(history.world.now)
    assert first.more, "it is to be tried again"
    assert "2026-07" in history.left()
    written = archives_of(history).get(JULY)
    assert written is None or written.removed_until == JULY
    again = history.archiver.run_once(history.world.now)
    assert again.waits, "an event waits for a person now"


def refuse_one(world: World, since: dt.datetime) -> None:
    """Let a sink report the first accepted event from an instant on as invalid."""
    first = "select id, feed_id from aggregator.event where state = 'accepted' and window_start >= %s order by id limit 1"
    with world.database.transaction() as connection:
        row = connection.execute(first, [since]).fetchone()
        assert row is not None
        connection.execute("update aggregator.event_at_rest set state = 'refused' where id = %s", [row[0]])
        connection.execute(
            """insert into aggregator.parked (event_id, feed_id, state, reason, since, was_accepted)
               values (%s, %s, 'refused', 'reported late', now(), true)""",
            row,
        )


def test_two_daemons_archive_one_month_once(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second finds what the first is at, and leaves it to it."""
    before = without_claims(history.answers())
    other = in_directory(history.world, Path(history.place.where))
    passed = iter(range(1000))

    def beside(name: str) -> None:
        if name in {"archive_recorded", "archive_verified"} or (
            name == "archive_day_removed" and next(passed) == 4
        ):
            with monkeypatch.context() as alone:
                alone.setattr(failpoints, "passing", lambda _name: None)
                found = other.archiver.run_once(history.world.now)
                assert found.troubles == []

    monkeypatch.setattr(failpoints, "passing", beside)
    first = history.archiver.run_once(history.world.now)
    assert first.troubles == []
    monkeypatch.undo()
    archive(history)
    assert [each.removed_at is not None for each in history.archives.listed()] == [True, True]
    assert without_claims(history.answers()) == before


def test_a_day_that_changed_after_others_were_removed_is_said_and_can_be_put_right(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is removed; the month is brought back whole, and archived as it is by then."""
    before = without_claims(history.answers())
    passed = iter(range(100))

    def late(name: str) -> None:
        if name == "archive_day_removed" and next(passed) == 3:
            refuse_one(history.world, AUGUST - 9 * DAY)

    with monkeypatch.context() as cutting:
        cutting.setattr(failpoints, "passing", late)
        [trouble] = history.archiver.run_once(history.world.now).troubles
    assert "has changed since it was archived" in trouble
    assert "aggregator ledger restore api_requests 2026-07" in trouble
    [half] = history.archives.listed()
    assert JULY < half.removed_until < AUGUST
    assert bring_back(history.place, history.archives, half)
    history.world.execute("update aggregator.parked set dismissed_at = now() where dismissed_at is null")
    assert history.archives.let_go("api_requests", JULY)
    archive(history)
    after = without_claims(history.answers())
    assert {question for question in before if before[question] != after[question]} != set(), "one is refused"
    assert after["days"] != before["days"]
    assert history.drift.unbalanced(1, None, 10) == []


def test_what_is_brought_back_is_what_left(history: History) -> None:
    """To the last column; and it stays, until a person lets it go."""
    everything = "select * from aggregator.{} order by id"
    slots = history.world.rows(everything.format("slot"))
    events = history.world.rows(everything.format("event"))
    before = without_claims(history.answers())
    archive(history)
    for each in history.archives.listed():
        assert bring_back(history.place, history.archives, each)
        assert not bring_back(history.place, history.archives, each), "it is here already"
    assert history.world.rows(everything.format("slot")) == slots
    assert history.world.rows(everything.format("event")) == events
    assert history.world.rows("select * from aggregator.archived_usage") == []
    assert history.world.rows("select * from aggregator.archived_hour") == []
    assert archive(history).figures() == {}, "it stays"
    assert history.archives.let_go("api_requests", JULY)
    assert archive(history).removed == 1
    assert without_claims(history.answers()) == before


def test_what_is_not_what_was_removed_is_not_brought_back(history: History) -> None:
    """A file may be replaced by another one."""
    archive(history)
    july, august = history.archives.listed()
    with (
        history.place.fetched(august.name) as path,
        pytest.raises(InvariantBroken, match="not what was removed"),
    ):
        history.archives.restore(july, parquet.read(path))
    assert history.archives.listed() == [july, august]


def test_nothing_is_removed_that_was_not_read_back(history: History, tmp_path: Path) -> None:
    """Not by hand either, nor beyond what the archive has."""
    world = history.world
    with pytest.raises(InvariantBroken, match="never deleted"):
        world.execute("delete from aggregator.event_at_rest where id = 1")
    with pytest.raises((InvariantBroken, LedgerError), match="never deleted"):
        world.execute("truncate aggregator.event_at_rest cascade")
    archive(history)
    with pytest.raises(InvariantBroken, match="never deleted"):
        world.execute("delete from aggregator.event_at_rest where window_start >= %s", later(AUGUST, 1))
    [july, _] = history.archives.listed()
    assert not history.archives.remove(july, JULY), "another process did"
    by_hand = "select aggregator.remove_archived(%s, %s)"
    with (
        pytest.raises(InvariantBroken, match="not to be removed now"),
        world.database.transaction(snapshot=True) as connection,
    ):
        connection.execute(by_hand, [july.id, JULY])
    with pytest.raises(LedgerError, match="one snapshot"), world.database.transaction() as connection:
        connection.execute("select aggregator.remove_archived(%s, %s)", [july.id, JULY])
    assert (tmp_path / "archive" / july.name).exists()


def test_a_file_that_is_damaged_or_gone_is_said(history: History, tmp_path: Path) -> None:
    """By `verify`, and by whoever asks for what is in it; sums by month do not need it."""
    archive(history)
    july, august = history.archives.listed()
    assert [trouble_of(history.place, history.archives, each) for each in (july, august)] == [None, None]
    path = tmp_path / "archive" / july.name
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-20] + b"x" * 20)
    assert "is not the file that was written" in str(trouble_of(history.place, history.archives, july))
    path.unlink()
    assert "is not there" in str(trouble_of(history.place, history.archives, july))
    [feed] = history.usage.feeds(None, WHOLE)
    with pytest.raises(ArchiveError, match="is not there"):
        history.usage.of_customer(feed, Span(START, START + 9 * DAY), "cus_ada")
    whole = UsageReport(history.world.database).of_customer(feed, WHOLE, "cus_ada")
    assert sum(line.usage.used for line in whole) > 0


def test_who_cannot_read_archives_is_told_where_they_are(history: History) -> None:
    """A configuration may not say."""
    archive(history)
    facts = Facts(history.world.database, Beside())
    [feed] = facts.feeds()
    with pytest.raises(ArchiveError, match=r"is archived in .*ledger\.archive"):
        list(facts.entries(feed, "cus_ada", WHOLE))


ODD = {
    "quantity": ("0.000", "-5.50", "12345678901234567890.000000000000000001", "1e19", "1e-18", "-0.0"),
    "reason": ('said "no" - and\n- so on', "\t", "", "no\u00ef\u4e2d\U0001f980", "\\N", "-"),
}


def test_odd_values_are_known_again(history: History) -> None:
    """The ledger and the file make the same digest of each, and it is brought back as it was."""
    history.world.execute("alter table aggregator.event_at_rest disable trigger event_is_frozen")
    events = [row[0] for row in history.world.rows("select id from aggregator.event order by id limit 6")]
    for event, quantity, reason in zip(events, ODD["quantity"], ODD["reason"], strict=True):
        history.world.execute(
            "update aggregator.event_at_rest set quantity = %s, reason = %s, settled_at = null where id = %s",
            Decimal(quantity), reason, event,
        )  # fmt: skip
    every = "select * from aggregator.event where id = any(%s) order by id"
    before = history.world.rows(every, events)
    archive(history)
    assert history.world.rows(every, events) == []
    assert bring_back(history.place, history.archives, history.archives.listed()[0])
    assert history.world.rows(every, events) == before


def test_a_number_without_room_keeps_its_month_here(history: History) -> None:
    """It is named, and nothing is rounded or removed."""
    history.world.execute("alter table aggregator.event_at_rest disable trigger event_is_frozen")
    for number in ("1e20", "1e-19"):
        history.world.execute(
            "update aggregator.event_at_rest set quantity = %s where id = (select min(id) from aggregator.event)",
            Decimal(number),
        )
        [trouble] = history.archiver.run_once(history.world.now).troubles
        assert "has no room in an archive: event_quantity" in trouble
    assert "2026-07" in history.left()


OPEN = {
    "not read to its end": "update aggregator.meter set mark = '2026-07-20Z'",
    "not planned to its end for a sink": "update aggregator.feed set read_until = '2026-07-20Z'",
    "waiting to be read again": "update aggregator.meter set reread_from = '2026-07-20Z'",
    "events waiting to be sent": """
        insert into aggregator.outbox (event_id, slot_id, pass_id, sink_id, feed_id, revision, window_start, at, planned_at,
                                       due_at, customer, identifier, delta, total)
        select 0, 0, 1, 1, feed_id, 0, window_start, at, at, at, customer, 'agg_later', 1, 1
          from aggregator.event where window_start < '2026-08-01Z' limit 1""",
    "events waiting for a person, or for proof": "update aggregator.parked set dismissed_at = null",
    "events being taken back": """
        insert into aggregator.cancellation (event_id, sink_id, state, asked_at, next_at)
        select id, 1, 'asked', now(), now() from aggregator.event where window_start < '2026-08-01Z' limit 1""",
    "spans to be compared with a sink": """
        insert into aggregator.readback (feed_id, span, reason, asked_at, due_at)
        values (1, '[2026-07-03Z,2026-07-04Z)', 'x', now(), now())""",
    "customers to be compared with a sink": """
        insert into aggregator.unchecked values (1, 'cus_ada', now(), '2026-07-03Z', '2026-07-04Z', 1, false, now())""",
    "totals to be said again": """
        insert into aggregator.reassertion values (1, '2026-07-03Z', 'cus_ada', 0, now())""",
    "windows that shrank, and are to be read once more": """
        insert into aggregator.guarded values (1, '2026-07-03Z', 9, 1, now())""",
}


@pytest.mark.parametrize("reason", OPEN)
def test_a_month_of_which_something_waits_stays(history: History, reason: str) -> None:
    """And so do those after it, since months are closed in order."""
    history.world.execute(OPEN[reason])
    found = history.archiver.run_once(history.world.now)
    assert len(found.waits) == 1
    assert found.waits[0].startswith("api_requests of 2026-07 stays open: ")
    assert reason in found.waits[0]
    assert (found.written, history.archives.listed()) == (0, [])
    assert history.world.one("select archived_until from aggregator.meter") is None


def test_nothing_of_a_closed_month_is_released(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was dismissed keeps no month open: let go between writing and removing, it would leave the ledger while due."""
    world = history.world
    parked, outbox = ParkedEvents(world.database), Outbox(world.database, uuid4(), MINUTE, MINUTE)
    dismissed = {each.event for each in parked.waiting(Choice(dismissed=True, span=Span(JULY, AUGUST)), 99)}
    taken = world.one(
        "select min(id) from aggregator.event where state = 'accepted' and window_start < '2026-08-01Z'"
    )
    assert isinstance(taken, int)
    world.execute("update aggregator.event_at_rest set state = 'refused' where id = %s", taken)
    world.execute(
        """insert into aggregator.parked (event_id, feed_id, state, reason, since, was_accepted, dismissed_at)
           select id, feed_id, 'refused', 'reported', now(), true, now() from aggregator.event where id = %s""",
        taken,
    )
    said: list[int] = []

    def released(name: str) -> None:
        if name == "archive_verified":
            said.extend(outbox.release([*dismissed, taken], world.now))

    monkeypatch.setattr(failpoints, "passing", released)
    assert archive(history).removed == 2
    assert said == []
    waiting = parked.waiting(Choice(dismissed=True, span=Span(JULY, AUGUST)), 99)
    assert {each.event for each in waiting if each.closed} == {*dismissed, taken}
    assert world.one("select count(*) from aggregator.outbox") == 0
    assert world.one("select reread_from from aggregator.meter") is None


def test_what_was_cancelled_leaves_with_its_month(history: History) -> None:
    """And whatever was asked of a sink about it stays on record, or goes with it."""
    history.world.execute(
        """insert into aggregator.cancellation (event_id, sink_id, state, asked_at, next_at, settled_at)
           select id, 1, 'refused', now(), now(), now() from aggregator.event
            where state = 'accepted' and window_start < '2026-08-01Z' limit 1"""
    )
    assert archive(history).removed == 2


def test_months_that_should_have_left_are_told(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as anything of them is here that could leave; not those that a person brought back."""
    before, figures = closed_before(history.world.now, 2), Figures(history.world.database)
    [old] = history.archives.old(before)
    assert (old.meter, old.first, old.months) == ("api_requests", JULY, 2)
    assert history.archives.old(AUGUST) == [old._replace(months=1)]
    assert history.archives.old(JULY) == []

    def broken_off(name: str) -> None:
        if name == "archive_day_removed":
            raise KeyboardInterrupt

    monkeypatch.setattr(failpoints, "passing", broken_off)
    with pytest.raises(KeyboardInterrupt):
        history.archiver.run_once(history.world.now)
    monkeypatch.undo()
    assert figures.usage(JULY, {}, JULY, before).old == [old], "a month of which a day is left"
    assert figures.usage(JULY, {}, JULY).old == ()
    archive(history)
    assert history.archives.old(before) == [], "slots that stay are no month"
    bring_back(history.place, history.archives, archives_of(history)[JULY])
    assert history.archives.old(before) == []


def test_nothing_of_a_closed_month_is_read_or_planned_again(history: History) -> None:
    """What the source says of it now would be billed as if nothing had been."""
    world = history.world
    archive(history)
    world.source.use("cus_new", JULY + DAY, Decimal(9))
    with pytest.raises(MonthClosed, match="archived up to 2026-09-01"):
        world.backfill(Span(AUGUST, later(AUGUST, 1)))
    world.meter = replace(world.meter, revisit=100 * DAY)
    world.collection.meter = world.meter
    world.now += DAY
    world.collect()
    assert world.rows("select 1 from aggregator.slot where customer = 'cus_new'") == []
    lease = world.hold()
    assert lease is not None
    assert lease.archived_until == later(AUGUST, 1)


def test_a_pass_over_a_closed_month_writes_nothing(history: History) -> None:
    """Not even one that began to read before the month was closed, by a lease that knows nothing of it."""
    world = history.world
    archive(history)
    world.source.use("cus_new", JULY + DAY, Decimal(9))
    lease = world.hold()
    assert lease is not None
    definition = lease.definitions[0]
    with Spool() as spool:
        for batch in world.source.read("", Span(JULY, JULY + 2 * DAY), HISTORIC.window):
            spool.add(batch)
        this = Pass("live", Span(JULY, JULY + 2 * DAY), Span(JULY, JULY + 2 * DAY), world.now, definition)
        with pytest.raises(MonthClosed):
            world.passes.commit(lease, spool, this, lambda *_, **__: ())
    assert world.rows("select 1 from aggregator.slot where customer = 'cus_new'") == []


def test_a_row_that_differs_in_one_byte_stays(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does its day: the month is written again."""

    def changed(name: str) -> None:
        if name == "archive_verified":
            monkeypatch.undo()
            history.world.execute(
                "update aggregator.event_at_rest set request_id = 'req_x' where id = (select min(id) from aggregator.event)"
            )

    monkeypatch.setattr(failpoints, "passing", changed)
    first = history.archiver.run_once(history.world.now)
    assert first.more
    assert history.world.rows("select 1 from aggregator.event where request_id = 'req_x'") != []
    archive(history)
    assert history.world.rows("select 1 from aggregator.event where request_id = 'req_x'") == []


def test_days_of_a_closed_month_are_not_summed_up_anew(history: History) -> None:
    """Some of their slots stay, and are not all there is."""
    before = without_claims(history.answers())
    archive(history)
    history.world.execute(
        """insert into aggregator.usage_day (feed_id, day, changed_at)
           select distinct feed_id, date_trunc('day', window_start, 'UTC'), now() - interval '1 day' from aggregator.slot
               on conflict (feed_id, day) do update set made_at = null, changed_at = excluded.changed_at"""
    )
    days = UsageDays(history.world.database)
    while days.sum_up(1).days:
        pass
    [feed] = history.usage.feeds(None, WHOLE)
    kept = days.kept(feed.id, WHOLE)
    assert list(history.usage.lines(feed, WHOLE, None, kept=kept)) == before["usage by None"]
    after = without_claims(history.answers())
    assert {question for question in before if before[question] != after[question]} == set()


def test_claims_go_with_the_last_of_their_events(history: History) -> None:
    """With their failed tries, which the archive has; the newest of a sink stays."""
    claims = "select count(*) from aggregator.claim where claimed_at < %s"
    assert history.world.one(claims, later(AUGUST, 1)) > 10
    archive(history)
    assert history.world.one(claims, later(AUGUST, 1) - 10 * DAY) <= 3, "those of slots that stay"
    assert (
        history.world.one(
            "select count(*) from aggregator.attempt where claim_id not in (select id from aggregator.claim)"
        )
        == 0
    )
    assert history.world.one("select count(*) from aggregator.claim") > 10


def test_a_host_whose_last_claim_has_left_believes_its_ledger(history: History, tmp_path: Path) -> None:
    """Who sent nothing for months finds its last claim gone. One that is missing and younger still means a restore."""
    world, counter = history.world, ClaimCounter(tmp_path / "state")
    (tmp_path / "state").mkdir()
    identity = LedgerIdentity(world.database, counter)
    assert identity.check(world.now) is None
    pinned = identity.pinned()
    [(claim, claimed_at)] = world.rows("select id, claimed_at from aggregator.claim order by id limit 1")
    counted = ClaimCount(
        pinned.ledger_id, 0, pinned.claims_made, pinned.cluster, claimed_at, claim, None, claimed_at
    )
    counter.note(counted)
    assert identity.check(world.now) is None
    archive(history)
    assert world.one("select count(*) from aggregator.claim where id = %s", claim) == 0
    assert identity.check(world.now) is None
    counter.replace(counted._replace(claim_id=10**9, claimed_at=world.now))
    assert "the last claim of this host" in str(identity.check(world.now))


def test_archives_may_lie_in_a_bucket(world: World, store: Store) -> None:
    """Each is put whole, and fetched to be read."""
    bucket = Bucket(
        "the archive",
        store.bucket,
        region=REGION,
        endpoint_url=store.url,
        keys=Keys(KEY_ID, SECRET),
        timeout=dt.timedelta(seconds=20),
    )
    place = InBucket(bucket, store.bucket, "aggregator/")
    history = History(world, place)
    before = without_claims(history.answers())
    archive(history)
    assert place.names() == {each.name for each in history.archives.listed()}
    assert without_claims(history.answers()) == before
    assert [trouble_of(place, history.archives, each) for each in history.archives.listed()] == [None, None]
    place.close()


def test_a_meter_that_was_read_before_it_had_dimensions_and_one_with_fine_windows(
    database: Database, tmp_path: Path
) -> None:
    """What stands in the ledger twice is in the file once."""
    world = historic(database, replace(HISTORIC, dimensions=("model",)))
    history = in_directory(world, tmp_path / "archive")
    before = without_claims(history.answers())
    archive(history)
    assert without_claims(history.answers()) == before


def test_months_are_counted_by_the_calendar() -> None:
    """`keep: 3mo` on the first of December leaves September, October and November."""
    december = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
    assert closed_before(december, 3) == dt.datetime(2026, 9, 1, tzinfo=dt.UTC)
    assert closed_before(dt.datetime(2027, 1, 31, 23, tzinfo=dt.UTC), 18) == dt.datetime(
        2025, 7, 1, tzinfo=dt.UTC
    )
    assert LEAST_KEPT * 28 > 35 + 31, "whatever is closed is older than any sink takes, a month later still"
