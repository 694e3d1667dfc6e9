"""Stripe's meter events, version 1: one call per event, `POST /v1/billing/meter_events`.

sink.py      the sink as the rest knows it: threads in, verdicts out
dispatch.py  which event goes next: pace, calls in flight, one call per customer and meter
courier.py   one event, one call, one judgement
verdicts.py  what each of Stripe's answers means; pure
account.py   what the account says of its meters: preflight and totals
client.py    the official library, set up our way
"""

from aggregator.sinks.stripe.meter import StripeMeter
from aggregator.sinks.stripe.sink import StripeSink

__all__ = ["StripeMeter", "StripeSink"]
