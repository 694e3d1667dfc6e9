"""A plan, put together: what the configuration says, what the ledger goes by, and what sources say of a past range."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from decimal import Decimal

from aggregator.collection.sampled import KeptSamples
from aggregator.config import Config
from aggregator.config import Meter as ConfiguredMeter
from aggregator.config.changes import Settings, blocks_of, changed_blocks, digests, settings_of
from aggregator.config.deltas import Deltas
from aggregator.config.query import normalised_query
from aggregator.core import windows
from aggregator.core.customers import Held, resolved
from aggregator.core.model import Definition, Meter, Reading, Span
from aggregator.errors import SourceError
from aggregator.ledger.applying import LedgerState, Looked
from aggregator.ledger.ledger import Ledger
from aggregator.plan.changes import Change, Known, block_changes, kept_blocks_changes, meter_changes
from aggregator.plan.cutovers import cutover_notes
from aggregator.plan.document import Basis, Digests, InForce, Plan, digest
from aggregator.plan.reading import SAMPLED, ByCursor, HowRead, MeterFigures, read_both
from aggregator.source import Source
from aggregator.wiring.app import meter_of
from aggregator.wiring.customers import listing
from aggregator.wiring.sinks import build_sink, outlets
from aggregator.wiring.sources import build_source

NAME = "aggregator plan"


def between_files(config: Config, other: Config, called: str, now: datetime) -> Plan:
    """Return what another file's configuration and this one differ in; nobody is asked."""
    old, new = settings_of(other.meters), settings_of(config.meters)
    renamed = {
        meter.renamed_from: name
        for name, meter in config.meters.items()
        if meter.renamed_from in old and name not in old
    }
    changes = _of_its_sinks(
        config, meter_changes(old, new, Known({key: name for key, name in renamed.items() if key}))
    )
    for what in ("sources", "sinks", "customers"):
        changed = changed_blocks(getattr(other, what), getattr(config, what))
        changes += block_changes(BLOCKS[what], changed)
    notes = ["Only files were compared: no ledger and no source was asked."]
    return Plan(now, called, None, changes, [], notes, Basis(digests(config), None, {}))


BLOCKS = {"sources": "source", "sinks": "sink", "customers": "mapping"}
"""What a block under a key of the file is called in a sentence."""


def meters_of(config: Config, accounts: Mapping[str, str | None]) -> list[Meter]:
    """Return the configured meters as a start registers them, with the accounts that sinks are known to belong to."""
    with ExitStack() as stack:
        sinks = {name: build_sink(config, name) for name in config.sinks}
        for sink in sinks.values():
            stack.callback(sink.close)
        return [meter_of(each, outlets(config, each, accounts, sinks)) for each in config.meters.values()]


def against_ledger(
    config: Config, ledger: Ledger, span: Span | None, *, ask_sources: bool, movers: int
) -> Plan:
    """Return what would change if this configuration held, and what a past range would come to. Raises MeterRefused."""
    looked = ledger.applying.look(meters_of(config, dict(ledger.identity.accounts())))
    changes = changes_of(config, looked)
    notes = list(cutover_notes(ledger.cutovers.known(), changes, looked.renamed))
    figures: list[MeterFigures] = []
    now = ledger.instant()
    pairs = sides(config, looked)
    if pairs and ask_sources:
        span = span or _yesterday(config, pairs, now)
        figures = read(config, ledger, looked, pairs, span, movers)
        notes += list(_never_billed(config, pairs, span))
    elif pairs:
        notes.append("No source was asked, so there are no figures.")
    read_of = {each.meter: each.comparison.digest for each in figures if each.comparison}
    basis = Basis(digests(config), in_force(looked.state), read_of)
    return Plan(now, report_ledger(looked.state), span if figures else None, changes, figures, notes, basis)


def report_ledger(state: LedgerState) -> str:
    """Name the ledger that a plan was made against, and what holds in it."""
    if state.configuration is None:
        return f"ledger {state.ledger_id}, in which no configuration has held yet"
    return f"ledger {state.ledger_id}, by the configuration of {state.configuration.loaded_at:%Y-%m-%d %H:%M} UTC"


def in_force(state: LedgerState) -> InForce:
    """Return what a plan says of the ledger that it was made against."""
    things: dict[str, str] = {}
    for name, meter in state.meters.items():
        things[f"the definitions of meter {name}"] = digest(
            [meter.read, meter.start_at, meter.formerly, meter.definitions]
        )
        things[f"the sinks of meter {name}"] = digest(meter.feeds)
    for name, settings in state.settings.items():
        things[f"the settings of meter {name}"] = digest(settings)
    for block, settings in state.blocks.items():
        things[f"the settings of {block}"] = digest(settings)
    return InForce(state.ledger_id, state.generation, things)


