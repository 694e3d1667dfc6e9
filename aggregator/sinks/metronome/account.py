"""What Metronome says of its metrics, whether they count what we send and what they have counted; and of invoices.

Rules
- Nothing in here writes.
- What is wrong is said in sentences, one per thing; only what we did not expect is raised.
- Numbers are read from the answer's own digits: the library would make floats of them. A list is read to its last page.
- Usage is counted by whole UTC hours and asked for between UTC midnights, per metric and customer (docs.metronome.com, API
  reference, get batched usage data). A shorter stretch has no figure, and is said to have none.
- Where a metric sums several of our meters, usage is asked for by a group key that tells them apart (`groups`).
"""

import asyncio
import datetime as dt
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from decimal import Decimal, localcontext
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, Protocol
from unicodedata import category

from aggregator.core import definitions
from aggregator.core.dimensions import Dimensions, of_mapping
from aggregator.core.model import ZERO, Span
from aggregator.core.windows import DAY, HOUR, floor, is_boundary, is_whole
from aggregator.errors import (
    CustomerUnknown,
    MetersMixed,
    SinkError,
    SinkHalted,
    SinkUnreachable,
    SinkUnreadable,
)
from aggregator.sinks.metronome import event as wire
from aggregator.sinks.metronome import fitting, groups, readiness
from aggregator.sinks.metronome.client import Client
from aggregator.sinks.metronome.event import MetronomeMeter
from aggregator.sinks.metronome.fitting import Metric
from aggregator.sinks.metronome.groups import GroupKey
from aggregator.sinks.metronome.responses import Refusal, describe, why_halt
from aggregator.sinks.protocol import Readiness
from aggregator.sinks.responses import NoResponse

if TYPE_CHECKING:
    import httpx

PAGE = 100

MOST_PAGES = 100
"""Ten thousand metrics, or hours: far more than there are known to be, and an end to reading them."""

MOST_PAGES_OF_GROUPS = 1_000
"""A hundred days of a thousand combinations, or the hours of four: as many as a meter has unless it says otherwise."""

MOST_DIGITS = 100
"""A sum of what Metronome shows is rounded nowhere."""

STEPS: Mapping[dt.timedelta, Literal["HOUR", "DAY"]] = {HOUR: "HOUR", DAY: "DAY"}

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

FORBIDDEN, NOT_FOUND = 403, 404

Row = Mapping[str, object]

Turn = Callable[[], Awaitable[None]]
"""Waits until one more call may be made."""


class Invoice(NamedTuple):
    """A usage invoice: what it covers, and what it is: DRAFT, FINALIZED or VOID."""

    id: str
    span: Span
    status: str


class Answer(Protocol):
    """What the library gives for a call whose answer it is not to read."""

    @property
    def http_response(self) -> "httpx.Response": ...  # noqa: D102


