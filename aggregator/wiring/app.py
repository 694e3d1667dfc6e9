"""From a configuration to working parts. The only place that names concrete sources; `sinks` names the sinks.

Rules
- Building connects to the ledger and registers the meters; sources and sinks connect when they are first used.
- Whoever builds closes: every part that holds a thread, a connection or a server is given back in the reverse order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, cast

from aggregator.collection.collector import Collector
from aggregator.collection.cursor_source import CursorSource
from aggregator.collection.glance import Glance
from aggregator.collection.mapped_source import MappedSource
from aggregator.collection.mapping import Mapping as CustomerMapping
from aggregator.collection.sampled import SampledSource
from aggregator.collection.usage import MeterSource
from aggregator.config import Config, FileSink, changed_of, fingerprint
from aggregator.config import Meter as ConfiguredMeter
from aggregator.config.changes import blocks_of, settings_of
from aggregator.config.sampling import sampling_of
from aggregator.core.deltas import Deltas
from aggregator.core.freshness import Reads
from aggregator.core.model import ZERO, Decreases, Definition, Guards, Meter, Span, Terms
from aggregator.core.renaming import Outlet
from aggregator.core.sampling import definition
from aggregator.core.tracing import Tracing
from aggregator.delivery.file_writer import FileWriter
from aggregator.delivery.first_use import FirstUse
from aggregator.delivery.sender import Sender, Worker
from aggregator.errors import QueryRejected, SinkError, SinkHalted, SourceError
from aggregator.ledger.ledger import Ledger
from aggregator.ledger.meters import Registered
from aggregator.ledger.outbox.moved_files import MovedFile
from aggregator.ledger.reports import Unconfigured
from aggregator.ledger.usage_days import SummingUp
from aggregator.reconciliation.canceller import Canceller
from aggregator.reconciliation.health_poller import HealthPoller
from aggregator.reconciliation.notification_poller import NotificationPoller
from aggregator.reconciliation.reconciler import Reconciler
from aggregator.runtime.clock import Clock, monotonic, utcnow
from aggregator.runtime.threads import short_turns
from aggregator.sinks.protocol import Destination, Sink
from aggregator.sinks.protocol import FileSink as SinkOfFiles
from aggregator.sinks.read_allowance import ReadAllowance
from aggregator.source import Source
from aggregator.wiring.archiving import archiver_of
from aggregator.wiring.collecting import collector_of
from aggregator.wiring.customers import build_mapping, mapped_sources
from aggregator.wiring.opening import STILL_BILLABLE, feeding, open_ledger
from aggregator.wiring.sinks import (
    build_notification_clients,
    build_sink,
    limit_reads,
    outlets,
    places_of,
    share_rates,
    take_keys,
    with_keys_now,
)
from aggregator.wiring.sources import build_source, by_cursors, reads_of
from aggregator.wiring.tracing import tracing_of
from aggregator.wiring.verifying import note_halts, refuses, stop_if, verify_sinks

if TYPE_CHECKING:
    from aggregator.archive.archiver import Archiver
    from aggregator.reconciliation.checker import Checker
    from aggregator.sinks.stripe import StripeNotificationClient


@dataclass(frozen=True, slots=True)
class App:
    """Every part, put together: collections by meter, deliveries by sink."""

    config: Config
    ledger: Ledger
    sources: dict[str, Source]
    sinks: dict[str, Sink | SinkOfFiles]
    registered: dict[str, Registered]
    mapped: dict[str, MappedSource]
    """What gives the readings of those meters whose queries return keys."""
    collections: dict[str, Collector]
    sink_ids: dict[str, int]
    unverified: dict[str, str]
    """Sinks that could not be asked whether they fit, and why."""
    refused: dict[str, str]
    """Those among them that refuse us as a whole, and why."""
    unpromised: dict[str, list[str]]
    """What sinks cannot do of what they should, although they can be sent to."""
    looked: dict[str, tuple[Definition, ...]]
    """For whoever only looks: how each meter would be read, which the ledger does not know."""
    notification_sinks: dict[str, int]
    """Sinks that are heard: those that tell and that meters feed, and any that tells where there are imports to hear of."""
    notification_clients: "dict[str, StripeNotificationClient]"
    """Sinks that tell what they find invalid later, and take events back on demand."""
    first_uses: dict[str, FirstUse]
    """What asks each sink, before the first events of a feed leave, what it holds already."""
    allowances: dict[str, ReadAllowance]
    """How often each sink may be asked for its totals."""
    tracing: Tracing
    """What is told of each pass and each claim."""
    by_cursor: dict[str, CursorSource]
    """Of meters that are read by a cursor: what takes their rows in."""

    def definitions(self, meter: str) -> tuple[Definition, ...]:
        """Return by which queries, and in which windows, a meter is read, in the order of time."""
        return self.looked.get(meter) or self.ledger.meters.definitions(self.registered[meter])

    def meter_source(self, meter: str) -> MeterSource | None:
        """Return where a meter is read, for whoever asks what it has now; None if it is not configured."""
        if meter not in self.registered:
            return None
        configured = self.registered[meter].meter
        reads = self.read_from(meter)
        newest = reads.newest() if isinstance(reads, SampledSource) else None
        return MeterSource(configured.source, reads, self.definitions(meter), configured.unit, newest)

    def read_from(self, meter: str) -> Source | CursorSource | MappedSource | SampledSource:
        """Return what a meter's windows are read from, by customers: its source, or what was taken in of it."""
        known = self.registered[meter]
        source = reads_of(known.meter, known.id, self.sources[known.meter.source], self.ledger)
        return self.mapped.get(meter) or self.by_cursor.get(meter) or source

    def taken_in(self, meter: str) -> Reads:
        """Return the same for whoever needs no proof that it is all there is, as before a cursor may go on."""
        by_cursor, mapped = self.by_cursor.get(meter), self.mapped.get(meter)
        if by_cursor is None:
            return self.read_from(meter)
        return by_cursor.sums() if mapped is None else mapped.over(by_cursor.sums())

    def mapping(self, name: str) -> CustomerMapping:
        """Return what reads a mapping of customers."""
        meters = [meter for meter in self.config.meters.values() if meter.customers == name]
        limits = [self.sinks[sink].limits_for(meter.name) for meter in meters for sink in meter.sinks]
        return build_mapping(self.config, name, self.sources, self.ledger.customers, limits)

    def glance(self, meters: Sequence[str]) -> Glance:
        """Return what looks at meters of one source in one snapshot, before any of them is collected."""
        return Glance(
            [self.collections[meter] for meter in meters],
            self.sources[self.config.meters[meters[0]].source],
            self.ledger.passes,
            present=self.ledger.now,
            elapsed=monotonic,
        )

    def delivery(self, sink: str, *, at_once: bool = False, only: tuple[str, Span] | None = None) -> Worker:
        """Return what delivers to a sink; several may work beside each other.

        With `at_once`, a sink that writes files waits for nothing to fill them. With `only`, they hold that meter and range.
        """
        destination, sink_id, ledger = self.sinks[sink], self.sink_ids[sink], self.ledger
        clock = ledger.instant
        if isinstance(self.config.sinks[sink], FileSink):
            writes = cast("SinkOfFiles", destination)
            return FileWriter(
                ledger.files,
                ledger.outbox,
                writes,
                sink_id,
                clock,
                at_once=at_once,
                only=only,
                tracing=self.tracing,
            )
        return Sender(
            ledger.outbox,
            cast("Sink", destination),
            sink_id,
            clock,
            clear=self.first_uses[sink].run_once,
            feeds=self.feeds_of(sink),
            tracing=self.tracing,
        )

    def first_time(self, meters: Iterable[str], who: str, now: datetime) -> list[str]:
        """Let these meters send at once, on a person's word that what sinks hold of them may stay; return which waited."""
        feeds = {feed.id: name for name in meters for feed in self.registered[name].feeds}
        cleared = self.ledger.first_uses.clear_for_good(list(feeds), who, now)
        return sorted({feeds[feed] for feed in cleared})

    def feeds_of(self, sink: str) -> list[int]:
        """Return the feeds of a sink that are configured: only what is owed of those is sent from here."""
        return list(_names(self.registered.values(), sink))

    def reconciliation(self, sink: str) -> Reconciler:
        """Return what reads a sink back; one at a time per sink is enough."""
        return Reconciler(self.ledger.in_doubt, self.sinks[sink], self.sink_ids[sink], self.late(sink))

    def late(self, sink: str) -> Callable[[], str | None]:
        """Return what tells what a sink says of its totals being late, as far as it was heard."""
        return partial(self.ledger.checks.late, self.sink_ids[sink])

    def health_poller(self, sink: str) -> HealthPoller:
        """Return what asks a sink whether its totals are late, for one of `tellers`."""
        ledger = self.ledger
        client, sink_id = self.notification_clients[sink], self.notification_sinks[sink]
        return HealthPoller(ledger.notifications, ledger.origins, client, sink_id)

    def checking(self, sink: str, **settings: int) -> "Checker":
        """Return what compares a sink's totals with what it accepted, all the time."""
        from aggregator.wiring.reconciling import checking

        return checking(self, sink, **settings)

    def summing_up(self, sink: str) -> SummingUp:
        """Return what sums up, by customer, the days of what goes to a sink."""
        return SummingUp(self.ledger.usage_days, self.sink_ids[sink])

    def archiving(self, seconds: float | None = None) -> "Archiver":
        """Return what lets old months leave the ledger; with `seconds`, no longer than that at once."""
        keep = self.config.ledger.keep
        assert keep is not None, "nothing is archived unless the configuration says what is kept"
        elapsed = None if seconds is None else monotonic
        return archiver_of(self.ledger, keep, elapsed=elapsed, seconds=seconds or 0)

    def resume(self, sink: str) -> None:
        """Let a sink that was halted take events again, if it lets us in by now, to the same account and meters.

        Keys that stand in files are read again, and tried out before they are used: those of another account or mode never
        are. Nothing is booked by asking. Raises SinkError as long as it does not let us in.
        """
        destination = self.sinks[sink]
        rotated = with_keys_now(self.config, sink)
        if rotated is None:
            self._ask_in(destination)
        else:
            with closing(build_sink(rotated, sink)) as tried:
                self._ask_in(tried)
            take_keys(destination, rotated)
        destination.resume()

    def _ask_in(self, destination: Sink | SinkOfFiles) -> None:
        """Raise SinkError unless a sink lets us in, to the same account as before and to fitting meters."""
        sink = destination.name
        trouble = self.ledger.identity.account(sink, destination.account(), self.ledger.instant())
        if trouble is not None:
            raise SinkHalted(trouble)
        misfits: list[str] = []
        with suppress(SinkError):  # a key may be kept from looking, and yet send
            misfits = destination.preflight(
                [meter.name for meter in self.config.meters.values() if sink in meter.sinks]
            )
        if misfits:
            raise SinkHalted("\n".join(misfits))

    def notification_poller(self, sink: str) -> NotificationPoller:
        """Return what takes in what a sink tells by itself, for one of `tellers`."""
        notification_client = self.notification_clients[sink]
        return NotificationPoller(
            self.ledger.notifications,
            notification_client,
            self.sinks[sink].limits_for,
            self.notification_sinks[sink],
            self.ledger.origins,
            account_of=notification_client.account_of if notification_client.by_customer else None,
            imports=self.config.imports,
        )

    def cancelling(self, sink: str) -> Canceller:
        """Return what looks after cancellations at a sink, for one of `tellers`."""
        lowering = [meter.name for meter in self.config.meters.values() if meter.decreases == "cancel"]
        return Canceller(
            self.ledger.cancellations,
            self.notification_clients[sink],
            self.sinks[sink],
            self.sink_ids[sink],
            lowering,
            self.late(sink),
        )

    def unconfigured_meters(self, now: datetime) -> list[dict[str, object]]:
        """Return the meters that the ledger knows and the configuration does not, as far as they can still be billed."""
        found = self.ledger.reports.unconfigured_meters(self.config.meters, now - STILL_BILLABLE, now)
        return [each._asdict() for each in found]

    def unconfigured(self) -> list[Unconfigured]:
        """Return what waits to be sent of meters, or to sinks, that the configuration does not have, nor another process."""
        return self.ledger.reports.unconfigured(feeding(self.config), self.ledger.instant())

    def moved_files(self) -> list[MovedFile]:
        """Return the files that were begun in another place than their sink writes to now, and are not finished."""
        return self.ledger.places.moved_files(places_of(self.sinks))

    def unsafe_sources(self) -> dict[str, list[str]]:
        """Return, by source, what its role may do besides reading; a source that cannot be asked is left out."""
        found = {}
        for name, source in self.sources.items():
            with suppress(SourceError):
                if faults := source.unsafe():
                    found[name] = faults
        return found

    def refused_sources(self) -> dict[str, str]:
        """Return why nothing is read from a source, by its name: it does not show what its bounds mean."""
        found = {}
        for name, source in self.sources.items():
            if source.cannot_promise:
                try:
                    source.ping()
                except QueryRejected as error:
                    found[name] = str(error)
                except SourceError:
                    pass  # it is away, which whoever reads it says
        return found

    def limited_sources(self) -> dict[str, list[str]]:
        """Return, by source, what is not certain with its kind of database, or with this very server."""
        found = {}
        for name, source in self.sources.items():
            with suppress(SourceError):
                if sentences := [*source.cannot_promise, *source.limits()]:
                    found[name] = sentences
        return found


