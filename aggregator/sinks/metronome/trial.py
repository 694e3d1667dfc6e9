"""One event to a test customer, and a look at whether its quantity counts. Only ever done when a person asks for it.

Metronome's pages disagree on how a quantity is to be written: one says that text is right, another that text adds up to zero
without an error. Only Metronome itself can tell, and only by what it has counted.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from uuid import uuid4

from aggregator.core.model import Answer, Encoding, Event, EventId, Span
from aggregator.core.windows import DAY, floor
from aggregator.errors import SinkError
from aggregator.sinks.metronome.account import Account
from aggregator.sinks.metronome.client import RequestSender

QUANTITY = Decimal("1.25")
"""Not a whole number, so that one which is cut off shows; exact in every base that anybody counts in."""

LOOK_EVERY_SECONDS = 2.0


async def attempt(
    account: Account,
    sender: RequestSender,
    meter: str,
    customer: str,
    encoding: Encoding,
    now: dt.datetime,
    patience_seconds: float,
    monotonic: Callable[[], float],
) -> str | None:
    """Send one event of a meter to a customer, and say what is wrong if its quantity is not counted in time.

    Raises SinkUnreachable, SinkHalted or SinkError if Metronome does not say.
    """
    if await account.why_unknown(customer):
        return f"Metronome has no customer {customer}: create one with this ingest alias for `self_test_customer`."
    day = Span(floor(now, DAY), floor(now, DAY) + DAY)
    before = await account.total(meter, customer, day)
    judged = await sender.send([_event(meter, customer, now)])
    if judged.answer is not Answer.ACCEPTED:
        raise SinkError(f"Metronome did not take the test event of meter {meter}: {judged.reason}.")
    until = monotonic() + patience_seconds
    while True:
        counted = await account.total(meter, customer, day) - before
        if counted == QUANTITY:
            return None
        if monotonic() >= until:
            return _misfit(meter, customer, encoding, counted, patience_seconds)
        await asyncio.sleep(min(LOOK_EVERY_SECONDS, patience_seconds))


def _event(meter: str, customer: str, now: dt.datetime) -> Event:
    return Event(
        id=EventId(0),
        meter=meter,
        customer=customer,
        window_start=now,
        revision=0,
        delta=QUANTITY,
        total=QUANTITY,
        at=now,
        identifier=f"agg_trial_{uuid4().hex}",
        attempts=1,
        exposed_at=None,
    )


def _misfit(meter: str, customer: str, encoding: Encoding, counted: Decimal, seconds: float) -> str:
    if counted:
        return (
            f"Meter {meter}: of {QUANTITY} sent to {customer}, Metronome counted {counted}. Send nothing else to the test "
            "customer, and look at the billable metric."
        )
    other = Encoding.NUMBER if encoding is Encoding.TEXT else Encoding.TEXT
    return (
        f"Meter {meter}: {QUANTITY} was sent to {customer} as {encoding} and counted as 0 for {seconds:g} s. If Metronome "
        f"is not merely slow, it does not add up quantities so written: set `quantity_encoding: {other}` and try again."
    )