class Account:
    """Reads the environment that a token belongs to."""

    def __init__(self, client: Client, sink: str, meters: Mapping[str, MetronomeMeter]) -> None:
        self.client = client
        self._sink = sink
        self._meters = meters
        self._metrics: dict[str, Metric] = {}
        """What was found of metrics, by our meters: neither filters nor group keys of one ever change
        (docs.metronome.com, API reference, create a billable metric)."""

    async def problems(self, names: Iterable[str]) -> list[str]:
        """Say in what the environment does not fit the events of these meters of ours; an empty list if it does.

        Raises SinkUnreachable, SinkHalted or SinkError when it does not say.
        """
        await self._may_send()
        problems, listed = [], None
        for name in names:
            meter = self._meters[name]
            if meter.metric_id:
                metrics = self.client.api.v1.billable_metrics.with_raw_response
                found = await self._found(metrics.retrieve(billable_metric_id=meter.metric_id))
                if found is None:
                    problems.append(
                        f"Meter {name}: Metronome has no billable metric {meter.metric_id}. Correct `metronome.metric_id`."
                    )
                    continue
                candidates = [found]
            else:
                listed = await self._list_metrics() if listed is None else listed
                candidates = [metric for metric in listed if fitting.of_type(metric, meter)]
            problems += fitting.misfits(name, meter, candidates)
        return problems

    async def total(self, name: str, customer: str, span: Span) -> Decimal:
        """Return what Metronome has counted of one of our meters for a customer; the span lies on whole UTC hours.

        Raises SinkUnreachable, SinkHalted or SinkError when there is no answer that says so, above all CustomerUnknown.
        """
        step = DAY if is_whole(span, DAY) else HOUR
        found = await self.breakdown(name, customer, span, step)
        with localcontext(prec=MOST_DIGITS):
            return sum(found.values(), ZERO)

    async def breakdown(
        self, name: str, customer: str, span: Span, step: dt.timedelta
    ) -> dict[dt.datetime, Decimal]:
        """Return the same for each UTC hour or day of the span, by its start; where it is zero there is no entry.

        Raises SinkUnreachable, SinkHalted or SinkError.
        """
        self._refuse_odd(span, step)
        metric, keys = await self._counting(name)
        known = await self._customer(customer)
        group = {key: self._meters[name].properties[key] for key in keys}
        rows = await (
            self._usage_of(metric, known, span, step, keys, group)
            if group
            else self._usage(metric, known, span, step)
        )
        found: dict[dt.datetime, Decimal] = {}
        for row in rows:
            start, value = _start(row, "starting_on" if group else "start_timestamp"), _value(row)
            asked = _group(row) == group if group else _whose(row) == (known, metric)
            if not asked:
                raise SinkError(f"Metronome's usage of {name} is about somebody or something else.")
            if start in found or not is_boundary(start, step):
                raise SinkError(f"Metronome's usage of {name} by {STEPS[step]} makes no sense at {start}.")
            found[start] = value
        return {start: value for start, value in found.items() if start in span and value}

    async def by_combination(
        self, name: str, customer: str, span: Span, step: dt.timedelta, turn: Turn
    ) -> dict[Dimensions, dict[dt.datetime, Decimal]] | None:
        """Return the same for each combination of the meter's dimensions; None if the metric has no group key for them.

        For each page after the first it waits for its `turn`: they are as many as combinations and hours or days fill.
        Raises SinkUnreachable, SinkHalted or SinkError.
        """
        self._refuse_odd(span, step)
        meter = self._meters.get(name)
        if meter is None or not meter.dimensions:
            return None
        metric = await self._metric_of(name, meter)
        keys = groups.apart(metric, name, self._meters)
        if keys is None:
            return None
        own = {key: meter.properties[key] for key in keys if key in meter.properties}
        known = await self._customer(customer)
        rows = await self._usage_of(str(metric.get("id")), known, span, step, keys, own, turn)
        found: dict[Dimensions, dict[dt.datetime, Decimal]] = {}
        for row in rows:
            group, start = _group(row), _start(row, "starting_on")
            if (
                not isinstance(group, Mapping)
                or group.keys() != {*keys}
                or any(group[k] != own[k] for k in own)
            ):
                raise SinkError(f"Metronome's usage of {name} is about somebody or something else.")
            of = found.setdefault(_combination(meter, group), {})
            if start in of or not is_boundary(start, step):
                raise SinkError(f"Metronome's usage of {name} by {STEPS[step]} makes no sense at {start}.")
            of[start] = _value(row)
        return {
            each: {start: value for start, value in of.items() if start in span and value}
            for each, of in found.items()
        }

    async def why_unknown(self, customer: str) -> str | None:
        """Say why Metronome knows no customer by this ingest alias or id; None if it knows one.

        Raises SinkUnreadable if the token may not ask, SinkUnreachable, SinkHalted or SinkError if there is no answer.
        """
        try:
            await self._customer(customer)
        except CustomerUnknown as unknown:
            return str(unknown)
        return None

    async def readiness(
        self, customer: str, at: dt.datetime, now: dt.datetime, *, parallel: bool
    ) -> Readiness:
        """Say what keeps a customer from being billed right from an instant on, and what cannot be seen from here.

        Raises SinkUnreachable, SinkHalted or SinkError.
        """
        try:
            known_as = await self._customer(customer)
        except CustomerUnknown as unknown:
            return Readiness((str(unknown),))
        customers = self.client.api.v1.customers.with_raw_response
        known = await self._found(customers.retrieve(customer_id=known_as)) or {}
        contracts = self.client.api.v2.contracts.with_raw_response
        ask = partial(contracts.list, customer_id=known_as, covering_date=wire.instant(at))
        covering = await self._pages(ask, "contracts")
        missing = readiness.missing(customer, known, covering, at, now, parallel=parallel)
        unseen = readiness.unseen(customer, known, at, now)
        return Readiness(tuple(missing), (unseen,) if unseen is not None else ())

    async def invoices(self, customer: str) -> list[Invoice]:
        """Return the usage invoices of a customer; those that do not say what they cover are left out.

        Raises SinkUnreachable, SinkHalted or SinkError, above all CustomerUnknown.
        """
        known = await self._customer(customer)
        read = self.client.api.v1.customers.invoices.with_raw_response
        ask = partial(read.list, customer_id=known, type="USAGE", limit=PAGE, skip_zero_qty_line_items=True)
        rows = await self._pages(ask, "invoices")
        spans = [(row, _span(row)) for row in rows if row.get("type", "USAGE") == "USAGE"]
        return [
            Invoice(str(row.get("id")), span, str(row.get("status")).upper())
            for row, span in spans
            if span is not None
        ]

    async def cannot_promise(self) -> list[str]:
        """Say what the token is too little for, although it can send. Nothing is said where no customer is there to ask for.

        Raises SinkUnreachable, SinkHalted or SinkError.
        """
        mixed = await self._all_mixed()
        customers = self.client.api.v1.customers.with_raw_response
        read = self.client.api.v1.customers.invoices.with_raw_response
        try:
            found = _rows(_object(await self._ask(customers.list(limit=1))))
            if found:
                await self._ask(read.list(customer_id=str(found[0].get("id")), limit=1))
        except SinkError:
            raise
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            failure = self.client.describe(error)
            if isinstance(failure, NoResponse) or failure.status != FORBIDDEN:
                self._raise(error)
            sentence = (
                f"its token may not read customers and invoices ({describe(failure)}), so a decrease is sent even when "
                "its invoice is finalized and no longer changes: grant it, or look there before you release a decrease"
            )
            return [*mixed, sentence]
        return mixed

    async def _all_mixed(self) -> list[str]:
        """Say which meters are added up with others in figures that do not tell them apart."""
        mixed = []
        for name in self._meters:
            if groups.may_share(name, self._meters):
                try:
                    await self._counting(name)
                except MetersMixed as error:
                    mixed.append(f"{error}: events in doubt wait for a person, and nothing is compared")
                except (SinkUnreachable, SinkHalted):
                    raise
                except SinkError:
                    continue  # what does not fit is said by `problems`
        return mixed

    async def _may_send(self) -> None:
        """Ask whether the token may send events, without sending one: an empty request is refused, but not the token.

        That it is answered with a 400 is how Segment's connector checks a token; Metronome does not document it.
        """
        try:
            await self.client.ingest(b"[]")
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            failure = self.client.describe(error)
            if isinstance(failure, NoResponse) or failure.status not in (400, 422):
                self._raise(error)

    async def _usage(self, metric: str, customer: str, span: Span, step: dt.timedelta) -> list[Row]:
        ask = partial(
            self.client.api.v1.usage.with_raw_response.list,
            starting_on=wire.instant(floor(span.start, DAY)),
            ending_before=wire.instant(definitions.ceiling(span.end, DAY)),
            window_size=STEPS[step],
            billable_metrics=[{"id": metric}],
            customer_ids=[customer],
        )
        return await self._pages(ask, "usage")

    @staticmethod
    def _refuse_odd(span: Span, step: dt.timedelta) -> None:
        if step not in STEPS or not is_whole(span, step):
            raise SinkError(
                f"Metronome counts by whole UTC hours and days, and {span} is not made of such. Look for the event in "
                "Metronome's event search, by its identifier."
            )

    async def _usage_of(
        self,
        metric: str,
        customer: str,
        span: Span,
        step: dt.timedelta,
        keys: GroupKey,
        only: Mapping[str, str],
        turn: Turn | None = None,
    ) -> list[Row]:
        """Read the usage of groups, `only` of those with some values."""
        ask = partial(
            self.client.api.v1.usage.with_raw_response.list_with_groups,
            billable_metric_id=metric,
            customer_id=customer,
            starting_on=wire.instant(floor(span.start, DAY)),
            ending_before=wire.instant(definitions.ceiling(span.end, DAY)),
            window_size=STEPS[step],
            group_key=list(keys),
            limit=PAGE,
        )
        if only:
            ask = partial(ask, group_filters={key: [value] for key, value in only.items()})
        return await self._pages(ask, "usage by group", MOST_PAGES_OF_GROUPS, turn)

    async def _customer(self, name: str) -> str:
        """Return the id of the customer with an ingest alias; an alias may look like an id, so it is asked for first.

        Raises CustomerUnknown if nobody has the alias, or more than one.
        """
        customers = self.client.api.v1.customers.with_raw_response
        found = await self._pages(partial(customers.list, ingest_alias=name), "customers")
        if len(found) == 1 and isinstance(found[0].get("id"), str):
            return str(found[0]["id"])
        if not found and UUID.fullmatch(name) and await self._found(customers.retrieve(customer_id=name)):
            return name
        raise CustomerUnknown(
            f"Metronome has {len(found) or 'no'} customers with the ingest alias {name}, so there is no usage of it. "
            "Give the alias to one customer there."
        )

    async def _counting(self, name: str) -> tuple[str, GroupKey]:
        """Return the id of the metric that sums one of our meters, and the group key by which to ask for it, if any.

        Raises SinkError if it is none of ours any more, above all MetersMixed if nothing tells it from another one.
        """
        meter = self._meters.get(name)
        if meter is None:
            raise SinkError(
                f"Meter {name} no longer feeds sink {self._sink}, so it cannot be looked up there: put it back."
            )
        if meter.metric_id and not groups.may_share(name, self._meters):
            return meter.metric_id, ()
        metric = await self._metric_of(name, meter)
        keys = groups.telling_apart(metric, name, self._meters)
        if keys is None:
            raise MetersMixed(self._mixed(metric, name))
        return str(metric.get("id")), keys

    def _mixed(self, metric: Metric, name: str) -> str:
        others = " and ".join(groups.beside(metric, name, self._meters))
        return (
            f"Metronome's metric {metric.get('name')} ({metric.get('id')}) adds up {name} and {others}, and has no group "
            "key by which these differ, so none of its figures is theirs: give it one over `metronome.properties`, or each "
            "its metric"
        )

    async def _metric_of(self, name: str, meter: MetronomeMeter) -> Metric:
        """Return the metric that sums one of our meters. Raises SinkError if there is none, or more than one."""
        if name not in self._metrics:
            if meter.metric_id:
                metrics = self.client.api.v1.billable_metrics.with_raw_response
                one = await self._found(metrics.retrieve(billable_metric_id=meter.metric_id))
                found = [] if one is None else [one]
            else:
                listed = await self._list_metrics()
                found = [
                    each for each in listed if fitting.of_type(each, meter) and fitting.sums(each, meter)
                ]
            if len(found) != 1:
                raise SinkError(
                    f"Metronome has {len(found) or 'no'} billable metrics that sum {meter.quantity_property} of event type "
                    f"{meter.event_type}. Name the one to read under `metronome.metric_id` of meter {name}."
                )
            self._metrics[name] = found[0]
        return self._metrics[name]

    async def _found(self, call: Awaitable[Answer]) -> Row | None:
        """Return the one thing that a call asks for by its id; None if there is none."""
        try:
            answer = _object(await self._ask(call))
        except SinkError:
            raise
        except Exception as error:  # noqa: BLE001 - turned into ours, and raised
            failure = self.client.describe(error)
            if isinstance(failure, Refusal) and failure.status in (400, NOT_FOUND):
                return None
            self._raise(error)
        found = answer.get("data")
        return found if isinstance(found, Mapping) else None

    async def _list_metrics(self) -> list[Metric]:
        metrics = self.client.api.v1.billable_metrics.with_raw_response
        return await self._pages(partial(metrics.list, limit=PAGE), "billable metrics")

    async def _pages(
        self,
        ask: Callable[..., Awaitable[Answer]],
        what: str,
        most: int = MOST_PAGES,
        turn: Turn | None = None,
    ) -> list[Row]:
        """Return the rows of all pages. Raises SinkUnreachable, SinkHalted or SinkError."""
        rows: list[Row] = []
        cursor: dict[str, object] = {}
        for number in range(most):
            if number and turn is not None:
                await turn()
            try:
                answer = _object(await self._ask(ask(extra_query=cursor)))
            except SinkError:
                raise
            except Exception as error:  # noqa: BLE001 - turned into ours, and raised
                self._raise(error)
            data, following = answer.get("data"), answer.get("next_page")
            if not isinstance(data, list) or not all(isinstance(each, Mapping) for each in data):
                raise SinkError(f"Metronome's answer to sink {self._sink} is no list of {what}.")
            rows += data
            if not following:
                return rows
            if cursor.get("next_page") == following:
                raise SinkError(f"Metronome's list of {what} goes round in a circle.")
            cursor = {"next_page": str(following)}
        raise SinkError(f"Metronome lists more than {most} pages of {what}; ask for a shorter span.")

    async def _ask(self, call: Awaitable[Answer]) -> bytes:
        async with asyncio.timeout(self.client.timeout_seconds):
            return (await call).http_response.content

    def _raise(self, error: Exception) -> NoReturn:
        failure = self.client.describe(error)
        if isinstance(failure, NoResponse):
            raise SinkUnreachable(
                f"Metronome gave no answer to sink {self._sink}: {failure.what}."
            ) from error
        sentence = (
            why_halt(failure, self._sink)
            or f"Metronome did not say what sink {self._sink} asked: {describe(failure)}."
        )
        if failure.status >= 500 or failure.status == 429:
            raise SinkUnreachable(sentence) from error
        if failure.status == FORBIDDEN:
            raise SinkUnreadable(sentence) from error
        raise (SinkHalted if why_halt(failure, self._sink) else SinkError)(sentence) from error


