"""Event summaries: ranges, buckets, pages, formulas, windows and delay."""

import pytest
import stripe
from stripe import StripeClient

from aggregator.sandbox import RunningSandbox
from tests.contract.sandbox.sandbox_calls import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    call,
    meter_id,
    send,
    summaries,
    used,
)

MIDNIGHT = NOON - 12 * HOUR


def test_a_range_includes_its_start_and_not_its_end(stripe_client: StripeClient) -> None:
    """Of events on both bounds and just inside, the one on the end is left out."""
    start, end = NOON - 2 * HOUR, NOON - HOUR
    for value, timestamp in (("1", start - 1), ("10", start), ("100", end - 1), ("1000", end)):
        send(stripe_client, value, timestamp=timestamp)
    assert used(stripe_client, start, end) == 110.0


def test_ranges_that_touch_share_nothing_and_lose_nothing(stripe_client: StripeClient) -> None:
    """Two halves add up to the whole."""
    for minutes in range(6):
        send(stripe_client, "1", timestamp=NOON - minutes * 30)
    halves = (
        used(stripe_client, NOON - 2 * MINUTE, NOON - MINUTE),
        used(stripe_client, NOON - MINUTE, NOON + MINUTE),
    )
    assert sum(halves) == used(stripe_client, NOON - 2 * MINUTE, NOON + MINUTE) == 5.0


def test_without_grouping_there_is_one_row_even_for_nothing(stripe_client: StripeClient) -> None:
    """A customer who used nothing has one row of 0, as a float."""
    (row,) = summaries(stripe_client, NOON - DAY, NOON, customer="cus_idle")
    assert (row.aggregated_value, row.start_time, row.end_time) == (0.0, NOON - DAY, NOON)
    assert isinstance(row.aggregated_value, float)
    assert row.object == "billing.meter_event_summary"
    assert row.meter == meter_id(stripe_client)
    assert row.livemode is False
    assert row.id.startswith("mtrusg_")


@pytest.mark.parametrize(("grouping", "step"), [("hour", HOUR), ("day", DAY)])
def test_buckets_are_utc_hours_or_days_newest_first_without_empty_ones(
    stripe_client: StripeClient, grouping: str, step: int
) -> None:
    """Each bucket holds its half-open span; those without events have no row."""
    first, third = MIDNIGHT - 3 * step, MIDNIGHT - step
    for value, timestamp in (("1", first), ("2", first + step - 1), ("4", third), ("8", MIDNIGHT)):
        send(stripe_client, value, timestamp=timestamp)
    rows = summaries(stripe_client, MIDNIGHT - 3 * step, MIDNIGHT, grouping=grouping)
    assert [(row.start_time, row.end_time, row.aggregated_value) for row in rows] == [
        (third, third + step, 4.0),
        (first, first + step, 3.0),
    ]


def test_paging_walks_every_bucket_once(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """35 hourly rows come in four pages of ten, each row once, and add up to the total."""
    for hour in range(1, 36):
        send(stripe_client, "1", timestamp=NOON - hour * HOUR)
    rows = summaries(stripe_client, NOON - 36 * HOUR, NOON, grouping="hour")
    assert [row.start_time for row in rows] == [NOON - hour * HOUR for hour in range(1, 36)]
    assert len({row.id for row in rows}) == 35
    path = f"/v1/billing/meters/{meter_id(stripe_client)}/event_summaries"
    query = f"?customer=cus_a&start_time={NOON - 36 * HOUR}&end_time={NOON}&value_grouping_window=hour"
    page = call(sandbox.url, "GET", path + query).json
    assert (page["object"], len(page["data"]), page["has_more"], page["url"]) == ("list", 10, True, path)
    back = call(sandbox.url, "GET", f"{path}{query}&limit=3&ending_before={rows[10].id}").json
    assert [row["id"] for row in back["data"]] == [row.id for row in rows[7:10]]
    assert back["has_more"] is True


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"start_time": NOON - 30}, "start_time"),
        ({"end_time": NOON + 1}, "end_time"),
        ({"value_grouping_window": "hour", "start_time": NOON - 90 * MINUTE}, "start_time"),
        ({"value_grouping_window": "day", "start_time": MIDNIGHT - DAY}, "end_time"),
        ({"value_grouping_window": "week"}, "value_grouping_window"),
        ({"start_time": NOON}, "end_time"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"starting_after": "mtrusg_nobody"}, "starting_after"),
        ({"starting_after": "a", "ending_before": "b"}, "starting_after"),
        ({"colour": "red"}, "colour"),
        ({"customer": None}, "customer"),
        ({"start_time": None}, "start_time"),
    ],
)
def test_a_range_that_stripe_would_not_take_is_refused(
    stripe_client: StripeClient, sandbox: RunningSandbox, change: dict[str, object], param: str
) -> None:
    """Misaligned, empty, unknown and missing parameters are a 400 naming the parameter."""
    query: dict[str, object] = {"customer": "cus_a", "start_time": NOON - HOUR, "end_time": NOON} | change
    given = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
    answer = call(sandbox.url, "GET", f"/v1/billing/meters/{meter_id(stripe_client)}/event_summaries?{given}")
    assert answer.status == 400
    assert answer.json["error"]["param"] == param


