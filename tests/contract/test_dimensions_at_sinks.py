"""Dimensions where events go: payload keys, Stripe meters of their own, properties, columns; and what is refused."""

import asyncio
import csv
import datetime as dt
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from stripe import StripeClient

from aggregator.config import load
from aggregator.core.model import Answer, Encoding, Event, Span
from aggregator.errors import ConfigError
from aggregator.sandbox import MeterSpec, RunningSandbox, SandboxOptions, running
from aggregator.sinks.files.formats import CsvFormat, Format, JsonFormat
from aggregator.sinks.metronome.event import Form, MetronomeMeter
from aggregator.sinks.metronome.fitting import misfits
from aggregator.sinks.stripe import StripeMeter, StripeSink, wire
from aggregator.sinks.stripe.client import Client
from aggregator.sinks.stripe.differences import Known, compare
from aggregator.sinks.stripe.limits import Rates
from aggregator.sinks.stripe_meter import Mapped
from tests.contract.events import about_to_leave, always, in_order
from tests.contract.scripted import EVENTS_V1, serving

HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
KEY = "sk_test_0123456789abcdefghij"

BY_KEY = StripeMeter(event_name="tokens", dimensions={"model": "llm_model", "token_type": "token_type"})
MAPPED = StripeMeter(
    event_name="tokens",
    dimensions={"model": "model", "token_type": "token_type"},
    event_names=(
        Mapped("large_input", {"model": "large", "token_type": "input"}),
        Mapped("large_output", {"model": "large", "token_type": "output"}),
        Mapped("small", {"model": "small"}),
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningSandbox]:
    """A sandbox with the Stripe meters."""
    names = ("tokens", "large_input", "large_output", "small")
    with running(SandboxOptions(meters=tuple(map(MeterSpec, names)))) as server:
        yield server


@pytest.fixture
def sandbox(server: RunningSandbox) -> RunningSandbox:
    """The same with nothing in it."""
    server.reset()
    return server


@pytest.fixture
def window(sandbox: RunningSandbox) -> dt.datetime:
    """The window before the last, as the sandbox has it."""
    sandbox.set_time(NOON.timestamp())
    return NOON - 2 * HOUR


def use(
    window: dt.datetime, delta: int, model: str = "", token_type: str = "", customer: str = "cus_1"
) -> Event:
    """An event of a combination; of none without values."""
    given = tuple((name, value) for name, value in (("model", model), ("token_type", token_type)) if value)
    return about_to_leave(window, customer, delta, "llm")._replace(dimensions=given)


def sink_with(sandbox: RunningSandbox, meter: StripeMeter, transport: str = "v1") -> StripeSink:
    return StripeSink(
        "stripe",
        api_key=KEY,
        mode="test",
        meters={"llm": meter},
        api_base=sandbox.url,
        transport=transport,  # type: ignore[arg-type]
        rates=Rates(1_000, 1_000, stream_by_event=False),
        timeout=dt.timedelta(seconds=20),
        max_in_flight=8,
    )


def sent(sink: StripeSink, *events: Event) -> list[tuple[Answer, str | None]]:
    verdicts = in_order(list(sink.send(events, always)), events)
    return [(each.answer, each.reason) for each in verdicts]


@pytest.mark.parametrize("transport", ["v1", "v2", "stream"])
def test_they_are_keys_of_the_payload(sandbox: RunningSandbox, window: dt.datetime, transport: str) -> None:
    """Under the names that the meter gives them, by each transport; one Stripe meter adds them up."""
    sink = sink_with(sandbox, BY_KEY, transport)
    found = sent(sink, use(window, 3, "large", "input"), use(window, 4, "small"), use(window, 5))
    assert all(answer is Answer.ACCEPTED for answer, _ in found), found
    assert sandbox.totals("tokens") == {"cus_1": 12}
    payloads = [each.get("extra", {}) for each in sandbox.events()]
    assert sorted(payloads, key=len) == [
        {},
        {"llm_model": "small"},
        {"llm_model": "large", "token_type": "input"},
    ]
    assert sink.total("llm", "cus_1", Span(window, window + HOUR)) == 12
    sink.close()


@pytest.mark.parametrize("value", ["gpt-4o mini", "modèle 日本", "a&b=c%5D", "[x]", 'q"\\'])
def test_the_bytes_are_those_of_the_library(window: dt.datetime, value: str) -> None:
    """Whatever a value holds."""
    event = use(window, 3, value, "input")
    payload = BY_KEY.payload(event, event.customer)
    assert payload == {
        "stripe_customer_id": "cus_1",
        "value": "3",
        "llm_model": value,
        "token_type": "input",
    }
    with serving() as there:

        async def both() -> None:
            client = Client(KEY, api_base=there.url, timeout_seconds=20, connections=2)
            said: Any = {
                "event_name": "tokens",
                "identifier": "id-1",
                "timestamp": 1_764_000_000,
                "payload": payload,
            }
            await client.api.v1.billing.meter_events.create_async(said)
            await client.post(wire.Path.V1, wire.form("tokens", "id-1", 1_764_000_000, payload), "key")
            await client.close()

        asyncio.run(both())
        first, second = there.to(EVENTS_V1)
    assert first.raw == second.raw


@pytest.mark.parametrize("transport", ["v1", "v2", "stream"])
def test_a_combination_goes_to_the_stripe_meter_it_is_mapped_to(
    sandbox: RunningSandbox, window: dt.datetime, transport: str
) -> None:
    """What is not mapped is refused with a sentence before it leaves, and goes under the same identifier once it is."""
    sink = sink_with(sandbox, MAPPED, transport)
    events = (
        use(window, 1, "large", "input"),
        use(window, 2, "large", "output"),
        use(window, 4, "small", "input"),
        use(window, 8, "small", "output"),
        use(window, 16, "large", "cached"),
        use(window, 32),
    )
    found = sent(sink, *events)
    assert [answer for answer, _ in found] == [
        *[Answer.ACCEPTED] * 4,
        Answer.REFUSED,
        Answer.ACCEPTED,
    ], found
    assert (
        "no event name is mapped for model=large, token_type=cached: add one under `stripe.event_names`"
        in str(found[4][1])
    )
    totals = {name: sandbox.totals(name).get("cus_1", 0) for name in MAPPED.names}
    assert totals == {"large_input": 1, "large_output": 2, "small": 12, "tokens": 32}
    span = Span(window, window + HOUR)
    assert sink.total("llm", "cus_1", span) == 47
    assert sink.breakdown("llm", "cus_1", span, HOUR) == {window: 47}
    sink.close()
    wider = StripeMeter(
        event_name="tokens", event_names=(*MAPPED.event_names, Mapped("tokens", {"model": "large"}))
    )
    later = sink_with(sandbox, wider, transport)
    assert sent(later, events[4]) == [(Answer.ACCEPTED, None)]
    assert later.total("llm", "cus_1", span) == 63
    later.close()


def test_each_mapped_stripe_meter_is_looked_for(sandbox: RunningSandbox) -> None:
    """One that is missing is named; the meter's own event name is not needed beside a mapping."""
    meter = StripeMeter(
        event_name="none_such", event_names=(*MAPPED.event_names, Mapped("huge", {"model": "huge"}))
    )
    sink = sink_with(sandbox, meter)
    (misfit,) = sink.preflight(["llm"])
    assert "event name huge does not exist" in misfit
    span = Span(dt.datetime(2026, 11, 1, tzinfo=dt.UTC), dt.datetime(2026, 11, 2, tzinfo=dt.UTC))
    missing = sink_with(sandbox, StripeMeter(event_name="none_such", event_names=MAPPED.event_names))
    assert missing.total("llm", "cus_1", span) == 0
    sink.close()
    missing.close()


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (None, None),
        ((), None),
        (("llm_model", "token_type"), None),
        (
            ("llm_model", "token_type", "region"),
            "wants the dimensions llm_model, region, token_type, and we send",
        ),
        (("llm_model",), "prices by the dimensions llm_model, and we send llm_model, token_type"),
    ],
)
def test_declared_keys_are_compared(declared: tuple[str, ...] | None, says: str | None) -> None:
    """Where the account shows them: Stripe rejects what lacks one, and adds up what it does not know."""
    known = Known(
        "mtr_1", "tokens", "tokens", "sum", None, "stripe_customer_id", "value", True, False, declared
    )
    found = compare("llm", BY_KEY, known, livemode=False)
    assert [each for each in found.misfits if says and says in each] == found.misfits
    assert bool(found.misfits) == (says is not None)


