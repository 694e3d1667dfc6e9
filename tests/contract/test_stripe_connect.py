"""Connected accounts over HTTP: one for everything, or one per customer, each with trouble and pace of its own."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from aggregator.core.model import Answer, Span
from aggregator.errors import SinkError, SinkHalted, SinkUnreachable
from aggregator.runtime.clock import utcnow
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.stripe import StripeMeter, StripeSink
from aggregator.sinks.stripe.account_context import Address, Addresses
from aggregator.sinks.stripe.limits import Rates
from tests.contract.events import about_to_leave, judged, send
from tests.contract.making import making
from tests.contract.scripted import EVENTS_V1, SESSION, Asked, Server, Told, refusal, serving

KEY = "sk_test_0123456789abcdefghij"
HOUR = dt.timedelta(hours=1)
HOUR_AGO = utcnow().replace(minute=0, second=0, microsecond=0) - HOUR
WAYS = ("v1", "v2", "stream")

MakeSink = Callable[..., StripeSink]

usage = partial(about_to_leave, HOUR_AGO)


@pytest.fixture(scope="module")
def sandbox_server() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=(MeterSpec("api_requests"), MeterSpec("logins")))) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(sandbox_server: RunningSandbox) -> RunningSandbox:
    """The sandbox as it was at the start, with three connected accounts."""
    sandbox_server.reset()
    sandbox_server.set_connected("acct_1", "acct_2", "acct_3")
    return sandbox_server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that follows a script."""
    with serving() as server:
        server.answer = a_meter
        yield server


@pytest.fixture
def make_sink() -> Iterator[MakeSink]:
    """Make sinks whose customers name their accounts, unless told otherwise, and close them at the end."""
    with making(
        partial(StripeSink, "stripe"),
        api_key=KEY,
        mode="test",
        rates=Rates(1_000.0, 1_000.0, stream_by_event=False),
        timeout=dt.timedelta(seconds=20),
        max_in_flight=16,
        meters={"api": StripeMeter(event_name="api_requests"), "in": StripeMeter(event_name="logins")},
        addresses=Addresses(by_customer=True),
    ) as make:
        yield make


def meter(event_name: str, **changed: object) -> dict[str, object]:
    """A meter as Stripe lists it."""
    return {
        "id": f"mtr_{event_name}",
        "object": "billing.meter",
        "display_name": event_name,
        "event_name": event_name,
        "status": "active",
        "livemode": False,
        "event_time_window": None,
        "default_aggregation": {"formula": "sum"},
        "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "value_settings": {"event_payload_key": "value"},
        **changed,
    }


def listed(*meters: dict[str, object]) -> Told:
    """A page of meters, which is the last one."""
    return Told(200, {"object": "list", "data": list(meters), "has_more": False, "url": "/v1/billing/meters"})


def a_meter(asked: Asked) -> Told | None:
    """Both meters fit, in every account."""
    return listed(meter("api_requests"), meter("logins")) if asked.path == "/v1/billing/meters" else None


def accounts(asked: Sequence[Asked]) -> list[str | None]:
    """Which account each request names."""
    return [each.headers.get("stripe-account") for each in asked]


def test_customers_say_where_they_are() -> None:
    """The account is before the slash, the customer behind it; one without an account is nowhere."""
    each = Addresses(by_customer=True)
    assert each.of("acct_123/cus_456") == Address("acct_123", "cus_456")
    assert each.of("acct_123/acct_9") == Address("acct_123", "acct_9")
    for nowhere in ("cus_456", "acct_123/", "/cus_456", "acct_123", "acct_1 /cus_2", "cus_1/cus_2", ""):
        assert each.of(nowhere) is None
    assert Addresses("acct_1").of("a/b") == Address("acct_1", "a/b")
    assert Addresses().of("cus_456") == Address(None, "cus_456")


# -- one account for everything -------------------------------------------------------------------