def test_summaries_of_no_meter_are_not_found(stripe_client: StripeClient) -> None:
    """The path names the meter, so it is a 404."""
    params = {"customer": "cus_a", "start_time": NOON - HOUR, "end_time": NOON}
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        stripe_client.v1.billing.meters.event_summaries.list("mtr_none", params)  # type: ignore[arg-type]
    assert (refusal.value.http_status, refusal.value.code) == (404, "resource_missing")


def test_customers_and_modes_are_apart(stripe_client: StripeClient, live_client: StripeClient) -> None:
    """A summary shows one customer in one mode."""
    send(stripe_client, "1")
    send(stripe_client, "2", customer="cus_b")
    send(live_client, "4")
    assert used(stripe_client) == 1.0
    assert used(stripe_client, customer="cus_b") == 2.0
    assert used(live_client) == 4.0


def test_count_counts_events(stripe_client: StripeClient) -> None:
    """The values do not matter."""
    send(stripe_client, "7", event_name="logins")
    send(stripe_client, "7", event_name="logins")
    assert used(stripe_client, event_name="logins") == 2.0


def test_last_takes_the_latest_timestamp_then_the_latest_receipt(stripe_client: StripeClient) -> None:
    """An event received later for an earlier time does not win; of equal times the one received later does."""
    send(stripe_client, "5", event_name="seats", timestamp=NOON - 60)
    send(stripe_client, "9", event_name="seats", timestamp=NOON - 120)
    assert used(stripe_client, event_name="seats") == 5.0
    send(stripe_client, "6", event_name="seats", timestamp=NOON - 60)
    assert used(stripe_client, event_name="seats") == 6.0
    assert used(stripe_client, event_name="seats", customer="cus_idle") == 0.0


@pytest.mark.parametrize(("event_name", "step"), [("stored_gb", HOUR), ("peak_gb", DAY)])
def test_in_a_window_the_event_received_last_wins(
    stripe_client: StripeClient, sandbox: RunningSandbox, event_name: str, step: int
) -> None:
    """Not the one with the later timestamp; and only its own window is replaced."""
    start = MIDNIGHT - step
    send(stripe_client, "10", event_name=event_name, timestamp=start + step - 1)
    send(stripe_client, "20", event_name=event_name, timestamp=start)
    send(stripe_client, "1", event_name=event_name, timestamp=start - 1)
    send(stripe_client, "2", event_name=event_name, timestamp=start + step)
    rows = summaries(stripe_client, start - step, start + 2 * step, event_name=event_name)
    assert [row.aggregated_value for row in rows] == [23.0]
    assert [event["reason"] for event in sandbox.events()] == ["replaced", None, None, None]


def test_a_raw_meter_keeps_every_event_of_a_window(stripe_client: StripeClient) -> None:
    """Equal timestamps do not collide without an event_time_window."""
    send(stripe_client, "10", timestamp=NOON)
    send(stripe_client, "20", timestamp=NOON)
    assert used(stripe_client) == 30.0


