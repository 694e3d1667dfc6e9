"""What the planner makes of changed slots. Each table says what the ledger holds and what the source says `now`."""

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aggregator.core.model import (
    ZERO,
    Change,
    Decreases,
    EventId,
    Guards,
    State,
    Tail,
    WriteModel,
)
from aggregator.core.planner import (
    Identifiers,
    Policy,
    decide,
    is_restless,
    plain,
    plan,
    significant_digits,
    stamp,
)
from tests.core.usage import (
    APPLY,
    HOUR,
    LIMITS,
    MINUTE,
    POLICY,
    TODAY,
    TOMORROW,
    changes,
    decided,
    expect,
    floored,
    shown,
)

CENTS = replace(POLICY, decimals=2)

ANY_DECIMAL = st.decimals(-(10**20), 10**20, allow_nan=False, places=9) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30
)


def test_first_summary() -> None:
    """A customer's first use of a window is one event: all of it, stamped with the last use, to the second (B8)."""
    expect(
        decided(
            """
            customer | window | now | at
            acme     | 10:00  | 120 | 10:42:17.123456
            acme     | 11:00  | 3   | 11:00
            bolt     | 10:00  | 7   | 10:59:59.999999
            """
        ),
        """
        customer | window | event | delta | total | revision | at       | carry | reason
        acme     | 10:00  | due   | 120   | 120   | 0        | 10:42:17 | 0     |
        acme     | 11:00  | due   | 3     | 3     | 0        | 11:00:00 | 0     |
        bolt     | 10:00  | due   | 7     | 7     | 0        | 10:59:59 | 0     |
        """,
    )


def test_first_summary_without_an_instant() -> None:
    """A query that does not say when the last use was has its events stamped a second before the window's end (B8)."""
    expect(
        decided("customer | window | now \n acme | 10:00 | 120"),
        """
        customer | window | event | at
        acme     | 10:00  | due   | 10:59:59
        """,
    )


def test_late_rows() -> None:
    """Rows that came late are the difference, as the next revision, stamped a minute earlier each time (B7)."""
    expect(
        decided(
            """
            customer | window | before | now | revisions | first at | at
            acme     | 10:00  | 120    | 125 | 1         | 10:42:17 | 10:58
            bolt     | 10:00  | 120    | 125 | 2         | 10:42:17 | 10:58
            cove     | 10:00  | 120    | 125 | 43        | 10:42:17 | 10:58
            dune     | 10:00  | 120    | 125 | 1         | 10:00:17 | 10:58
            """
        ),
        """
        customer | event | delta | total | revision | at
        acme     | due   | 5     | 125   | 1        | 10:41:00
        bolt     | due   | 5     | 125   | 2        | 10:40:00
        cove     | due   | 5     | 125   | 43       | 10:59:00
        dune     | due   | 5     | 125   | 1        | 10:59:00
        """,
    )


DECREASE = """
customer | window | before | now | revisions | first at
acme     | 10:00  | 120    | 100 | 1         | 10:42
bolt     | 10:00  | 120    | 0   | 1         | 10:42
"""


def test_decrease_is_held() -> None:
    """What lowers a bill waits for a person, and says why (B14)."""
    expect(
        decided(DECREASE),
        """
        customer | event | delta | total | reason
        acme     | held  | -20   | 100   | lowers what was planned before
        bolt     | held  | -120  | 0     | lowers what was planned before
        """,
    )


def test_decrease_is_applied() -> None:
    """What lowers a bill goes out where the meter says `decreases: apply` (B14)."""
    expect(
        decided(DECREASE, APPLY),
        """
        customer | event | delta | total | reason
        acme     | due   | -20   | 100   |
        bolt     | due   | -120  | 0     |
        """,
    )


def test_negative_use_is_held() -> None:
    """A first summary below zero, such as a refund in a window of its own, is a decrease too (B16)."""
    expect(
        decided("customer | window | now \n acme | 10:00 | -5"),
        """
        customer | event | delta | total
        acme     | held  | -5    | -5
        """,
    )


