"""What a Stripe account says of itself and its meters: which it is, whether they fit what we send, what they have recorded.

Rules
- Nothing in here writes.
- What is wrong is said in sentences, one per thing; only what we did not expect is raised.
- A list is read to its last page. A total is exact to the digits that Stripe's floats show, or there is none.
"""

import datetime as dt
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NoReturn
from urllib.parse import quote_plus

from aggregator.core.model import ZERO, Span
from aggregator.core.windows import DAY, HOUR, MINUTE, is_boundary, is_whole
from aggregator.errors import (
    AccountRefused,
    CustomerUnknown,
    MeterMissing,
    SinkError,
    SinkHalted,
    SinkUnreachable,
    SinkUnreadable,
)
from aggregator.runtime.clock import monotonic
from aggregator.sinks.responses import NoResponse
from aggregator.sinks.stripe import wire
from aggregator.sinks.stripe.account_context import AccountContext
from aggregator.sinks.stripe.differences import Comparison, Known, compare
from aggregator.sinks.stripe.responses import (
    KEY_CODES,
    WRONG_ACCOUNT,
    Refusal,
    describe,
    is_missing_object,
    is_wrong_account,
)

if TYPE_CHECKING:
    from stripe.billing import Meter, MeterEventSummary

Params = Mapping[str, str | int]

METERS = "/v1/billing/meters"

PAGE = 100
"""As many as one page can hold (docs.stripe.com/api/billing/meter/list)."""

MOST_PAGES = 100
"""Ten thousand meters, or hours: far more than there are known to be, and an end to reading them."""

GROUPINGS: Mapping[dt.timedelta, Literal["hour", "day"]] = {HOUR: "hour", DAY: "day"}
"""The steps by which Stripe breaks down a range, in UTC (docs.stripe.com/api/billing/meter-event-summary/list)."""

FORBIDDEN, NOT_FOUND = 403, 404

ABSENT_SECONDS = 60.0
"""How long it is remembered that there is no meter of a name: of thousands of customers it would be asked each time. What is
sent as soon as there is one is compared many hours later."""


