"""Planning for sinks that keep the newest number: per slot, or of all that a customer has."""

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.model import (
    ZERO,
    Change,
    Decreases,
    EventId,
    SlotId,
    State,
    Tail,
    WriteModel,
)
from aggregator.core.planner import plan
from tests.core.usage import APPLY, HOUR, LIMITS, TODAY, changes, decided, expect, shown

OVERWRITE = replace(APPLY, limits=replace(LIMITS, write_model=WriteModel.OVERWRITE))
LAST = replace(APPLY, limits=replace(LIMITS, write_model=WriteModel.LAST))

CORRECTED = """
customer | window | before | now | revisions | first at
acme     | 10:00  | 5      | 8   | 1         | 10:42
acme     | 11:00  | 4      | 1   | 3         | 11:59
"""


def test_what_overwrites_meets_what_it_overwrites() -> None:
    """Every revision takes the instant of the first: the sink looks for the number it replaces in the hour of it."""
    expect(
        decided(CORRECTED, OVERWRITE),
        """
        customer | delta | total | at
        acme     | 3     | 8     | 10:42:00
        acme     | -3    | 1     | 11:59:00
        """,
    )


def test_of_the_last_number_each_revision_is_later_by_instant_and_by_arrival() -> None:
    """Whichever the sink goes by, the newest revision of a window is the last; it stands before the next window's first."""
    expect(
        decided(CORRECTED, LAST),
        """
        customer | total | at
        acme     | 8     | 10:00:01
        acme     | 1     | 11:00:03
        """,
    )
    many = "customer | window | before | now | revisions | first at \n acme | 10:00 | 5 | 8 | 4000 | 10:00"
    expect(decided(many, LAST), "total | at \n 8 | 10:59:59")


def test_windows_that_are_billed_by_the_last_are_floored_one_by_one() -> None:
    """Half a seat in each of three windows is never a whole one: nothing is carried from window to window."""
    halves = """
    customer | window | now
    acme     | 10:00  | 2.5
    acme     | 11:00  | 2.5
    acme     | 12:00  | 2.9
    """
    expect(
        decided(halves, LAST),
        """
        customer | delta | total | carry
        acme     | 2     | 2     | 0
        acme     | 2     | 2     | 0
        acme     | 2     | 2     | 0
        """,
    )


def test_a_zero_is_said_where_the_last_number_counts() -> None:
    """Nobody has a seat any more: without an event the sink would go on billing the number before."""
    expect(
        decided("customer | window | now \n acme | 10:00 | 0", LAST), "event | delta | total \n due | 0 | 0"
    )
    assert shown(decided("customer | window | now \n acme | 10:00 | 0", OVERWRITE)[0])["event"] == "none"


def test_what_is_to_be_said_again_is_an_event_that_changes_nothing() -> None:
    """The next revision, the same total. A sink that adds up gets none: it would bill twice."""
    [change] = changes(
        "customer | window | before | now | revisions | first at \n acme | 10:00 | 5 | 5 | 1 | 10:42"
    )
    again = change._replace(again=True)
    for policy in (OVERWRITE, LAST):
        [decision] = plan([again], policy)
        assert decision.event is not None
        assert (decision.event.delta, decision.event.total, decision.event.revision) == (0, 5, 1)
        [quiet] = plan([change], policy)
        assert quiet.event is None
    [decision] = plan([again], APPLY)
    assert decision.event is None


def test_a_lowered_total_is_held_as_any_decrease() -> None:
    """Unless the meter says otherwise."""
    held = replace(OVERWRITE, decreases=Decreases.HOLD)
    expect(decided(CORRECTED, held), "event | total \n due | 8 \n held | 1")


def test_a_lowered_total_is_held_once_nothing_older_stands_behind_it() -> None:
    """Where the last number is billed, what is booked is sent again behind an older window; the next pass holds the rest."""
    held = replace(LAST, decreases=Decreases.HOLD)
    first, second = decided(CORRECTED, held)
    expect([first, second], "event | total \n due | 8 \n due | 4")
    assert second.change.now == second.change.before
    expect(decided(CORRECTED.replace("5      | 8", "8      | 8"), held)[-1:], "event | total \n held | 1")


