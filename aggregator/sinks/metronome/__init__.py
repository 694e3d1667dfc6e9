"""Metronome's usage events: up to a hundred per request, `POST /v1/ingest`.

sink.py       the sink as the rest knows it
event.py      what a meter of ours is there, and one event as the bytes that Metronome gets
client.py     the official library, set up our way, and one request through it
responses.py  what each answer means; pure
account.py    what Metronome says: its metrics and totals, a customer's invoices
invoices.py   whether the invoice of an event's moment can still be lowered
readiness.py  whether a customer can be billed from an instant on; pure
fitting.py    whether a metric counts what we send; pure
groups.py     by which group key of a metric one of our meters is told apart; pure
trial.py      one event to a test customer, read back

It imports what all sinks share, the runtime and the core; only the wiring imports it. Begin with `sink`.
"""

from aggregator.sinks.metronome.event import MetronomeMeter
from aggregator.sinks.metronome.sink import MetronomeSink

__all__ = ["MetronomeMeter", "MetronomeSink"]
