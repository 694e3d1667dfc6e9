"""What sinks of files have in common: limits, which events fit, and that nobody can read them back."""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from aggregator.core import age_limits
from aggregator.core.model import Bounds, Event, Limits, Span, WriteModel, Written
from aggregator.errors import AggregatorError, SinkError, SinkUnreachable
from aggregator.runtime.redact import named, redacted
from aggregator.sinks.files.formats import Format
from aggregator.sinks.protocol import Batch

LIMITS = Limits(
    write_model=WriteModel.DELTA,
    # Rows of the import carry identifiers, remembered for 24 hours (docs.stripe.com/api/billing/meter-event/create);
    # rows for the Dashboard carry none. It is of no consequence: what lies in a file is never sent again.
    memory=dt.timedelta(hours=20),
    # A file says nothing of what was counted. The account behind it can be asked, by a sink that goes there.
    proof=None,
    reads_by=None,
    # As for events that are sent one by one. A person who carries a file takes longer than the margin.
    past=age_limits.STRIPE - age_limits.MARGIN,
    # docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api
    significant_digits=15,
    identifier_length=100,
    batch=500,
    # docs.stripe.com/billing/subscriptions/usage-based/recording-usage-s3: what the import works off.
    rate=10_000.0,
)


class SinkOfFiles:
    """The part of a `FileSink` that does not depend on where its files lie."""

    def __init__(self, name: str, *, place: str, by_hand: bool, bounds: Bounds, form: Format) -> None:
        self.name = name
        self.place = place
        self.by_hand = by_hand
        self.bounds = bounds
        self.limits = replace(LIMITS, keeps_order=by_hand)
        self._replacing = replace(self.limits, write_model=WriteModel.OVERWRITE)
        self._form = form
        self._stopping = threading.Event()

    def limits_for(self, meter: str) -> Limits:
        """Return what holds for one of our meters: where its events replace each other at Stripe, they say the total."""
        known = self._form.meters.get(meter)
        return self._replacing if known is not None and known.replaces else self.limits

    def bundles(self) -> Sequence[Mapping[str, int]]:
        """Return which meters may share a file."""
        return self._form.bundles()

    def misfit(self, event: Event) -> str | None:
        """Say why an event cannot be written at all. Raises SinkError for one whose meter no longer feeds the sink."""
        if event.meter not in self._form.meters:
            raise SinkError(
                f"A file of sink {self.name} was begun with events of the meter {event.meter}, which no longer feeds it: "
                "put it back, so that the same file can be written."
            )
        return self._form.misfit(event)

    def write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        """Make the file, unless it is there already.

        What a library raises that nobody foresaw is SinkUnreachable: the same file is made again.
        """
        try:
            return self._write(batch, lambda: not self._stopping.is_set() and may_go_on())
        except (AggregatorError, MemoryError):
            raise
        except Exception as error:
            failure = redacted(named(error), ())
            raise SinkUnreachable(
                f"Sink {self.name} could not write a file ({failure}); it is tried again."
            ) from error

    def _write(self, batch: Batch, may_go_on: Callable[[], bool]) -> Written | None:
        raise NotImplementedError

    def total(self, meter: str, customer: str, span: Span) -> Decimal:
        """Files cannot be read back. Raises SinkError."""
        raise self._mute(meter, customer, span)

    def breakdown(
        self, meter: str, customer: str, span: Span, step: dt.timedelta
    ) -> Mapping[dt.datetime, Decimal]:
        """Files cannot be read back. Raises SinkError."""
        raise self._mute(meter, customer, span, f", by {step}")

    def _mute(self, meter: str, customer: str, span: Span, by: str = "") -> SinkError:
        asked = f"{meter} for {customer} in {span}{by}"
        return SinkError(f"Sink {self.name} writes files, which do not say what was counted of {asked}.")

    def preflight(self, meters: Iterable[str]) -> list[str]:
        """Say in what the place does not fit these meters. Raises SinkError."""
        raise NotImplementedError

    def resume(self) -> None:
        """Look whether files can be made there again; nothing is kept of having been halted. Raises SinkError if not."""
        self.preflight(self._form.meters)

    def stop(self) -> None:
        """Begin nothing new: what is not under its name yet is left, and made again by whoever comes next."""
        self._stopping.set()

    def close(self) -> None:
        """There is nothing to give back."""


def there_already(name: str, where: str, found: tuple[int, str | None], written: Written) -> str | None:
    """Say in what a file under the name of ours is not ours; None if it is. `found` is its size and its hash, if known."""
    size, content = found
    if size == written.bytes and content in (None, written.sha256):
        return None
    return (
        f"{name} is in {where} already and says something else ({size} bytes, and {written.bytes} were to be written). "
        "Files are never rewritten, so nothing more is written there. Either the `stripe:` block of a meter was changed "
        "while this file was being written: set it back, and it is taken for what it is. Or somebody changed the file: if "
        "it was never uploaded, move it away, and it is written anew."
    )