def test_a_held_total_is_replaced_by_the_newest() -> None:
    """What nobody released is counted off before the new number is compared."""
    waiting = """
    customer | window | before | now | billed | revisions | first at | waits
    acme     | 10:00  | 2      | 9   | 2      | 2         | 10:42    | -3
    """
    expect(decided(waiting, OVERWRITE), "delta | total | replaces \n 4 | 9 | held")
    expect(decided(waiting, LAST), "delta | total | replaces \n 4 | 9 | held")


def test_a_zero_is_said_in_place_of_what_never_arrived() -> None:
    """Refused at five and then nothing: an older window must not go on as the last one."""
    refused = """
    customer | window | before | now | billed | revisions | first at | waits
    acme     | 10:00  | 5      | 0   | 5      | 1         | 10:42    | 5
    """
    expect(decided(refused, LAST), "event | delta | total | replaces \n due | 0 | 0 | held")
    assert shown(decided(refused, OVERWRITE)[0])["event"] == "none"


def test_what_replaces_a_parked_event_is_said_though_it_changes_nothing() -> None:
    """Rejected at eight more, then taken back: it was also to say the window after an older one, which is last meanwhile."""
    rejected = """
    customer | window | before | now | billed | revisions | first at | waits
    acme     | 10:00  | 16     | 8   | 16     | 2         | 10:42    | 8
    """
    expect(decided(rejected, LAST), "event | delta | total | replaces \n due | 0 | 8 | held")
    assert shown(decided(rejected, OVERWRITE)[0])["event"] == "none"


def test_a_zero_that_a_sink_does_not_take_is_refused_by_name() -> None:
    """It stands in the ledger as what could not be said."""
    fell = "customer | window | before | now | revisions | first at \n acme | 10:00 | 5 | 0 | 1 | 10:42"
    strict = replace(OVERWRITE, limits=replace(OVERWRITE.limits, zeros=False))
    expect(decided(fell, strict), "event | reason \n refused | stripe takes no quantity of zero")
    adding = replace(APPLY, limits=replace(LIMITS, negatives=False))
    expect(decided(fell, adding), "event | reason \n refused | stripe takes no quantity below zero")


class Window(NamedTuple):
    """A window of one customer: by how much it has changed, if at all, and whether its latest event is still owed."""

    moved: int
    owed: bool = False
    new: bool = False


def as_changes(windows: list[Window]) -> list[Change]:
    """Make of a customer's windows what the ledger hands on: those that differ, and all that is newer than the oldest."""
    given, differs = [], False
    for number, window in enumerate(windows):
        differs = differs or bool(window.moved) or window.new
        if not differs:
            continue
        start, before = TODAY + number % 24 * HOUR, ZERO if window.new else Decimal(50)
        given.append(
            Change(
                SlotId(number),
                EventId(number + 100),
                "acme",
                start,
                before,
                before + (abs(window.moved) if window.new else window.moved),
                None,
                before,
                0 if window.new else 1,
                None if window.new else start,
                ZERO,
                Tail.UNSETTLED if window.owed and not window.new else Tail.CLEAR,
                None,
                ZERO,
                not window.new,
                newer=not window.moved and not window.new,
            )
        )
    return given


WINDOWS = st.lists(
    st.builds(Window, st.integers(-3, 3), st.booleans(), st.booleans()), min_size=1, max_size=24
)


@settings(max_examples=300)
@given(WINDOWS, st.sampled_from([Decreases.HOLD, Decreases.APPLY]))
def test_whatever_is_said_is_followed_by_all_that_is_newer(
    windows: list[Window], decreases: Decreases
) -> None:
    """In the order of the windows and in one pass, so that the newest stands last of each billing period, wherever it ends.

    Only what is still owed is left out; and where nothing older is said, nothing that stands as it was is touched.
    """
    given = as_changes(windows)
    decisions = list(plan(given, replace(LAST, decreases=decreases)))
    said = [each.change.window_start for each in decisions if each.event and each.event.state is State.DUE]
    assert said == sorted(said)
    first = min(said, default=TODAY + 24 * HOUR)
    assert [
        each.window_start for each in given if each.window_start >= first and each.tail is Tail.CLEAR
    ] == said
    assert not [each for each in decisions if each.change.newer and each.change.window_start < first]
    assert all(each.total == each.change.now for each in decisions if each.event)
