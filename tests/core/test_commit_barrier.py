"""The commit barrier: no window is taken for complete while a transaction may still write into it."""

import datetime as dt
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.commit_barrier import (
    NEVER,
    Noted,
    Passed,
    judge,
    ready,
)
from aggregator.core.model import Fence
from aggregator.core.windows import floor

NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
HOUR, MINUTE, SECOND = dt.timedelta(hours=1), dt.timedelta(minutes=1), dt.timedelta(seconds=1)


def fence(xmin: int, xmax: int, at: dt.datetime = NOON, **others: object) -> Fence:
    """Return what a primary says whose role may not see when transactions began."""
    values: dict[str, object] = {
        "oldest_start": None,
        "sees_starts": False,
        "standby": False,
        "fresh_until": None,
        "holder": None,
    }
    return Fence(at=at, xmin=xmin, xmax=xmax, **(values | others))  # type: ignore[arg-type]


def test_nothing_open_passes_at_once() -> None:
    """Without a transaction that holds an id, all that had ended by now is complete."""
    assert judge(fence(100, 100), (), NOON) == Passed(NOON, (Noted(NOON, 100),), None)


def test_a_window_waits_for_every_transaction_that_had_begun_by_its_end() -> None:
    """It passes once all of them have ended, however many have begun since."""
    first = judge(fence(90, 100), (), NOON)
    assert first.until == NEVER
    still = judge(fence(99, 500, NOON + MINUTE), first.noted, NOON)
    assert (still.until, still.noted) == (NEVER, first.noted), "a later look does not put the fence off"
    assert judge(fence(100, 500, NOON + MINUTE), still.noted, NOON).until == NOON


def test_windows_pass_one_by_one() -> None:
    """Each has its own fence: a long transaction that began later holds back the later one only."""
    one = judge(fence(90, 100), (), NOON)
    two = judge(fence(95, 200, NOON + HOUR), one.noted, NOON + HOUR)
    three = judge(fence(150, 250, NOON + HOUR + MINUTE), two.noted, NOON + HOUR)
    assert (two.until, three.until) == (NEVER, NOON)
    later = judge(fence(160, 260, NOON + HOUR + 2 * MINUTE), three.noted, NOON + HOUR)
    assert later.until == NOON, "what has passed is not forgotten while the next one waits"
    assert judge(fence(200, 260, NOON + HOUR + 3 * MINUTE), later.noted, NOON + HOUR).until == NOON + HOUR


def test_a_transaction_without_an_id_holds_back_from_its_start_on() -> None:
    """Its rows may be stamped with its start, which lies before any id it will get."""
    seen = fence(100, 100, oldest_start=NOON - 10 * SECOND, sees_starts=True)
    assert judge(seen, (), NOON).until == NOON - 10 * SECOND


def test_ids_that_run_backwards_are_another_servers() -> None:
    """After a failover what was noted before means nothing, and would block or pass wrongly."""
    noted = (Noted(NOON - HOUR, 10_154),)
    passed = judge(fence(730, 732), noted, NOON)
    assert passed == Passed(NEVER, (Noted(NOON, 732),), None)


def test_a_standby_needs_proof_of_freshness() -> None:
    """What has not been shown to be replayed may be missing, whatever the transactions say."""
    for proof, until in ((None, NEVER), (NOON - HOUR, NOON - HOUR), (NOON + SECOND, NOON)):
        passed = judge(fence(100, 100, standby=True, fresh_until=proof), (), NOON)
        assert passed.until == until
        assert (passed.holder is not None) == (until < NOON)


def test_waiting_is_bounded_on_a_primary_only() -> None:
    """After the declared time a window is read all the same; on a standby it never is."""
    held = Passed(NOON - HOUR, (), "somebody")
    assert ready(NOON, None, MINUTE, bounded=True) == (NOON, NOON)
    assert ready(NOON, Passed(NOON, (), None), MINUTE, bounded=True) == (NOON, NOON)
    assert ready(NOON, held, 15 * MINUTE, bounded=True) == (NOON - 15 * MINUTE, NOON - HOUR)
    assert ready(NOON, held, 2 * HOUR, bounded=True) == (NOON - HOUR, NOON - HOUR)
    assert ready(NOON, held, 15 * MINUTE, bounded=False) == (NOON - HOUR, NOON - HOUR)


@dataclass
class Database:
    """Transactions as Postgres numbers them: an id with the first row, rows visible with the commit."""

    now: dt.datetime = NOON
    next_id: int = 100
    running: dict[int, list[dt.datetime]] = field(default_factory=dict)
    visible: list[dt.datetime] = field(default_factory=list)

    def fence(self) -> Fence:
        """Say what is open."""
        return fence(min(self.running, default=self.next_id), self.next_id, self.now)

    def begin(self) -> None:
        """A transaction writes its first row."""
        self.running[self.next_id] = [self.now]
        self.next_id += 1

    def commit(self, choice: int) -> None:
        """One of those that run becomes visible."""
        if self.running:
            self.visible += self.running.pop(sorted(self.running)[choice % len(self.running)])


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(["begin", "commit", "look", "wait"]), st.integers(0, 900)), max_size=60
    )
)
def test_no_row_appears_behind_the_barrier(steps: list[tuple[str, int]]) -> None:
    """Whatever commits when: once a window has passed, no row that was written before its end comes any more (B6)."""
    noted: tuple[Noted, ...] = ()
    database, passed = Database(), NEVER
    for step, number in steps:
        match step:
            case "begin":
                database.begin()
            case "commit":
                before = len(database.visible)
                database.commit(number)
                assert all(written >= passed for written in database.visible[before:])
            case "wait":
                database.now += number * SECOND
            case _:
                judged = judge(database.fence(), noted, floor(database.now, 5 * MINUTE))
                noted, passed = judged.noted, max(passed, judged.until)
