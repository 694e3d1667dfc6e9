"""Stripe's meter events, version 1: one call per event, `POST /v1/billing/meter_events`.

sink.py      the sink as the rest knows it: threads in, verdicts out
dispatch.py  which event goes next: pace, calls in flight, one call per customer and meter
courier.py   one event, one call, one judgement
verdicts.py  what each of Stripe's answers means; pure
account.py   what the account says of its meters: preflight and totals
teller.py    what it tells by itself and takes back, as the rest knows it
messages.py  its messages: listed, fetched, delivered and signed
reports.py   what a message on invalid events says; pure
cancelling.py  one event taken back
client.py    the official library, set up our way

And what a person does there, by `aggregator meters` and `aggregator check`:

desk.py            the account from a desk: one call after the other
differences.py     what differs between a meter of ours and Stripe's; pure
administration.py  what changes the account
permissions.py     what the key may do
"""

from aggregator.sinks.stripe.desk import Desk
from aggregator.sinks.stripe.meter import StripeMeter
from aggregator.sinks.stripe.sink import StripeSink
from aggregator.sinks.stripe.teller import StripeTeller

__all__ = ["Desk", "StripeMeter", "StripeSink", "StripeTeller"]
