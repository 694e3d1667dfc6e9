"""Meter usage: several meters at once, filters and groups, how fresh it is, pages, and accounts without the preview."""

import json
from typing import Any

import pytest
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    call,
    meter_id,
    meter_usage,
    send,
    used,
)

MIDNIGHT = NOON - 12 * HOUR


@pytest.fixture(autouse=True)
def preview(sandbox: RunningSandbox) -> None:
    """Let the account have the preview."""
    sandbox.set_rules(meter_usage=True, dimensions=True)


def ask(
    sandbox: RunningSandbox,
    *meters: str,
    start: int = MIDNIGHT - 2 * DAY,
    end: int = NOON + DAY,
    **query: Any,
) -> Any:
    """Ask for the usage of cus_a."""
    named = {f"meters[{number}][meter]": each for number, each in enumerate(meters)}
    answer = meter_usage(
        sandbox.url, **{"customer": "cus_a", "starts_at": start, "ends_at": end, **named, **query}
    )
    assert answer.status == 200, answer.json
    return answer.json


GROUPED: dict[str, Any] = {"meters[0][dimension_group_by_keys][0]": "model"}
FILTER = "meters[0][dimension_filters][tier]"


def rows(answer: Any) -> list[tuple[str | None, int, float]]:
    """Return what the rows say."""
    return [(each["meter"], each["starts_at"], each["value"]) for each in answer["rows"]["data"]]


def test_several_meters_come_at_once_each_by_its_formula(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Oldest first, without rows for nothing, and as summaries show them."""
    names = ("api_requests", "logins", "stored_gb")
    for name in names:
        for value, at in (("2.5", MIDNIGHT - DAY), ("4", MIDNIGHT - DAY + 60), ("8", MIDNIGHT)):
            send(stripe_client, value, timestamp=at, event_name=name)
    ids = [meter_id(stripe_client, name) for name in names]
    days = ask(sandbox, *ids, end=MIDNIGHT + DAY, value_grouping_window="day")
    expected = [(MIDNIGHT - DAY, (6.5, 2.0, 4.0)), (MIDNIGHT, (8.0, 1.0, 8.0))]
    assert rows(days) == [
        (each, start, value) for start, values in expected for each, value in zip(ids, values, strict=True)
    ]
    assert days["rows"]["total"] == 6
    assert not days["rows"]["has_more"]
    whole = ask(sandbox, ids[0])
    assert rows(whole) == [(ids[0], MIDNIGHT - 2 * DAY, used(stripe_client, MIDNIGHT - 2 * DAY, NOON + DAY))]
    assert rows(ask(sandbox, *ids[:1], customer="cus_b")) == []


def test_without_meters_all_are_one(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Rows name no meter then."""
    for name in ("api_requests", "stored_gb"):
        send(stripe_client, "4", timestamp=NOON - HOUR, event_name=name)
    assert rows(ask(sandbox)) == [(None, MIDNIGHT - 2 * DAY, 8.0)]


def test_dimensions_filter_and_group(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """Only those that the meter declares."""
    made = stripe_client.v1.billing.meters.create(
        {
            "display_name": "By model",
            "event_name": "by_model",
            "default_aggregation": {"formula": "sum"},
            "dimension_payload_keys": ["model", "tier"],
        }  # type: ignore[typeddict-unknown-key]
    )
    for value, model, tier in (("1", "s", "free"), ("2", "l", "free"), ("4", "l", "paid")):
        payload = {"stripe_customer_id": "cus_a", "value": value, "model": model, "tier": tier}
        stripe_client.v1.billing.meter_events.create(
            {"event_name": "by_model", "payload": payload, "timestamp": NOON - 60}
        )
    grouped = ask(sandbox, made.id, **GROUPED)
    assert [(each["dimensions"], each["value"]) for each in grouped["rows"]["data"]] == [
        ({"model": "s"}, 1.0),
        ({"model": "l"}, 6.0),
    ]
    free: dict[str, Any] = {FILTER: "free"}
    filtered = ask(sandbox, made.id, **free)
    assert rows(filtered) == [(made.id, MIDNIGHT - 2 * DAY, 3.0)]
    either: dict[str, Any] = {f"{FILTER}[0]": "free", f"{FILTER}[1]": "paid"}
    several = ask(sandbox, made.id, **either)
    assert rows(several) == [(made.id, MIDNIGHT - 2 * DAY, 7.0)]


def test_it_is_as_fresh_as_it_says(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """What was received later is not in it, though summaries have it."""
    send(stripe_client, "4", timestamp=NOON - 60)
    sandbox.set_time(NOON + HOUR)
    send(stripe_client, "8", timestamp=NOON)
    sandbox.set_rules(meter_usage=True, meter_usage_lag_seconds=600)
    answer = ask(sandbox, meter_id(stripe_client))
    assert NOON + HOUR - 600 <= answer["refreshed_at"] < NOON + HOUR
    assert [value for _, _, value in rows(answer)] == [4.0]
    assert used(stripe_client) == 12.0


def test_an_answer_has_so_many_rows_and_says_that_there_are_more(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """No parameter asks for the rest: none is documented."""
    for hour in range(5):
        send(stripe_client, timestamp=NOON - hour * HOUR)
    sandbox.set_rules(meter_usage=True, meter_usage_rows=3)
    answer = ask(sandbox, meter_id(stripe_client), value_grouping_window="hour")
    listed = answer["rows"]
    assert (len(listed["data"]), listed["has_more"], listed["total"]) == (3, True, 5)
    refused = meter_usage(sandbox.url, customer="cus_a", starts_at=0, ends_at=60, starting_after="x")
    assert (refused.status, refused.json["error"]["code"]) == (400, "parameter_unknown")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"starts_at": 1}, "whole minute"),
        ({"value_grouping_window": "day", "starts_at": 3600}, "whole UTC day"),
        ({"value_grouping_window": "week"}, "must be one of hour, day"),
        ({"timezone": "America/New_York"}, "must be one of UTC"),
        ({"ends_at": 0}, "must be after"),
        ({"start_time": 0}, "unknown parameter"),
        ({"meters[0][meter_id]": "x"}, "unknown parameter"),
        ({"meters[0][meter]": "x"}, "No such billing meter"),
    ],
)
def test_what_is_not_as_documented_is_refused(
    sandbox: RunningSandbox, query: dict[str, Any], said: str
) -> None:
    """With the parameter's name: the names before 2025-09-30 too."""
    answer = meter_usage(sandbox.url, **{"customer": "cus_a", "starts_at": 0, "ends_at": DAY, **query})
    assert answer.status in (400, 404)
    assert said in answer.json["error"]["message"]