def basis_now(config: Config, state: LedgerState, read_of: Digests) -> Basis:
    """Return what a plan would be made of now."""
    return Basis(digests(config), in_force(state), read_of)


def changes_of(config: Config, looked: Looked) -> list[Change]:
    """Return what would change of meters, and which sinks and mappings the ledger does not know yet."""
    state = looked.state
    begins: dict[str, datetime] = {}
    fed_from: dict[tuple[str, str], datetime] = {}
    redefined: set[str] = set()
    for name, registered in looked.registered.items():
        former = _former(looked, name)
        known = state.meters.get(former)
        newest = looked.definitions[name][-1]
        begins[name] = max(newest.since, registered.meter.start_at)
        if known is None:
            continue
        if known.definitions[-1][1:] != newest[1:]:
            redefined.add(name)
        fed = {str(feed[0]) for feed in known.feeds}
        fed_from |= {(name, feed.sink): feed.since for feed in registered.feeds if feed.sink not in fed}
    marks = {name: each.mark for name, each in state.memory.meters.items()}
    known_of = Known(looked.renamed, begins, fed_from, marks, frozenset(redefined))
    found = meter_changes(state.settings, settings_of(config.meters), known_of)
    return _of_its_sinks(config, found) + kept_blocks_changes(state.blocks, blocks_of(config))


def _of_its_sinks(config: Config, changes: Sequence[Change]) -> list[Change]:
    """Leave out what only Metronome would see of a meter that is not sent there."""
    sent = {
        name
        for name, meter in config.meters.items()
        if any(config.sinks[sink].type == "metronome" for sink in meter.sinks)
    }
    return [each for each in changes if each.name in sent or not each.key.startswith("metronome.")]


def _former(looked: Looked, name: str) -> str:
    """Return what the ledger calls a meter until now."""
    return next((old for old, new in looked.renamed.items() if new == name), name)


Sides = Mapping[str, tuple[HowRead | None, HowRead | None]]
"""By meter, how it is read now and how it would be; None where it is not. Only of those that would bill something else."""


def sides(config: Config, looked: Looked) -> Sides:
    """Return the meters that would bill something else, or elsewhere."""
    found: dict[str, tuple[HowRead | None, HowRead | None]] = {}
    settings, blocks = looked.state.settings, blocks_of(config)
    for name, meter in config.meters.items():
        former = _former(looked, name)
        new = _how(looked.registered[name].meter, meter, blocks)
        old = _how_now(looked.state, former, settings[former]) if former in settings else None
        if old is not None:
            new = _goes_on(old, new) if _has_begun(looked.state, former) else new
            new = new if old.place else new._replace(place="")
        if old != new:
            found[name] = (old, new)
    gone = settings.keys() - looked.renamed.keys() - config.meters.keys()
    for name in sorted(gone):
        found[name] = (_how_now(looked.state, name, settings[name]), None)
    return {name: pair for name, pair in found.items() if pair != (None, None)}


def _has_begun(state: LedgerState, name: str) -> bool:
    """Tell whether anything was read of a meter."""
    return state.memory.meters[name].mark > state.meters[name].start_at


def _goes_on(old: HowRead, new: HowRead) -> HowRead:
    """Return how a meter is read that a cursor has begun with: where it was to begin does not count any more."""
    if old.by_cursor is None or new.by_cursor is None:
        return new
    return new._replace(by_cursor=new.by_cursor._replace(start_after=old.by_cursor.start_after))


def _by_cursor(settings: Settings) -> ByCursor | None:
    """Return how a meter is counted anew that is read by a cursor, as its settings have it."""
    if "deltas" not in settings:
        return None
    deltas = Deltas.model_validate(json.loads(settings["deltas"]))
    query = deltas.recount_query
    return ByCursor(deltas.start_after, None if query is None else normalised_query(query))


def _place(source: str, blocks: Mapping[str, Settings]) -> str:
    """Return which database a source is, in words; empty if that is not known."""
    block = blocks.get(f"source {source}", {})
    named = [block[key] for key in ("url.database", "url.host") if key in block]
    return f"{' at '.join(named)} ({block['url.kind']})" if "url.kind" in block else ""


def _how(meter: Meter, configured: ConfiguredMeter, blocks: Mapping[str, Settings]) -> HowRead:
    [settings] = settings_of({meter.name: configured}).values()
    return HowRead(
        meter.source,
        normalised_query(meter.query),
        meter.window,
        meter.dimensions,
        meter.customers,
        meter.unit,
        meter.latest,
        meter.read,
        _billed_by([each.model_dump(include={"sink", "shadow"}) for each in configured.feeds]),
        _by_cursor(settings),
        _place(meter.source, blocks),
    )


