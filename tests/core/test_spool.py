"""What a spool says of the readings it took: the same for the same readings, in whatever order they came."""

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal

import pytest

from aggregator.core.model import Reading
from aggregator.ledger.passes import spool
from aggregator.ledger.passes.spool import Digests, Spool

HOUR = dt.timedelta(hours=1)
START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def reading(customer: str, hour: int = 0, quantity: int = 1) -> Reading:
    return Reading(START + hour * HOUR, customer, Decimal(quantity), None)


def digests(*batches: Iterable[Reading], since: dt.datetime = START) -> Digests | None:
    with Spool(since) as taken:
        for batch in batches:
            taken.add(batch)
        return taken.digests()


def test_the_order_of_readings_does_not_matter() -> None:
    """A database gives rows in any order, and in batches of any size."""
    a, b, c = reading("a"), reading("b", 1), reading("c")
    assert digests([a, b, c]) == digests([c], [b, a])
    assert (digests([a]) or {}).keys() == {START}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([reading("a"), reading("b", quantity=2)], id="another quantity"),
        pytest.param([reading("a"), reading("c")], id="another customer"),
        pytest.param([reading("a"), reading("b", 1)], id="another window"),
        pytest.param([reading("a")], id="one less"),
        pytest.param([reading("a"), reading("b"), reading("b")], id="one twice"),
        pytest.param(
            [reading("a"), reading("b")._replace(reason="no usable quantity")], id="of no use any more"
        ),
        pytest.param([reading("a"), reading("b")._replace(at=START)], id="another instant"),
    ],
)
def test_whatever_differs_shows(other: list[Reading]) -> None:
    """Each part of a reading, and how many there are."""
    assert digests([reading("a"), reading("b")]) != digests(other)


def test_older_windows_are_left_out() -> None:
    """Only what begins at an instant or later is digested."""
    assert digests([reading("a"), reading("a", 1)], since=START + HOUR) == digests(
        [reading("a", 1)], since=START + HOUR
    )


def test_too_many_lines_have_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would have to be held in memory."""
    monkeypatch.setattr(spool, "MOST_DIGESTED", 2)
    assert digests([reading("a"), reading("b")])
    assert digests([reading("a"), reading("b"), reading("c")], [reading("d")]) is None
    with Spool() as nobody_asked:
        assert nobody_asked.digests() is None
