"""What a range would come to, added up from decisions."""

from decimal import Decimal

from aggregator.core import planner
from aggregator.core.forecast import Forecast
from tests.core.usage import APPLY, POLICY, changes


def counted(*pieces: str, most: int = 10, policy: planner.Policy = POLICY) -> Forecast:
    """Plan pieces of a range one after the other, as a preview does, and add them up."""
    forecast = Forecast(most=most)
    for piece in pieces:
        for decision in planner.plan(forecast.carrying("stripe", changes(piece)), policy):
            forecast.count("stripe", decision)
    return forecast


def test_fractions_are_carried_on_from_piece_to_piece() -> None:
    """Twice 0.6 is one unit and 0.2 carried, in one piece or in two: as if the first had been committed."""
    head = "customer | window | now\n"
    one, two = "cus_a | 00:00 | 0.6\n", "cus_a | 01:00 | 0.6\n"
    for forecast in (counted(head + one + two), counted(head + one, head + two)):
        [mover] = forecast.movers(None)
        assert (mover.figures.sent, mover.figures.carried) == (1, Decimal("0.2"))
        assert (forecast.sinks["stripe"].events, forecast.sinks["stripe"].carried) == (1, Decimal("0.2"))


def test_whoever_differs_most_comes_first_up_or_down() -> None:
    """By how much usage differs, whatever the direction; a held decrease is not among what would be sent."""
    forecast = counted(
        """
        customer | window | before | billed | revisions | first at | now
        cus_a    | 00:00  | 5      | 5      | 1         | 00:30    | 7
        cus_b    | 00:00  | 9      | 9      | 1         | 00:30    | 1
        cus_c    | 00:00  |        |        |           |          | 3
        """
    )
    assert [mover.customer for mover in forecast.movers(2)] == ["cus_b", "cus_c"]
    whole = forecast.sinks["stripe"]
    assert (whole.old, whole.new, whole.sent, whole.held) == (14, 11, 5, -8)
    assert forecast.moved("stripe") == -3
    assert (
        counted(
            "customer | window | before | billed | revisions | first at | now\ncus_b | 00:00 | 9 | 9 | 1 | 00:30 | 1",
            policy=APPLY,
        )
        .sinks["stripe"]
        .sent
        == -8
    )


def test_beyond_the_most_that_are_told_apart_sums_stay_exact() -> None:
    """Memory is bounded by them; what the others come to is in the sums, their fractions too."""
    rows = "".join(f"cus_{number} | {hour}:00 | 0.75\n" for number in range(5) for hour in ("00", "01"))
    forecast = counted("customer | window | now\n" + rows, most=2)
    assert (len(forecast.movers(None)), forecast.customers) == (2, 5)
    whole = forecast.sinks["stripe"]
    assert (whole.new, whole.sent, whole.carried) == (Decimal("7.5"), 5, Decimal("2.5"))


def test_a_range_in_which_nothing_moves_does_not_differ() -> None:
    """Whoever gates a change by it is let through."""
    assert not Forecast().differs
    assert counted("customer | window | now\ncus_a | 00:00 | 1").differs
