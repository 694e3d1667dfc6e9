"""Sinks that know customers are asked for some: who is there, who never was, who is gone, and what is no answer."""

import datetime as dt
import socket
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from aggregator.core.model import Encoding
from aggregator.errors import AccountRefused, SinkError, SinkHalted, SinkUnreachable, SinkUnreadable
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.sinks.metronome import MetronomeMeter, MetronomeSink
from aggregator.sinks.stripe import StripeMeter, StripeSink
from aggregator.sinks.stripe.account_context import Addresses
from aggregator.sinks.stripe.limits import Rates
from aggregator.trial.lookup import KnowsCustomers
from tests.contract.making import making
from tests.contract.scripted import BROKEN, Server, Told, refusal, serving

KEY = "sk_test_0123456789abcdefghij"
RESTRICTED = "rk_test_0123456789abcdefghij"
TOKEN = "token_0123456789abcdefghij"

MakeStripe = Callable[..., StripeSink]
MakeMetronome = Callable[..., MetronomeSink]


@pytest.fixture(scope="module")
def sandbox_server() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions(meters=(MeterSpec("api_requests"),))) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(sandbox_server: RunningSandbox) -> RunningSandbox:
    """The sandbox with one customer per account, and nobody else."""
    sandbox_server.reset()
    sandbox_server.set_connected("acct_1", "acct_2")
    sandbox_server.set_rules(strict_customers=True)
    sandbox_server.add_customers("cus_1")
    for account in ("acct_1", "acct_2"):
        sandbox_server.add_customers(f"cus_of_{account}", account=account)
    return sandbox_server


@pytest.fixture
def metronome(sandbox_server: RunningSandbox) -> MetronomeControl:
    """The sandbox's Metronome with one customer of two aliases."""
    control = MetronomeControl(sandbox_server.url)
    control.reset()
    control.add_customer("one", "acme", "acme-old")
    return control


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that follows a script."""
    with serving() as server:
        yield server


@pytest.fixture
def make_stripe() -> Iterator[MakeStripe]:
    """Make Stripe sinks and close them at the end."""
    with making(
        partial(StripeSink, "stripe"),
        api_key=KEY,
        mode="test",
        rates=Rates(1_000.0, 1_000.0, stream_by_event=False),
        timeout=dt.timedelta(seconds=20),
        max_in_flight=4,
        meters={"api": StripeMeter(event_name="api_requests")},
    ) as make:
        yield make


@pytest.fixture
def make_metronome() -> Iterator[MakeMetronome]:
    """Make Metronome sinks and close them at the end."""
    with making(
        partial(MetronomeSink, "metronome"),
        api_key=TOKEN,
        encoding=Encoding.TEXT,
        events_per_second=1_000.0,
        timeout=dt.timedelta(seconds=20),
        max_in_flight=4,
        meters={"api": MetronomeMeter(event_type="api_requests")},
    ) as make:
        yield make


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address at which nobody answers: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# -- Stripe ---------------------------------------------------------------------------------------


def test_stripe_knows_some(sandbox: RunningSandbox, make_stripe: MakeStripe) -> None:
    """Nothing is said of who is there; who is not is named in Stripe's own words. Nothing is made by asking."""
    sink = make_stripe(sandbox.url)
    assert isinstance(sink, KnowsCustomers)
    assert sink.why_unknown("cus_1") is None
    said = sink.why_unknown("cus_9")
    assert said is not None
    assert said.startswith("Stripe does not know customer cus_9: No such customer: 'cus_9'")
    assert "404, resource_missing" in said
    assert sink.why_unknown("cus_9") == said
    assert sandbox.stats()["accepted"] == 0


def test_a_live_key_may_ask_as_well(sandbox: RunningSandbox, make_stripe: MakeStripe) -> None:
    """The customers of each mode are its own."""
    sandbox.add_customers("cus_live", livemode=True)
    live = make_stripe(sandbox.url, api_key="sk_live_0123456789abcdefghij", mode="live")
    assert live.why_unknown("cus_live") is None
    assert live.why_unknown("cus_1") is not None


def test_a_customer_of_the_other_mode_is_told_in_stripes_words(
    server: Server, make_stripe: MakeStripe
) -> None:
    """Those words name the mode it is in."""
    words = "No such customer: 'cus_1'; a similar object exists in live mode, but a test mode key was used."
    server.answer = lambda _: refusal(404, words, code="resource_missing", type="invalid_request_error")
    said = make_stripe(server.url).why_unknown("cus_1")
    assert said is not None
    assert "exists in live mode, but a test mode key was used (404, resource_missing)" in said
    [asked] = server.asked
    assert (asked.method, asked.path) == ("GET", "/v1/customers/cus_1")


def test_a_deleted_customer_is_found_and_is_none(server: Server, make_stripe: MakeStripe) -> None:
    """Stripe answers 200 and says that it was deleted."""
    server.answer = lambda _: Told(200, {"id": "cus_1", "object": "customer", "deleted": True})
    assert make_stripe(server.url).why_unknown("cus_1") == "Customer cus_1 was deleted at Stripe."


