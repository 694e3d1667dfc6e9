"""What two sinks have of a customer over a period, beside the source: verdict by verdict, and the digest that is signed."""

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

import pytest

from aggregator.core.model import Span
from aggregator.core.parity_report import HEADINGS, Finding, ReportLine, Sum, cells, digest

D = Decimal
ZERO, ONE = D(0), D(1)
DECEMBER = Span(dt.datetime(2026, 12, 1, tzinfo=dt.UTC), dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
MOVED = DECEMBER.start
SINKS = ("stripe", "metronome")


@dataclass
class Case:
    """What the figures are, and what they come to."""

    old: Sum
    new: Sum
    source: Decimal
    verdict: Finding
    difference: Decimal = ZERO
    parallel: bool = False
    unit: Decimal = ONE


CASES = {
    "nobody moved: the new sink is a shadow": Case(Sum(D(10)), Sum(None, shadow=D(10)), D(10), Finding.EQUAL),
    "moved before the period": Case(Sum(D(0), shadow=D(10)), Sum(D(10)), D(10), Finding.EQUAL),
    "moved within it": Case(Sum(D(4), shadow=D(6)), Sum(D(6), shadow=D(4)), D(10), Finding.EQUAL),
    "a window sent by both": Case(
        Sum(D(5), shadow=D(6)), Sum(D(6), shadow=D(4)), D(10), Finding.TWICE, D(-1)
    ),
    "a window sent by neither": Case(
        Sum(D(4), shadow=D(6)), Sum(D(3), shadow=D(4)), D(10), Finding.MISSING, D(-3)
    ),
    "what one sink lacks, the other has too much": Case(
        Sum(D(6), shadow=D(6)), Sum(D(4), shadow=D(4)), D(10), Finding.DIFFERS, D(-4)
    ),
    "the source has changed": Case(Sum(D(10)), Sum(None, shadow=D(10)), D(12), Finding.MISSING),
    "the shadow planned too little": Case(Sum(D(10)), Sum(None, shadow=D(8)), D(10), Finding.DIFFERS, D(-2)),
    "a parallel run": Case(Sum(D(10)), Sum(D(10)), D(10), Finding.EQUAL, parallel=True),
    "a parallel run that lost something": Case(
        Sum(D(10)), Sum(D(9)), D(10), Finding.DIFFERS, D(-1), parallel=True
    ),
    "both sent, though nobody said so": Case(Sum(D(10)), Sum(D(10)), D(10), Finding.TWICE),
    "fractions are carried at each": Case(
        Sum(D(4), shadow=D(5)), Sum(D(5), shadow=D(4)), D("9.9"), Finding.EQUAL
    ),
    "a fraction in sums of hundredths is a difference": Case(
        Sum(D(9)), Sum(None, shadow=D(9)), D("9.9"), Finding.MISSING, unit=D("0.01")
    ),
    "something is under way": Case(
        Sum(D(4), is_open=True), Sum(None, shadow=D(10)), D(10), Finding.OPEN, D(6)
    ),
    "a sink that cannot be asked": Case(
        Sum(None, accepted=D(10)), Sum(None, shadow=D(10)), D(10), Finding.EQUAL
    ),
    "nothing was used": Case(Sum(D(0)), Sum(D(0)), D(0), Finding.EQUAL),
}


def line(case: Case, customer: str = "cus_a") -> ReportLine:
    return ReportLine(
        "api_requests", customer, DECEMBER, case.old, case.new, case.source, case.unit, MOVED, case.parallel
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_line_comes_to_one_verdict(case: Case) -> None:
    """From what both sinks were billed, and from what each would have been alone."""
    found = line(case)
    assert (found.verdict, found.difference) == (case.verdict, case.difference)


def test_cells_are_plain_text() -> None:
    """Instants in UTC, numbers without an exponent, nothing where nobody moves."""
    case = Case(Sum(D("1E+3")), Sum(None, shadow=D("1000.50")), D("1000.5"), Finding.EQUAL)
    assert cells(line(case)._replace(moves_at=None)) == (
        "api_requests", "cus_a", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "", "1000", "0", "0", "1000.5", "1000.5",
        "0.5", "equal",
    )  # fmt: skip
    assert len(cells(line(case))) == len(HEADINGS)


def test_the_digest_is_of_the_lines_alone() -> None:
    """In whatever order they come; anything that is different in a line, or another sink, gives another."""
    lines = [line(CASES["moved within it"], customer) for customer in ("cus_b", "cus_a")]
    known = digest(lines, SINKS)
    assert known == digest(reversed(lines), SINKS)
    assert len(known) == 64
    assert known != digest(lines, ("metronome", "stripe"))
    for changed in (
        lines[0]._replace(source=D(11)),
        lines[0]._replace(customer="cus_c"),
        lines[0]._replace(old=Sum(D(4), shadow=D(5))),
        lines[0]._replace(moves_at=None),
    ):
        assert known != digest([changed, lines[1]], SINKS)
