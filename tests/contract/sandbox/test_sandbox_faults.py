"""Faults: each does to a request what its name says, and to the state neither more nor less."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import FaultSettings, RunningSandbox
from aggregator.sandbox.errors import ApiError
from aggregator.sandbox.faults import Faults, Victim
from tests.contract.sandbox.sandbox_calls import (
    EVENTS,
    TEST_KEY,
    call,
    connect,
    event_form,
    meter_id,
    post_event,
    send,
    used,
)


def raw_exchange(url: str, form: dict[str, str]) -> bytes:
    """Send one event over a bare socket and return every byte that comes back until it is closed."""
    parts = urlsplit(url)
    body = urlencode(form).encode()
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TEST_KEY}\r\nContent-Length: {len(body)}\r\n"
    received = b""
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize(("fault", "counted"), [("drop_before", 0.0), ("drop_after", 5.0)])
def test_a_dropped_connection_is_closed_without_a_byte(
    sandbox: RunningSandbox, stripe_client: StripeClient, fault: str, counted: float
) -> None:
    """The client sees its socket closed; the event was counted only if dropped after."""
    sandbox.set_faults(**{fault: 1.0})
    assert raw_exchange(sandbox.url, event_form("5")) == b""
    assert used(stripe_client) == counted
    assert sandbox.stats()["dropped"] == 1


def test_a_dropped_connection_is_a_connection_error_to_the_library(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """It cannot know whether the event was taken; the resend tells it."""
    sandbox.set_faults(drop_after=1.0)
    with pytest.raises(stripe.APIConnectionError):
        send(stripe_client, identifier="e-1")
    sandbox.set_faults()
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        send(stripe_client, identifier="e-1")


@pytest.mark.parametrize(("fault", "counted"), [("error_before", 0.0), ("error_after", 5.0)])
def test_a_500_says_nothing_about_what_was_done(
    sandbox: RunningSandbox, stripe_client: StripeClient, fault: str, counted: float
) -> None:
    """Both look the same to the sender; only one counted."""
    sandbox.set_faults(**{fault: 1.0})
    with pytest.raises(stripe.APIError) as refusal:
        send(stripe_client, "5")
    assert refusal.value.http_status == 500
    assert refusal.value.error is not None
    assert refusal.value.error.type == "api_error"
    assert used(stripe_client) == counted
    assert sandbox.stats()["answered_500"] == 1


@pytest.mark.parametrize(("retry", "header"), [(None, None), (True, "true"), (False, "false")])
@pytest.mark.parametrize("code", ["rate_limit", "lock_timeout"])
def test_a_429_carries_the_retry_header_it_was_told_to(
    sandbox: RunningSandbox, retry: object, header: str | None, code: str
) -> None:
    """With, against, or without advice; nothing is counted."""
    sandbox.set_faults(too_many_requests=1.0, retry_header=retry, too_many_requests_code=code)
    answer = post_event(sandbox.url, event_form())
    assert (answer.status, answer.json["error"]["code"]) == (429, code)
    assert answer.headers["stripe-should-retry"] == header
    assert sandbox.events() == []
    assert sandbox.stats()["answered_429"] == 1


def test_the_library_sees_a_rate_limit_error(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """A 429 is what it calls one."""
    sandbox.set_faults(too_many_requests=1.0)
    with pytest.raises(stripe.RateLimitError):
        send(stripe_client)


def test_beyond_the_rate_limit_there_are_429s(sandbox: RunningSandbox) -> None:
    """A limit of one an hour lets one through."""
    sandbox.set_faults(rate_limit_per_second=1 / 3600, retry_header=True)
    answers = [post_event(sandbox.url, event_form()) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 429, 429]
    assert answers[1].headers["stripe-should-retry"] == "true"


def test_a_late_answer_is_late_and_the_event_is_not(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """A sender that gives up waiting has been counted all the same."""
    sandbox.set_faults(late=1.0, late_seconds=1.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, stripe_client, "5")
        while sandbox.stats()["accepted"] == 0:
            assert not waiting.done()
        assert used(connect(sandbox.url)) == 5.0
        assert not waiting.done()
        assert waiting.result().object == "billing.meter_event"


def test_chosen_customers_are_refused_with_the_chosen_words(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """The others are not touched."""
    sandbox.set_faults(refuse_customers=["cus_bad"], refuse_message="Not this one.")
    with pytest.raises(stripe.InvalidRequestError, match="Not this one"):
        send(stripe_client, customer="cus_bad")
    send(stripe_client, customer="cus_good")


def test_faults_can_be_kept_to_chosen_customers(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Everyone else's events pass."""
    sandbox.set_faults(error_before=1.0, only_customers=["cus_bad"])
    with pytest.raises(stripe.APIError):
        send(stripe_client, customer="cus_bad")
    send(stripe_client, customer="cus_good")