def client_of(sandbox: RunningSandbox) -> StripeClient:
    return StripeClient(KEY, base_addresses={"api": sandbox.url, "meter_events": sandbox.url})


def test_the_sandbox_takes_declared_keys_and_keeps_the_caps(
    sandbox: RunningSandbox, window: dt.datetime
) -> None:
    """Only where the rule says so; an event without a key, or of one combination too many, is reported and never counts."""
    make: Any = {
        "display_name": "By model",
        "event_name": "by_model",
        "default_aggregation": {"formula": "sum"},
        "dimension_payload_keys": ["model"],
    }
    client = client_of(sandbox)
    with pytest.raises(Exception, match="dimension_payload_keys"):
        client.v1.billing.meters.create(make)
    sandbox.set_rules(
        dimensions=True, dimension_combinations_per_customer=2, dimension_combinations_per_hour=3
    )
    assert client.v1.billing.meters.create(make).to_dict()["dimension_payload_keys"] == ["model"]
    plain = StripeMeter(event_name="by_model", dimensions={"model": "model"})
    sink = sink_with(sandbox, plain)
    assert sink.preflight(["llm"]) == []
    events = [
        *(use(window, 1, model) for model in ("a", "b", "a", "c")),
        use(window, 1),
        *(use(window, 1, model, customer="cus_2") for model in ("c", "d")),
    ]
    for event in events:
        assert sent(sink, event)[0][0] is Answer.ACCEPTED
    assert sandbox.totals("by_model") == {"cus_1": 3, "cus_2": 1}
    reasons = [each["reason"] for each in sandbox.events()]
    too_many = "meter_event_dimension_count_too_high"
    assert reasons == [None, None, None, too_many, "missing_dimension_payload_keys", None, too_many]
    without = sink_with(sandbox, StripeMeter(event_name="by_model"))
    assert "wants the dimensions model, and we send none" in without.preflight(["llm"])[0]
    sandbox.set_rules()
    for each in (sink, without):
        each.close()


