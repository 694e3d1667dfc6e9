"""What a Stripe account says of its meters: whether they fit what we send, and what they have recorded.

Rules
- Nothing in here writes.
- What is wrong is said in sentences, one per thing; only what we did not expect is raised.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NoReturn

from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.model import ZERO, Span
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.meter import StripeMeter
from aggregator.sinks.stripe.verdicts import Refusal, Silence, describe, why_halt

if TYPE_CHECKING:
    from stripe.billing import Meter
    from stripe.params.billing import MeterListParams

PAGE = 100
"""As many as one page can hold (docs.stripe.com/api/billing/meter/list)."""

MOST_PAGES = 100
"""Ten thousand meters: far more than an account is known to have, and an end to reading them."""


class Account:
    """Reads the meters of the account that a key belongs to."""

    def __init__(
        self, client: Client, sink: str, meters: Mapping[str, StripeMeter], *, livemode: bool
    ) -> None:
        self._client = client
        self._sink = sink
        self._meters = meters
        self._livemode = livemode
        self._ids: dict[str, str] = {}

    async def problems(self, names: Iterable[str]) -> list[str]:
        """Say in what the account does not fit the events of these meters of ours; an empty list if it does.

        Raises SinkUnreachable, SinkHalted or SinkError when the account does not say.
        """
        wanted = {name: self._meters[name] for name in names}
        try:
            found = await self._find({meter.event_name for meter in wanted.values()})
        except SinkError:
            raise
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self._raise(error)
        problems = []
        for name, meter in wanted.items():
            problems += misfits(name, meter, found.get(meter.event_name), livemode=self._livemode)
        return problems

    async def total(self, name: str, customer: str, span: Span) -> Decimal:
        """Return what Stripe has counted of one of our meters for a customer; the span lies on whole minutes.

        Raises SinkUnreachable, SinkHalted or SinkError when there is no answer that says so.
        """
        start, end = (int(bound.timestamp()) for bound in span)
        assert start % 60 == 0 == end % 60, f"{span} does not lie on whole minutes"
        meters = self._client.api.v1.billing.meters
        try:
            meter_id = await self._id(self._meters[name].event_name)
            page = await meters.event_summaries.list_async(
                meter_id, {"customer": customer, "start_time": start, "end_time": end}
            )
        except SinkError:
            raise
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self._raise(error)
        return sum((Decimal(repr(row.aggregated_value)) for row in page.data), ZERO)

    async def _id(self, event_name: str) -> str:
        if event_name not in self._ids:
            found = await self._find({event_name})
            if event_name not in found:
                raise SinkError(f"Stripe has no meter with event name {event_name}; create it there.")
            self._ids[event_name] = found[event_name].id
        return self._ids[event_name]

    async def _find(self, event_names: set[str]) -> dict[str, "Meter"]:
        """Return the meters with these event names; of two with the same name the active one."""
        found = await self._list("active", event_names)
        missing = event_names - found.keys()
        return found | (await self._list("inactive", missing) if missing else {})

    async def _list(self, status: Literal["active", "inactive"], event_names: set[str]) -> dict[str, "Meter"]:
        """Read all pages: Stripe offers no filter by event name."""
        found: dict[str, Meter] = {}
        params: MeterListParams = {"status": status, "limit": PAGE}
        for _ in range(MOST_PAGES):
            page = await self._client.api.v1.billing.meters.list_async(params)
            found |= {meter.event_name: meter for meter in page.data if meter.event_name in event_names}
            if not page.has_more or found.keys() == event_names:
                return found
            params["starting_after"] = page.data[-1].id
        raise SinkError(f"Stripe lists more than {MOST_PAGES * PAGE} meters; that cannot be right.")

    def _sentence(self, told: Refusal | Silence) -> str:
        if isinstance(told, Silence):
            return f"Stripe gave no answer to sink {self._sink}: {told.what}."
        return why_halt(told, self._sink) or f"Stripe did not list the meters: {describe(told)}."

    def _raise(self, error: Exception) -> NoReturn:
        told = self._client.describe(error)
        sentence = self._sentence(told)
        if isinstance(told, Silence) or told.status >= 500 or told.status == 429:
            raise SinkUnreachable(sentence) from error
        raise (SinkHalted if why_halt(told, self._sink) else SinkError)(sentence) from error


def misfits(name: str, meter: StripeMeter, found: "Meter | None", *, livemode: bool) -> list[str]:
    """Say in what a meter at Stripe does not fit the events that one of ours would send it."""
    whose = f"Meter {name}: the Stripe meter with event name {meter.event_name}"
    if found is None:
        return [f"{whose} does not exist. Create it at Stripe, or correct `stripe.event_name`."]
    if found.livemode != livemode:
        belongs, set_to = ("live", "test") if found.livemode else ("test", "live")
        return [
            f"{whose} is in {belongs} mode, but the sink is set to {set_to} mode. Correct `mode` or `api_key`."
        ]
    checks = (
        (found.status != "active", "is not active and takes no events. Reactivate it at Stripe."),
        *_wrong_aggregation(found),
        *_wrong_keys(meter, found),
    )
    return [f"{whose} {problem}" for wrong, problem in checks if wrong]


def _wrong_aggregation(found: "Meter") -> Iterable[tuple[bool, str]]:
    formula = found.default_aggregation.formula
    window = found.event_time_window
    yield formula == "count", "counts events, so a summary would count as one. Use a meter that sums."
    yield (
        formula == "last",
        "keeps only the last value, which this sink does not support yet. Use one that sums.",
    )
    yield (
        formula not in ("sum", "count", "last"),
        f"aggregates by {formula}, which is unknown here. Use one that sums.",
    )
    replaces = f"the newest event of each {window} replaces the others, so a change would replace the sum"
    yield (
        window is not None,
        f"has an event time window ({window}), which this sink does not support yet: {replaces}. Use a meter without one.",
    )


def _wrong_keys(meter: StripeMeter, found: "Meter") -> Iterable[tuple[bool, str]]:
    customer, value = found.customer_mapping.event_payload_key, found.value_settings.event_payload_key
    yield (
        customer != meter.customer_key,
        f"finds the customer under {customer}, but we send {meter.customer_key}. Set `stripe.customer_key: {customer}`.",
    )
    yield (
        value != meter.value_key,
        f"finds the quantity under {value}, but we send {meter.value_key}. Set `stripe.value_key: {value}`.",
    )
