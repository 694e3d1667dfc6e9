"""The trial of a query: what it means is found out on closed windows before it bills.

columns.py       what the types of its columns say
text.py          what the text of a query says
findings.py      answers in, findings out
combinations.py  how many combinations of dimensions there are
lookup.py        looks up customers at the sinks that know them
query_tests.py   what a query makes of given rows, and what was expected
past_guards.py   what guards would have held of past usage
trier.py         asks the source, within a time that it is given

It stands on sources and the core, and sees no sink: who knows customers is handed to it. Only commands import it. Begin with
`trier`, then `findings`.
"""

from aggregator.trial.findings import Finding, Kind, Severity
from aggregator.trial.lookup import Register
from aggregator.trial.trier import Trial

__all__ = ["Finding", "Kind", "Register", "Severity", "Trial"]