@contextmanager
def build(
    config: Config,
    *,
    name: str = "aggregator",
    verify: bool = False,
    looks: bool = False,
    host: Clock = utcnow,
) -> Iterator[App]:
    """Put everything together, and give it all back at the end.

    With `looks`, for whoever only wants to see what would be, nothing of the configuration becomes known to the ledger: a
    daemon that runs goes on by the definitions it has.

    With `verify`, as before anything is sent, the ledger must be the one it was, every sink must go to the account it went
    to, and every sink is asked whether it fits its meters: a wrong one would bill wrong quantities without any error.
    Raises LedgerStopped, or SinkError if one does not fit; one that cannot be asked is only noted.
    """
    with ExitStack() as stack:
        stack.enter_context(short_turns())
        ledger = stack.enter_context(open_ledger(config, may_migrate=True, name=name, host=host))
        traces = stack.enter_context(tracing_of(config, ledger, on=not looks))
        sources = {key: build_source(config, key, name) for key in config.sources}
        sinks: dict[str, Sink | SinkOfFiles] = {key: build_sink(config, key) for key in config.sinks}
        for part in (*sources.values(), *sinks.values()):
            stack.callback(part.close)
        stop_if(ledger.identity.check(ledger.instant(), stops=True) if verify else None)
        unverified, unpromised, accounts = verify_sinks(config, ledger, sinks) if verify else ({}, {}, {})
        refused = {name: str(why) for name, why in unverified.items() if refuses(sinks[name], why)}
        meters = [meter_of(each, outlets(config, each, accounts, sinks)) for each in config.meters.values()]
        notification_clients = build_notification_clients(config, sinks)
        listeners = {}
        if looks:
            registered, looked = ledger.meters.look(meters)
        else:
            registered, looked = dict(ledger.meters.register(meters)), {}
            ledger.configurations.note(settings_of(config.meters), blocks_of(config))
            if config.imports:
                listeners = {key: ledger.origins.listener(key) for key in sorted(notification_clients)}
            for key, account in accounts.items():  # a sink that is new to the ledger was not known before
                stop_if(ledger.identity.account(key, account, ledger.instant()))
        registered = {key: _knowing(known, sinks) for key, known in registered.items()}
        if not looks:
            _clear_unreadable(ledger, registered.values(), sinks)
        sink_ids = {feed.sink: feed.sink_id for known in registered.values() for feed in known.feeds}
        share_rates(config, sinks, sink_ids, ledger.rate_shares)
        if verify:
            note_halts(ledger, sink_ids, unverified, refused)
        by_cursor = by_cursors(registered.values(), sources, ledger)
        mapped = mapped_sources(registered, sources, by_cursor, ledger, looked)
        collection = partial(collector_of, config, mapped, by_cursor, sources, sinks, ledger, traces)
        yield App(
            config,
            ledger,
            sources,
            sinks,
            registered,
            mapped,
            {key: collection(known) for key, known in registered.items()},
            sink_ids,
            {name: str(why) for name, why in unverified.items()},
            refused,
            unpromised,
            looked,
            {key: sink_id for key, sink_id in sink_ids.items() if key in notification_clients} | listeners,
            notification_clients,
            _first_uses(ledger, registered.values(), sinks, sink_ids),
            limit_reads(config, sinks, sink_ids, ledger.reads),
            traces,
            by_cursor,
        )


