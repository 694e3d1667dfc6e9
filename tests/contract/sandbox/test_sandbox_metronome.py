"""The Metronome part of the sandbox, spoken to by Metronome's own library."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import metronome
import pytest
from metronome.types.v1.customers import Invoice

from aggregator.runtime.clock import utcnow
from aggregator.sandbox import RunningSandbox, SandboxOptions, running
from aggregator.sandbox.metronome import MetronomeControl, MetronomeRules

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
NOW = utcnow().replace(microsecond=0)
TODAY = NOW.replace(hour=0, minute=0, second=0)
NOON = TODAY - DAY + 12 * HOUR


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """One sandbox for all tests here."""
    with running(SandboxOptions()) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(server: RunningSandbox) -> MetronomeControl:
    """Its Metronome part, empty, and its clock as the machine's."""
    server.reset()
    control = MetronomeControl(server.url)
    control.reset()
    return control


@pytest.fixture
def client(sandbox: MetronomeControl) -> Iterator[metronome.Metronome]:
    """The official library."""
    with metronome.Metronome(bearer_token="token", base_url=sandbox.url, max_retries=0) as client:
        yield client


def event(number: int = 1, **changes: Any) -> Any:
    """An event as the API reference shows one."""
    whole = {
        "transaction_id": f"t{number}",
        "customer_id": "acme",
        "event_type": "api",
        "timestamp": NOON.isoformat(),
        "properties": {"quantity": number},
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def value(client: metronome.Metronome, metric: str, customer: str, size: Any = "NONE") -> list[float | None]:
    """What yesterday's usage shows."""
    found = client.v1.usage.list(
        starting_on=NOON - 12 * HOUR,
        ending_before=NOON + 12 * HOUR,
        window_size=size,
        billable_metrics=[{"id": metric}],
        customer_ids=[customer],
    )
    return [each.value for each in found]


def groups(client: metronome.Metronome, metric: str, customer: str, **asked: Any) -> list[tuple[Any, Any]]:
    """What yesterday's usage shows by group."""
    found = client.v1.usage.list_with_groups(
        starting_on=NOON - 12 * HOUR,
        ending_before=NOON + 12 * HOUR,
        window_size="DAY",
        billable_metric_id=metric,
        customer_id=customer,
        **asked,
    )
    return [(each.group, each.value) for each in found]


# -- what is taken in -----------------------------------------------------------------------------


def test_events_count_once(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """The first of two with one transaction_id stays, whatever the second says, and nobody is told."""
    customer, metric = sandbox.add_customer("Acme", "acme"), sandbox.add_metric("api")
    client.v1.usage.ingest(usage=[event(1), event(2)])
    client.v1.usage.ingest(usage=[event(1, properties={"quantity": 500}), event(3)])
    assert value(client, metric, customer) == [6]
    assert sandbox.totals("api") == {"acme": 6}
    assert sandbox.stats()["duplicates"] == 1


def test_a_transaction_id_is_forgotten_after_34_days(
    server: RunningSandbox, sandbox: MetronomeControl, client: metronome.Metronome
) -> None:
    """A moment before it is still known; after that the harm of a resend can be seen."""
    client.v1.usage.ingest(usage=[event()])
    server.set_clock(34 * 86400 - 60)
    client.v1.usage.ingest(usage=[event(timestamp=(NOW + 30 * DAY).isoformat())])
    assert sandbox.totals("api") == {"acme": 1}
    server.set_clock(34 * 86400 + 60)
    client.v1.usage.ingest(usage=[event(timestamp=(NOW + 30 * DAY).isoformat())])
    assert sandbox.totals("api") == {"acme": 2}
    assert sandbox.stats()["double_counted"] == 1


def test_an_event_that_no_metric_matches_is_taken(
    sandbox: MetronomeControl, client: metronome.Metronome
) -> None:
    """A 200 does not say that it is billed."""
    client.v1.usage.ingest(usage=[event(event_type="nobody counts this")])
    assert sandbox.stats()["accepted"] == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (event(transaction_id=None), "[0].transaction_id is required"),
        (event(transaction_id="x" * 129), "longer than 128 characters"),
        (event(customer_id=None), "[0].customer_id is required"),
        (event(event_type=""), "[0].event_type is required"),
        (event(timestamp=None), "must be an RFC 3339 instant"),
        (event(timestamp="2026-11-01"), "must be an RFC 3339 instant"),
        (event(timestamp="2026-11-01T00:00:00"), "must be an RFC 3339 instant"),
        (event(timestamp="02026-11-01T00:00:00Z"), "must be an RFC 3339 instant"),
        (event(timestamp="2026-13-01T00:00:00Z"), "is no instant"),
        (event(timestamp=(NOW - 34 * DAY - HOUR).isoformat()), "more than 34 days back"),
        (event(timestamp=(NOW + 25 * HOUR).isoformat()), "more than 24 hours ahead"),
        (event(properties=[1]), "properties must be an object"),
        (event(more=1), "unknown field more"),
        (5, "must be an object"),
    ],
)
@pytest.mark.parametrize(("rule", "taken"), [("whole", 0), ("partial", 2)])
def test_a_bad_event_has_its_request_refused(
    sandbox: MetronomeControl, client: metronome.Metronome, bad: Any, words: str, rule: str, taken: int
) -> None:
    """What is taken in of the others is a rule, since it is not documented."""
    sandbox.set_rules(bad_event=rule)
    with pytest.raises(metronome.BadRequestError) as refused:
        client.v1.usage.ingest(usage=[bad, event(2), event(3)])
    assert words in str(refused.value)
    assert sandbox.stats()["accepted"] == taken


