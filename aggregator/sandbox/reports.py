"""What is found invalid after it was accepted, and the reports on it.

From docs.stripe.com/api/v2/core/events/event-types, `v1.billing.meter.error_report_triggered`: one report per meter and span
of validation, with the number of errors of each kind and samples of them. A report names some events and counts all. Events
that name no meter have reports of their own, `v1.billing.meter.no_meter_found`.

Stripe leaves open what `request.identifier` of a sample holds; here it is the identifier of the event, unless the rules
have it be the `Idempotency-Key` of its call. Here too a report is there as soon as its span is over, spans lie on whole
multiples of their length, and reports come in the order in which their spans end.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from aggregator.sandbox.errors import not_found
from aggregator.sandbox.journal import Note, Record
from aggregator.sandbox.paging import Row
from aggregator.sandbox.rules import Rules
from aggregator.sandbox.times import instant

REPORT_TYPE = "v1.billing.meter.error_report_triggered"
NO_METER_TYPE = "v1.billing.meter.no_meter_found"


class Invalid(NamedTuple):
    """What is wrong with an event: Stripe's code, and words."""

    code: str
    message: str


class Finding(NamedTuple):
    """One event and when it is found invalid; `[start, end)` is the span of the report that tells of it.

    `sequence` is 0 for an event that was never accepted, such as a duplicate; `meter` is empty if there is none; `key`
    is the `Idempotency-Key` of the call that brought it.
    """

    sequence: int
    identifier: str
    meter: str
    code: str
    message: str
    found_at: float
    counts_until_found: bool
    start: float
    end: float
    key: str = ""


class Findings:
    """The invalid events of one account and mode, among them those not yet found."""

    def __init__(self, *, tag: str, context: str | None, note: Note) -> None:
        self._tag = tag
        self._context = context
        self._note = note
        self._by_sequence: dict[int, Finding] = {}
        self._unreported: list[tuple[float, float, str, Finding]] = []
        self._reports: list[Row] = []

    def __len__(self) -> int:
        return len(self._by_sequence)

    def add(
        self,
        where: tuple[int, str, str],
        what: Invalid,
        found_at: float,
        *,
        counts: bool,
        span_seconds: float,
        key: str = "",
    ) -> None:
        """Keep that the event with this sequence, identifier and meter id is found invalid at a moment."""
        span = span_seconds or 1.0
        start = found_at // span * span
        end = start + span if span_seconds else found_at
        finding = Finding(*where, *what, found_at, counts, start, end, key)
        self._note("finding", finding._asdict())
        self._remember(finding)

    def spares(self, sequence: int, now: float) -> bool:
        """Say whether an event may count now."""
        finding = self._by_sequence.get(sequence)
        return finding is None or (finding.counts_until_found and now < finding.found_at)

    def of(self, sequence: int) -> Finding | None:
        """Return what is, or will be, found of an event."""
        return self._by_sequence.get(sequence)

    def found(self, sequence: int, now: float) -> bool:
        """Say whether an event is known to be invalid by now."""
        finding = self._by_sequence.get(sequence)
        return finding is not None and finding.found_at <= now

    def reports(self, now: float, rules: Rules) -> Sequence[Row]:
        """Return every report whose span is over, the earliest first; a report once returned stays as it is."""
        while self._unreported and self._unreported[0][0] <= now:
            self._reports.append(self._report(self._take(), rules))
        return self._reports

    def restore(self, record: Record) -> None:
        """Take a finding back from the state file."""
        self._remember(Finding(**record))

    def _remember(self, finding: Finding) -> None:
        if finding.sequence:
            self._by_sequence[finding.sequence] = finding
        heappush(self._unreported, (finding.end, finding.start, finding.meter, finding))

    def _take(self) -> list[Finding]:
        """Take out the findings of the first report, in the order of receipt."""
        first = self._unreported[0][:3]
        taken = []
        while self._unreported and self._unreported[0][:3] == first:
            taken.append(heappop(self._unreported)[3])
        return taken

    def _report(self, findings: Sequence[Finding], rules: Rules) -> Row:
        one = findings[0]
        count = len(findings)
        related: Row | None = {
            "id": one.meter,
            "type": "billing.meter",
            "url": f"/v1/billing/meters/{one.meter}",
        }
        if not one.meter:
            related = {} if rules.no_meter_related_object == "empty" else None
        return {
            "id": f"evt_{self._tag}{len(self._reports) + 1:08d}",
            "object": "v2.core.event",
            "type": REPORT_TYPE if one.meter else NO_METER_TYPE,
            "created": instant(one.end),
            "livemode": self._tag.startswith("live"),
            "context": self._context,
            "reason": None,
            "related_object": related,
            "data": {
                "developer_message_summary": f"There {'is' if count == 1 else 'are'} {count} invalid "
                f"event{'' if count == 1 else 's'}",
                "reason": {"error_count": count, "error_types": _kinds(findings, rules)},
                "validation_start": instant(one.start),
                "validation_end": instant(one.end),
            },
        }


def after(reports: Sequence[Row], name: str | None) -> Sequence[Row]:
    """Return the reports that come after the one with this id; all for None. Raise ApiError if there is none such."""
    if name is None:
        return reports
    for position, report in enumerate(reports):
        if report["id"] == name:
            return reports[position + 1 :]
    raise not_found("report", name, param="after", status=400)


def _kinds(findings: Iterable[Finding], rules: Rules) -> list[Row]:
    counts: Counter[str] = Counter()
    named: dict[str, list[Row]] = {}
    for finding in findings:
        counts[finding.code] += 1
        if counts[finding.code] <= rules.report_samples:
            named.setdefault(finding.code, []).append(_sample(finding, rules))
    return [
        {"code": code, "error_count": count, "sample_errors": named.get(code, [])}
        for code, count in counts.items()
    ]


def _sample(finding: Finding, rules: Rules) -> Row:
    by_key = rules.sample_identifier == "idempotency_key" and finding.key
    identifier = finding.key if by_key else finding.identifier
    return {"error_message": finding.message, "request": {"identifier": identifier}}
