"""Whether a sink stands ready to take customers over: its meters, and each of them, asked before their first event."""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aggregator.config import Config
from aggregator.sinks.protocol import Destination, Readiness, TakesCustomersOver
from aggregator.trial.lookup import KnowsCustomers
from aggregator.wiring.sinks import build_sink


class CustomerReadiness(NamedTuple):
    """What came of asking about one customer."""

    customer: str
    readiness: Readiness


class Ready(NamedTuple):
    """What came of asking a sink: what does not fit of its meters, and how each customer stands."""

    meters: list[str]
    customers: list[CustomerReadiness]

    @property
    def missing(self) -> list[str]:
        """Everything that keeps usage from being billed right, in sentences."""
        return [*self.meters, *(said for each in self.customers for said in each.readiness.missing)]

    @property
    def unseen(self) -> list[str]:
        """What a person is to see to."""
        return [said for each in self.customers for said in each.readiness.unseen]


def ask(
    config: Config,
    sink: str,
    meters: Iterable[str],
    customers: Iterable[str],
    at: dt.datetime,
    now: dt.datetime,
    *,
    parallel: bool,
) -> Ready:
    """Ask a sink about meters of ours and about customers, one after the other; nothing is changed. Raises SinkError."""
    asked = build_sink(config, sink)
    try:
        problems = asked.preflight(sorted(meters))
        return Ready(problems, list(_customers(asked, customers, at, now, parallel=parallel)))
    finally:
        asked.close()


def _customers(
    sink: Destination, customers: Iterable[str], at: dt.datetime, now: dt.datetime, *, parallel: bool
) -> Iterator[CustomerReadiness]:
    for customer in customers:
        if isinstance(sink, TakesCustomersOver):
            yield CustomerReadiness(customer, sink.readiness(customer, at, now, parallel=parallel))
        elif isinstance(sink, KnowsCustomers) and sink.knows_by_name(customer):
            why = sink.why_unknown(customer)
            yield CustomerReadiness(customer, Readiness((why,) if why else ()))
        else:
            said = f"{sink.name} cannot be asked about customers, so whether {customer} is known there was not seen."
            yield CustomerReadiness(customer, Readiness(unseen=(said,)))
