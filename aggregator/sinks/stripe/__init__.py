"""Stripe's meter events: one per call by version 1 or 2 of the API, or a hundred per request by the stream.

sink.py             the sink as the rest knows it
limits.py           what Stripe takes by each transport
routes.py           every account that is reached, its first look and each transport to it, made when first needed
account_context.py  the account a customer is in: by which client, under which header, whose trouble its trouble is
meter_events.py     one event, one call, one response
stream.py           many events, one request, no word on any of them, within a session
responses.py        what each of Stripe's answers means; pure
account.py          what an account says of its meters: preflight and totals
meter_usage.py      a quicker look at what it counted of several meters, in preview at Stripe
notifications.py    what it tells by itself, listed, fetched, delivered and signed
invalid_events.py   what a message on invalid events says; pure
cancelling.py       one event taken back
wire.py             what calls with events say, as the official library writes it; pure
client.py           the official library, set up our way, and the calls that carry events beside it

And what a person does there, by `aggregator meters` and `aggregator check`:

admin.py            the account as a person works on it: one call after the other
differences.py      what differs between a meter of ours and Stripe's; pure
permissions.py      what the key may do
terraform.py        Stripe meters as Terraform's provider for Stripe writes them; pure

It imports what all sinks share, the runtime and the core; the wiring imports it, and commands import the pages for a person.
Begin with `sink`, then `routes` and `meter_events`.
"""

from aggregator.sinks.stripe.admin import AdminClient
from aggregator.sinks.stripe.notifications import StripeNotificationClient
from aggregator.sinks.stripe.sink import StripeSink
from aggregator.sinks.stripe_meter import StripeMeter

__all__ = ["AdminClient", "StripeMeter", "StripeNotificationClient", "StripeSink"]
