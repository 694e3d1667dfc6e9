"""Stripe's meter events: one per call by version 1 or 2 of the API, or a hundred per request by the stream.

sink.py      the sink as the rest knows it: threads in, verdicts out
limits.py    what Stripe takes by each way
roads.py     every way to every account, made when it is first needed
dispatch.py  which events go next: pace, requests in flight, one per customer and meter
courier.py   one event, one call, one judgement
stream.py    many events, one request, no word on any of them
session.py   the session that a stream needs
connect.py   which connected account a customer is in, and the look at it before its first event
office.py    one account, and whose trouble its trouble is
verdicts.py  what each of Stripe's answers means; pure
account.py   what an account says of its meters: preflight and totals
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

from aggregator.sinks.stripe.admin import Desk
from aggregator.sinks.stripe.notifications import StripeTeller
from aggregator.sinks.stripe.sink import StripeSink
from aggregator.sinks.stripe_meter import StripeMeter

__all__ = ["Desk", "StripeMeter", "StripeSink", "StripeTeller"]
