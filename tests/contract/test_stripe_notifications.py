"""What Stripe tells and takes back, over HTTP: the official library against the sandbox, in each of its open points."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

import pytest

from aggregator.core.model import Answer, Event, EventId, Span
from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.stripe import StripeMeter, StripeNotificationClient, StripeSink
from aggregator.sinks.stripe.limits import Rates

KEY = "rk_test_0123456789abcdefghij"
MINUTE = dt.timedelta(minutes=1)
NOW = utcnow().replace(second=0, microsecond=0)
AT = NOW - 60 * MINUTE
METERS = {
    "api": StripeMeter(event_name="api_requests"),
    "stored": StripeMeter(event_name="stored_gb", event_time_window="hour"),
}
NAME = "agg_" + "a" * 20


@pytest.fixture(scope="module")
def shared_sandbox() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    specs = (MeterSpec("api_requests"), MeterSpec("stored_gb", "sum", "hour"), MeterSpec("others"))
    with running(SandboxOptions(meters=specs)) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> RunningSandbox:
    """The sandbox, as it was at the start; a report is there at once."""
    shared_sandbox.reset()
    shared_sandbox.set_rules(report_window_seconds=0)
    return shared_sandbox


@pytest.fixture
def sink(sandbox: RunningSandbox) -> Iterator[StripeSink]:
    """A sink on the sandbox."""
    sink = StripeSink(
        "stripe",
        api_key=KEY,
        mode="test",
        api_base=sandbox.url,
        rates=Rates(1_000, 1_000, stream_by_event=True),
        timeout=dt.timedelta(seconds=5),
        max_in_flight=16,
        meters=METERS,
    )
    yield sink
    sink.close()


@pytest.fixture
def notification_client(sink: StripeSink) -> StripeNotificationClient:
    """What listens to it."""
    return StripeNotificationClient(sink, METERS, secrets=("whsec_1",), livemode=False)


def send(sink: StripeSink, customer: str = "cus_a", name: str = NAME, number: int = 1) -> None:
    """Send an event, which is accepted."""
    event = Event(EventId(number), "api", customer, AT, 0, Decimal(5), Decimal(5), AT, name, 1, None)
    [verdict] = sink.send([event], lambda: True)
    assert verdict.answer is Answer.ACCEPTED, verdict


def lately() -> Span:
    return Span(utcnow() - 60 * MINUTE, utcnow() + MINUTE)


def test_a_report_is_listed_and_fetched(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient
) -> None:
    """What Stripe found invalid comes back under the identifier under which it was sent, of the meter of ours."""
    sandbox.set_faults(reject_customers=["cus_a"], reject_after_seconds=0)
    send(sink)
    [notification] = notification_client.listed(lately())
    told = notification_client.fetched(notification.id)
    assert told is not None
    assert told.notification == notification
    [report] = told.reports
    assert (report.meter, report.rejected) == ("api", 1)
    assert [each.identifier for each in report.named] == [NAME]
    assert told.trouble is None


def test_a_list_is_read_to_its_last_page(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient
) -> None:
    """More reports than a page holds, each once, and only those of the span."""
    sandbox.set_faults(reject_customers=["cus_a"], reject_after_seconds=0)
    for number in range(230):
        send(sink, name=f"agg_{number:020x}", number=number + 1)
    sandbox.notify("v1.billing.meter.created")
    listed = notification_client.listed(lately())
    assert len(listed) == len({notification.id for notification in listed}) == 230
    assert notification_client.listed(Span(utcnow() - 60 * MINUTE, utcnow() - 30 * MINUTE)) == []


def test_a_report_on_a_meter_that_is_not_ours(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient
) -> None:
    """It belongs to none of our meters."""
    sandbox.set_faults(reject_customers=["cus_a"], reject_after_seconds=0)
    other = StripeSink(
        "other",
        api_key=KEY,
        mode="test",
        api_base=sandbox.url,
        rates=Rates(1_000, 1_000, stream_by_event=True),
        timeout=dt.timedelta(seconds=5),
        max_in_flight=4,
        meters={"api": StripeMeter(event_name="others")},
    )
    send(other, name="not-ours")
    other.close()
    [notification] = notification_client.listed(lately())
    told = notification_client.fetched(notification.id)
    assert told is not None
    assert [(report.meter, report.named) for report in told.reports] == [("", ())]


def test_a_key_that_may_not_read_events(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient
) -> None:
    """It is refused as a whole when it asks, and sends events as ever."""
    everything_else = ["meters_read", "meter_events_write"]
    sandbox.set_permissions(KEY, *everything_else)
    with pytest.raises(SinkHalted, match="permission"):
        notification_client.listed(lately())
    with pytest.raises(SinkHalted, match="permission"):
        notification_client.fetched("evt_1")
    send(sink)
    sandbox.set_keys()


def test_an_event_that_is_not_there(notification_client: StripeNotificationClient) -> None:
    """An id that Stripe does not know is an error about that event, not about the key."""
    with pytest.raises(SinkError) as raised:
        notification_client.fetched("evt_unknown")
    assert not isinstance(raised.value, SinkHalted | SinkUnreachable)


@pytest.mark.parametrize("complete", [True, False])
def test_an_event_is_cancelled(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient, complete: bool
) -> None:
    """It counts no more; whether Stripe says `pending` or `complete` is passed on."""
    sandbox.set_rules(adjustment_complete_at_once=complete)
    send(sink)
    span = Span(AT, AT + MINUTE)
    assert sink.total("api", "cus_a", span) == 5
    said = notification_client.cancel("api", NAME, "v1")
    assert (said.answer, said.complete) == (Answer.ACCEPTED, complete)
    assert sink.total("api", "cus_a", span) == 0


def test_what_stripe_refuses_to_cancel_is_said_in_its_words(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient
) -> None:
    """An identifier that it does not know, one that is too old, and one that was cancelled before."""
    said = notification_client.cancel("api", "agg_" + "f" * 20, "v1")
    assert (said.answer, said.complete) == (Answer.REFUSED, False)
    sandbox.set_rules(cancel_twice_refused=True)
    send(sink)
    assert notification_client.cancel("api", NAME, "v1").answer is Answer.ACCEPTED
    assert notification_client.cancel("api", NAME, "v1").answer is Answer.REFUSED
    other = "agg_" + "b" * 20
    send(sink, customer="cus_b", name=other, number=2)
    sandbox.set_clock(25 * 3600)
    assert notification_client.cancel("api", other, "v1").answer is Answer.REFUSED
    sandbox.set_clock(0)


def test_a_cancellation_whose_answer_is_lost_may_be_done(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient
) -> None:
    """It is UNKNOWN, never refused."""
    send(sink)
    sandbox.set_faults(drop_after=1.0, applies_to="all", times=1)
    assert notification_client.cancel("api", NAME, "v1").answer is Answer.UNKNOWN
    assert sink.total("api", "cus_a", Span(AT, AT + MINUTE)) == 0


def test_a_key_that_may_not_cancel(
    sandbox: RunningSandbox, sink: StripeSink, notification_client: StripeNotificationClient
) -> None:
    """Nothing left, as far as the event is concerned: it may be asked for again once the key may."""
    send(sink)
    sandbox.set_permissions(KEY, "meters_read")
    said = notification_client.cancel("api", NAME, "v1")
    assert (said.answer, said.complete) == (Answer.UNSENT, False)
    assert "permission" in said.reason
    sandbox.set_keys()


def test_events_that_replace_each_other_are_not_cancelled(
    notification_client: StripeNotificationClient,
) -> None:
    """What a pre-aggregated meter falls back to is not documented; so it is refused, with the reason and a remedy."""
    assert notification_client.cannot_cancel("api") is None
    told = notification_client.cannot_cancel("stored")
    assert told is not None
    assert "correct the source" in told
    assert notification_client.cannot_cancel("gone") is not None
