"""Which customers are looked up at a sink, and what is said of it."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.errors import AccountRefused, SinkError, SinkUnreachable, SinkUnreadable
from aggregator.trial import Kind, Register, Severity
from aggregator.trial.lookup import MOST, out_of_time, silent, spread, unknown


@dataclass
class Crowd:
    """A sink that knows some customers, and what it can be asked about begins with `cus_`."""

    name: str = "stripe"
    known: frozenset[str] = frozenset()
    trouble: SinkError | None = None
    asked: list[str] = field(default_factory=list)

    def knows_by_name(self, customer: str) -> bool:
        """By its form."""
        return customer.startswith("cus_")

    def why_unknown(self, customer: str) -> str | None:
        """Say who is not there, or make trouble."""
        self.asked.append(customer)
        if self.trouble:
            raise self.trouble
        return None if customer in self.known else f"There is no {customer}."


@given(st.integers(0, 500), st.integers(1, 20))
def test_a_sample_is_spread_over_the_whole_length(length: int, most: int) -> None:
    """All of it if it is short; otherwise one from each part of the same size, in order and none twice."""
    chosen = spread([str(number) for number in range(length)], most)
    assert len(chosen) == min(length, most)
    for part, each in enumerate(int(each) for each in chosen):
        if length > most:
            assert part * length / most - 1 < each < (part + 1) * length / most


def test_few_are_looked_up_and_not_the_first() -> None:
    """Each once, however often it comes; nobody without a name, and nobody of another form."""
    rows = [None, "7", *(f"cus_{number:03}" for number in range(100) for _ in range(3))]
    chosen = Register(Crowd()).sample(rows)
    assert len(chosen) == len(set(chosen)) == MOST
    assert chosen == ["cus_010", "cus_030", "cus_050", "cus_070", "cus_090"]


def test_nobody_is_asked_for_twice() -> None:
    """Several meters have the same customers."""
    crowd = Crowd(known=frozenset({"cus_1"}))
    register = Register(crowd)
    for _ in range(2):
        assert register.why_unknown("cus_1") is None
        assert register.why_unknown("cus_2") == "There is no cus_2."
    assert crowd.asked == ["cus_1", "cus_2"]


def test_a_sink_that_does_not_say_is_not_asked_again() -> None:
    """Neither for this meter nor for the next."""
    crowd = Crowd(trouble=SinkUnreachable("Nobody there."))
    register = Register(crowd)
    assert register.sample(["cus_1"]) == ["cus_1"]
    with pytest.raises(SinkUnreachable):
        register.why_unknown("cus_1")
    assert register.sample(["cus_1", "cus_2"]) == []


def test_who_is_not_there_is_a_warning_that_names_all_of_them() -> None:
    """With how many were looked up, the sink's own words, and what to do."""
    assert unknown([], 5, "stripe") == []
    [found] = unknown(["There is no cus_1.", "There is no cus_2."], 5, "stripe")
    assert (found.kind, found.severity) == (Kind.CUSTOMER_UNKNOWN, Severity.WARNING)
    assert "2 of 5 customers that were looked up at stripe are not there" in found.text
    assert "There is no cus_1. There is no cus_2. Let the query return" in found.text


@pytest.mark.parametrize("error", [SinkUnreadable("Not you."), AccountRefused("Not you.")])
def test_a_key_that_may_not_look_is_no_fault(error: SinkError) -> None:
    """A note says that it may not, in the sink's words, and that nothing is wrong."""
    found = silent(error, "stripe")
    assert found.severity is Severity.NOTE
    assert "may not look up customers" in found.text
    assert "That is fine" in found.text
    assert "Not you." in found.text


def test_no_answer_is_a_note() -> None:
    """Which does not say that the key may not."""
    found = silent(SinkUnreachable("Nobody there."), "stripe")
    assert found.severity is Severity.NOTE
    assert found.text == "it was not checked whether the customers exist at stripe: Nobody there."
    assert out_of_time(30, "stripe").severity is Severity.NOTE
