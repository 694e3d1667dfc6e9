"""Metronome's endpoints, as far as usage goes, under the path `/metronome` of the sandbox.

service.py    the order in which the rules meet a call: control, token, faults, endpoint
api.py        which endpoints there are, and what each does
events.py     what is taken in: field rules, duplicates, the two bounds of time
customers.py  customers, their ingest aliases, and whether they are billable
contracts.py  from when until when usage of a customer is invoiced at all
metrics.py    billable metrics: which events match, and what they add up to
usage.py      `POST /v1/usage`: windows between UTC midnights, in pages
invoices.py   a draft for each customer and calendar month, finalized after a grace
settings.py   the rules that may be changed while it runs
wire.py       JSON with exact numbers, and instants as Metronome writes them
client.py     the control calls as methods

It shares the sandbox's clock and its machinery for faults. Its state is kept in memory only.

It imports the sandbox and nothing else of ours; only the sandbox imports it. Begin with `service`, then `api`.
"""

from aggregator.sandbox.metronome.client import MetronomeControl
from aggregator.sandbox.metronome.service import PREFIX, Metronome
from aggregator.sandbox.metronome.settings import MetronomeRules

__all__ = ["PREFIX", "Metronome", "MetronomeControl", "MetronomeRules"]
