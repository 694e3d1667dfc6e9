"""What Stripe's messages on invalid events come to, shape by shape. No fixture: values in, values out."""

import datetime as dt
from typing import Any

import pytest

from aggregator.core.model import Rejection, Report, Span
from aggregator.sinks.stripe.invalid_events import (
    ERROR_REPORT,
    IMPORT_FAILED,
    IMPORT_SUCCEEDED,
    NO_METER,
    notification_of,
    ours,
    read_import,
    read_report,
    related_meter,
)
from aggregator.sinks.stripe.meter_events import fresh_key

START = dt.datetime(2026, 11, 20, 15, 12, tzinfo=dt.UTC)
SPAN = Span(START, START + dt.timedelta(seconds=10))
A, B = "agg_" + "a" * 20, "agg_" + "b" * 20
EVENT_NAMES = {"api": ("api_requests",), "seats": ("seats-2", "seats_of_teams")}

Message = dict[str, Any]


def kind(code: str, *samples: Message, count: int | None = None, words: str = "No such customer") -> Message:
    """One kind of error, with what each sample says of its request."""
    return {
        "code": code,
        "error_count": len(samples) if count is None else count,
        "sample_errors": [{"error_message": words, "request": sample} for sample in samples],
    }


def message(*kinds: Message, type: str = ERROR_REPORT, count: int | None = None, **more: object) -> Message:  # noqa: A002
    """A fetched message, in the shape of docs.stripe.com/api/v2/core/events/event-types."""
    total = sum(each["error_count"] for each in kinds) if count is None else count
    return {
        "id": "evt_1",
        "object": "v2.core.event",
        "type": type,
        "created": "2026-11-20T15:12:12.000Z",
        "livemode": False,
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
        "data": {
            "developer_message_summary": f"There are {total} invalid events",
            "reason": {"error_count": total, "error_types": list(kinds)},
            "validation_start": "2026-11-20T15:12:00.000Z",
            "validation_end": "2026-11-20T15:12:10.000Z",
        },
        **more,
    }


def reports(told: Message, meter: str | None = "api") -> list[tuple[str, int, list[str]]]:
    """What it comes to: per report the meter, how many were invalid, and who is named."""
    return [
        (report.meter, report.rejected, [each.identifier for each in report.named])
        for report in read_report(told, meter, EVENT_NAMES).reports
    ]


UNKNOWN = "meter_event_customer_not_found"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (message(kind(UNKNOWN, {"identifier": A})), [("api", 1, [A])]),
        (message(kind(UNKNOWN, {"identifier": fresh_key(A)})), [("api", 1, [A])]),
        (message(kind(UNKNOWN, {"id": "req_1", "idempotency_key": fresh_key(A)})), [("api", 1, [A])]),
        (message(kind(UNKNOWN, {"identifier": A}, {"identifier": A}, count=2)), [("api", 2, [A])]),
        (message(kind(UNKNOWN, {"identifier": A}, count=7)), [("api", 7, [A])]),
        (message(kind(UNKNOWN, {"identifier": "somebody-elses"})), [("api", 1, [])]),
        (message(kind(UNKNOWN, {"identifier": A}), count=3), [("api", 3, [A])]),
        (
            message(kind(UNKNOWN, {"identifier": A}, {"identifier": B}, count=1), count=1),
            [("api", 2, [A, B])],
        ),
        (message(kind("no_such_code_yet", {"identifier": A}, words="Too purple")), [("api", 1, [A])]),
        (
            message(kind("archived_meter", {"identifier": A}), kind(UNKNOWN, {"identifier": B})),
            [("api", 2, [A, B])],
        ),
        (message(kind(UNKNOWN, {}), kind(UNKNOWN, {"identifier": None})), [("api", 2, [])]),
    ],
    ids=[
        "by identifier",
        "by idempotency key",
        "in the older shape",
        "named twice, by two attempts",
        "counts more than it names",
        "names somebody else's",
        "total above the kinds",
        "more samples than its own count",
        "code that is new",
        "two kinds",
        "names nobody",
    ],
)
def test_a_report_comes_to(told: Message, expected: list[tuple[str, int, list[str]]]) -> None:
    """Counts and names are taken from a report, whichever of the two ways a sample names its event."""
    assert reports(told) == expected


@pytest.mark.parametrize(
    "there",
    [
        kind("duplicate_meter_event", {"identifier": A}),
        kind("no_such_code_yet", {"identifier": A}, words=f"An event already exists with identifier {A}."),
    ],
)
def test_an_event_that_was_there_before_is_not_rejected(there: Message) -> None:
    """An error that says the identifier is known says that the event is booked: to owe it again would bill it twice."""
    assert reports(message(there, kind(UNKNOWN, {"identifier": B}))) == [("api", 1, [B])]
    assert reports(message(there)) == [("api", 0, [])]
    assert read_report(message(there), "api", EVENT_NAMES).trouble is None


def test_words_do_not_overrule_a_code_that_is_known() -> None:
    """An archived meter's words may say what they like: its events do not count."""
    told = message(kind("archived_meter", {"identifier": A}, words="It is a duplicate of another meter"))
    assert reports(told) == [("api", 1, [A])]


def test_a_report_says_when_and_why() -> None:
    """The span is that of the validation, and a reason is the code with Stripe's words."""
    told = read_report(message(kind(UNKNOWN, {"identifier": A})), "api", EVENT_NAMES)
    reason = "meter_event_customer_not_found: No such customer"
    assert told.reports == (Report("evt_1", "api", SPAN, 1, (Rejection(A, reason),)),)
    assert told.trouble is None
    assert str(told) == "api: 1 invalid, 1 named"


