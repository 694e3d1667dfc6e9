"""What a customer was billed over a time, of every meter and sink, entry by entry. Only the ledger is asked.

Entries are kept on disk: the ledger's transactions are over before anybody looks at them, however slowly.
"""

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from aggregator.collection.backfill import refuse_parts_of_windows
from aggregator.core.model import Span
from aggregator.core.statement import Days, Entry
from aggregator.core.usage import Usage
from aggregator.ledger.facts import Facts
from aggregator.ledger.usage import UsageReport
from aggregator.runtime.disk_list import DiskList


class FeedStatement(NamedTuple):
    """What one meter billed a customer through one sink."""

    meter: str
    sink: str
    last: bool
    """Whether a customer is billed by the last number, so that entries do not add up."""
    mark: dt.datetime
    total: Usage
    """What was used, and what became of it: as `aggregator usage` has it."""
    days: Days
    entries: DiskList[Entry]
    dimensions: tuple[str, ...] = ()
    """The names of those that the meter has or had."""


def state(
    facts: Facts, usage: UsageReport, customer: str, span: Span, stack: ExitStack
) -> Iterator[FeedStatement]:
    """Yield what is on record of a customer by meter and sink, where there is anything; entries live as long as `stack`."""
    known = {feed.id: feed for feed in facts.feeds()}
    for feed in usage.feeds(None, span):
        definitions = facts.definitions(known[feed.id])
        refuse_parts_of_windows(feed.meter, definitions, span)
        names = tuple(sorted({name for each in definitions for name in each.dimensions}))
        total = Usage()
        for line in usage.lines(feed, span, customer=customer):
            total = line.usage
        days, entries = Days(), stack.enter_context(DiskList[Entry]())
        entries.keep(days.counting(facts.entries(known[feed.id], customer, span)))
        if days.found or any(total):
            yield FeedStatement(feed.meter, feed.sink, feed.last, feed.mark, total, days, entries, names)