def test_they_are_properties_at_metronome(window: dt.datetime) -> None:
    """Each under a name of its own, beside those that are the same on each event; a metric's filters see them."""
    meter = MetronomeMeter(
        event_type="tokens",
        properties={"region": "eu"},
        dimensions={"model": "llm_model", "token_type": "token_type"},
    )
    event = use(window, 3, 'mo"del', "input")
    written = json.loads(Form(meter, Encoding.NUMBER).written(event))
    assert written["properties"] == {
        "quantity": 3,
        "region": "eu",
        "llm_model": 'mo"del',
        "token_type": "input",
    }
    metric = {"name": "m", "id": "1", "aggregation_type": "SUM", "aggregation_key": "quantity"}
    wants = {"name": "llm_model", "exists": True}
    assert misfits("llm", meter, [metric | {"property_filters": [wants]}]) == []
    assert misfits("llm", MetronomeMeter(event_type="tokens"), [metric | {"property_filters": [wants]}])


def rows_of(form: Format, *events: Event) -> str:
    between = form.between.join(map(form.record, events))
    return (form.begin("llm") + between + form.end).decode()


def test_they_are_columns_of_a_csv_file(window: dt.datetime) -> None:
    """In the order of the dimensions, empty where an event has none; what has no column is no row of it."""
    form = CsvFormat({"llm": BY_KEY}, identified=True, alone=False, guarded=True)
    large, none = use(window, 3, "=large", "in,put"), use(window, 5)
    read = list(csv.DictReader(StringIO(rows_of(form, large, none))))
    assert [
        (each["payload_llm_model"], each["payload_token_type"], each["payload_value"]) for each in read
    ] == [
        ("'=large", "in,put", "3"),
        ("", "", "5"),
    ]
    assert form.misfit(large) is None
    assert "for which the file has no column" in str(
        CsvFormat({"llm": StripeMeter(event_name="tokens")}, identified=True, alone=False).misfit(large)
    )


