"""Facts about quantities and keys: whether they arrive as they are. Pure."""

from collections.abc import Sequence
from decimal import Decimal

from aggregator.source.contract.fact import DAY, Conclusion, Got, Question, Verdict, refused, words_of
from aggregator.source.contract.wording import Wording

LONG = "12345678901234567890.123456789012345678"

DOUBLED = Decimal("24691357802469135780.246913578024691356")
LARGEST = 2**63 - 1

WIDE = "90000000000000000000000000000000000001"


def decimals(words: Wording) -> list[Question]:
    """Ask for a number of 38 digits, and for twice as much."""
    number = f"cast('{LONG}' as {words.decimal.format(digits=38, places=18)})"
    rows = f"select {number} as n{words.nothing} union all select {number} as n{words.nothing}"
    return [
        Question(f"select 'cus' as customer, {number} as quantity{words.nothing}", DAY),
        Question(f"select 'cus' as customer, sum(n) as quantity from ({rows}) t", DAY),
    ]


def to_the_last_digit(_: Wording, got: Sequence[Got]) -> Conclusion:
    """A number and its double arrive as they are; binary floating point is no more than imprecise."""
    for one, meant in zip(got, (Decimal(LONG), DOUBLED), strict=True):
        found = _summed(one, meant)
        if found is not None:
            return found
    return Conclusion(Verdict.PROVEN, "one and the sum of two, to the last digit")


def integers(words: Wording) -> list[Question]:
    """Ask for the largest integer of 64 bits, and for the sum of two."""
    number = f"cast('{LARGEST}' as {words.bigint})"
    rows = f"select {number} as n{words.nothing} union all select {number} as n{words.nothing}"
    return [
        Question(f"select 'cus' as customer, {number} as quantity{words.nothing}", DAY),
        Question(f"select 'cus' as customer, sum(n) as quantity from ({rows}) t", DAY),
    ]


def not_around(_: Wording, got: Sequence[Got]) -> Conclusion:
    """The largest arrives, and a sum beyond it arrives or is refused."""
    found = _summed(got[0], Decimal(LARGEST))
    if found is not None:
        return found
    if got[1].error is not None:
        return Conclusion(
            Verdict.PROVEN, f"a sum beyond 64 bits is refused and never wraps: {words_of(got[1].error)}"
        )
    return _summed(got[1], Decimal(LARGEST) * 2) or Conclusion(
        Verdict.PROVEN, "a sum beyond 64 bits arrives whole"
    )


def wide(words: Wording) -> list[Question]:
    """Ask for a sum of more than 38 digits."""
    number = f"cast('{WIDE}' as {words.decimal.format(digits=38, places=0)})"
    rows = f"select {number} as n{words.nothing} union all select {number} as n{words.nothing}"
    return [Question(f"select 'cus' as customer, sum(n) as quantity from ({rows}) t", DAY)]


def not_cut(_: Wording, got: Sequence[Got]) -> Conclusion:
    """It arrives, or is refused, or is set aside as NULL."""
    if got[0].error is not None:
        return Conclusion(Verdict.PROVEN, f"refused, and never cut off: {words_of(got[0].error)}")
    if got[0].readings and got[0].readings[0].quantity is None:
        return Conclusion(Verdict.PROVEN, f"set aside: {got[0].readings[0].reason}")
    return _summed(got[0], Decimal(2 * int(WIDE))) or Conclusion(Verdict.PROVEN, "it arrives whole")


def _summed(one: Got, meant: Decimal) -> Conclusion | None:
    """Judge a single number; None if it is exactly what was meant."""
    if one.error is not None:
        return Conclusion(Verdict.NOT_PROVEN, words_of(one.error))
    reading = one.readings[0] if one.readings else None
    found = None if reading is None else reading.quantity
    if found == meant:
        return None
    if (
        found is not None
        and reading is not None
        and reading.noise
        and abs(found - meant) <= meant * reading.noise
    ):
        return Conclusion(Verdict.NOT_PROVEN, f"{meant:f} arrives as the floating-point number {found:f}")
    return Conclusion(
        Verdict.WRONG, f"{meant:f} arrives as {f'{found:f}' if found is not None else 'nothing'}"
    )


