"""Dimensions: which values of its declared payload keys a meter has seen together, and how many it may.

A private preview of Stripe's lets a meter declare `dimension_payload_keys`; its public API has no such parameter.
Integrators quote 10,000 combinations per meter and hour, and 100 per customer and meter, from
docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api. Whether the hour is that of the event or of its
receipt is not documented; here it is the event's. The codes are those of docs.stripe.com/api/v2/core/events/event-types.
"""

from collections.abc import Mapping

from aggregator.sandbox.meters import WINDOW_SECONDS, Meter
from aggregator.sandbox.reports import Invalid
from aggregator.sandbox.rules import Rules

MISSING = "missing_dimension_payload_keys"
TOO_MANY = "meter_event_dimension_count_too_high"

Combination = tuple[str, ...]


class Combinations:
    """What was seen together, by meter."""

    def __init__(self) -> None:
        self._by_hour: dict[tuple[str, int], set[Combination]] = {}
        self._by_customer: dict[tuple[str, str], set[Combination]] = {}

    def problem(
        self, meter: Meter, payload: Mapping[str, str], customer: str | None, timestamp: float, rules: Rules
    ) -> Invalid | None:
        """Say what is wrong with the dimensions of an event; None if nothing is."""
        if not meter.dimension_keys:
            return None
        missing = [key for key in meter.dimension_keys if not payload.get(key)]
        if missing:
            return Invalid(MISSING, f"Dimension payload keys {', '.join(missing)} not found in payload.")
        combination = tuple(payload[key] for key in meter.dimension_keys)
        of_hour = self._by_hour.get((meter.event_name, _hour(timestamp)), set())
        of_customer = self._by_customer.get((meter.event_name, customer or ""), set())
        for seen, most, of in (
            (of_hour, rules.dimension_combinations_per_hour, "meter in an hour"),
            (of_customer, rules.dimension_combinations_per_customer, "customer of a meter"),
        ):
            if combination not in seen and len(seen) >= most:
                return Invalid(TOO_MANY, f"There are more than {most} combinations of dimensions for a {of}.")
        return None

    def remember(self, meter: Meter, extra: Mapping[str, str], customer: str, timestamp: float) -> None:
        """Take note of the values of an event that was taken."""
        if not meter.dimension_keys:
            return
        combination = tuple(extra.get(key, "") for key in meter.dimension_keys)
        self._by_hour.setdefault((meter.event_name, _hour(timestamp)), set()).add(combination)
        self._by_customer.setdefault((meter.event_name, customer), set()).add(combination)


def _hour(timestamp: float) -> int:
    return int(timestamp) // WINDOW_SECONDS["hour"]