@pytest.mark.parametrize("lines", [True, False])
def test_they_are_keys_in_a_json_file(window: dt.datetime, lines: bool) -> None:
    """As in the payload that is sent; and a mapped event name is that of the record."""
    form = JsonFormat({"llm": MAPPED}, lines=lines)
    text = rows_of(form, use(window, 3, "large", "input"))
    (found,) = [json.loads(text)] if lines else json.loads(text)
    assert found["event_name"] == "large_input"
    assert found["payload"] == {
        "stripe_customer_id": "cus_1",
        "value": 3,
        "model": "large",
        "token_type": "input",
    }
    unmapped = use(window, 3, "huge", "input")
    assert "no event name is mapped for model=huge, token_type=input" in str(form.misfit(unmapped))


def test_a_record_is_no_longer_than_is_counted_for_it(window: dt.datetime) -> None:
    """So that no file exceeds its limit: names of the longest, of signs that take most bytes."""
    event = use(window, 3, "🙂" * 100, '"' * 100)
    said = len(event.customer.encode()) + len(event.identifier) + 1
    for form in (
        JsonFormat({"llm": BY_KEY}, lines=True),
        CsvFormat({"llm": BY_KEY}, identified=True, alone=False),
    ):
        (sizes,) = form.bundles()
        assert len(form.record(event)) <= sizes["llm"] + said


FILE = """
sources: {{app: {{url: "sqlite:///app.db"}}}}
sinks: {{stripe: {{type: stripe, api_key: sk_test_1, mode: test}}, other: {{type: stripe, api_key: sk_test_1, mode: test}}}}
meters:
  llm:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    dimensions: [model, token_type]
    query: select customer, model, token_type, quantity from used where at >= :start and at < :end
    {more}
"""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            "stripe: {dimension_keys: {region: r}}",
            "names `region`, which is none of the meter's `dimensions`",
        ),
        ("stripe: {dimension_keys: {model: value}}", "leaves two things under the key `value`"),
        ("stripe: {event_names: [{event_name: x, where: {plan: pro}}]}", "names `plan`, which is none"),
        (
            "stripe: {event_names: [{event_name: x, where: {model: a}}, {event_name: y, where: {model: a, token_type: b}}]}",
            "has `y` behind `x`, which takes all of its events",
        ),
        (
            "metronome: {dimension_properties: {model: quantity}}",
            "leaves two things under the key `quantity`",
        ),
        ("metronome: {dimension_properties: {plan: p}}", "names `plan`, which is none"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, more: str, says: str) -> None:
    """Before anything is read."""
    path = tmp_path / "aggregator.yaml"
    path.write_text(FILE.format(more=more))
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert says in str(refused.value)


def test_a_mapped_event_name_is_nobody_elses(tmp_path: Path) -> None:
    """Two meters that sent it would be added up."""
    other = """
  other:
    source: app
    sinks: [stripe]
    window: 1h
    start_at: 2026-11-01T00:00Z
    stripe: {event_name: x}
    query: select customer, quantity from used where at >= :start and at < :end
"""
    path = tmp_path / "aggregator.yaml"
    path.write_text(FILE.format(more="stripe: {event_names: [{event_name: x, where: {model: a}}]}" + other))
    with pytest.raises(ConfigError, match="sends the same event name as meter"):
        load(path, {})