def absent(words: Wording) -> list[Question]:
    """Ask for NULL, for an empty text, for a join without a match, for no rows, and for a sum of none."""
    one, two = f"(select 1 as n{words.nothing})", f"(select 2 as n{words.nothing})"
    texts = (
        f"select case when 1 = 0 then 'x' end as customer, 7 as quantity{words.nothing}",
        f"select '' as customer, 7 as quantity{words.nothing}",
        f"select b.n as customer, 7 as quantity from {one} a left join {two} b on b.n = a.n",
        f"select 'cus' as customer, n as quantity from {one} a where n = 0",
        f"select 'cus' as customer, sum(cast(n as {words.bigint})) as quantity from {one} a where n = 0",
    )
    return [Question(text, DAY) for text in texts]


def unmapped(_: Wording, got: Sequence[Got]) -> Conclusion:
    """What names no customer is unmapped, and nothing is nothing."""
    if aloud := refused(got):
        return aloud
    whose = ("NULL", "an empty text", "a left join without a match")
    for one, what in zip(got, whose, strict=False):
        if [(each.customer, each.quantity) for each in one.readings] != [(None, Decimal(7))]:
            found = one.readings[0].customer if one.readings else "no row"
            return Conclusion(Verdict.WRONG, f"the customer {what} arrives as {found!r}")
    if got[3].readings or any(each.quantity for each in got[4].readings):
        return Conclusion(Verdict.WRONG, "usage arrives where there are no rows")
    return Conclusion(Verdict.PROVEN, "unmapped by name; no rows are no usage")


KEYS = ("cus_a", "cus_A", "cus_é", "cus_e")

FOREIGN = "cus_Ω_漢_🂡"


def keys(words: Wording) -> list[Question]:
    """Ask for groups by keys that differ by a hair, and for a key in other scripts."""
    rows = " union all ".join(f"select '{key}' as k{words.nothing}" for key in KEYS)
    return [
        Question(f"select '{FOREIGN}' as customer, 1 as quantity{words.nothing}", DAY),
        Question(f"select k as customer, count(*) as quantity from ({rows}) t group by k", DAY),
    ]


def apart(_: Wording, got: Sequence[Got]) -> Conclusion:
    """A key arrives as it is. Which ones are the same is up to each column's collation, so it is not called wrong."""
    if aloud := refused(got):
        return aloud
    found = [each.customer for each in got[0].readings]
    if found != [FOREIGN]:
        return Conclusion(Verdict.WRONG, f"{FOREIGN} arrives as {found[0] if found else 'nothing'}")
    if {each.customer for each in got[1].readings} != set(KEYS):
        listed = ", ".join(f"{each.customer} ({each.quantity})" for each in got[1].readings)
        return Conclusion(Verdict.NOT_PROVEN, f"`group by` makes one of {', '.join(KEYS)}: {listed}")
    return Conclusion(Verdict.PROVEN, "as they are, and letter case tells them apart")


def padded(words: Wording) -> list[Question]:
    """Ask for a key of a type with a fixed length."""
    return (
        [Question(f"select {words.char} as customer, 1 as quantity{words.nothing}", DAY)]
        if words.char
        else []
    )


def trimmed(_: Wording, got: Sequence[Got]) -> Conclusion:
    """It arrives without its blanks, or is set aside for them."""
    if got[0].error is not None:
        return Conclusion(Verdict.NOT_PROVEN, words_of(got[0].error))
    [one] = got[0].readings
    if one.customer == "cus_padded":
        return Conclusion(Verdict.PROVEN, "without its padding")
    if one.customer is None:
        return Conclusion(Verdict.NOT_PROVEN, f"set aside: {one.reason}")
    return Conclusion(Verdict.WRONG, f"it arrives as {one.customer!r}")