def test_held_correction_is_replaced() -> None:
    """A newer plan replaces a held correction by one for both; if the use is back where it was, by none."""
    expect(
        decided(
            """
            customer | window | before | now | billed | revisions | first at | waits
            acme     | 10:00  | 100    | 90  | 100    | 2         | 10:42    | -20
            bolt     | 10:00  | 100    | 110 | 100    | 2         | 10:42    | -20
            cove     | 10:00  | 100    | 120 | 100    | 2         | 10:42    | -20
            dune     | 10:00  | 100    | 150 | 100    | 2         | 10:42    | -20
            """
        ),
        """
        customer | event | delta | total | revision | replaces
        acme     | held  | -30   | 90    | 2        | held
        bolt     | held  | -10   | 110   | 2        | held
        cove     | none  |       | 120   |          | held
        dune     | due   | 30    | 150   | 2        | held
        """,
    )


def test_unsettled_event_makes_a_change_wait() -> None:
    """While a slot's event may still be under way nothing is planned for it, and its customer's carry stays as it is."""
    expect(
        decided(
            """
            customer | window | before | now | billed | revisions | first at | waits     | carry
            acme     | 10:00  | 120    | 125 | 119    | 1         | 10:42    | unsettled | 0.5
            acme     | 11:00  |        | 0.5 |        |           |          |           | 0.5
            """
        ),
        """
        customer | window | event | delta | total | carry
        acme     | 10:00  | waits |       | 119   | 0.5
        acme     | 11:00  | due   | 1     | 1     | 0
        """,
    )


def test_carry_flows_from_window_to_window() -> None:
    """What is too small to bill is carried to the customer's next window, and starts afresh with the next customer (B16)."""
    expect(
        decided(
            """
            customer | window | now | carry
            acme     | 10:00  | 0.4 | 0.3
            acme     | 11:00  | 0.4 | 0.3
            acme     | 12:00  | 2.5 | 0.3
            bolt     | 10:00  | 0.4 | 0
            bolt     | 11:00  | 5   | 0
            """
        ),
        """
        customer | window | event | delta | total | carry
        acme     | 10:00  | none  |       | 0     | 0.7
        acme     | 11:00  | due   | 1     | 1     | 0.1
        acme     | 12:00  | due   | 2     | 2     | 0.6
        bolt     | 10:00  | none  |       | 0     | 0.4
        bolt     | 11:00  | due   | 5     | 5     | 0.4
        """,
    )


def test_carry_pays_for_a_small_decrease() -> None:
    """A decrease that the carry covers lowers no bill; another takes a whole unit and carries the rest (B16)."""
    expect(
        decided(
            """
            customer | window | before | now  | billed | revisions | first at | carry
            acme     | 10:00  | 10.4   | 10.1 | 10     | 1         | 10:42    | 0.4
            bolt     | 10:00  | 10.4   | 9.9  | 10     | 1         | 10:42    | 0.4
            """
        ),
        """
        customer | event | delta | total | carry
        acme     | none  |       | 10    | 0.1
        bolt     | held  | -1    | 9     | 0.9
        """,
    )


def test_decimals() -> None:
    """A meter may bill decimals: what is beyond them is carried (B16)."""
    expect(
        decided(
            """
            customer | window | now   | carry
            acme     | 10:00  | 0.126 | 0
            acme     | 11:00  | 0.126 | 0
            bolt     | 10:00  | 3     | 0.009
            """,
            CENTS,
        ),
        """
        customer | event | delta | total | carry
        acme     | due   | 0.12  | 0.12  | 0.006
        acme     | due   | 0.13  | 0.13  | 0.002
        bolt     | due   | 3     | 3     | 0.009
        """,
    )


def test_a_day_of_minutes() -> None:
    """1,440 windows of 0.4 are billed as 576, neither as 0 nor as 1,440 (B16)."""
    policy = replace(POLICY, window=MINUTE)
    (first,) = changes("customer | window | now \n acme | 00:00 | 0.4")
    day = [first._replace(window_start=TODAY + number * MINUTE) for number in range(1_440)]
    decisions = list(plan(day, policy))
    assert sum(decision.event.delta for decision in decisions if decision.event) == 576
    assert decisions[-1].carry == 0
    assert {decision.event.delta for decision in decisions if decision.event} == {1}


def test_too_old_is_refused() -> None:
    """An event older than the sink takes is refused by name as it is planned; one just young enough is due (B19)."""
    old = replace(POLICY, now=TODAY + 11 * HOUR - dt.timedelta(seconds=1) + dt.timedelta(days=35))
    given_ = "customer | window | now | at \n acme | 10:00 | 5 | 10:59:58 \n bolt | 10:00 | 5 | 10:59:59"
    expect(
        decided(given_, old),
        """
        customer | event   | delta | total | reason
        acme     | refused | 5     | 5     | older than the 35 days that stripe takes
        bolt     | due     | 5     | 5     |
        """,
    )


