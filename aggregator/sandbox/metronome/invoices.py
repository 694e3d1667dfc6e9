"""Invoices: one for each customer and calendar month in UTC, a draft until some time after the month has ended.

From docs.metronome.com, how invoicing works, and the API reference: usage changes an invoice as long as it is a draft, which
it stays for 24 hours after its period; a finalized one may be voided, and regenerated under another id from what has come in
by then. Nothing is priced here, so that every total is zero: it is quantities that an invoice shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from aggregator.sandbox.metronome.customers import Customer
from aggregator.sandbox.metronome.events import Log, Usage
from aggregator.sandbox.metronome.metrics import Metrics
from aggregator.sandbox.metronome.settings import MetronomeRules
from aggregator.sandbox.metronome.wire import bad_request, instant, not_found, read_instant

CURRENCY = {"id": "2714e483-4ff1-48e4-9e25-ac732e8f24f2", "name": "USD (cents)"}


@dataclass
class Invoice:
    """One invoice over `[start, end)`. Without an end of its own, its draft ends with the grace after its period."""

    id: str
    start: float
    end: float
    finalized_at: float | None = None
    voided: bool = False
    regenerated_from: str | None = None

    def closes_at(self, rules: MetronomeRules) -> float:
        """Return from when on usage no longer changes it."""
        return self.end + rules.invoice_grace_seconds if self.finalized_at is None else self.finalized_at

    def status(self, now: float, rules: MetronomeRules) -> str:
        """Return what it is at a moment."""
        if self.voided:
            return "VOID"
        return "FINALIZED" if now >= self.closes_at(rules) else "DRAFT"


class Invoices:
    """All invoices: made when they are first asked for, from the month of a customer's first usage on."""

    def __init__(self) -> None:
        self._by_month: dict[tuple[str, float], list[Invoice]] = {}

    def of(self, customer: Customer, log: Log, now: float) -> list[Invoice]:
        """Return a customer's invoices, the earliest period first."""
        events = log.of([customer.id, *customer.aliases], now)
        first = min([customer.created_at, *(each.timestamp for each in events)])
        found = []
        for start, end in _months(first, now):
            found += self._by_month.setdefault((customer.id, start), [Invoice(str(uuid4()), start, end)])
        return found

    def void(self, invoice: str, now: float, rules: MetronomeRules) -> Invoice:
        """Take an invoice back. Raise ApiError if there is none, or it is not finalized."""
        found = self._get(invoice)[-1]
        if found.status(now, rules) != "FINALIZED":
            raise bad_request("Only a finalized invoice can be voided.")
        found.voided = True
        return found

    def regenerate(self, invoice: str, now: float) -> Invoice:
        """Make an invoice anew that was voided: finalized, from what is there now."""
        month = self._get(invoice)
        old = month[-1]
        if not old.voided or old.id != invoice:
            raise bad_request("Only an invoice that is void, and was not made anew, can be regenerated.")
        month.append(Invoice(str(uuid4()), old.start, old.end, now, regenerated_from=old.id))
        return month[-1]

    def _get(self, invoice: str) -> list[Invoice]:
        for month in self._by_month.values():
            if any(each.id == invoice for each in month):
                return month
        raise not_found(f"There is no invoice {invoice}.")


def rows(
    found: Sequence[Invoice],
    customer: Customer,
    events: Sequence[Usage],
    metrics: Metrics,
    query: Mapping[str, str],
    now: float,
    rules: MetronomeRules,
) -> Iterator[dict[str, object]]:
    """Yield those that a call asks for, as it shows them. Raise ApiError for what Metronome refuses."""
    if query.get("sort", "date_asc") not in ("date_asc", "date_desc"):
        raise bad_request("sort must be date_asc or date_desc.")
    least, beyond = (
        read_instant(query[name], name) if name in query else None
        for name in ("starting_on", "ending_before")
    )
    for each in reversed(found) if query.get("sort") == "date_desc" else found:
        status = each.status(now, rules)
        if query.get("status", status) != status or query.get("type", "USAGE") != "USAGE":
            continue
        if (least is not None and each.start < least) or (beyond is not None and each.end >= beyond):
            continue
        closes = each.closes_at(rules)
        counted = [
            event
            for event in events
            if each.start <= event.timestamp < each.end and event.received_at < closes
        ]
        issued = {"issued_at": instant(closes)} if status != "DRAFT" else {}
        again = {"regenerated_from_invoice_id": each.regenerated_from} if each.regenerated_from else {}
        yield {
            "id": each.id,
            "customer_id": customer.id,
            "credit_type": CURRENCY,
            "status": status,
            "type": "USAGE",
            "total": 0,
            "start_timestamp": instant(each.start),
            "end_timestamp": instant(each.end),
            "line_items": list(_lines(counted, metrics, query, rules)),
            **issued,
            **again,
        }


def _lines(
    events: Sequence[Usage], metrics: Metrics, query: Mapping[str, str], rules: MetronomeRules
) -> Iterator[dict[str, object]]:
    for metric in metrics.listed():
        quantity = metric.aggregate([each for each in events if metric.matches(each)], rules)
        if quantity or query.get("skip_zero_qty_line_items") != "true":
            yield {
                "name": metric.name,
                "type": "usage",
                "credit_type": CURRENCY,
                "quantity": quantity or 0,
                "total": 0,
            }


def _months(first: float, last: float) -> Iterator[tuple[float, float]]:
    """Yield the calendar months from one instant to another, each with its end."""
    start = datetime.fromtimestamp(first, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while start.timestamp() <= last:
        following = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
        yield start.timestamp(), following.timestamp()
        start = following