def test_a_dimension_that_a_meter_does_not_declare_is_refused(
    sandbox: RunningSandbox, stripe_client: StripeClient
) -> None:
    """Rather than shown as empty."""
    query: dict[str, Any] = {
        "meters[0][meter]": meter_id(stripe_client),
        "meters[0][dimension_group_by_keys][0]": "model",
    }
    answer = meter_usage(sandbox.url, customer="cus_a", starts_at=0, ends_at=MINUTE, **query)
    assert "has no dimension model" in answer.json["error"]["message"]


@pytest.mark.parametrize("status", [404, 403, 400])
def test_who_does_not_have_the_preview_is_refused(sandbox: RunningSandbox, status: int) -> None:
    """As the rule says; and so is a version that is no preview, or one of before."""
    sandbox.set_rules(meter_usage=False, meter_usage_status=status)
    query: dict[str, Any] = {"customer": "cus_a", "starts_at": 0, "ends_at": 60}
    assert meter_usage(sandbox.url, **query).status == status
    sandbox.set_rules(meter_usage=True, meter_usage_status=status)
    assert meter_usage(sandbox.url, **query).status == 200
    for version in ("2026-10-28.endive", "2025-07-30.preview", ""):
        assert meter_usage(sandbox.url, version, **query).status == status


def test_it_is_counted_as_any_call(sandbox: RunningSandbox) -> None:
    """And needs a key that may read meters."""
    sandbox.set_permissions("rk_test_nothing")
    answer = call(
        sandbox.url,
        "GET",
        "/v1/billing/analytics/meter_usage?customer=cus_a&starts_at=0&ends_at=60",
        headers={"Authorization": "Bearer rk_test_nothing", "Stripe-Version": "2025-09-30.preview"},
    )
    assert answer.status == 403
    assert "rak_billing_meter_read" in json.dumps(answer.json)
