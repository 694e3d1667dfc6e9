"""Meters: what is counted, under which event name, and how.

Rules, from docs.stripe.com/api/billing/meter and docs.stripe.com/billing/subscriptions/usage-based/meters/configure:
only the display name changes after creation; one event name serves one meter; an inactive meter takes no events until it
is reactivated. Whether an inactive meter keeps its event name is not documented; here it does.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from aggregator.sandbox.errors import invalid, missing_param, not_found
from aggregator.sandbox.form import Params
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.paging import Row
from aggregator.sandbox.settings import FORMULAS, TIME_WINDOWS, Formula, MeterSpec, TimeWindow

CUSTOMER_KEY = "stripe_customer_id"
VALUE_KEY = "value"
MOST_KEYS = 20
WINDOW_SECONDS: dict[TimeWindow, int] = {"hour": 3600, "day": 86400}


@dataclass(frozen=True)
class Meter:
    """One meter; times are unix seconds."""

    id: str
    livemode: bool
    created: int
    updated: int
    display_name: str
    event_name: str
    formula: Formula
    window: TimeWindow | None = None
    customer_key: str = CUSTOMER_KEY
    value_key: str = VALUE_KEY
    deactivated_at: int | None = None
    dimension_keys: tuple[str, ...] = ()

    @property
    def status(self) -> Literal["active", "inactive"]:
        """Say whether the meter takes events."""
        return "active" if self.deactivated_at is None else "inactive"

    @property
    def window_seconds(self) -> int | None:
        """Return the length of the window in which only the last received event counts; None when all count."""
        return None if self.window is None else WINDOW_SECONDS[self.window]

    def json(self) -> Row:
        """Return the object as Stripe shows it."""
        return {
            "id": self.id,
            "object": "billing.meter",
            "created": self.created,
            "customer_mapping": {"event_payload_key": self.customer_key, "type": "by_id"},
            "default_aggregation": {"formula": self.formula},
            "display_name": self.display_name,
            "event_name": self.event_name,
            "event_time_window": self.window,
            "livemode": self.livemode,
            "status": self.status,
            "status_transitions": {"deactivated_at": self.deactivated_at},
            "updated": self.updated,
            "value_settings": {"event_payload_key": self.value_key},
            **({"dimension_payload_keys": list(self.dimension_keys)} if self.dimension_keys else {}),
        }


class Meters:
    """The meters of one account and mode."""

    def __init__(self, *, livemode: bool, tag: str, note: Note) -> None:
        self._tag = tag
        self._livemode = livemode
        self._note = note
        self._by_id: dict[str, Meter] = {}
        self._by_event_name: dict[str, Meter] = {}

    def create(self, params: Params, now: int, *, dimensions: bool = False) -> Meter:
        """Make a meter from the parameters of a create call; `dimensions` says whether it may declare some."""
        params.only(
            *(("dimension_payload_keys",) if dimensions else ()),
            "display_name",
            "event_name",
            "default_aggregation",
            "customer_mapping",
            "event_time_window",
            "value_settings",
        )
        meter = Meter(
            id=self._next_id(),
            livemode=self._livemode,
            created=now,
            updated=now,
            display_name=params.required("display_name", limit=250),
            event_name=params.required("event_name", limit=100),
            formula=_formula(params),
            window=params.choice("event_time_window", TIME_WINDOWS),
            customer_key=_customer_key(params),
            value_key=_value_key(params),
            dimension_keys=tuple(params.texts("dimension_payload_keys", most=MOST_KEYS) or ()),
        )
        if meter.event_name in self._by_event_name:
            message = (
                f'A meter for event name "{meter.event_name}" exists already. Choose another event name.'
            )
            raise invalid(message, "event_name", reason="meter_exists")
        return self._keep(meter)

    def make(self, spec: MeterSpec, now: int) -> Meter:
        """Make the meter a sandbox is started with, or return the one that is there."""
        known = self._by_event_name.get(spec.event_name)
        if known is not None:
            return known
        return self._keep(
            Meter(
                id=self._next_id(),
                livemode=self._livemode,
                created=now,
                updated=now,
                display_name=spec.event_name,
                event_name=spec.event_name,
                formula=spec.formula,
                window=spec.window,
            )
        )

    def get(self, name: str) -> Meter:
        """Return a meter by its id. Raise ApiError if there is none."""
        meter = self._by_id.get(name)
        if meter is None:
            raise not_found("billing meter", name)
        return meter

    def for_event(self, event_name: str) -> Meter | None:
        """Return the meter of an event name, active or not."""
        return self._by_event_name.get(event_name)

    def update(self, name: str, params: Params, now: int) -> Meter:
        """Change the display name; nothing else of a meter can change."""
        params.only("display_name")
        meter = self.get(name)
        title = params.text("display_name", limit=250)
        return meter if title is None else self._keep(replace(meter, display_name=title, updated=now))

    def deactivate(self, name: str, params: Params, now: int) -> Meter:
        """Stop taking events. An inactive meter stays as it is."""
        params.only()
        meter = self.get(name)
        if meter.status == "inactive":
            return meter
        return self._keep(replace(meter, deactivated_at=now, updated=now))

    def reactivate(self, name: str, params: Params, now: int) -> Meter:
        """Take events again. An active meter stays as it is."""
        params.only()
        meter = self.get(name)
        return (
            meter
            if meter.status == "active"
            else self._keep(replace(meter, deactivated_at=None, updated=now))
        )

    def newest_first(self) -> Iterable[Meter]:
        """Return all meters in the order of a list call."""
        return reversed(self._by_id.values())

    def restore(self, record: Record) -> None:
        """Take a meter back from the state file; a later record of the same meter replaces it."""
        known = record["meter"]
        self._remember(Meter(**{**known, "dimension_keys": tuple(known.get("dimension_keys", ()))}))

    def _next_id(self) -> str:
        return f"mtr_{self._tag}{len(self._by_id) + 1:08d}"

    def _keep(self, meter: Meter) -> Meter:
        self._note("meter", {"meter": asdict(meter)})
        self._remember(meter)
        return meter

    def _remember(self, meter: Meter) -> None:
        self._by_id[meter.id] = meter
        self._by_event_name[meter.event_name] = meter


def _formula(params: Params) -> Formula:
    section = params.section("default_aggregation")
    section.only("formula")
    formula = section.choice("formula", FORMULAS)
    if formula is None:
        raise missing_param("default_aggregation[formula]")
    return formula


def _customer_key(params: Params) -> str:
    section = params.section("customer_mapping")
    section.only("type", "event_payload_key")
    section.choice("type", ("by_id",))
    return section.text("event_payload_key", limit=100) or CUSTOMER_KEY


def _value_key(params: Params) -> str:
    section = params.section("value_settings")
    section.only("event_payload_key")
    return section.text("event_payload_key", limit=100) or VALUE_KEY
