"""Event values: read exactly, added exactly, shown in plain digits.

Stripe shows sums as floats. The sandbox keeps Decimals beneath them, so that a proof can compare to the last unit.
"""

import re
from collections.abc import Iterable
from decimal import Context, Decimal, Inexact
from functools import reduce

# docs.stripe.com/changelog/dahlia/2026-04-22/billing-meter-event-values-validation
MAX_SIGNIFICANT_DIGITS = 15

# Nothing longer is read as a number. With it the sum of any count of values stays far inside 400 digits, and the trap
# makes a lost digit an error instead of a wrong total.
MAX_CHARACTERS = 100
EXACT = Context(prec=400, traps=[Inexact])

# How Stripe reads exponents and leading plus signs is not documented; the sandbox takes plain digits only.
PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def read_value(text: str) -> Decimal | None:
    """Return the number, or None when the text is not one in plain digits."""
    if len(text) > MAX_CHARACTERS or not PLAIN.fullmatch(text):
        return None
    return Decimal(text)


def significant_digits(text: str) -> int:
    """Count the digits of a plain number after its leading zeros.

    Trailing zeros count: whether Stripe counts them is not documented, and the strict reading finds more mistakes.
    """
    return len(text.lstrip("-").replace(".", "").lstrip("0"))


def total(values: Iterable[Decimal]) -> Decimal:
    """Return the exact sum."""
    return reduce(EXACT.add, values, Decimal(0))


def plain(value: Decimal) -> str:
    """Return plain digits without an exponent and without zeros that say nothing."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