@pytest.mark.parametrize("transport", WAYS)
def test_one_account_is_named_by_every_call(server: Server, make_sink: MakeSink, transport: str) -> None:
    """Events and sessions, and all that is only read."""
    server.answer = lambda asked: (
        Told(200, {"object": "account", "id": "acct_9"}) if asked.path == "/v1/account" else a_meter(asked)
    )
    sink = make_sink(server.url, addresses=Addresses("acct_9"), transport=transport)
    assert sink.account() == "acct_9 test"
    assert sink.preflight(["api"]) == []
    with pytest.raises(SinkError):
        sink.total("api", "cus_1", Span(HOUR_AGO, HOUR_AGO + HOUR))  # the script knows no summaries
    assert send(sink, usage("cus_1"), usage("cus_2")) == [Answer.ACCEPTED] * 2
    assert set(accounts(server.asked)) == {"acct_9"}
    assert len(server.asked) >= 5


def test_an_account_that_cannot_be_used_halts(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """It is the configuration's, so a person must correct that."""
    sink = make_sink(sandbox.url, addresses=Addresses("acct_gone"))
    with pytest.raises(SinkHalted, match="Correct `stripe_account`"):
        judged(sink, usage("cus_1"))


# -- each customer its own ------------------------------------------------------------------------


@pytest.mark.parametrize("transport", WAYS)
def test_each_customer_is_billed_in_its_own_account(
    sandbox: RunningSandbox, make_sink: MakeSink, transport: str
) -> None:
    """The same customer name in two accounts is two customers; what comes back is read there, too."""
    sink = make_sink(sandbox.url, transport=transport)
    verdicts = judged(sink, usage("acct_1/cus_a"), usage("acct_2/cus_a"), usage("acct_2/cus_a"))
    assert {verdict.answer for verdict in verdicts} == {Answer.ACCEPTED}
    assert sandbox.totals("api_requests", account="acct_1") == {"cus_a": 1}
    assert sandbox.totals("api_requests", account="acct_2") == {"cus_a": 2}
    assert sandbox.totals("api_requests") == {}
    hour = Span(HOUR_AGO, HOUR_AGO + HOUR)
    assert sink.total("api", "acct_2/cus_a", hour) == 2
    assert sink.breakdown("api", "acct_1/cus_a", hour, HOUR) == {HOUR_AGO: 1}


def test_a_customer_without_an_account_is_refused(sandbox: RunningSandbox, make_sink: MakeSink) -> None:
    """It says what the query has to return; nobody else waits."""
    lost, found = judged(make_sink(sandbox.url), usage("cus_a"), usage("acct_1/cus_a"))
    assert (lost.answer, found.answer) == (Answer.REFUSED, Answer.ACCEPTED)
    assert "customer cus_a names no connected account: let the query return `acct_.../cus_...`" in (
        lost.reason or ""
    )
    assert make_sink(sandbox.url).total("api", "cus_a", Span(HOUR_AGO, HOUR_AGO + HOUR)) == 0


@pytest.mark.parametrize("transport", WAYS)
def test_an_account_that_is_gone_refuses_its_own_events(
    sandbox: RunningSandbox, make_sink: MakeSink, transport: str
) -> None:
    """The reason names the account and what to do; the others are billed."""
    gone, good = judged(
        make_sink(sandbox.url, transport=transport), usage("acct_gone/cus_a"), usage("acct_1/cus_a")
    )
    assert (gone.answer, good.answer) == (Answer.REFUSED, Answer.ACCEPTED)
    assert "acct_gone cannot be used" in (gone.reason or "")
    assert "Let its owner connect it again" in (gone.reason or "")


def test_an_account_is_looked_at_once_before_its_first_event(server: Server, make_sink: MakeSink) -> None:
    """However many of its events come at once; the platform's own is not."""
    server.answer = lambda asked: (
        Told(200, {"object": "account", "id": "acct_9"}) if asked.path == "/v1/account" else a_meter(asked)
    )
    sink = make_sink(server.url)
    assert sink.preflight(["api", "in"]) == []
    assert [asked.path for asked in server.asked] == ["/v1/account"], (
        "the key, which is all there is to look at"
    )
    server.asked.clear()
    judged(sink, *(usage(f"acct_{number % 2}/cus_{number}") for number in range(20)))
    judged(sink, usage("acct_0/cus_1", meter="in"))
    looks = server.to("/v1/billing/meters")
    assert sorted(filter(None, accounts(looks))) == ["acct_0", "acct_1"]
    for account in ("acct_0", "acct_1"):
        whose = [asked.path for asked in server.asked if asked.headers["stripe-account"] == account]
        assert whose.index("/v1/billing/meters") < whose.index(EVENTS_V1)


@pytest.mark.parametrize("transport", WAYS)
def test_who_may_no_longer_leave_after_the_look_does_not(
    server: Server, make_sink: MakeSink, transport: str
) -> None:
    """The look at an account may take a while."""
    may = threading.Event()
    may.set()

    def answer(asked: Asked) -> Told | None:
        may.clear()
        return a_meter(asked)

    server.answer = answer
    (verdict,) = make_sink(server.url, transport=transport).send([usage("acct_1/cus_a")], may.is_set)
    assert verdict.answer is Answer.UNSENT
    assert {asked.path for asked in server.asked} <= {"/v1/billing/meters", SESSION}


def test_a_batch_of_lost_customers_leaves_nothing_behind(server: Server, make_sink: MakeSink) -> None:
    """Nothing of it is ever in hand."""
    sink = make_sink(server.url)
    assert send(sink, usage("cus_a"), usage("cus_b")) == [Answer.REFUSED] * 2
    assert sink._loop.now is not None
    assert sink._loop.now.dispatcher._batches == set()


def test_a_meter_that_does_not_fit_refuses_its_own_events_in_its_account(
    server: Server, make_sink: MakeSink
) -> None:
    """Other meters of the account, and other accounts, go on; once it is mended, so does it."""
    now = [0.0]
    mended: list[bool] = []

    def answer(asked: Asked) -> Told | None:
        bad = asked.headers.get("stripe-account") == "acct_2" and not mended
        if asked.path != "/v1/billing/meters":
            return None
        return listed(meter("api_requests", event_time_window="hour" if bad else None), meter("logins"))

    server.answer = answer
    sink = make_sink(server.url, monotonic=lambda: now[0])
    events = [usage("acct_1/cus_a"), usage("acct_2/cus_a"), usage("acct_2/cus_a", meter="in")]
    fits, bad, other = judged(sink, *events)
    assert (fits.answer, bad.answer, other.answer) == (Answer.ACCEPTED, Answer.REFUSED, Answer.ACCEPTED)
    assert (bad.reason or "").startswith(
        "acct_2: Meter api: the Stripe meter with event name api_requests has"
    )
    assert "a configuration with `stripe_account: acct_2`" in (bad.reason or "")
    mended.append(True)
    assert send(sink, events[1]) == [Answer.REFUSED]
    now[0] = 61.0
    assert send(sink, events[1]) == [Answer.ACCEPTED]


@pytest.mark.parametrize("told", [refusal(500), refusal(429), refusal(403, "Not allowed.")])
def test_an_account_that_cannot_be_looked_at_waits(server: Server, make_sink: MakeSink, told: Told) -> None:
    """Nothing of it leaves, and nobody else waits."""
    server.answer = lambda asked: (
        told
        if asked.path == "/v1/billing/meters" and asked.headers.get("stripe-account") == "acct_2"
        else a_meter(asked)
    )
    good, waits = judged(make_sink(server.url), usage("acct_1/cus_a"), usage("acct_2/cus_a"))
    assert (good.answer, waits.answer) == (Answer.ACCEPTED, Answer.BUSY)
    assert accounts(server.to(EVENTS_V1)) == ["acct_1"]


@pytest.mark.parametrize("transport", WAYS)
def test_an_account_that_hangs_takes_no_place_from_others(
    server: Server, make_sink: MakeSink, transport: str
) -> None:
    """However many of its customers wait, and though only one request may be in flight."""
    released = threading.Event()

    def answer(asked: Asked) -> Told | None:
        if asked.path == "/v1/billing/meters" and asked.headers["stripe-account"] == "acct_2":
            assert released.wait(20)
        return a_meter(asked)

    server.answer = answer
    sink = make_sink(server.url, max_in_flight=1, transport=transport)
    hanging = [usage(f"acct_2/cus_{number}") for number in range(20)]
    waiting = threading.Thread(target=send, args=(sink, *hanging))
    waiting.start()
    try:
        assert send(sink, *(usage(f"acct_1/cus_{n}") for n in range(20))) == [Answer.ACCEPTED] * 20
    finally:
        released.set()
        waiting.join()


def test_an_account_that_cannot_be_looked_at_is_asked_once_a_second(
    server: Server, make_sink: MakeSink
) -> None:
    """Not once for each of its events."""
    now = [0.0]
    server.answer = lambda asked: refusal(500) if asked.path == "/v1/billing/meters" else None
    sink = make_sink(server.url, monotonic=lambda: now[0])
    for seconds, looks in ((0.0, 1), (0.5, 1), (1.5, 2)):
        now[0] = seconds
        verdicts = judged(sink, *(usage(f"acct_1/cus_{number}") for number in range(20)))
        assert {verdict.answer for verdict in verdicts} == {Answer.BUSY}
        assert len(server.to("/v1/billing/meters")) == looks


def test_meters_that_make_no_sense_are_that_accounts_trouble(server: Server, make_sink: MakeSink) -> None:
    """Whatever breaks over them breaks nothing else."""
    server.answer = lambda asked: (
        listed(meter("api_requests", default_aggregation=None))
        if asked.path == "/v1/billing/meters" and asked.headers["stripe-account"] == "acct_2"
        else a_meter(asked)
    )
    good, odd = judged(make_sink(server.url), usage("acct_1/cus_a"), usage("acct_2/cus_a"))
    assert (good.answer, odd.answer) == (Answer.ACCEPTED, Answer.BUSY)
    assert "could not be read" in (odd.reason or "")


def test_a_key_that_is_refused_halts_whatever_account_was_named(server: Server, make_sink: MakeSink) -> None:
    """It is the platform's key."""
    server.answer = lambda asked: refusal(401, "Invalid API Key.")
    with pytest.raises(SinkHalted, match="does not accept the API key"):
        judged(make_sink(server.url), usage("acct_1/cus_a"))


def test_one_account_too_busy_slows_no_other_down(server: Server, make_sink: MakeSink) -> None:
    """Each has a pace of its own."""
    server.answer = lambda asked: (
        refusal(429, code="rate_limit")
        if asked.path == EVENTS_V1 and asked.headers.get("stripe-account") == "acct_2"
        else a_meter(asked)
    )
    sink = make_sink(server.url)
    good, busy = judged(sink, usage("acct_1/cus_a"), usage("acct_2/cus_a"))
    assert (good.answer, busy.answer) == (Answer.ACCEPTED, Answer.BUSY)
    assert sink._loop.now is not None
    paces = sink._loop.now.far.paces()
    assert paces["v1", "acct_1"] == pytest.approx(1_000.0)
    assert paces["v1", "acct_2"] == pytest.approx(500.0, rel=0.05)


def test_more_accounts_than_requests_in_flight(server: Server, make_sink: MakeSink) -> None:
    """A route that has nothing to send keeps no other one from sending."""
    sink = make_sink(server.url, max_in_flight=2)
    for number in range(10):
        assert send(sink, usage(f"acct_{number}/cus_a")) == [Answer.ACCEPTED]


@pytest.mark.parametrize(
    "told", [refusal(403, code="account_invalid"), refusal(403, "This account is closed to you.")]
)
def test_an_account_that_cannot_be_read_back_stops_no_other(
    server: Server, make_sink: MakeSink, told: Told
) -> None:
    """It has no figure, which is no word on the key: reading back goes on with the customers of other accounts."""
    server.answer = lambda asked: told
    with pytest.raises(SinkError, match="acct_gone") as caught:
        make_sink(server.url).total("api", "acct_gone/cus_a", Span(HOUR_AGO, HOUR_AGO + HOUR))
    assert not isinstance(caught.value, SinkHalted | SinkUnreachable)


def test_a_key_that_is_refused_halts_whatever_is_read(server: Server, make_sink: MakeSink) -> None:
    """It is the platform's, and says so for each account."""
    server.answer = lambda asked: refusal(401, "Invalid API Key.")
    with pytest.raises(SinkHalted, match="does not accept the API key"):
        make_sink(server.url).total("api", "acct_1/cus_a", Span(HOUR_AGO, HOUR_AGO + HOUR))