def test_too_many_digits_are_refused() -> None:
    """A number with more digits than the sink takes is refused by name, not rounded (B16)."""
    expect(
        decided(
            """
            customer | window | now
            acme     | 10:00  | 999999999999999
            bolt     | 10:00  | 1000000000000000
            cove     | 10:00  | -1234567890123456
            """
        ),
        """
        customer | event   | delta             | reason
        acme     | due     | 999999999999999   |
        bolt     | refused | 1000000000000000  | has more than the 15 digits that stripe takes
        cove     | refused | -1234567890123456 | has more than the 15 digits that stripe takes
        """,
    )


LONG_TOTAL = """
customer | window | before           | now              | revisions | first at
acme     | 10:00  | 1234567890123456 | 1234567890123460 | 1         | 10:42
"""


def test_only_the_number_that_is_sent_counts_its_digits() -> None:
    """A small difference goes out however large the total, unless it is the total that the sink is sent (B16)."""
    overwrite = replace(POLICY, limits=replace(LIMITS, write_model=WriteModel.OVERWRITE))
    expect(decided(LONG_TOTAL), "customer | event | delta \n acme | due | 4")
    expect(decided(LONG_TOTAL, overwrite), "customer | event | delta \n acme | refused | 4")


@pytest.mark.parametrize(
    ("number", "written", "digits"),
    [
        ("0", "0", 1),
        ("-0", "0", 1),
        ("0.00", "0", 1),
        ("-0.000", "0", 1),
        ("1E+7", "10000000", 8),
        ("1E-7", "0.0000001", 1),
        ("100", "100", 3),
        ("1.500", "1.5", 2),
        ("-12.30", "-12.3", 3),
        ("0.0102", "0.0102", 3),
        ("123456789012345.0", "123456789012345", 15),
    ],
)
def test_plain_numbers(number: str, written: str, digits: int) -> None:
    """Numbers are written in plain digits, and counted without leading zeros and zeros at the end of a fraction (B16)."""
    assert plain(Decimal(number)) == written
    assert significant_digits(Decimal(number)) == digits


@given(ANY_DECIMAL)
def test_plain_numbers_stay_the_same_number(number: Decimal) -> None:
    """Writing a number in plain digits changes nothing about it (B16)."""
    text = plain(number)
    assert Decimal(text) == number
    assert "E" not in text
    assert text != "-0"
    assert not ("." in text and text.endswith(("0", ".")))


CHANGE = changes("customer | window | now \n acme | 10:00 | 1")[0]


@settings(max_examples=300)
@given(
    st.builds(
        CHANGE._replace,
        before=ANY_DECIMAL,
        now=ANY_DECIMAL,
        total=st.integers(-(10**20), 10**20).map(Decimal),
        revision=st.integers(1, 200),
        stamped_at=st.integers(0, 3599).map(lambda second: TODAY + 10 * HOUR + dt.timedelta(seconds=second)),
        known=st.just(True),
    ),
    st.integers(0, 12),
    st.decimals(0, 1, places=9),
    st.sampled_from(Decreases),
)
def test_one_decision(change: Change, decimals: int, carry: Decimal, decreases: Decreases) -> None:
    """Of any one change nothing is lost, the rest is less than a unit, and a decrease goes out only where told (B16)."""
    policy = replace(POLICY, decimals=decimals, decreases=decreases)
    unit = Decimal(1).scaleb(-decimals)
    (decision,) = plan([change._replace(carry=carry % unit)], policy)
    delta = decision.event.delta if decision.event else Decimal(0)
    owed = Fraction(change.now) - Fraction(change.before) + Fraction(carry % unit)
    assert Fraction(delta) == owed // Fraction(unit) * Fraction(unit)
    assert Fraction(decision.carry) == owed - Fraction(delta)
    assert Fraction(decision.total) == Fraction(change.total) + Fraction(delta)
    if decision.event:
        assert delta != 0
        assert decision.event.revision == change.revision
        assert change.window_start <= decision.event.at < change.window_start + policy.window
        assert (decision.event.state.value == "due") <= (delta > 0 or decreases is Decreases.APPLY)


