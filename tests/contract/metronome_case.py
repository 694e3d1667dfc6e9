"""The Metronome sink as one of the cases of `test_every_sink`."""

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial

from aggregator.core.model import Encoding
from aggregator.sandbox.metronome import MetronomeControl
from aggregator.sinks.metronome import MetronomeMeter, MetronomeSink

TOKEN = "token_0123456789abcdefghij"

CHANCES: Mapping[str, str] = {
    "DROPPED_BEFORE": "drop_before",
    "DROPPED_AFTER": "drop_after",
    "ERROR_BEFORE": "error_before",
    "ERROR_AFTER": "error_after",
    "TOO_MANY": "too_many_requests",
}
"""What can go wrong there, by the names that the trials have for it."""


class MetronomeCase:
    """The Metronome sink over the sandbox. A request holds many events, so that a fault strikes all sent at once."""

    secret = TOKEN
    tells_duplicates = False

    def __init__(self, sandbox_url: str, encoding: Encoding) -> None:
        self._metronome = MetronomeControl(sandbox_url)
        self._metronome.reset()
        self._metronome.add_metric("api_requests")
        self.sink = MetronomeSink(
            "metronome",
            api_key=TOKEN,
            api_base=self._metronome.url,
            encoding=encoding,
            events_per_second=10_000.0,
            timeout=dt.timedelta(seconds=20),
            max_in_flight=4,
            meters={"api": MetronomeMeter(event_type="api_requests")},
        )
        self.halts: Mapping[str, Callable[[], object]] = {
            "401": partial(self._metronome.set_keys, revoked=[TOKEN]),
            "403": partial(self._metronome.set_keys, restricted=[TOKEN]),
        }

    def customer(self, name: str) -> str:
        """Return an ingest alias."""
        return name

    def booked(self) -> dict[str, Decimal]:
        """Return what Metronome was sent of each customer, zeros left out."""
        return {who: much for who, much in self._metronome.totals("api_requests").items() if much}

    def strike(self, fault: str, customer: str) -> None:
        """Let the next request go wrong, in whole or after a part of it was taken in."""
        self._metronome.set_rules(ingested_before_error=2)
        self._metronome.set_faults(**{CHANCES[fault]: 1.0}, times=1)

    def refuse(self, customer: str) -> None:
        """Have a customer's events break a rule."""
        self._metronome.set_rules(refuse_customers=[customer])

    def relent(self) -> None:
        """Take its token again."""
        self._metronome.set_keys()
