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
client.py    the official library, set up our way
loop.py      the event loop on a thread of its own
"""

from aggregator.sinks.stripe.meter import StripeMeter
from aggregator.sinks.stripe.sink import StripeSink

__all__ = ["StripeMeter", "StripeSink"]