def test_faults_touch_events_only_unless_told(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """With `applies_to: all` the reading calls fail too."""
    sandbox.set_faults(error_before=1.0)
    meter_id(stripe_client)
    sandbox.set_faults(error_before=1.0, applies_to="all")
    with pytest.raises(stripe.APIError):
        meter_id(stripe_client)


def test_faults_can_be_limited_to_a_number_of_times(sandbox: RunningSandbox) -> None:
    """After two strikes the rest are spared."""
    sandbox.set_faults(error_before=1.0, times=2)
    assert [post_event(sandbox.url, event_form()).status for _ in range(4)] == [500, 500, 200, 200]
    assert sandbox.stats()["faults_struck"] == 2


def fates(settings: FaultSettings, count: int = 200) -> list[object]:
    """Return what each of many requests would meet."""
    faults = Faults(settings)
    met: list[object] = []
    for _ in range(count):
        try:
            met.append(faults.draw(Victim("acct_a", {"cus_a"}, 1)))
        except ApiError as error:
            met.append(error.reason)
    return met


def test_the_same_seed_gives_the_same_faults() -> None:
    """And another seed gives others, of about the chance asked for."""
    settings = FaultSettings(
        error_before=0.3,
        drop_after=0.3,
        latency_seconds=(0.1, 0.2),
        deliver_late=0.1,
        deliver_twice=0.1,
        reject_later=0.1,
        reject_after_seconds=(5, 50),
        seed=7,
    )
    assert fates(settings) == fates(settings)
    assert fates(settings) != fates(replace(settings, seed=8))
    assert 30 < fates(settings).count("error_before") < 90


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"errorbefore": 1}, "errorbefore"),
        ({"error_before": 1.5}, "error_before"),
        ({"drop_after": -0.1}, "drop_after"),
        ({"late": "often"}, "late"),
        ({"late": True}, "late"),
        ({"latency_seconds": [2, 1]}, "latency_seconds"),
        ({"rate_limit_per_second": 0}, "rate_limit_per_second"),
        ({"retry_header": "yes"}, "retry_header"),
        ({"applies_to": "some"}, "applies_to"),
        ({"only_customers": "cus_a"}, "only_customers"),
        ({"times": -1}, "times"),
        ({"times": 1.5}, "times"),
        ({"too_many_requests_code": "slow"}, "too_many_requests_code"),
        ({"deliver_late": 2}, "deliver_late"),
        ({"deliver_twice": "once"}, "deliver_twice"),
        ({"late_delivery_seconds": [3, 2]}, "late_delivery_seconds"),
        ({"reject_later": -1}, "reject_later"),
        ({"reject_after_seconds": "soon"}, "reject_after_seconds"),
        ({"reject_customers": "cus_a"}, "reject_customers"),
        ({"reject_code": 5}, "reject_code"),
        ({"count_until_rejected": 1}, "count_until_rejected"),
        ({"black_hole": "deep"}, "black_hole"),
        ({"black_hole_processes": None}, "black_hole_processes"),
    ],
)
def test_a_setting_that_is_none_is_refused(
    sandbox: RunningSandbox, settings: dict[str, object], named: str
) -> None:
    """A misspelt fault would make a test pass that should not; the old settings stay."""
    sandbox.set_faults(error_before=0.5)
    with pytest.raises(ValueError, match=named):
        sandbox.set_faults(**settings)
    assert sandbox.control("GET", "faults")["error_before"] == 0.5


def test_what_was_set_can_be_read_back(sandbox: RunningSandbox) -> None:
    """The answer of GET can be sent with PUT."""
    sandbox.set_faults(
        latency_seconds=[0.1, 0.2],
        late_delivery_seconds=[1, 2],
        reject_after_seconds=5,
        only_customers=["cus_b", "cus_a"],
        reject_customers=["cus_c"],
        retry_header=False,
    )
    shown = sandbox.control("GET", "faults")
    assert shown["latency_seconds"] == [0.1, 0.2]
    assert (shown["late_delivery_seconds"], shown["reject_after_seconds"]) == ([1, 2], 5)
    assert sandbox.set_faults(**shown) == shown


def test_a_replaced_setting_leaves_nothing_of_the_old(sandbox: RunningSandbox) -> None:
    """PUT replaces the whole."""
    sandbox.set_faults(error_before=1.0)
    sandbox.set_faults(late_seconds=1.0)
    assert post_event(sandbox.url, event_form()).status == 200


def test_control_calls_never_fail_by_a_fault(sandbox: RunningSandbox) -> None:
    """Whatever is broken, it can be mended."""
    sandbox.set_faults(drop_before=1.0, applies_to="all")
    assert call(sandbox.url, "GET", "/_sandbox/stats").status == 200