def _first_uses(
    ledger: Ledger,
    registered: Iterable[Registered],
    sinks: Mapping[str, Destination],
    sink_ids: Mapping[str, int],
) -> dict[str, FirstUse]:
    return {
        name: FirstUse(
            ledger.first_uses,
            sinks[name],
            sink_id,
            _names(registered, name),
            partial(ledger.checks.late, sink_id),
        )
        for name, sink_id in sink_ids.items()
    }


def _names(registered: Iterable[Registered], sink: str) -> dict[int, str]:
    """Return the feeds of a sink that are configured, by what their meters are called."""
    return {feed.id: known.meter.name for known in registered for feed in known.feeds if feed.sink == sink}


def _knowing(known: Registered, sinks: Mapping[str, Destination]) -> Registered:
    """Return a meter with what each of its sinks books of its events."""
    limits = {sink: sinks[sink].limits_for(known.meter.name) for sink in known.meter.sinks}
    return known._replace(
        feeds=tuple(
            feed._replace(model=limit.write_model, keeps_order=limit.keeps_order)
            for feed, limit in ((feed, limits[feed.sink]) for feed in known.feeds)
        )
    )


def _clear_unreadable(
    ledger: Ledger, registered: Iterable[Registered], sinks: Mapping[str, Destination]
) -> None:
    """Let sinks be sent to that can never be asked what they hold."""
    feeds = [
        feed.id for known in registered for feed in known.feeds if sinks[feed.sink].limits.reads_by is None
    ]
    if feeds:
        ledger.first_uses.clear_for_good(feeds, "the sink cannot be asked what it holds", ledger.instant())


