"""What the Metronome part may be told while it runs: above all where Metronome's own behaviour is not confirmed.

Replaced whole through `/metronome/_sandbox/rules`. Unknown names are refused, so that a misspelt rule cannot make a test
pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

# docs.metronome.com, send usage events: a transaction_id is remembered for 34 days, and as far back may a timestamp lie.
MEMORY_SECONDS = 34 * 86400.0

# docs.metronome.com, how invoicing works: an invoice is finalized 24 hours after the end of its period.
GRACE_SECONDS = 86400.0

MOST_EVENTS = 100


@dataclass(frozen=True)
class MetronomeRules:
    """How the Metronome part answers where that is settable or not confirmed.

    `text_quantities`: what a SUM makes of a property that is text, such as "12": it may `count`, or be `zero` without a
    word. Metronome's own pages disagree about it.
    `bad_event`: one event that breaks a rule may have its `whole` request refused with nothing taken in, or the request is
    refused all the same after the others were taken in: `partial`. Neither is documented.
    `refuse_customers`: events of these customers break a rule.
    `ingested_before_error`: of a request whose answer is a 500 or a closed connection afterwards, so many events were taken
    in; null: all of them.
    `transaction_memory_seconds`: for how long a transaction_id is known again.
    `usage_delay_seconds`: from receipt until an event shows in usage and in searches.
    `retry_after_seconds`: what `Retry-After` says on a 429; null leaves it out.
    `invoice_grace_seconds`: how long after the end of its month an invoice stays a draft.
    `page_rows`: rows on a page of a list.
    `shows_billable_status`: whether a customer shows if it is billable, which depends on a client's configuration.
    """

    text_quantities: Literal["count", "zero"] = "count"
    bad_event: Literal["whole", "partial"] = "whole"
    refuse_customers: frozenset[str] = frozenset()
    ingested_before_error: int | None = None
    transaction_memory_seconds: float = MEMORY_SECONDS
    usage_delay_seconds: float = 0.0
    retry_after_seconds: int | None = None
    invoice_grace_seconds: float = GRACE_SECONDS
    page_rows: int = 100
    shows_billable_status: bool = True

    def __post_init__(self) -> None:
        _require(self.text_quantities in ("count", "zero"), "text_quantities", "count or zero")
        _require(self.bad_event in ("whole", "partial"), "bad_event", "whole or partial")
        for name in ("transaction_memory_seconds", "usage_delay_seconds", "invoice_grace_seconds"):
            _require(_at_least_zero(getattr(self, name)), name, "a number of seconds, 0 or more")
        for name in ("ingested_before_error", "retry_after_seconds"):
            value = getattr(self, name)
            _require(value is None or _is_count(value), name, "a count, or null")
        _require(_is_count(self.page_rows) and self.page_rows, "page_rows", "a count above 0")
        _require(isinstance(self.shows_billable_status, bool), "shows_billable_status", "true or false")

    def json(self) -> dict[str, object]:
        """Return the rules as the control call shows and takes them."""
        shown: dict[str, object] = {each.name: getattr(self, each.name) for each in fields(self)}
        return shown | {"refuse_customers": sorted(self.refuse_customers)}


def read_metronome_rules(data: Mapping[str, Any]) -> MetronomeRules:
    """Build rules from JSON. Raise ValueError for a name or a value that is not one."""
    known = [each.name for each in fields(MetronomeRules)]
    unknown = [name for name in data if name not in known]
    if unknown:
        raise ValueError(f"Unknown: {', '.join(unknown)}. Known: {', '.join(known)}.")
    values = dict(data)
    names = values.get("refuse_customers", [])
    _require(
        isinstance(names, list) and all(isinstance(each, str) for each in names),
        "refuse_customers",
        "a list of customers",
    )
    return MetronomeRules(**values | {"refuse_customers": frozenset(names)})


def _require(holds: object, name: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}.")


def _at_least_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _at_least_zero(value)