def test_a_key_that_may_not_read_customers_says_so(sandbox: RunningSandbox, make_stripe: MakeStripe) -> None:
    """It is no word about the customer; with the permission there is one."""
    sink = make_stripe(sandbox.url, api_key=RESTRICTED)
    sandbox.set_permissions(RESTRICTED, "meter_events_write", "meters_read")
    with pytest.raises(SinkUnreadable, match="rak_customer_read"):
        sink.why_unknown("cus_1")
    sandbox.set_permissions(RESTRICTED, "meter_events_write", "meters_read", "customers_read")
    assert sink.why_unknown("cus_1") is None


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (BROKEN, SinkUnreachable),
        (refusal(500), SinkUnreachable),
        (refusal(429), SinkUnreachable),
        (refusal(401), SinkHalted),
        (Told(404, "not here"), SinkHalted),
        (refusal(400), SinkError),
        (Told(200, {"id": "cus_2", "object": "customer"}), SinkError),
        (Told(200, {}), SinkError),
    ],
)
def test_what_is_no_answer_is_no_word_about_the_customer(
    server: Server, make_stripe: MakeStripe, told: Told, error: type[SinkError]
) -> None:
    """It is raised, never taken for a customer that is missing, or there."""
    server.answer = lambda _: told
    with pytest.raises(error):
        make_stripe(server.url).why_unknown("cus_1")


def test_nobody_there_is_no_word_about_the_customer(nowhere: str, make_stripe: MakeStripe) -> None:
    """Nor is a server that cannot be reached."""
    with pytest.raises(SinkUnreachable):
        make_stripe(nowhere).why_unknown("cus_1")


def test_customers_are_asked_for_in_the_account_that_is_configured(
    sandbox: RunningSandbox, make_stripe: MakeStripe
) -> None:
    """Those of the key's own account are not in it."""
    sink = make_stripe(sandbox.url, addresses=Addresses("acct_1"))
    assert sink.why_unknown("cus_of_acct_1") is None
    assert sink.why_unknown("cus_1") is not None


def test_customers_that_name_their_account_are_asked_for_there(
    sandbox: RunningSandbox, make_stripe: MakeStripe
) -> None:
    """Each in its own; who names none is nowhere, and an account that is closed to us is said to be."""
    sink = make_stripe(sandbox.url, addresses=Addresses(by_customer=True))
    assert sink.why_unknown("acct_1/cus_of_acct_1") is None
    assert sink.why_unknown("acct_2/cus_of_acct_2") is None
    crossed = sink.why_unknown("acct_1/cus_of_acct_2")
    assert crossed is not None
    assert "does not know customer acct_1/cus_of_acct_2" in crossed
    lost = sink.why_unknown("cus_1")
    assert lost is not None
    assert "Customer cus_1 names no connected account" in lost
    closed = sink.why_unknown("acct_9/cus_1")
    assert closed is not None
    assert "does not let us into the account of acct_9/cus_1" in closed


def test_an_account_that_may_not_be_asked_is_no_word_about_the_customer(
    server: Server, make_stripe: MakeStripe
) -> None:
    """A permission is lacking, of the platform's key or in that account: which, nobody can tell."""
    server.answer = lambda _: refusal(403, "The key does not have the required permissions.")
    with pytest.raises(AccountRefused):
        make_stripe(server.url, addresses=Addresses(by_customer=True)).why_unknown("acct_1/cus_1")


@pytest.mark.parametrize(
    ("name", "known"), [("cus_1", True), ("acct_1/cus_1", True), ("acct_1", False), ("acct_1/acct_2", False), ("7", False)]
)  # fmt: skip
def test_only_customers_are_looked_up(make_stripe: MakeStripe, name: str, *, known: bool) -> None:
    """An account that is a customer itself is none of `/v1/customers`; of another form is nobody."""
    assert make_stripe("http://127.0.0.1:1").knows_by_name(name) is known


# -- Metronome ------------------------------------------------------------------------------------


def test_metronome_knows_aliases_and_ids(metronome: MetronomeControl, make_metronome: MakeMetronome) -> None:
    """As the read-back resolves them; who is unknown is named, with what to do."""
    own = metronome.add_customer("two", "bolt")
    sink = make_metronome(metronome.url)
    assert isinstance(sink, KnowsCustomers)
    assert [sink.why_unknown(each) for each in ("acme", "acme-old", "bolt", own)] == [None] * 4
    said = sink.why_unknown("nobody")
    assert said is not None
    assert "no customers with the ingest alias nobody" in said
    assert "Give the alias to one customer there" in said
    assert sink.knows_by_name("whatever it is")


def test_a_token_that_may_not_ask_says_so(metronome: MetronomeControl, make_metronome: MakeMetronome) -> None:
    """It is no word about the customer."""
    metronome.set_keys(restricted=[TOKEN])
    with pytest.raises(SinkUnreadable):
        make_metronome(metronome.url).why_unknown("acme")


def test_no_answer_of_metronome_is_no_word_about_the_customer(
    nowhere: str, make_metronome: MakeMetronome
) -> None:
    """Nor is a server that cannot be reached."""
    with pytest.raises(SinkUnreachable):
        make_metronome(nowhere).why_unknown("acme")