def _object(content: bytes) -> Mapping[str, object]:
    """Read an answer; its numbers keep all their digits. Raises SinkError if it is no JSON object."""
    try:
        answer = json.loads(content, parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise SinkError("Metronome's answer is no JSON.") from error
    if not isinstance(answer, Mapping):
        raise SinkError("Metronome's answer is no JSON object.")
    return answer


def _rows(answer: Mapping[str, object]) -> list[Row]:
    """Return the rows of a page. Raises SinkError if it has none."""
    data = answer.get("data")
    if not isinstance(data, list) or not all(isinstance(each, Mapping) for each in data):
        raise SinkError("Metronome's answer is no list.")
    return data


def _span(row: Row) -> Span | None:
    """Return what an invoice covers; None if it does not say."""
    try:
        start, end = (
            dt.datetime.fromisoformat(str(row.get(name))) for name in ("start_timestamp", "end_timestamp")
        )
    except ValueError:
        return None
    return None if start.tzinfo is None or end.tzinfo is None or start >= end else Span(start, end)


def _whose(row: Row) -> tuple[object, object]:
    """Return of which customer and metric a row is."""
    return row.get("customer_id"), row.get("billable_metric_id")


def _group(row: Row) -> object:
    """Return of which group a row is: what each property of the group key is there."""
    group = row.get("group")
    if group is None and row.get("group_key") is not None:  # the older form, of one property
        group = {row["group_key"]: row.get("group_value")}
    return group


def _combination(meter: MetronomeMeter, group: Mapping[str, object]) -> Dimensions:
    """Return which combination of dimensions a group is, of those that its events have."""
    named = {name: group[key] for name, key in meter.dimensions.items()}
    return of_mapping({name: _kept(str(value)) for name, value in named.items() if value is not None})


def _kept(value: str) -> str:
    """Write what somebody else may have sent so that a ledger can keep it: no value of ours has such characters."""
    broken = not value.isprintable() and any(category(each) in {"Cc", "Cs"} for each in value)
    return ascii(value) if broken else value


def _start(row: Row, name: str) -> dt.datetime:
    """Return when a window of usage begins, by the name of the field. Raises SinkError if it does not say."""
    text = row.get(name)
    try:
        start = dt.datetime.fromisoformat(str(text))
    except ValueError as error:
        raise SinkError(f"Metronome's usage begins at no time but at {text!r}.") from error
    if start.tzinfo is None:
        raise SinkError(f"Metronome's usage begins at {text!r}, which has no zone.")
    return start.astimezone(dt.UTC)


def _value(row: Row) -> Decimal:
    """Return a window's quantity, none being zero. Raises SinkError if it is no number."""
    value = row.get("value")
    if value is None:
        return ZERO
    if not isinstance(value, Decimal) or not value.is_finite():
        raise SinkError(f"Metronome's usage shows {value!r}, which is no quantity.")
    return value
