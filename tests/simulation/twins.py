"""The ledger as shells take it, made of parts that stand for its own: twins in memory, or parts behind a gate or a clock."""

from types import SimpleNamespace
from typing import cast

from aggregator.ledger.ledger import Ledger


def as_ledger(**parts: object) -> Ledger:
    """Return parts as a ledger: `test_twins` holds that each has the verbs of the one that it stands for."""
    return cast("Ledger", SimpleNamespace(**parts))
