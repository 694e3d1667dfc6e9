"""From a configuration to sinks, and to what stands beside them. The only place that names concrete sinks.

Rules
- A sink of a new kind has its case in `build_sink`; the other functions are for what only some kinds can do.
- What is called the same in the configuration and by the sink is handed over by name, and not written down once more.
"""

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregator.config import Config, CsvSink, DirectorySink, FileSink, MetronomeSink, S3Sink, StripeSink
from aggregator.config.rotated import keys_now, webhook_secrets_now
from aggregator.core.model import Bounds, Encoding
from aggregator.core.renaming import Outlet
from aggregator.errors import SinkHalted
from aggregator.sinks.protocol import Destination, Sink
from aggregator.sinks.protocol import FileSink as SinkOfFiles

if TYPE_CHECKING:
    from aggregator.config import Meter, MetronomeEvent, StripeEvent
    from aggregator.ledger.outbox.rate_shares import RateShares
    from aggregator.ledger.reads import Reads
    from aggregator.sinks.files import Format
    from aggregator.sinks.read_allowance import ReadAllowance
    from aggregator.sinks.stripe import AdminClient, StripeMeter, StripeNotificationClient
    from aggregator.sinks.stripe.limits import Rates

CONNECTING = "api_base", "timeout", "max_in_flight"
"""The settings of every sink that is called over HTTP."""

UNLIMITED_READS = 10_000.0
"""Reads a second where nobody sets a limit."""

DASHBOARD_ROWS = 1_000_000
"""No limit of rows is stated for the Dashboard: that of bytes comes first."""


def build_sink(config: Config, name: str) -> Sink | SinkOfFiles:
    """Return a sink as configured; it connects when it is first used."""
    sink = config.sinks[name]
    match sink:
        case StripeSink():
            from aggregator.sinks.stripe import StripeSink as Stripe
            from aggregator.sinks.stripe.account_context import Addresses

            return Stripe(
                name,
                **sink.named(*CONNECTING, "mode", "transport", "stream_above", "totals_by"),
                api_key=sink.api_key_revealed(),
                rates=_rates(sink),
                addresses=Addresses(sink.stripe_account, by_customer=sink.accounts == "by_customer"),
                meters=_stripe_meters(config, name),
            )
        case MetronomeSink():
            from aggregator.sinks.metronome import MetronomeMeter
            from aggregator.sinks.metronome import MetronomeSink as Metronome

            return Metronome(
                name,
                **sink.named(*CONNECTING),
                api_key=sink.api_key_revealed(),
                encoding=Encoding(sink.quantity_encoding),
                events_per_second=sink.events_per_second,
                meters={
                    meter.name: MetronomeMeter(
                        **_without(meter.metronome, "dimension_properties"),
                        window=meter.window,
                        dimensions=_keys_of(meter, meter.metronome.dimension_properties),
                    )
                    for meter in config.meters.values()
                    if name in meter.sinks
                },
                test_customer=sink.self_test_customer,
            )
        case CsvSink() | DirectorySink() | S3Sink():
            return _file_sink(name, sink, _stripe_meters(config, name))


def _rates(sink: StripeSink) -> "Rates":
    from aggregator.sinks.stripe.limits import Rates

    return Rates(sink.calls_per_second, sink.stream_per_second, sink.stream_by_event)


def share_rates(
    config: Config, sinks: Mapping[str, Destination], sink_ids: Mapping[str, int], shares: "RateShares"
) -> None:
    """Let each sink that meters feed keep to its part of what all processes on this ledger may send, if that has a limit."""
    from aggregator.sinks.metronome import MetronomeSink as Metronome
    from aggregator.sinks.shared_rate import SharedRate
    from aggregator.sinks.stripe import StripeSink as Stripe

    for name, sink_id in sink_ids.items():
        match sinks[name], config.sinks[name]:
            case ((Stripe() | Metronome()) as its, (StripeSink() | MetronomeSink()) as configured):
                if not configured.unlimited:
                    its.share_rate(
                        SharedRate(partial(shares.renew, sink_id), partial(shares.release, sink_id))
                    )


def limit_reads(
    config: Config, sinks: Mapping[str, Destination], sink_ids: Mapping[str, int], reads: "Reads"
) -> "dict[str, ReadAllowance]":
    """Let each sink that meters feed be asked for figures no more often than is declared; return that, by sink.

    One on this machine may be asked as often as wanted, unless the configuration says otherwise.
    """
    from aggregator.sinks.metronome import MetronomeSink as Metronome
    from aggregator.sinks.read_allowance import ReadAllowance
    from aggregator.sinks.stripe import StripeSink as Stripe

    found = {}
    for name, sink_id in sink_ids.items():
        match sinks[name], config.sinks[name]:
            case ((Stripe() | Metronome()) as its, (StripeSink() | MetronomeSink()) as configured):
                given = configured.model_fields_set
                free = configured.local and not given & {"reads_per_second", "reads_per_day"}
                found[name] = ReadAllowance(
                    UNLIMITED_READS if free else configured.reads_per_second,
                    None if free else configured.reads_per_day,
                    partial(reads.book, sink_id),
                )
                its.limit_reads(found[name])
    return found