def test_a_late_correction_replaces_even_after_the_identifier_is_forgotten(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """On a windowed meter a resend two days later does not bill twice."""
    send(stripe_client, "10", event_name="stored_gb", timestamp=NOON, identifier="e-1")
    sandbox.set_time(NOON + 2 * DAY)
    send(stripe_client, "10", event_name="stored_gb", timestamp=NOON, identifier="e-1")
    assert used(stripe_client, event_name="stored_gb") == 10.0


def test_an_event_shows_once_it_is_processed(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """Within the delay summaries do not move, though the event is accepted and totals know it."""
    sandbox.set_rules(processing_delay_seconds=600)
    send(stripe_client, "5", timestamp=NOON - 60)
    assert used(stripe_client) == 0.0
    assert sandbox.totals("api_requests") == {"cus_a": 5}
    sandbox.set_time(NOON + 11 * MINUTE)
    assert used(stripe_client) == 5.0


def test_a_replacement_replaces_once_it_is_processed(
    stripe_client: StripeClient, sandbox: RunningSandbox
) -> None:
    """Until then the earlier event of the window still stands."""
    send(stripe_client, "5", event_name="stored_gb", timestamp=NOON)
    sandbox.set_time(NOON + 20 * MINUTE)
    sandbox.set_rules(processing_delay_seconds=600)
    send(stripe_client, "7", event_name="stored_gb", timestamp=NOON)
    assert used(stripe_client, event_name="stored_gb") == 5.0
    sandbox.set_time(NOON + 40 * MINUTE)
    assert used(stripe_client, event_name="stored_gb") == 7.0


def test_a_delay_may_be_a_range(stripe_client: StripeClient, sandbox: RunningSandbox) -> None:
    """Each event takes its own time within it, and what shows once goes on showing."""
    sandbox.set_rules(processing_delay_seconds=[10 * MINUTE, 30 * MINUTE])
    for number in range(40):
        send(stripe_client, identifier=f"e-{number}", timestamp=NOON)
    shown = []
    for minutes in (9, 15, 20, 25, 31):
        sandbox.set_time(NOON + minutes * MINUTE)
        shown.append(used(stripe_client))
    assert (shown[0], shown[-1]) == (0.0, 40.0)
    assert 0 < shown[1] < shown[2] < shown[3] < 40


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, [(2, 5.0), (0, 7.0)]),
        ({"summaries_oldest_first": True}, [(0, 7.0), (2, 5.0)]),
        ({"summaries_empty_buckets": True}, [(3, 0.0), (2, 5.0), (1, 0.0), (0, 7.0)]),
        (
            {"summaries_empty_buckets": True, "summaries_oldest_first": True},
            [(0, 7.0), (1, 0.0), (2, 5.0), (3, 0.0)],
        ),
    ],
)
def test_the_order_of_buckets_and_the_empty_ones_are_rules(
    sandbox: RunningSandbox,
    stripe_client: StripeClient,
    rules: dict[str, object],
    expected: list[tuple[int, float]],
) -> None:
    """Newest first and without the empty ones unless told; one value of a range is there in any case."""
    sandbox.set_rules(**rules)
    send(stripe_client, "7", timestamp=NOON - 4 * HOUR)
    send(stripe_client, "5", timestamp=NOON - 2 * HOUR)
    start = NOON - 4 * HOUR
    rows = summaries(stripe_client, start, NOON, grouping="hour")
    assert [((row.start_time - start) // HOUR, row.aggregated_value) for row in rows] == expected
    assert used(stripe_client, start, NOON) == 12.0


def test_empty_buckets_have_a_limit(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """A range from 1970 in hours is refused, not worked out."""
    sandbox.set_rules(summaries_empty_buckets=True)
    with pytest.raises(stripe.InvalidRequestError, match="buckets"):
        summaries(stripe_client, 0, NOON, grouping="hour")


def test_summaries_may_know_customers(sandbox: RunningSandbox, stripe_client: StripeClient) -> None:
    """A customer who does not exist is then a 400; otherwise he used nothing."""
    sandbox.set_rules(strict_customers=True)
    assert used(stripe_client) == 0.0
    sandbox.set_rules(strict_customers=True, summaries_know_customers=True)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        used(stripe_client)
    assert (refusal.value.http_status, refusal.value.param) == (400, "customer")
    sandbox.add_customers("cus_a")
    assert used(stripe_client) == 0.0