class Account:
    """Reads the meters of the account that a key belongs to."""

    def __init__(self, context: AccountContext) -> None:
        self.context = context
        self._client = context.client
        self._meters = context.meters
        self._options = context.options
        self._ids: dict[str, str] = {}
        self._absent: dict[str, float] = {}
        """Event names that no meter had when it was asked, and when that was."""
        self._ours: dict[str, str | None] = {}

    async def problems(self, names: Iterable[str]) -> list[str]:
        """Say in what the account does not fit the events of these meters of ours; an empty list if it does.

        Raises SinkUnreachable, SinkHalted or SinkError when the account does not say.
        """
        return [misfit for each in await self.comparisons(names) for misfit in each.misfits]

    async def misfits(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the same by meter. Raises as `problems` does."""
        return {each.meter: each.misfits for each in await self.comparisons(names)}

    async def comparisons(self, names: Iterable[str]) -> list[Comparison]:
        """Compare these meters of ours with the account's, in their order. Raises as `problems` does."""
        wanted = {name: self._meters[name] for name in names}
        with self._asking():
            found = await self._find({each.event_name for meter in wanted.values() for each in meter.needed})
            known = {event_name: described(meter) for event_name, meter in found.items()}
        return [
            compare(name, each, known.get(each.event_name), livemode=self.context.livemode)
            for name, meter in wanted.items()
            for each in meter.needed
        ]

    async def others(self) -> list[Known]:
        """Return the active meters that none of ours has an event name of, by event name. Raises as `problems` does."""
        ours = {name for meter in self._meters.values() for name in meter.names}
        with self._asking():
            found = await self._list("active", None)
        return [described(found[name]) for name in sorted(found) if name not in ours]

    async def identity(self) -> str | None:
        """Name the account and the mode, as `acct_1 live`; None if the key may not ask.

        A restricted key may be kept from reading the account (docs.stripe.com/keys/restricted-api-keys). The account
        object has no mode: it is the one that the sink is set to, which preflight and every answer to an event confirm.
        Raises SinkUnreachable, SinkHalted or SinkError when Stripe does not say.
        """
        try:
            found = await self._client.get("/v1/account", wire.in_account(self.context.account), fields=True)
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            failure = self._client.describe(error)
            if isinstance(failure, Refusal) and failure.status == FORBIDDEN and failure.code not in KEY_CODES:
                return None
            self.fail(error)
        name = getattr(found, "id", None)
        if not isinstance(name, str) or not name.startswith("acct_"):
            raise SinkError(f"Stripe's answer to sink {self.context.sink} does not name an account.")
        return f"{name} {'live' if self.context.livemode else 'test'}"

    async def why_unknown(self, customer: str) -> str | None:
        """Say why there is no such customer, or no longer; None if there is (docs.stripe.com/api/customers/retrieve).

        Of the other mode it has none either, and then Stripe's own words say so. A deleted one is still found, and says that
        it is deleted. Raises SinkUnreadable, AccountRefused or another SinkError when there is no answer that says so.
        """
        named = self.context.customer(customer)
        try:
            found = await self._client.api.v1.customers.retrieve_async(named, None, self._options)
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            failure = self._client.describe(error)
            if isinstance(failure, Refusal) and failure.status == NOT_FOUND and is_missing_object(failure):
                return f"Stripe does not know customer {customer}: {describe(failure)}."
            if isinstance(failure, Refusal) and self.context.of_customer and is_wrong_account(failure):
                return f"Stripe does not let us into the account of {customer}: {describe(failure)}."
            self.fail(error)
        if getattr(found, "id", None) != named:
            raise SinkError(f"Stripe's answer to sink {self.context.sink} is not about customer {customer}.")
        return f"Customer {customer} was deleted at Stripe." if getattr(found, "deleted", False) else None

    async def total(self, name: str, customer: str, span: Span) -> Decimal:
        """Return what Stripe has counted of one of our meters for a customer; the span lies on whole minutes.

        Raises SinkUnreachable, SinkHalted or SinkError when there is no answer that says so.
        """
        params = _range(self.context.customer(customer), span, MINUTE)
        total = ZERO
        async for _, row in self._summaries(name, params):
            if _start(row) not in span:
                raise SinkError(f"Stripe's summary of {name} begins at {_start(row)}, outside {span}.")
            total += _quantity(row)
        return total

    async def breakdown(
        self, name: str, customer: str, span: Span, step: dt.timedelta
    ) -> dict[dt.datetime, Decimal]:
        """Return the same for each UTC hour or day of the span, by its start; where it is zero there is no entry.

        `step` is one hour or one day, and the span lies on such. Raises SinkUnreachable, SinkHalted or SinkError.
        """
        params = _range(self.context.customer(customer), span, step) | {
            "value_grouping_window": GROUPINGS[step]
        }
        found: dict[dt.datetime, Decimal] = {}
        seen: set[tuple[str, dt.datetime]] = set()
        async for event_name, row in self._summaries(name, params):
            start = _start(row)
            if (event_name, start) in seen or start not in span or not is_boundary(start, step):
                raise SinkError(
                    f"Stripe's summaries of {name} by {GROUPINGS[step]} make no sense at {start}."
                )
            seen.add((event_name, start))
            found[start] = found.get(start, ZERO) + _quantity(row)
        return {start: quantity for start, quantity in found.items() if quantity}

    async def _summaries(self, name: str, params: Params) -> "AsyncIterator[tuple[str, MeterEventSummary]]":
        """Yield the rows of all pages, each with its event name. Raises SinkUnreachable, SinkHalted or SinkError."""
        if name not in self._meters:  # which is no trouble of Stripe's, nor of the other meters
            raise SinkError(
                f"Meter {name} no longer feeds sink {self.context.sink}, so it cannot be looked up there: put it back."
            )
        meter = self._meters[name]
        for event_name in meter.names:
            try:
                async for row in self._of_event_name(name, event_name, params):
                    yield event_name, row
            except MeterMissing:
                if not meter.event_names or event_name != meter.event_name:
                    raise  # else nothing was ever sent without dimensions

    async def _of_event_name(
        self, name: str, event_name: str, params: Params
    ) -> "AsyncIterator[MeterEventSummary]":
        """Yield the rows of all pages of one Stripe meter. Raises as `_summaries` does."""
        asked, whose = dict(params), wire.in_account(self.context.account)
        for _ in range(MOST_PAGES):
            try:
                meter_id = await self._id(event_name)
                path = f"{METERS}/{quote_plus(meter_id)}/event_summaries"
                page = await self._client.get(wire.query(path, asked), whose, fields=True)
                rows, more = page.data, page.has_more
            except SinkError:
                raise
            except Exception as error:  # noqa: BLE001 - turned into ours, and raised
                self.fail_reading(error, str(params["customer"]))
            for row in rows:
                yield row
            if not more:
                return
            if not rows:
                raise SinkError(f"Stripe lists no summaries of {name} on a page, and says there are more.")
            asked["starting_after"] = rows[-1].id
        raise SinkError(
            f"Stripe lists more than {MOST_PAGES * PAGE} summaries of {name}; ask for a shorter span."
        )

    async def our_meter(self, stripe_meter: str) -> str | None:
        """Return which meter of ours sends to a meter at Stripe, by its id there; None if none does.

        Raises what the library does.
        """
        if stripe_meter not in self._ours:
            try:
                found = await self._client.api.v1.billing.meters.retrieve_async(
                    stripe_meter, None, self._options
                )
            except Exception as error:
                failure = self._client.describe(error)
                if isinstance(failure, Refusal) and failure.status == NOT_FOUND:
                    return None
                raise
            ours = (name for name, meter in self._meters.items() if found.event_name in meter.names)
            self._ours[stripe_meter] = next(ours, None)
        return self._ours[stripe_meter]

    async def ids(self, event_names: Iterable[str]) -> dict[str, str]:
        """Return the ids of the meters with these event names, as far as there are such. Raises as `problems` does."""
        names, now = list(event_names), monotonic()
        unknown = {
            name
            for name in names
            if name not in self._ids and now - self._absent.get(name, -ABSENT_SECONDS) >= ABSENT_SECONDS
        }
        if unknown:
            with self._asking():
                found = await self._find(unknown)
            self._ids |= {name: meter.id for name, meter in found.items()}
            self._absent |= dict.fromkeys(unknown - found.keys(), now)
        return {name: self._ids[name] for name in names if name in self._ids}

    async def _id(self, event_name: str) -> str:
        found = await self.ids([event_name])
        if event_name not in found:
            raise MeterMissing(f"Stripe has no meter with event name {event_name}; create it there.")
        return found[event_name]

    async def _find(self, event_names: set[str]) -> dict[str, "Meter"]:
        """Return the meters with these event names; of two with the same name the active one."""
        found = await self._list("active", event_names)
        missing = event_names - found.keys()
        return found | (await self._list("inactive", missing) if missing else {})

    async def _list(
        self, status: Literal["active", "inactive"], event_names: set[str] | None
    ) -> dict[str, "Meter"]:
        """Read all pages, for these event names or for all: Stripe offers no filter by event name."""
        found: dict[str, Meter] = {}
        params: dict[str, str | int] = {"status": status, "limit": PAGE}
        whose = wire.in_account(self.context.account)
        for _ in range(MOST_PAGES):
            page = await self._client.get(wire.query(METERS, params), whose, fields=True)
            found |= {
                meter.event_name: meter
                for meter in page.data
                if event_names is None or meter.event_name in event_names
            }
            if not page.has_more or found.keys() == event_names:
                return found
            params["starting_after"] = page.data[-1].id
        raise SinkError(f"Stripe lists more than {MOST_PAGES * PAGE} meters; that cannot be right.")

    def _sentence(self, failure: Refusal | NoResponse) -> str:
        if isinstance(failure, NoResponse):
            return f"Stripe gave no answer to {self.context.name}: {failure.what}."
        return (
            self.context.why_halt(failure)
            or f"Stripe did not say what {self.context.name} asked: {describe(failure)}."
        )

    def fail_reading(self, error: Exception, customer: str) -> NoReturn:
        """Raise what an error of a question about a customer means: that it is not there, or what any error means."""
        failure = self._client.describe(error)
        if (
            isinstance(failure, Refusal)
            and is_missing_object(failure)
            and "customer" in failure.message.lower()
        ):
            raise CustomerUnknown(
                f"Stripe does not know customer {customer}: {describe(failure)}."
            ) from error
        self.fail(error)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what a call raises into what it means, as `fail` does."""
        try:
            yield
        except SinkError:
            raise
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """Raise what an error of a call means: SinkUnreachable, SinkHalted, AccountRefused or SinkError."""
        failure = self._client.describe(error)
        sentence = self._sentence(failure)
        if isinstance(failure, NoResponse) or failure.status >= 500 or failure.status == 429:
            raise SinkUnreachable(sentence) from error
        if (
            self.context.of_customer
            and (is_wrong_account(failure) or failure.status == FORBIDDEN)
            and failure.code not in KEY_CODES
        ):
            raise AccountRefused(sentence) from error
        if (
            failure.status == FORBIDDEN
            and failure.readable
            and failure.code not in KEY_CODES | {WRONG_ACCOUNT}
        ):
            raise SinkUnreadable(sentence) from error
        raise (SinkHalted if self.context.why_halt(failure) else SinkError)(sentence) from error


def assert_whole(span: Span, unit: dt.timedelta) -> None:
    """See to it that the bounds of a span lie on whole units: Stripe refuses any other, which would be a mistake of ours."""
    assert is_whole(span, unit), f"{span} does not lie on whole steps of {unit}"


def _range(customer: str, span: Span, unit: dt.timedelta) -> dict[str, str | int]:
    """Return what asks for a span of a customer."""
    assert_whole(span, unit)
    start, end = (int(bound.timestamp()) for bound in span)
    return {"customer": customer, "start_time": start, "end_time": end, "limit": PAGE}


def _start(row: "MeterEventSummary") -> dt.datetime:
    """Return when a summary begins. Raises SinkError if it does not say."""
    start = getattr(row, "start_time", None)
    if not isinstance(start, int):
        raise SinkError(f"Stripe's summary begins at no time but at a {type(start).__name__}.")
    return dt.datetime.fromtimestamp(start, dt.UTC)


def _quantity(row: "MeterEventSummary") -> Decimal:
    """Return the digits that a summary's float shows. Raises SinkError if it is no number."""
    value = getattr(row, "aggregated_value", None)
    if not isinstance(value, int | float) or not math.isfinite(value):
        shown = value if isinstance(value, float) else f"a {type(value).__name__}"
        raise SinkError(f"Stripe's summary shows {shown}, which is no quantity.")
    return Decimal(repr(value))


def described(meter: "Meter") -> Known:
    """Return what the library says of a meter, as far as ours are compared with it.

    Only accounts in a private preview of Stripe's show `dimension_payload_keys`, which the library has no name for.
    """
    declared = getattr(meter, "dimension_payload_keys", None)
    return Known(
        id=meter.id,
        event_name=meter.event_name,
        display_name=meter.display_name,
        formula=meter.default_aggregation.formula,
        event_time_window=meter.event_time_window,
        customer_key=meter.customer_mapping.event_payload_key,
        value_key=meter.value_settings.event_payload_key,
        active=meter.status == "active",
        livemode=meter.livemode,
        dimension_keys=None if declared is None else tuple(map(str, declared)),
    )
