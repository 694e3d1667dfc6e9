"""Whether Metronome stands ready for a customer who moves there: what is missing, case by case, and asked of the sandbox."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping

import metronome
import pytest

from aggregator.errors import SinkUnreachable
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.sinks.metronome import MetronomeSink
from aggregator.sinks.metronome.readiness import missing, unseen
from aggregator.sinks.protocol import Readiness, TakesCustomersOver
from tests.contract.test_metronome_sink import (  # noqa: F401 - fixtures
    NOON,
    NOW,
    TOKEN,
    make_sink,
    sandbox,
    shared_sandbox,
)

T = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
BEFORE, AFTER = T - dt.timedelta(days=1), T + dt.timedelta(days=1)
CONTRACT = {"id": "c1"}


def customer(status: str | None = None, **more: object) -> Mapping[str, object]:
    """A customer as Metronome shows one."""
    shown = {} if status is None else {"current_billable_status": {"value": status, "effective_at": None}}
    return {"id": "x", **shown, **more}


@pytest.mark.parametrize(
    ("known", "contracts", "now", "parallel", "said"),
    [
        (customer("unbillable"), [CONTRACT], BEFORE, False, ""),
        (customer("billable"), [CONTRACT], BEFORE, False, ""),
        (customer("billable"), [CONTRACT], AFTER, False, ""),
        (customer(), [CONTRACT], AFTER, False, ""),
        (customer("unbillable"), [CONTRACT], AFTER, False, "is unbillable at Metronome"),
        (customer("unbillable"), [CONTRACT], T, False, "is unbillable at Metronome"),
        (customer("billable"), [CONTRACT], BEFORE, True, "would be billed twice"),
        (customer("unbillable"), [CONTRACT], BEFORE, True, ""),
        (customer("billable"), [CONTRACT], T, True, ""),
        (
            customer("billable"),
            [],
            BEFORE,
            False,
            "has no contract at Metronome that is in effect at 2026-12-01T00:00Z",
        ),
        (customer("billable", archived_at="2026-11-01T00:00:00Z"), [CONTRACT], BEFORE, False, "is archived"),
    ],
)
def test_what_keeps_a_customer_from_being_billed_right(
    known: Mapping[str, object],
    contracts: list[Mapping[str, object]],
    now: dt.datetime,
    parallel: bool,
    said: str,
) -> None:
    """One sentence for what is missing, with the customer and the time."""
    found = list(missing("cus_a", known, contracts, T, now, parallel=parallel))
    assert [said in each and each.startswith("cus_a ") for each in found] == [True] * bool(said), found


@pytest.mark.parametrize(
    ("known", "now", "said"),
    [
        (customer(), BEFORE, "does not say whether it is billable"),
        (customer("sometimes"), BEFORE, "does not say whether it is billable"),
        (customer("unbillable"), BEFORE, "see to it that it is billable from 2026-12-01T00:00Z on"),
        (customer("billable"), BEFORE, None),
        (customer("unbillable"), AFTER, None),
    ],
)
def test_what_a_person_is_to_see_to(known: Mapping[str, object], now: dt.datetime, said: str | None) -> None:
    """What Metronome does not tell, or not yet."""
    found = unseen("cus_a", known, T, now)
    assert (found is None) if said is None else (found is not None and said in found)


@pytest.fixture
def ask(
    sandbox: MetronomeControl,  # noqa: F811
    make_sink: Callable[..., MetronomeSink],  # noqa: F811
) -> Callable[[], Readiness]:
    """Ask whether `acme` can be billed from noon of yesterday on."""
    sink = make_sink(sandbox.url)
    assert isinstance(sink, TakesCustomersOver)
    return lambda: sink.readiness("acme", NOON, NOW, parallel=False)


def test_step_by_step_a_customer_becomes_ready(
    sandbox: MetronomeControl,  # noqa: F811
    ask: Callable[[], Readiness],
) -> None:
    """Alias, contract, billable status: each is missed until it is there."""
    assert "no customers with the ingest alias acme" in ask().missing[0]
    acme = sandbox.add_customer("Acme", "acme")
    sandbox.set_billable(acme, "unbillable", "2026-01-01T00:00:00Z")
    [contract, status] = ask().missing
    assert ("no contract" in contract, "unbillable" in status) == (True, True)
    sandbox.add_contract(acme, f"{NOON + dt.timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
    assert len(ask().missing) == 2, "a contract that begins later is none"
    sandbox.add_contract(acme, f"{NOON:%Y-%m-%dT%H:%M:%SZ}")
    assert ask().missing == (status,)
    sandbox.set_billable(acme, "billable", f"{NOON:%Y-%m-%dT%H:%M:%SZ}")
    assert ask() == Readiness()
    sandbox.set_rules(shows_billable_status=False)
    assert ask().missing == ()
    assert "does not say whether it is billable" in ask().unseen[0]


def test_an_account_that_does_not_answer_says_nothing(
    sandbox: MetronomeControl,  # noqa: F811
    ask: Callable[[], Readiness],
) -> None:
    """That is an error, and not a customer who is ready."""
    sandbox.set_faults(error_before=1.0, applies_to="all")
    with pytest.raises(SinkUnreachable):
        ask()


@pytest.fixture
def client(sandbox: MetronomeControl) -> Iterator[metronome.Metronome]:  # noqa: F811
    """Metronome's own library."""
    with metronome.Metronome(bearer_token=TOKEN, base_url=sandbox.url, max_retries=0) as client:
        yield client


def test_the_sandbox_s_contracts_are_those_of_the_library(
    sandbox: MetronomeControl,  # noqa: F811
    client: metronome.Metronome,
) -> None:
    """Made and listed by it; a customer shows the status that holds by now, and not one that is set ahead."""
    acme = sandbox.add_customer("Acme", "acme")
    later = NOW + dt.timedelta(days=1)
    made = client.v1.contracts.create(customer_id=acme, starting_at=NOON, ending_before=later).data.id
    [found] = client.v2.contracts.list(customer_id=acme, covering_date=NOON).data
    assert (found.id, found.customer_id, found.starting_at) == (made, acme, NOON)
    assert client.v2.contracts.list(customer_id=acme, covering_date=later).data == []
    assert len(client.v2.contracts.list(customer_id=acme).data) == 1
    sandbox.set_billable(acme, "unbillable", f"{later:%Y-%m-%dT%H:%M:%SZ}")
    status = client.v1.customers.retrieve(customer_id=acme).data.current_billable_status
    assert status is not None
    assert status.value == "billable"
    for body in (
        {"customer_id": acme, "billable_status": "maybe", "effective_at": "2026-01-01T00:00:00Z"},
        {"customer_id": acme, "billable_status": "billable", "effective_at": "soon"},
        {"customer_id": "nobody", "billable_status": "billable", "effective_at": "2026-01-01T00:00:00Z"},
    ):
        with pytest.raises(ValueError, match=r"billable_status|effective_at|no customer"):
            sandbox.call("POST", "/v1/customers/setBillableStatus", body)
    with pytest.raises(ValueError, match="must be later than starting_at"):
        sandbox.add_contract(acme, "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z")