@pytest.mark.parametrize("timestamp", [NOW - 34 * DAY + HOUR, NOW + 23 * HOUR])
def test_what_lies_within_the_bounds_is_taken(
    sandbox: MetronomeControl, client: metronome.Metronome, timestamp: dt.datetime
) -> None:
    """34 days back and 24 hours ahead."""
    client.v1.usage.ingest(usage=[event(timestamp=timestamp.isoformat())])
    assert sandbox.stats()["accepted"] == 1


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 1), (100, 100), (101, 0)])
def test_a_request_holds_1_to_100_events(
    sandbox: MetronomeControl, client: metronome.Metronome, size: int, taken: int
) -> None:
    """An empty array is refused too, which is how a token can be tried without an event."""
    events = [event(number) for number in range(size)]
    if taken:
        client.v1.usage.ingest(usage=events)
    else:
        with pytest.raises(metronome.BadRequestError, match="holds 1 to 100 events"):
            client.v1.usage.ingest(usage=events)
    assert sandbox.stats()["accepted"] == taken


@pytest.mark.parametrize("body", [b"{}", b"oops", b'{"usage": []}'])
def test_anything_but_an_array_is_refused(client: metronome.Metronome, body: bytes) -> None:
    """The events are not wrapped."""
    with pytest.raises(metronome.BadRequestError):
        client.post("/v1/ingest", content=body, cast_to=object)


# -- who may, and what goes wrong -----------------------------------------------------------------