def declared_rate(config: Config, name: str, waiting: int) -> float | None:
    """Return how many events a second a sink is declared to take, at most, while so many wait for it.

    None for a sink that is not configured, for files, which are written as a whole, and for accounts of each customer's own:
    the rate is that of one.
    """
    sink = config.sinks.get(name)
    match sink:
        case StripeSink() if sink.accounts != "by_customer":
            rates = _rates(sink)
            streams = sink.transport == "stream" or (sink.transport == "auto" and waiting > sink.stream_above)
            return rates.stream_events if streams else rates.calls
        case MetronomeSink():
            return sink.events_per_second
        case _:
            return None


def with_keys_now(config: Config, name: str) -> Config | None:
    """Return the configuration with the keys of a sink as its files hold them now; None if they cannot have changed.

    An S3 sink may always have new ones: the library keeps what it once found. Raises SinkHalted if the files hold none that
    can be used.
    """
    sink = config.sinks[name]
    if not isinstance(sink, StripeSink | MetronomeSink | S3Sink):
        return None
    try:
        fresh = keys_now(sink)
    except OSError as error:
        raise SinkHalted(
            f"Sink {name} cannot read the file of its key now ({error.strerror}): correct it."
        ) from error
    except ValueError as error:
        raise SinkHalted(f"Sink {name} cannot use what the file of its key holds now: {error}.") from error
    if fresh is sink and not isinstance(sink, S3Sink):
        return None
    return config.model_copy(update={"sinks": {**config.sinks, name: fresh}})


def take_keys(destination: Destination, config: Config) -> None:
    """Let a sink that is in use go on with the keys of this configuration."""
    from aggregator.sinks.files import Keys
    from aggregator.sinks.files import S3Sink as Bucket
    from aggregator.sinks.metronome import MetronomeSink as Metronome
    from aggregator.sinks.stripe import StripeSink as Stripe

    match destination, config.sinks[destination.name]:
        case ((Stripe() | Metronome()), (StripeSink() | MetronomeSink() as configured)):
            destination.use_key(configured.api_key_revealed())
        case Bucket(), S3Sink() as s3:
            pair = s3.keys_revealed()
            destination.use_keys(Keys(*pair) if pair else None)


def places_of(sinks: Mapping[str, Destination]) -> dict[str, str]:
    """Return, of sinks that write files, to where each writes."""
    from aggregator.sinks.files.sink import SinkOfFiles as Files

    return {name: sink.place for name, sink in sinks.items() if isinstance(sink, Files)}


def file_places(config: Config) -> dict[str, str]:
    """Return the same of a configuration, of which nothing is built yet."""
    writing = [name for name, sink in config.sinks.items() if isinstance(sink, FileSink)]
    return places_of({name: build_sink(config, name) for name in writing})


def lying_in(config: Config, sink: str, place: str, events: Collection[int]) -> list[str]:
    """Return the files of a sink that lie in a directory and are numbered by one of these events; of a bucket, none.

    A file is numbered by the lowest of its events, and an event of a file that is not finished is in no other.
    """
    from aggregator.sinks.files.directory import numbered

    if not isinstance(config.sinks[sink], CsvSink | DirectorySink):
        return []
    return sorted(name for name, number in numbered(Path(place)) if number in events)


def build_admin_client(config: Config, name: str) -> "AdminClient | None":
    """Return what changes the account of a sink by hand; None for a sink that has none, or one for each customer."""
    sink = config.sinks[name]
    match sink:
        case StripeSink() if sink.accounts != "by_customer":
            from aggregator.sinks.stripe import AdminClient
            from aggregator.sinks.stripe.permissions import EVERYDAY, Use

            asks, hears = sink.reports.poll is not None, bool(sink.webhook_secrets_revealed())
            uses = {Use.REPORTS: asks or hears, Use.IMPORTS: asks and config.imports}
            return AdminClient(
                name,
                **sink.named("mode", "api_base", "timeout"),
                api_key=sink.api_key_revealed(),
                account=sink.stripe_account,
                meters=_stripe_meters(config, name),
                uses=EVERYDAY | {Use.APPLY, Use.LOOK_UP} | {use for use, wanted in uses.items() if wanted},
            )
        case _:
            return None


def build_notification_client(
    config: Config, name: str, sink: Destination
) -> "StripeNotificationClient | None":
    """Return what listens to a sink, and cancels there, over its connections; None for one that tells nothing by itself."""
    from aggregator.sinks.stripe import StripeNotificationClient
    from aggregator.sinks.stripe import StripeSink as Stripe

    configured = config.sinks[name]
    if not isinstance(configured, StripeSink) or not isinstance(sink, Stripe):
        return None
    return StripeNotificationClient(
        sink,
        _stripe_meters(config, name),
        secrets=configured.webhook_secrets_revealed(),
        livemode=configured.mode == "live",
        secrets_now=partial(webhook_secrets_now, configured),
    )