def meter_of(meter: ConfiguredMeter, outlets: tuple[Outlet, ...] = ()) -> Meter:
    """Return the core's view of a configured meter; `outlets` say what it feeds at its sinks."""
    sampling = sampling_of(meter)
    return Meter(
        **meter.named("name", "renamed_from", "source", "sinks", "decimals", "shrink_guard"),
        **meter.named("window", "start_at", "delay", "revisit", "split", "max_combinations"),
        query=meter.query_text if sampling is None else definition(sampling.reads, sampling.query),
        fingerprint=fingerprint(meter),
        terms=tuple(Terms(fed.sink, fed.bill_from, fed.bill_until, fed.shadow) for fed in meter.feeds),
        decreases=Decreases(meter.decreases),
        guards=_guards(meter),
        retained=meter.data_retained_from if sampling is None else sampling.kept,
        sampling=sampling,
        latest=meter.stripe.formula == "last",
        customers=meter.customers,
        outlets=outlets,
        dimensions=tuple(sorted(meter.dimensions)),
        deltas=_deltas(meter),
        changed=changed_of(meter),
    )


def _deltas(meter: ConfiguredMeter) -> Deltas | None:
    return None if meter.deltas is None else Deltas(**meter.deltas.named(*Deltas._fields))


def _guards(meter: ConfiguredMeter) -> Guards:
    limits = meter.guards.named("max_per_customer_window", "max_change", "max_total_change", "unusual_zero")
    return Guards(**limits, unusual_from=meter.guards.unusual_from or ZERO)
