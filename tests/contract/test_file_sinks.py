"""Sinks of files, one contract for all: whole files under names of their own, never two for the same events."""

import csv
import json
from collections.abc import Iterator
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.core.model import Span
from aggregator.core.planner import plain
from aggregator.errors import SinkError, SinkHalted
from aggregator.sinks.files import making
from aggregator.sinks.files.formats import LONGEST_CUSTOMER, CsvFormat, JsonFormat, as_given, unformulated
from aggregator.sinks.protocol import Batch
from tests.contract.file_sinks import (
    HOUR,
    METERS,
    START,
    Interrupted,
    Place,
    breaking_off,
    event,
    forms,
    only,
    put_up,
    some,
)

KINDS = ("jsonl", "json", "text", "csv", "dashboard")
PLACES = [*(f"directory {kind}" for kind in KINDS), "s3 jsonl", "s3 json", "s3 csv", "s3 jsonl in-parts"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each sink with each format."""
    with put_up(request, tmp_path) as given:
        yield given


def test_a_file_says_what_it_was_given(place: Place) -> None:
    """A reader that knows Stripe's pages alone finds every event with its quantity, field by field."""
    events = some(200)
    written = place.write(events)
    found = place.read()
    assert written is not None
    assert (found.records, written.records, found.bytes) == (200, 200, written.bytes)
    wanted: dict[tuple[str, str], Decimal] = {}
    for each in events:
        wanted["api_requests", each.customer] = (
            wanted.get(("api_requests", each.customer), Decimal(0)) + each.delta
        )
    assert found.totals == wanted
    assert found.identifiers == (set() if place.kind == "dashboard" else {each.identifier for each in events})


def test_the_same_events_make_one_file(place: Place) -> None:
    """Written a second time, as after a crash, the file is there already: the same name, and not a byte rewritten."""
    events = some(50)
    first = place.write(events)
    lying = place.contents()
    assert place.write(events, again=True) == first
    assert place.contents() == lying
    assert len(lying) == 1
    assert place.leftovers() == []


def test_other_events_make_another_file(place: Place) -> None:
    """A name belongs to its events: one more or one less, or other identifiers, and it differs."""
    events = some(5)
    batches = [
        events,
        events[:4],
        events[1:],
        [each._replace(identifier=f"agg_{n}") for n, each in enumerate(events)],
    ]
    names = {getattr(place.write(batch), "name", None) for batch in batches}
    assert len(names) == 4
    assert names == place.contents().keys()


def test_a_file_keeps_its_name_when_its_meter_gets_another() -> None:
    """What was begun before a meter was renamed is the same file afterwards, so that it is not imported twice."""
    now = {"requests": METERS["api_requests"]}
    for before, after in (
        (JsonFormat(METERS, lines=True), JsonFormat(now, lines=True)),
        (CsvFormat(METERS, identified=True, alone=False), CsvFormat(now, identified=True, alone=False)),
    ):
        first = making.make(BytesIO(), some(5), before, lambda: True)
        second = making.make(
            BytesIO(), [each._replace(meter="requests") for each in some(5)], after, lambda: True
        )
        assert first is not None
        assert second is not None
        assert "-api_requests-" in first.name
        assert (second.name, second.sha256) == (first.name, first.sha256)


def test_names_sort_by_the_time_of_planning(place: Place) -> None:
    """A later file has a higher first event, and its name comes later, however many digits the number has."""
    names = [getattr(place.write(some(2, first=first)), "name", "") for first in (9, 10, 99_999, 1_000_000)]
    assert names == sorted(names)
    assert all(name.startswith("usage-0000") and len(f"usage/{name}") < 255 for name in names)


def test_nothing_is_never_a_file(place: Place) -> None:
    """No events, no file: not even one with a header alone."""
    assert place.write([]) is None
    assert place.contents() == {}


@pytest.mark.parametrize("times", [0, 1, 2])
def test_who_may_not_go_on_leaves_nothing(place: Place, times: int) -> None:
    """A claim that is lost on the way, at any look, leaves neither a file nor a part of one."""
    assert place.sink.write(Batch(iter(some(50)), again=False), only(times)) is None
    assert (place.contents(), place.leftovers()) == ({}, [])


def test_a_stopped_sink_writes_nothing(place: Place) -> None:
    """What is not under its name when the process is told to stop is left to whoever comes next."""
    place.sink.stop()
    assert place.write(some(5)) is None
    assert place.contents() == {}


def test_what_breaks_off_leaves_nothing(place: Place) -> None:
    """A file whose events end in the middle is not there at all, and the next try makes it whole."""
    events = some(20)
    with pytest.raises(Interrupted):
        place.write(breaking_off(events, 10))
    assert (place.contents(), place.leftovers()) == ({}, [])
    assert place.write(events, again=True) is not None
    assert place.read().records == 20


def test_another_s_file_is_left_alone(place: Place) -> None:
    """If something else lies under the name, nothing is written, and a person is told what to do."""
    events = some(5)
    written = place.write(events)
    assert written is not None
    place.put(written.name, b"something else\n")
    lying = place.contents()
    with pytest.raises(SinkHalted, match=r"says something else .* never rewritten"):
        place.write(events, again=True)
    assert place.contents() == lying


def test_nobody_can_read_a_file_back(place: Place) -> None:
    """A sink of files does not pretend to know what was counted."""
    assert place.sink.limits.proof is None
    with pytest.raises(SinkError, match="do not say what was counted"):
        place.sink.total("api_requests", "cus_1", Span(START, START + HOUR))
    with pytest.raises(SinkError, match="do not say what was counted"):
        place.sink.breakdown("api_requests", "cus_1", Span(START, START + HOUR), HOUR)


def test_only_a_person_takes_files_in_order(place: Place) -> None:
    """Files for the Dashboard are uploaded by their names; what is imported from a folder comes in any order."""
    assert place.sink.limits.keeps_order == place.sink.by_hand


def test_a_meter_that_replaces_says_where_it_stands(place: Place) -> None:
    """Where Stripe lets a later event replace an earlier one, the total is written, and not the change."""
    place.write([event(1, "seats", delta=-2, total=5)])
    assert place.read().totals == {("seats", "cus_1"): 5}


def test_payload_keys_are_the_meter_s_own(place: Place) -> None:
    """Customer and quantity stand under the keys under which the meter at Stripe looks for them."""
    written = place.write(some(3, "tokens"))
    assert written is not None
    assert place.read().records == 3
    [(content, _)] = place.contents().values()
    assert b"tokens" in content
    assert written.meters == ("tokens",)


def test_which_meters_share_a_file() -> None:
    """JSON takes all together; columns only those with the same keys; the Dashboard one meter per file."""
    shared = {kind: [set(bundle) for bundle in form.bundles()] for kind, form in forms().items()}
    assert shared["jsonl"] == shared["json"] == [{"api_requests", "tokens", "seats"}]
    assert shared["csv"] == [{"api_requests", "seats"}, {"tokens"}]
    assert shared["dashboard"] == [{"api_requests"}, {"tokens"}, {"seats"}]


def test_the_dashboard_s_columns_are_stripe_s() -> None:
    """Header and row are those of Stripe's template, to the byte."""
    form = forms()["dashboard"]
    assert form.begin("api_requests") == b"timestamp,event_name,payload_stripe_customer_id,payload_value\n"
    assert form.begin("tokens") == b"timestamp,event_name,payload_customer,payload_tokens\n"
    assert form.record(
        event(3, customer="cus_x", delta=Decimal("1E+3"))
    ) == b"1777606200,api_requests,cus_x,1000".replace(
        b"1777606200", str(int((START + 3.5 * HOUR).timestamp())).encode()
    )


def test_a_json_record_is_stripe_s_sample() -> None:
    """Fields, nesting and types are those of Stripe's sample: numbers are numbers, or text if that is asked for."""
    one = event(3, customer='cus_"x\u00e4', delta=Decimal("0.50"))
    said = {kind: json.loads(forms()[kind].record(one)) for kind in ("jsonl", "text")}
    assert said["jsonl"] == {
        "identifier": one.identifier,
        "timestamp": int((START + 3.5 * HOUR).timestamp()),
        "event_name": "api_requests",
        "payload": {"stripe_customer_id": 'cus_"x\u00e4', "value": 0.5},
    }
    assert said["text"]["payload"]["value"] == "0.5"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.from_regex(r"'*[=+@-].*"))