def _stripe_meters(config: Config, sink: str) -> "dict[str, StripeMeter]":
    from aggregator.sinks.stripe import StripeMeter
    from aggregator.sinks.stripe_meter import Mapped

    return {
        meter.name: StripeMeter(
            **_without(meter.stripe, "dimension_keys", "event_names"),
            dimensions=_keys_of(meter, meter.stripe.dimension_keys),
            event_names=tuple(Mapped(each.event_name, each.where) for each in meter.stripe.event_names),
        )
        for meter in config.meters.values()
        if sink in meter.sinks
    }


def _without(block: "StripeEvent | MetronomeEvent", *names: str) -> dict[str, Any]:
    """Return the settings of a block, but for those that mean something to us alone."""
    return {name: value for name, value in dict(block).items() if name not in names}


def _keys_of(meter: "Meter", named: Mapping[str, str]) -> dict[str, str]:
    """Return under which key each dimension of a meter goes."""
    return {each: named.get(each, each) for each in meter.dimensions}


def outlets(
    config: Config,
    meter: "Meter",
    accounts: Mapping[str, str | None],
    sinks: Mapping[str, Destination],
) -> tuple[Outlet, ...]:
    """Return by what name each of its sinks counts a meter, and in which account or place as far as that is known."""
    places = places_of(sinks)
    found = []
    for name in meter.sinks:
        sink = config.sinks[name]
        if isinstance(sink, MetronomeSink):
            apart = (
                json.dumps(meter.metronome.properties, sort_keys=True) if meter.metronome.properties else ""
            )
            called = meter.metronome.event_type + (f"\n{apart}" if apart else "")
            found.append(Outlet(name, f"Metronome at {sink.api_base or 'its own address'}", called))
        else:
            account = places.get(name) or accounts.get(name)
            found.append(Outlet(name, account, meter.stripe.event_name))
    return tuple(found)


def counted_twice(config: Config, accounts: Mapping[str, str | None]) -> list[str]:
    """Say, in a sentence each, which event names reach one account through two sinks: all usage would be counted twice.

    `accounts` has what each sink says of its account; None, if its key may not ask, stands for an account of its own key.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}
    found = []
    for sink in accounts:
        configured = config.sinks[sink]
        if not isinstance(configured, StripeSink):
            continue
        account = accounts[sink] or f"{configured.api_base} {configured.api_key_revealed()}"
        for meter in config.meters.values():
            if sink not in meter.sinks:
                continue
            for event_name in meter.stripe.names:
                other_meter, other = first.setdefault((account, event_name), (meter.name, sink))
                if other != sink:
                    found.append(
                        f"Meter {meter.name} sends event name {event_name} to sink {sink}, and meter {other_meter} the same "
                        f"to sink {other}, which is the same account: one Stripe meter would count both, or let one replace "
                        "the other. Take one of the sinks out of `sinks`, or give one of two meters another "
                        "`stripe.event_name`."
                    )
    return found


def _file_sink(name: str, sink: FileSink, meters: "dict[str, StripeMeter]") -> SinkOfFiles:
    from aggregator.sinks import files

    if isinstance(sink, CsvSink):
        return files.DirectorySink(
            name,
            directory=sink.directory,
            kind="files for the Dashboard",
            by_hand=True,
            bounds=Bounds(DASHBOARD_ROWS, sink.max_bytes, sink.close_after),
            form=files.CsvFormat(meters, identified=False, alone=True, guarded=not sink.exact),
        )
    form: Format
    if sink.format == "csv":
        form = files.CsvFormat(meters, identified=True, alone=False)
    else:
        encoding = Encoding(sink.quantity_encoding)
        form = files.JsonFormat(meters, lines=sink.format == "jsonl", encoding=encoding)
    bounds = Bounds(sink.max_records, sink.max_bytes, sink.close_after)
    if isinstance(sink, DirectorySink):
        kind, directory = "files for the import", sink.directory
        return files.DirectorySink(
            name, directory=directory, kind=kind, by_hand=False, bounds=bounds, form=form
        )
    pair = sink.keys_revealed()
    place = sink.named("bucket", "prefix", "region", "endpoint_url", "timeout")
    return files.S3Sink(name, **place, keys=files.Keys(*pair) if pair else None, bounds=bounds, form=form)


def build_notification_clients(
    config: Config, sinks: Mapping[str, Destination]
) -> "dict[str, StripeNotificationClient]":
    """Return what listens to each sink that says something by itself."""
    built = {key: build_notification_client(config, key, sink) for key, sink in sinks.items()}
    return {key: client for key, client in built.items() if client is not None}
