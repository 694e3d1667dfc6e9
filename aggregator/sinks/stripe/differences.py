"""What differs between one of our meters and the meter that Stripe has for it. Pure: two descriptions in, sentences out.

Rules
- Of a Stripe meter only the display name can be changed, and whether it is active
  (docs.stripe.com/billing/subscriptions/usage-based/meters/configure). All else that differs is for a person.
- Every difference says what stands where, and what to do about it.
- What stops our events from being booked right is a misfit; a display name is none.
"""

import datetime as dt
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from aggregator.core.windows import DAY, floor
from aggregator.sinks.stripe_meter import StripeMeter


class Known(NamedTuple):
    """A meter as the account describes it."""

    id: str
    event_name: str
    display_name: str
    formula: str
    event_time_window: str | None
    customer_key: str
    value_key: str
    active: bool
    livemode: bool
    dimension_keys: tuple[str, ...] | None = None
    """The payload keys that it prices by; None where the account does not say."""


class MeterState(StrEnum):
    """How a meter of ours stands to the one at Stripe; of several that hold, the gravest."""

    EQUAL = "equal"
    MISSING = "missing"  # can be created
    RENAMED = "renamed"  # the display name differs, which can be changed
    INACTIVE = "inactive"
    FIXED = "fixed"  # something differs that no Stripe meter can change
    WRONG_MODE = "wrong_mode"

    @property
    def can_be_applied(self) -> bool:
        """Whether creating or renaming puts it right."""
        return self in (MeterState.MISSING, MeterState.RENAMED)


class Difference(NamedTuple):
    """One thing that is not the same: the key in the configuration, what it says there, what Stripe has, what to do."""

    what: str
    here: str | None
    stripe: str | None
    text: str


class Comparison(NamedTuple):
    """One of our meters beside Stripe's. `known` is None where Stripe has none of its event name."""

    meter: str
    event_name: str
    known: Known | None
    meter_state: MeterState
    differences: tuple[Difference, ...]

    @property
    def misfits(self) -> list[str]:
        """Say, in a sentence each, what keeps our events from being booked right."""
        whose = f"Meter {self.meter}: the Stripe meter with event name {self.event_name}"
        return [f"{whose} {each.text}" for each in self.differences if each.what != "display_name"]

    def advice(self, now: dt.datetime) -> str | None:
        """Say how to get on where Stripe's meter cannot be made what ours is; None where nothing of the kind differs."""
        if self.meter_state is not MeterState.FIXED:
            return None
        return (
            "Stripe meters cannot be changed. If Stripe's is what you want, correct the configuration as said. Otherwise "
            "choose another `stripe.event_name`, which `aggregator meters apply` creates. A meter that has billed already "
            f"is followed by a new one at a boundary of their windows, such as {next_midnight(now):%Y-%m-%dT%H:%MZ}: see "
            "docs/stripe-meters.md."
        )


def compare(name: str, meter: StripeMeter, known: Known | None, *, livemode: bool) -> Comparison:
    """Compare one of our meters with what Stripe has under its event name."""
    if known is None:
        text = "does not exist. Create it by `aggregator meters apply`, or correct `stripe.event_name`."
        missing = Difference("event_name", meter.event_name, None, text)
        return Comparison(name, meter.event_name, None, MeterState.MISSING, (missing,))
    if known.livemode != livemode:
        return Comparison(name, meter.event_name, known, MeterState.WRONG_MODE, (_mode(known),))
    fixed = (
        *_formula(meter, known),
        *_window(meter, known),
        *_keys(meter, known),
        *_dimensions(meter, known),
    )
    state, title = tuple(_state(known)), tuple(_title(meter, known))
    meter_state = (
        MeterState.FIXED
        if fixed
        else MeterState.INACTIVE
        if state
        else MeterState.RENAMED
        if title
        else MeterState.EQUAL
    )
    return Comparison(name, meter.event_name, known, meter_state, (*state, *fixed, *title))


def next_midnight(now: dt.datetime) -> dt.datetime:
    """Return the next midnight UTC: a boundary of windows of every length, and never in the past."""
    return floor(now, DAY) + DAY


def _mode(known: Known) -> Difference:
    belongs, set_to = ("live", "test") if known.livemode else ("test", "live")
    text = f"is in {belongs} mode, but the sink is set to {set_to} mode. Correct `mode` or `api_key`."
    return Difference("mode", set_to, belongs, text)


def _state(known: Known) -> Iterator[Difference]:
    if not known.active:
        text = (
            "is not active and takes no events. Reactivate it, as by `aggregator meters reactivate`, or choose another "
            "`stripe.event_name`."
        )
        yield Difference("status", "active", "inactive", text)


def _title(meter: StripeMeter, known: Known) -> Iterator[Difference]:
    title = meter.display_name
    if title is not None and title != known.display_name:
        text = f"is displayed as {known.display_name!r}, not as {title!r}; `aggregator meters apply` changes that."
        yield Difference("display_name", title, known.display_name, text)


def _formula(meter: StripeMeter, known: Known) -> Iterator[Difference]:
    formula = known.formula
    if formula == meter.formula:
        return
    if formula == "count":
        text = "counts events, so a summary would count as one. Use a meter that sums."
    elif formula in ("sum", "last"):
        text = f"aggregates by {formula}, but we send for {meter.formula}. Set `stripe.formula: {formula}` if that is meant."
    else:
        text = f"aggregates by {formula}, which is unknown here. Use one that sums."
    yield Difference("formula", meter.formula, formula, text)


def _window(meter: StripeMeter, known: Known) -> Iterator[Difference]:
    window = known.event_time_window
    if window == meter.event_time_window:
        return
    if window is None:
        means = "Remove `stripe.event_time_window`: every event adds up there, and a total sent again would bill twice."
    else:
        means = f"Set `stripe.event_time_window: {window}`: the newest event of each {window} replaces the others."
    text = f"has {_windowed(window)}, but we send for {_windowed(meter.event_time_window)}. {means}"
    yield Difference("event_time_window", meter.event_time_window, window, text)


def _windowed(window: str | None) -> str:
    return f"an event time window of one {window}" if window else "no event time window"


def _keys(meter: StripeMeter, known: Known) -> Iterator[Difference]:
    customer, value = known.customer_key, known.value_key
    if customer != meter.customer_key:
        text = (
            f"finds the customer under {customer}, but we send {meter.customer_key}. "
            f"Set `stripe.customer_key: {customer}`."
        )
        yield Difference("customer_key", meter.customer_key, customer, text)
    if value != meter.value_key:
        text = f"finds the quantity under {value}, but we send {meter.value_key}. Set `stripe.value_key: {value}`."
        yield Difference("value_key", meter.value_key, value, text)


def _dimensions(meter: StripeMeter, known: Known) -> Iterator[Difference]:
    """Compare the keys of dimensions: Stripe rejects an event that lacks one, and does not price by one that it has not."""
    if known.dimension_keys is None:
        return
    ours, theirs = set(meter.dimensions.values()), set(known.dimension_keys)
    here, there = ", ".join(sorted(ours)) or "none", ", ".join(sorted(theirs)) or "none"
    if theirs - ours:
        text = (
            f"wants the dimensions {there}, and we send {here}: an event without one is rejected. Add them to `dimensions`, "
            "or correct `stripe.dimension_keys`."
        )
        yield Difference("dimension_keys", here, there, text)
    elif ours - theirs and theirs:
        text = (
            f"prices by the dimensions {there}, and we send {here}: what it does not know is added up. Take a Stripe meter "
            "that has them all, or leave them out of `dimensions`."
        )
        yield Difference("dimension_keys", here, there, text)