@example("=HYPERLINK(1)")
@example("'=1")
@example("cus_1")
@example("\uff1d1")
def test_what_people_open_holds_no_formula(customer: str) -> None:
    """A customer that a spreadsheet would compute is text there, and reads back as what it was; nobody else is touched."""
    guarded = unformulated(customer)
    assert as_given(guarded) == customer
    assert not guarded.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
    assert guarded in {customer, f"'{customer}"}
    assert unformulated("cus_NffrFeUfNV2Hib") == "cus_NffrFeUfNV2Hib"


def test_a_quantity_is_a_number_and_files_for_the_import_are_exact() -> None:
    """Only text that people open is guarded: a negative number stays one, and the import gets what there is."""
    one = event(3, customer='=cmd|"/c calc"!A1', delta=Decimal(-5))
    row = next(csv.reader([forms()["guarded"].record(one).decode()]))
    assert row[2:] == [f"'{one.customer}", "-5"]
    for kind, column in (("dashboard", 2), ("csv", 3)):
        assert next(csv.reader([forms()[kind].record(one).decode()]))[column] == one.customer
    assert json.loads(forms()["jsonl"].record(one))["payload"]["stripe_customer_id"] == one.customer


@pytest.mark.parametrize("kind", ["csv", "dashboard"])
@pytest.mark.parametrize("customer", ["a\nb", "a\r", "a\x00", "\x7f"])
def test_what_would_break_a_row_is_refused_by_name(kind: str, customer: str) -> None:
    """A customer with a line break in it fits no row; JSON takes it."""
    assert "control character" in (forms()[kind].misfit(event(1, customer=customer)) or "")
    assert forms()["jsonl"].misfit(event(1, customer=customer)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_id_is_refused_by_name(kind: str) -> None:
    """A text of a thousand characters is no customer's id."""
    assert forms()[kind].misfit(event(1, customer="x" * LONGEST_CUSTOMER)) is None
    assert "no id" in (forms()[kind].misfit(event(1, customer="x" * (LONGEST_CUSTOMER + 1))) or "")


def test_a_meter_that_left_is_named(place: Place) -> None:
    """A file that was begun with a meter which no longer feeds the sink waits for it, rather than being another file."""
    with pytest.raises(SinkError, match=r"events of the meter gone, which no longer feeds it: put it back"):
        place.sink.misfit(event(1, "gone"))


@given(
    customer=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40
    ),
    delta=st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9),
    meter=st.sampled_from(sorted(METERS)),
    kind=st.sampled_from([*KINDS, "guarded"]),
)
def test_a_record_is_never_larger_than_was_reckoned(
    customer: str, delta: Decimal, meter: str, kind: str
) -> None:
    """The ledger sums up sizes before a byte is written: no record takes more than it allows for."""
    one = event(7, meter, customer=customer, delta=delta)
    form = forms()[kind]
    around = next(bundle[meter] for bundle in form.bundles() if meter in bundle)
    allowed = (
        around
        + len(json.dumps(customer, ensure_ascii=False).encode())
        + len(one.identifier)
        + len(plain(delta))
    )
    assert len(form.record(one)) + max(len(form.between), 1) <= allowed