@settings(max_examples=300)
@given(
    st.one_of(ANY_DECIMAL, st.integers(-5, 10**5).map(Decimal)),
    st.integers(0, 12),
    st.integers(1, 28),
    st.sampled_from((WriteModel.DELTA, WriteModel.OVERWRITE)),
    st.sampled_from(
        (
            {},
            {"shadow": True},
            {"guarded": True},
            {"unstable": True},
            {"guards": Guards(max_per_customer_window=Decimal(9))},
        )
    ),
    st.sampled_from((HOUR, 90 * 24 * HOUR)),
)
def test_the_short_way_of_a_new_slot_comes_to_the_same(
    used: Decimal, decimals: int, digits: int, model: WriteModel, more: dict[str, Any], later: dt.timedelta
) -> None:
    """A slot that the ledger does not have is decided about as any other, whatever is held and whatever the sink takes."""
    limits = replace(POLICY.limits, significant_digits=digits, write_model=model)
    policy = replace(POLICY, decimals=decimals, limits=limits, now=CHANGE.window_start + later, **more)
    change = CHANGE._replace(now=used)
    assert list(plan([change], policy)) == [decide(change, ZERO, Decimal(1).scaleb(-decimals), policy)]


@settings(max_examples=100)
@given(st.integers(0, 3_599_999_999), st.integers(2, 1440).filter(lambda minutes: 1440 % minutes == 0))
@example(0, 60)
@example(59_999_999, 1440)
def test_stamps(microsecond: int, minutes: int) -> None:
    """A slot's events stand inside its window on whole seconds, each of its revisions in a minute of its own."""
    window = minutes * MINUTE
    used_at = TODAY + dt.timedelta(microseconds=microsecond) % window
    first = stamp(TODAY, window, 0, used_at=used_at, stamped_at=None)
    later = [
        stamp(TODAY, window, revision, used_at=used_at, stamped_at=first) for revision in range(1, minutes)
    ]
    assert used_at - dt.timedelta(seconds=1) < first <= used_at
    assert all(TODAY <= at < TODAY + window and at.microsecond == 0 for at in (first, *later))
    assert len({(at - TODAY) // MINUTE for at in (first, *later)}) == minutes
    assert all(at.second == 0 for at in later)


def test_stamps_of_a_minute() -> None:
    """A window of one minute has room for one: its corrections stand at its start, inside it still."""
    given_ = """
    customer | window | before | now | revisions | first at
    acme     | 10:07  | 5      | 6   | 1         | 10:07:31
    acme     | 10:08  | 5      | 6   | 9         | 10:08:31
    """
    expect(decided(given_, replace(POLICY, window=MINUTE)), "at \n 10:07:00 \n 10:08:00")


@pytest.mark.parametrize("at", ["09:59:59.999999", "11:00"])
def test_use_outside_of_its_window_stops_the_plan(at: str) -> None:
    """An instant outside of its window, which would bill in another period, is a bug and stops the pass (B8)."""
    with pytest.raises(AssertionError, match="lies outside of"):
        decided(f"customer | window | now | at \n acme | 10:00 | 5 | {at}")


NAMES = Identifiers("ledger-1", "stripe", "api_requests", HOUR)

NAMED = {
    "ledger": Identifiers("ledger-2", "stripe", "api_requests", HOUR),
    "sink": Identifiers("ledger-1", "files", "api_requests", HOUR),
    "meter": Identifiers("ledger-1", "stripe", "storage", HOUR),
    "window length": Identifiers("ledger-1", "stripe", "api_requests", MINUTE),
    "ledger and sink run together": Identifiers("ledger-1s", "tripe", "api_requests", HOUR),
    "sink and meter run together": Identifiers("ledger-1", "stripea", "pi_requests", HOUR),
}


def test_identifier_never_changes() -> None:
    """An identifier is the same today, tomorrow and in the next release: retries depend on it (B17)."""
    name = POLICY.identifiers.of("cus_1", TODAY, 0)
    assert name == "agg_SA6YVQTTK5BQfCVH5gEs"
    tomorrow = replace(POLICY, now=TOMORROW + dt.timedelta(days=9), decimals=2, decreases=Decreases.APPLY)
    assert tomorrow.identifiers.of("cus_1", TODAY, 0) == name


def test_identifier_names_each_thing() -> None:
    """Another ledger, sink, meter, customer, window, length or revision is another identifier (B17)."""
    names = [
        NAMES.of("cus_1", TODAY, 0),
        NAMES.of("cus_2", TODAY, 0),
        NAMES.of("cus_1", TODAY + HOUR, 0),
        NAMES.of("cus_1", TODAY, 1),
        *(other.of("cus_1", TODAY, 0) for other in NAMED.values()),
    ]
    assert len(set(names)) == len(names)


TEXT = st.text(st.sampled_from("ab1:2|é"), max_size=5)
NAME = st.tuples(TEXT, TEXT, TEXT, TEXT, st.integers(0, 30), st.sampled_from([1, 10, 60]), st.integers(0, 12))


def named(name: tuple[str, str, str, str, int, int, int]) -> str:
    """Return the identifier of what a tuple names."""
    ledger, sink, meter, customer, hours, minutes, revision = name
    return Identifiers(ledger, sink, meter, minutes * MINUTE).of(customer, TODAY + hours * HOUR, revision)


@settings(max_examples=300)
@given(NAME, NAME)
@example(("a", "bc", "m", "c", 0, 60, 0), ("ab", "c", "m", "c", 0, 60, 0))
@example(("l", "s", "m", "1", 0, 60, 0), ("l", "s", "m", "11", 0, 60, 0))
@example(("l", "s", "a1:b", "c", 0, 60, 0), ("l", "s", "a", "b1:c", 0, 60, 0))
def test_identifier_is_a_function_of_what_it_names(
    one: tuple[str, str, str, str, int, int, int], other: tuple[str, str, str, str, int, int, int]
) -> None:
    """Two events have the same identifier exactly if they name the same thing; it has 24 letters and digits (B17)."""
    assert (named(one) == named(other)) == (one == other)
    assert len(named(one)) == 24 <= LIMITS.identifier_length
    assert named(one)[4:].isalnum()
    assert named(one).isascii()


@settings(max_examples=50)
@given(st.lists(st.decimals(0, 5, places=4), min_size=1, max_size=50), st.integers(0, 4))
def test_sum_of_a_plan(quantities: list[Decimal], decimals: int) -> None:
    """All windows of a customer together are billed the floor of their sum, and at no window more than the sum so far."""
    policy: Policy = replace(POLICY, decimals=decimals)
    windows = [
        CHANGE._replace(window_start=TODAY + number * HOUR, now=quantity)
        for number, quantity in enumerate(quantities)
    ]
    billed, used = Decimal(0), Decimal(0)
    for decision in plan(windows, policy):
        used += decision.change.now
        billed += decision.event.delta if decision.event else 0
        assert billed == floored(used, decimals)
        assert billed + decision.carry == used


def test_a_query_that_changes_by_itself_waits_for_a_person_every_fifth_time() -> None:
    """The sixth event of a slot is held, and while anything of it waits nothing more is planned; other slots go on."""
    given = """
    customer | window | before | now | billed | revisions | waits
    acme     | 10:00  | 10     | 12  | 10     | 5         |
    acme     | 11:00  | 10     | 12  | 10     | 6         |
    beta     | 10:00  | 10     | 12  | 10     | 7         | 3
    beta     | 11:00  | 10     | 12  | 10     | 1         |
    """
    unstable = decided(given, replace(POLICY, unstable=True))
    assert [(each.change.customer, shown(each)["event"]) for each in unstable] == [
        ("acme", "held"),
        ("acme", "due"),
        ("beta", "due"),
    ]
    assert [shown(each)["event"] for each in decided(given)] == ["due"] * 4


def test_what_was_rejected_and_released_is_planned_anew_though_its_query_changes_by_itself() -> None:
    """A person's word counts there, too: else the event would wait for a next pass that never comes."""
    rejected = CHANGE._replace(
        known=True, before=Decimal(10), now=Decimal(10), total=Decimal(10), revision=7, again=True,
        tail=Tail.PARKED, parked=EventId(6), parked_delta=Decimal(3), stamped_at=CHANGE.window_start,
    )  # fmt: skip
    [decision] = plan([rejected], replace(POLICY, unstable=True))
    assert decision.voids == 6
    assert decision.event is not None
    assert (decision.event.delta, decision.event.state) == (Decimal(3), State.DUE)
    assert list(plan([rejected._replace(again=False)], replace(POLICY, unstable=True))) == []


def test_a_slot_is_looked_at_ever_less_often() -> None:
    """With its fifth event, its ninth, its seventeenth: a window that grows for a day costs a handful of readings."""
    assert [revision for revision in range(100) if is_restless(revision)] == [4, 8, 16, 32, 64]