def test_words_that_no_database_takes_are_told_as_far_as_they_go() -> None:
    """JSON may hold a NUL, and halves of characters."""
    told = read_report(message(kind(UNKNOWN, {"identifier": A}, words="a\0b \ud800")), "api", EVENT_NAMES)
    rejection = Rejection(A, r"meter_event_customer_not_found: a\x00b \ud800")
    assert told.reports == (Report("evt_1", "api", SPAN, 1, (rejection,)),)


def test_a_report_on_a_meter_of_somebody_else_concerns_nobody_but_whom_it_names() -> None:
    """It belongs to no meter of ours, so nothing of ours is read back for it."""
    assert reports(message(kind(UNKNOWN, {"identifier": A}, count=9)), meter=None) == [("", 9, [A])]


NO = "No meter was found matching event_name {}."


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([kind("no_meter", {"identifier": "x"}, words=NO.format("api_requests"))], [("api", 1, [])]),
        ([kind("no_meter", {"identifier": "x"}, words=NO.format("seats-2"))], [("seats", 1, [])]),
        ([kind("no_meter", {"identifier": "x"}, words=NO.format("seats-22"))], [("", 0, [])]),
        ([kind("no_meter", {"identifier": A}, words=NO.format("api_requests"))], [("", 1, [A])]),
        (
            [kind("no_meter", {"identifier": A}, count=4, words=NO.format("api_requests"))],
            [("api", 4, [A]), ("seats", 4, [A])],
        ),
    ],
    ids=["one of ours", "another of ours", "somebody else's", "named", "more than it says"],
)
def test_a_message_without_a_meter_comes_to(
    told: list[Message], expected: list[tuple[str, int, list[str]]]
) -> None:
    """Event names of ours say which meters are meant; what stays open is looked for with every meter."""
    assert reports(message(*told, type=NO_METER, related_object={}), meter=None) == expected


@pytest.mark.parametrize(
    "data",
    [None, {}, [], {"reason": 5}, {"reason": {"error_types": ["x", None, {"sample_errors": [3]}]}}, "text"],
)
def test_what_makes_no_sense_is_said_and_holds_up_nothing(data: object) -> None:
    """A report without figures or a span is trouble, not an error."""
    told = read_report(message() | {"data": data}, "api", EVENT_NAMES)
    assert told.trouble is not None
    assert [report.named for report in told.reports] == [()]


def test_what_is_named_is_refused_even_without_a_span() -> None:
    """A name needs no span; that nothing can be read back is said."""
    whole = message(kind(UNKNOWN, {"identifier": A}))
    del whole["data"]["validation_start"]
    told = read_report(whole, "api", EVENT_NAMES)
    assert [each.identifier for each in told.reports[0].named] == [A]
    assert told.trouble is not None


@pytest.mark.parametrize(
    ("related", "expected"),
    [
        ({"id": "mtr_1", "type": "billing.meter"}, "mtr_1"),
        ({}, None),
        (None, None),
        ({"id": "cus_1", "type": "customer"}, None),
        ({"id": 5, "type": "billing.meter"}, None),
    ],
)
def test_the_related_meter(related: object, expected: str | None) -> None:
    """A message may be related to a meter, or to nothing."""
    assert related_meter({"related_object": related}) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (A, A),
        pytest.param(fresh_key(A), A, id="a key of one attempt"),
        (A + "x", None),
        (A[:-1], None),
        ("x" + A, None),
        ("agg_" + "-" * 20, None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_who_is_ours(named: object, expected: str | None) -> None:
    """Only an identifier of ours, or a key of ours that begins with it, is recognised."""
    assert ours(named) == expected


@pytest.mark.parametrize(
    "wrong",
    [{}, {"id": ""}, {"id": "x" * 256}, {"type": None}, {"created": "yesterday"}, {"created": True}],
)
def test_a_message_without_a_name_is_none(wrong: Message) -> None:
    """Without id, type or time there is nothing to put on record."""
    whole = {"id": "evt_1", "type": ERROR_REPORT, "created": "2026-11-20T15:12:12Z"} | wrong
    if not wrong:
        whole = {}
    with pytest.raises(ValueError, match=r"it has no|Invalid isoformat"):
        notification_of(whole)


def imported(type: str, **its: object) -> Message:  # noqa: A002
    """A message about a bulk import, as it is delivered."""
    whole = {"id": "impset_1", "object": "data_management.import_set", **its}
    return {
        "id": "evt_9",
        "object": "event",
        "type": type,
        "created": 1_790_000_000,
        "data": {"object": whole},
    }


def test_a_failed_import_names_its_file_and_its_reason() -> None:
    """The name of the file is found wherever it stands."""
    told = read_import(
        imported(IMPORT_FAILED, failed_reason="no column value", file={"name": "usage/a-1.csv"})
    )
    [fault] = told.unimported
    assert fault.files == ("a-1.csv",)
    assert fault.reason == "import set impset_1: no column value"


def test_an_import_with_errors_is_a_fault_and_one_without_is_none() -> None:
    """`succeeded_with_errors` counts rows that were not taken."""
    errors = {"errors": {"row_count": 3, "file_id": "file_1"}}
    [fault] = read_import(
        imported(IMPORT_SUCCEEDED, status="succeeded_with_errors", result=errors)
    ).unimported
    assert fault.reason == "import set impset_1: succeeded_with_errors row_count 3 file_id file_1"
    assert read_import(imported(IMPORT_SUCCEEDED, status="succeeded")).unimported == ()