def test_tokens(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """Any is good but those that are taken away."""
    sandbox.set_keys(revoked=["token"])
    with pytest.raises(metronome.AuthenticationError):
        client.v1.usage.ingest(usage=[event()])
    sandbox.set_keys(restricted=["token"])
    with pytest.raises(metronome.PermissionDeniedError):
        client.v1.usage.ingest(usage=[event()])
    sandbox.set_keys()
    client.v1.usage.ingest(usage=[event()])
    with pytest.raises(metronome.NotFoundError):
        client.get("/v1/nothing", cast_to=object)
    with pytest.raises(metronome.AuthenticationError):
        client.with_options(default_headers={"Authorization": "Basic token"}).v1.usage.ingest(usage=[event()])


@pytest.mark.parametrize("arrives", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("fault", ["error_after", "drop_after"])
def test_an_answer_is_lost_after_a_part(
    sandbox: MetronomeControl, client: metronome.Metronome, fault: str, arrives: int | None
) -> None:
    """As much of a request as the rule says is in when its answer is lost."""
    sandbox.set_rules(ingested_before_error=arrives)
    sandbox.set_faults(**{fault: 1.0}, times=1)
    with pytest.raises((metronome.InternalServerError, metronome.APIConnectionError)):
        client.v1.usage.ingest(usage=[event(1), event(2), event(3)])
    assert sandbox.stats()["accepted"] == (3 if arrives is None else arrives)
    client.v1.usage.ingest(usage=[event(1), event(2), event(3)])
    assert sandbox.totals("api") == {"acme": 6}


@pytest.mark.parametrize("fault", ["error_before", "drop_before", "too_many_requests"])
def test_nothing_is_done_before(sandbox: MetronomeControl, client: metronome.Metronome, fault: str) -> None:
    """Faults that strike first leave nothing behind."""
    sandbox.set_faults(**{fault: 1.0}, times=1)
    with pytest.raises((metronome.APIStatusError, metronome.APIConnectionError)):
        client.v1.usage.ingest(usage=[event()])
    assert sandbox.stats()["accepted"] == 0


def test_a_429_may_say_when_to_come_again(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """By a rule, since Metronome does not document it."""
    sandbox.set_rules(retry_after_seconds=3)
    sandbox.set_faults(too_many_requests=1.0)
    with pytest.raises(metronome.RateLimitError) as refused:
        client.v1.usage.ingest(usage=[event()])
    assert refused.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    "rules",
    [
        {"text_quantitys": "zero"},
        {"text_quantities": "maybe"},
        {"bad_event": "some"},
        {"usage_delay_seconds": -1},
        {"ingested_before_error": 1.5},
        {"page_rows": 0},
        {"refuse_customers": "acme"},
    ],
)
def test_rules_that_are_none_are_refused(sandbox: MetronomeControl, rules: dict[str, object]) -> None:
    """A misspelt rule cannot make a test pass."""
    with pytest.raises(ValueError, match="cannot be used"):
        sandbox.set_rules(**rules)
    assert MetronomeRules().text_quantities == "count"


# -- customers ------------------------------------------------------------------------------------


def test_aliases(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """Events may come before their customer; an alias belongs to one, and takes its usage along when it moves."""
    metric = sandbox.add_metric("api")
    client.v1.usage.ingest(usage=[event(5)])
    first = client.v1.customers.create(name="First", ingest_aliases=["acme", "acme-2"]).data
    second = client.v1.customers.create(name="Second").data
    client.v1.usage.ingest(usage=[event(7, customer_id=first.id), event(9, customer_id="acme-2")])
    assert value(client, metric, first.id) == [21]
    with pytest.raises(metronome.BadRequestError, match="belongs to customer"):
        client.v1.customers.create(name="Third", ingest_aliases=["acme"])
    client.v1.customers.set_ingest_aliases(customer_id=second.id, ingest_aliases=["acme"])
    assert (value(client, metric, first.id), value(client, metric, second.id)) == ([16], [5])
    assert [each.id for each in client.v1.customers.list(ingest_alias="acme")] == [second.id]
    assert client.v1.customers.retrieve(customer_id=first.id).data.ingest_aliases == ["acme-2"]
    assert [each.name for each in client.v1.customers.list()] == ["First", "Second"]


# -- metrics and usage ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"), [("SUM", 9), ("COUNT", 3), ("MAX", 5), ("LATEST", 3), ("UNIQUE", 3)]
)
def test_aggregations(
    sandbox: MetronomeControl, client: metronome.Metronome, kind: str, expected: int
) -> None:
    """Only a SUM adds summaries up."""
    customer, metric = sandbox.add_customer("Acme", "acme"), sandbox.add_metric("api", aggregation=kind)
    times = (NOON, NOON + HOUR, NOON + 2 * HOUR)
    client.v1.usage.ingest(
        usage=[event(n, timestamp=at.isoformat()) for n, at in zip((1, 5, 3), times, strict=True)]
    )
    assert value(client, metric, customer) == [expected]


@pytest.mark.parametrize(("rule", "expected"), [("count", Decimal("12345678901234567.25")), ("zero", 0)])
def test_text_counts_or_does_not(
    sandbox: MetronomeControl, client: metronome.Metronome, rule: str, expected: Decimal
) -> None:
    """Whether a SUM adds up text is a rule, since Metronome's pages disagree; nothing rounds it."""
    sandbox.set_rules(text_quantities=rule)
    customer, metric = sandbox.add_customer("Acme", "acme"), sandbox.add_metric("api")
    client.v1.usage.ingest(usage=[event(properties={"quantity": "12345678901234567.25"})])
    start, end = (f"{at:%Y-%m-%d}T00:00:00Z" for at in (NOON, NOON + DAY))
    body = {"starting_on": start, "ending_before": end, "window_size": "NONE"}
    (row,) = sandbox.call("POST", "/v1/usage", body)["data"]
    assert row["value"] == expected
    assert (row["customer_id"], row["billable_metric_id"]) == (customer, metric)


def test_a_metric_counts_from_its_making_on(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """What came before is not counted; what its filters keep out, neither."""
    client.v1.usage.ingest(usage=[event(1)])
    customer = sandbox.add_customer("Acme", "acme")
    metric = sandbox.add_metric("api", filters=[{"name": "region", "in_values": ["eu"]}])
    client.v1.usage.ingest(
        usage=[
            event(2),
            event(4, properties={"quantity": 4, "region": "eu"}),
            event(8, properties={"quantity": 8, "region": "us"}),
            event(16, event_type="other"),
            event(32, properties={"other": 32}),
        ]
    )
    assert value(client, metric, customer) == [6]


@pytest.mark.parametrize(
    "given",
    [
        {"name": "x", "aggregation_type": "AVG"},
        {"name": "x", "aggregation_type": "SUM"},
        {"name": "x", "aggregation_type": "SUM", "aggregation_key": "quantity"},
        {"name": "", "aggregation_type": "COUNT"},
        {"name": "x", "sql": "select 1", "aggregation_type": "COUNT"},
        {"name": "x", "agregation_type": "COUNT"},
    ],
)
def test_a_metric_that_is_none_is_refused(sandbox: MetronomeControl, given: dict[str, object]) -> None:
    """The aggregation key is named, and stands among the property filters."""
    with pytest.raises(ValueError, match=r"\."):
        sandbox.call("POST", "/v1/billable-metrics/create", given)


def test_usage_by_hours_and_days(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """Every window has a row; one without usage a null; pages follow one another."""
    sandbox.set_rules(page_rows=7)
    customer, metric = sandbox.add_customer("Acme", "acme"), sandbox.add_metric("api")
    client.v1.usage.ingest(usage=[event(1), event(2, timestamp=(NOON + HOUR).isoformat())])
    hours = value(client, metric, customer, "HOUR")
    assert hours == [1.0 if hour == 12 else 2.0 if hour == 13 else None for hour in range(24)]
    assert value(client, metric, customer, "DAY") == [3]


@pytest.mark.parametrize(
    ("start", "end", "size"),
    [
        (NOON, NOON + DAY, "DAY"),
        (TODAY, TODAY, "DAY"),
        (TODAY, TODAY - DAY, "DAY"),
        (TODAY - DAY, TODAY, "MINUTE"),
    ],
)
def test_usage_between_midnights_only(
    client: metronome.Metronome, start: dt.datetime, end: dt.datetime, size: Any
) -> None:
    """At least a day apart, by hour or day or as a whole."""
    with pytest.raises(metronome.BadRequestError):
        client.v1.usage.list(starting_on=start, ending_before=end, window_size=size)


def test_usage_may_be_late(
    server: RunningSandbox, sandbox: MetronomeControl, client: metronome.Metronome
) -> None:
    """Until the delay is over an event shows neither in usage nor in a search."""
    sandbox.set_rules(usage_delay_seconds=600)
    customer, metric = sandbox.add_customer("Acme", "acme"), sandbox.add_metric("api")
    client.v1.usage.ingest(usage=[event()])
    assert value(client, metric, customer) == [None]
    assert client.v1.usage.search(transaction_ids=["t1"]) == []
    server.set_clock(660)
    assert value(client, metric, customer) == [1]
    assert len(client.v1.usage.search(transaction_ids=["t1"])) == 1


def test_a_search_shows_duplicates_and_who_was_matched(
    sandbox: MetronomeControl, client: metronome.Metronome
) -> None:
    """The one place where a duplicate can be seen."""
    customer, metric = sandbox.add_customer("Acme", "acme"), sandbox.add_metric("api")
    client.v1.usage.ingest(usage=[event(1), event(2), event(3, customer_id="nobody", event_type="other")])
    client.v1.usage.ingest(usage=[event(1)])
    found = client.v1.usage.search(transaction_ids=["t1", "t3", "t9"])
    assert [(each.transaction_id, each.is_duplicate) for each in found] == [
        ("t1", False),
        ("t3", False),
        ("t1", True),
    ]
    first, stranger, _ = found
    assert first.matched_customer is not None
    assert first.matched_customer.id == customer
    assert [each.id for each in first.matched_billable_metrics or []] == [metric]
    assert (stranger.matched_customer, stranger.matched_billable_metrics) == (None, [])


# -- invoices -------------------------------------------------------------------------------------

MONTH = NOON.replace(day=1, hour=0)
"""When the invoice begins that the events here belong to."""

NEXT_MONTH = (MONTH + 32 * DAY).replace(day=1)


def shown(client: metronome.Metronome, customer: str, **query: Any) -> list[tuple[str, float | None]]:
    """The status and the quantity of each invoice that covers the events here, and no other."""
    found = client.v1.customers.invoices.list(customer_id=customer, **query)
    return [
        (each.status, each.line_items[0].quantity if each.line_items else None)
        for each in found
        if each.start_timestamp == MONTH
    ]


def test_an_invoice_is_a_draft_until_a_grace_is_over(
    server: RunningSandbox, sandbox: MetronomeControl, client: metronome.Metronome
) -> None:
    """What comes in until then changes it, what comes later does not; the grace is a rule."""
    sandbox.add_metric("api")
    customer = sandbox.add_customer("Acme", "acme")
    client.v1.usage.ingest(usage=[event(5)])
    over = (NEXT_MONTH + DAY - utcnow()).total_seconds()
    server.set_clock(over - 60)
    client.v1.usage.ingest(usage=[event(7)])
    assert shown(client, customer) == [("DRAFT", 12)]
    server.set_clock(over + 60)
    client.v1.usage.ingest(usage=[event(9)])
    assert shown(client, customer) == [("FINALIZED", 12)]
    assert shown(client, customer, status="DRAFT") == shown(client, customer, type="SCHEDULED") == []
    sandbox.set_rules(invoice_grace_seconds=2 * 86400)
    assert shown(client, customer) == [("DRAFT", 21)]


def test_a_finalized_invoice_is_voided_and_regenerated(
    server: RunningSandbox, sandbox: MetronomeControl, client: metronome.Metronome
) -> None:
    """The new one has another id and knows what has come in by then; a draft has nothing to void."""
    sandbox.add_metric("api")
    customer = sandbox.add_customer("Acme", "acme")
    client.v1.usage.ingest(usage=[event(5)])
    with pytest.raises(metronome.BadRequestError, match="Only a finalized invoice"):
        client.v1.invoices.void(id=sandbox.invoices(customer)[0]["id"])
    server.set_clock((NEXT_MONTH + DAY - utcnow()).total_seconds() + 60)
    client.v1.usage.ingest(usage=[event(7)])
    old = sandbox.invoices(customer)[0]["id"]
    with pytest.raises(metronome.BadRequestError, match="Only an invoice that is void"):
        client.v1.invoices.regenerate(id=old)
    client.v1.invoices.void(id=old)
    assert shown(client, customer) == [("VOID", 5)]
    client.v1.invoices.regenerate(id=old)
    assert shown(client, customer) == [("VOID", 5), ("FINALIZED", 12)]
    assert shown(client, customer, sort="date_desc") == [("FINALIZED", 12), ("VOID", 5)]


def test_an_invoice_is_of_its_declared_type(
    server: RunningSandbox, sandbox: MetronomeControl, client: metronome.Metronome
) -> None:
    """All required fields, each of its kind, and none made up, as draft, finalized and made anew."""
    sandbox.add_metric("api")
    customer = sandbox.add_customer("Acme", "acme")
    client.v1.usage.ingest(usage=[event(5)])
    path = f"/v1/customers/{customer}/invoices"
    drafts = sandbox.call("GET", path)["data"]
    server.set_clock((NEXT_MONTH + DAY - utcnow()).total_seconds() + 60)
    client.v1.invoices.void(id=drafts[0]["id"])
    client.v1.invoices.regenerate(id=drafts[0]["id"])
    rows = [*drafts, *sandbox.call("GET", path)["data"]]
    assert {row["status"] for row in rows} == {"DRAFT", "VOID", "FINALIZED"}
    for row in rows:
        read = Invoice.model_validate(row)
        for part in (read, read.credit_type, *read.line_items):
            assert not part.model_extra
    assert sandbox.call("GET", path).keys() == {"data", "next_page"}


def test_a_token_may_be_without_invoices(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """It may do everything else."""
    customer = sandbox.add_customer("Acme", "acme")
    sandbox.set_keys(without_invoices=["token"])
    client.v1.usage.ingest(usage=[event()])
    with pytest.raises(metronome.PermissionDeniedError):
        client.v1.customers.invoices.list(customer_id=customer)


def test_stripes_endpoints_are_where_they_were(server: RunningSandbox, sandbox: MetronomeControl) -> None:
    """Resetting one part leaves the other as it is."""
    server.add_customers("cus_1")
    sandbox.add_customer("Acme", "cus_1")
    sandbox.reset()
    assert server.stats()["requests"] == 0
    assert server.control("GET", "clock")["offset_seconds"] == 0


def test_usage_by_groups(sandbox: MetronomeControl, client: metronome.Metronome) -> None:
    """By a whole group key of the metric, filtered by values; what lacks a property has a null there."""
    filters = [{"name": name, "exists": True} for name in ("region", "team")]
    customer = sandbox.add_customer("Acme", "acme")
    metric = sandbox.add_metric("api", filters=filters, group_keys=[["region"], ["region", "team"]])
    for number, region in enumerate(("eu", "us", "us"), 1):
        properties = {"quantity": number, "region": region, "team": f"t{number}"}
        client.v1.usage.ingest(usage=[event(number, properties=properties)])
    assert groups(client, metric, customer, group_key=["region"]) == [
        ({"region": "eu"}, 1),
        ({"region": "us"}, 5),
    ]
    both = groups(client, metric, customer, group_key=["team", "region"], group_filters={"region": ["us"]})
    assert both == [({"team": "t2", "region": "us"}, 2), ({"team": "t3", "region": "us"}, 3)]
    for wrong in (
        {"group_key": ["team"]},
        {"group_key": ["region"], "group_filters": {"team": ["t1"]}},
        {"group_key": ["region"], "group_filters": {"region": ["x"] * 201}},
        {},
    ):
        with pytest.raises(metronome.BadRequestError):
            groups(client, metric, customer, **wrong)
    with pytest.raises(ValueError, match="must be among the property_filters"):
        sandbox.add_metric("api", group_keys=[["elsewhere"]])
