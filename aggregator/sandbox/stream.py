"""The meter event stream: a hundred events in one call, and nothing said about any of them.

From docs.stripe.com/api/v2/billing/meter-event-stream/create: a 200 with `{}` says only that the batch was taken. Unknown
meters, unusable payloads and duplicates show up in error reports alone. What is no batch at all is refused (assumed).

This is the sandbox's fastest path: a sender is measured against it, ten thousand events a second and more.
"""

from collections.abc import Collection

from aggregator.sandbox.reports import Invalid
from aggregator.sandbox.request import Endpoint, Request
from aggregator.sandbox.sent import read_batch
from aggregator.sandbox.sessions import refuse_expired
from aggregator.sandbox.validation import UNKNOWN_CUSTOMER

PATH = "/v2/billing/meter_event_stream"


def read_events(request: Request) -> None:
    """Read the events of a call, whose session must still be good, and find their meters."""
    if request.session is not None:
        refuse_expired(request.session, request.store.clock.now(), request.rules)
    draft = request.account.events.draft
    request.drafts = [draft(sent) for sent in read_batch(request.body, request.rules)]


def create_events(request: Request) -> dict[str, object]:
    """POST /v2/billing/meter_event_stream."""
    events, store = request.account.events, request.store
    now, rules = store.clock.now(), store.rules
    taken = [events.take(draft, now, rules, key=request.key) for draft in request.drafts]
    request.taken = [event for event in taken if event is not None]
    store.stats.refused["duplicate_identifier"] += len(taken) - len(request.taken)
    refused = store.faults.settings.refuse_customers
    if refused:
        _report_refused(request, refused)
    return {}


def _report_refused(request: Request, customers: Collection[str]) -> None:
    """Have the events of customers who are refused by a fault found invalid at once."""
    store = request.store
    wrong = Invalid(UNKNOWN_CUSTOMER, store.faults.settings.refuse_message)
    for event in request.taken:
        if event.customer in customers and event.reason is None:
            request.account.events.find(event, wrong, store.clock.now(), store.rules, counts=False)


FIXED: dict[tuple[str, str], Endpoint] = {
    ("POST", PATH): Endpoint(create_events, read=read_events, streams=True),
}