def _how_now(state: LedgerState, name: str, settings: Settings) -> HowRead | None:
    """Return how a meter is read by what is in force; None if the ledger does not have it."""
    known = state.meters.get(name)
    if known is None:
        return None
    definition: Definition = known.definitions[-1]
    return HowRead(
        settings["source"],
        normalised_query(definition.query),
        definition.window,
        tuple(sorted(definition.dimensions)),
        definition.customers,
        Decimal(1).scaleb(-int(settings.get("decimals", "0"))),
        json.loads(settings.get("stripe", "{}")).get("formula") == "last",
        known.read,
        _billed_by(json.loads(settings.get("sinks", "[]"))),
        _by_cursor(settings),
        _place(settings["source"], state.blocks),
    )


def _billed_by(feeds: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """Return the sinks that a meter is billed by: not those in shadow."""
    return tuple(sorted(str(each["sink"]) for each in feeds if not each.get("shadow")))


def _yesterday(config: Config, pairs: Sides, now: datetime) -> Span:
    """Return the last day whose windows are over for all of these meters."""
    delay = max((config.meters[name].delay for name in pairs if name in config.meters), default=timedelta(0))
    end = windows.floor(now - delay, windows.DAY)
    return Span(end - windows.DAY, end)


def _never_billed(config: Config, pairs: Sides, span: Span) -> Iterator[str]:
    for name in pairs:
        if name in config.meters and config.meters[name].start_at > span.start:
            at = config.meters[name].start_at
            yield f"{name} has start_at {at:%Y-%m-%dT%H:%MZ}, and nothing before it is ever billed."


def read(
    config: Config, ledger: Ledger, looked: Looked, pairs: Sides, span: Span, movers: int
) -> list[MeterFigures]:
    """Return what a past range of these meters comes to, before and after."""
    with _sources(config, pairs) as sources, ExitStack() as stack:
        customers = Customers(config, ledger, stack)
        return [
            read_both(
                name,
                old,
                new,
                span,
                sources,
                customers.resolve,
                movers,
                _kept(ledger, looked, name, old or new),
            )
            for name, (old, new) in pairs.items()
        ]


class Samples:
    """The samples that the ledger keeps of a meter, and by which queries they were taken."""

    def __init__(self, definitions: Sequence[Definition], samples: KeptSamples) -> None:
        self.definitions = definitions
        self.first = samples.first
        self.read = samples.read


def _kept(ledger: Ledger, looked: Looked, name: str, how: HowRead | None) -> Samples | None:
    """Return the samples of a meter; None of one that the ledger does not know as one that is sampled."""
    known = looked.state.meters.get(_former(looked, name))
    if known is None or how is None or known.read not in SAMPLED:
        return None
    samples = KeptSamples(name, known.id, ledger.samples, ledger.instant, latest=how.latest)
    return Samples(known.definitions, samples)


@contextmanager
def _sources(config: Config, pairs: Sides) -> Iterator[dict[str, Source]]:
    named = {how.source for pair in pairs.values() for how in pair if how is not None}
    with ExitStack() as stack:
        sources = {name: build_source(config, name, NAME) for name in sorted(named & config.sources.keys())}
        for source in sources.values():
            stack.callback(source.close)
        yield sources


class Customers:
    """Whose the usage of keys is: by what the ledger knows of a mapping, or, of a new one, by what it lists now."""

    def __init__(self, config: Config, ledger: Ledger, stack: ExitStack) -> None:
        self._config = config
        self._ledger = ledger
        self._stack = stack
        self._listed: dict[str, dict[str, list[Held]]] = {}

    def resolve(self, mapping: str, batch: list[Reading]) -> list[Reading]:
        """Return readings of keys as readings of customers. Raises SourceError."""
        keys = {each.customer for each in batch if each.customer is not None}
        if self._ledger.customers.is_known(mapping):
            return resolved(batch, self._ledger.customers.look_up(mapping, keys) if keys else {})
        if mapping not in self._listed:
            self._listed[mapping] = self._list(mapping)
        return resolved(batch, self._listed[mapping])

    def _list(self, mapping: str) -> dict[str, list[Held]]:
        configured = self._config.customers.get(mapping)
        if configured is None:
            raise SourceError(f"Mapping {mapping} is no longer configured, and was never read.")
        source = None
        if configured.source is not None:
            source = build_source(self._config, configured.source, NAME)
            self._stack.callback(source.close)
        return {
            each.key: [Held(None, None, each.customer)]
            for batch in listing(self._config, mapping, source)
            for each in batch
            if each.customer is not None
        }
