"""Configuration files to one `Config`, or to one ConfigError that names everything wrong with them.

The order: read every file, give each meter its defaults, put the content of each `KEY_file` under KEY, validate
every block on its own, compare across blocks. No step stops at the first mistake.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from aggregator.config.customers import CustomerMapping
from aggregator.config.documents import LONGEST_FILE, LONGEST_SECRET, Document, Location, Problems, dotted
from aggregator.config.files import Files
from aggregator.config.meter import Meter
from aggregator.config.models import SINK_SECRETS, SINK_TYPES, Config, File, Ledger, Sink, Source
from aggregator.config.monitoring import MONITORING_SECRETS, Monitoring
from aggregator.config.sections import Model, Section
from aggregator.config.values import NAME_PATTERN, NAME_RULE
from aggregator.config.web import WEB_SECRETS, Web
from aggregator.config.wording import keys, unknown_key, unknown_name
from aggregator.errors import ConfigError

TOP_ONLY = ("state_dir", "ledger", "web", "monitoring")
FREE = "x-"
"""How keys begin at the top level that are the reader's own, as for anchors that several blocks share."""
ONE_METER_ONLY = frozenset(
    {"name", "query", "query_file", "detail_query", "tests", "renamed_from", "deltas", "changed"}
)


def load(path: Path, env: Mapping[str, str]) -> Config:
    """Return the configuration in this file and those it includes, variables taken from `env`.

    Raises ConfigError with every problem of every file, sorted by file and line.
    """
    problems = Problems()
    files = Files(env, problems)
    files.read_top(path)
    config = _Assembly(files).config() if files.documents else None
    if config is None or problems.found:
        raise ConfigError(problems.sorted())
    return config


@dataclass
class _Assembly:
    """The blocks of all files, by name, before and after validation."""

    files: Files
    sources: dict[str, Section] = field(default_factory=dict)
    sinks: dict[str, Section] = field(default_factory=dict)
    customers: dict[str, Section] = field(default_factory=dict)
    meters: dict[str, Section] = field(default_factory=dict)

    @property
    def top(self) -> Document:
        return self.files.documents[0]

    def config(self) -> Config | None:
        """Return the whole, or None where a problem kept a block from being built."""
        self._gather()
        ledger, state_dir = self._ledger(), self._state_dir()
        web = self._top_block("web", Web, WEB_SECRETS)
        monitoring = self._top_block("monitoring", Monitoring, MONITORING_SECRETS)
        sources = {name: self._source(section) for name, section in self.sources.items()}
        sinks = {name: self._sink(section) for name, section in self.sinks.items()}
        customers = {name: self._customers(section) for name, section in self.customers.items()}
        meters = {name: self._meter(section) for name, section in self.meters.items()}
        self._check_across()
        if self.files.problems.found:
            return None
        return Config.model_validate(
            {
                "state_dir": state_dir,
                "ledger": ledger,
                "web": web,
                "monitoring": monitoring,
                "sources": sources,
                "sinks": sinks,
                "customers": customers,
                "meters": meters,
            }
        )

    def _gather(self) -> None:
        shared = self._defaults(self.top)
        for document in self.files.documents:
            self._check_top_level(document)
            self._collect(document, "sources", self.sources)
            self._collect(document, "sinks", self.sinks)
            self._collect(document, "customers", self.customers)
            own = shared if document is self.top else self._defaults(document)
            self._collect(document, "meters", self.meters, own or shared)

    def _check_top_level(self, document: Document) -> None:
        known = keys(File)
        for key in document.data:
            if key.startswith(FREE):
                continue
            if key not in known:
                document.problem((key,), unknown_key(key, known))
            elif key in TOP_ONLY and document is not self.top:
                document.problem((key,), f"belongs in {self.top.path} only: move it there")

    def _collect(
        self, document: Document, kind: str, found: dict[str, Section], defaults: Section | None = None
    ) -> None:
        """Add the blocks under `kind:` of one file to those of the other files."""
        for name, block in _mapping(document, kind, "names").items():
            section = Section(document, (kind, name), block if isinstance(block, dict) else {}, defaults)
            if not re.fullmatch(NAME_PATTERN, name):
                section.problem((), f"is not a usable name: take {NAME_RULE}")
            if name in found:
                section.problem(
                    (), f"is already given at {found[name].place}: rename or remove one of the two"
                )
            elif isinstance(block, dict):
                found[name] = section
            else:
                section.problem((), "must be a mapping of keys, indented below its name")

    def _defaults(self, document: Document) -> Section | None:
        """Return a file's `defaults:`, checked as far as they can be without a meter."""
        if "defaults" not in document.data:
            return None
        block = _mapping(document, "defaults", "keys")
        for key in block.keys() & ONE_METER_ONLY:
            document.problem(("defaults", key), "cannot be a default: each meter has its own")
        kept = {key: value for key, value in block.items() if key not in ONE_METER_ONLY}
        section = Section(document, ("defaults",), kept)
        section.build(Meter, kept, partly=True)
        return section

    def _ledger(self) -> Ledger | None:
        section = Section(self.top, ("ledger",), _mapping(self.top, "ledger", "keys"))
        data = section.resolved("url", LONGEST_SECRET, needed=False)
        archive = data.get("archive")
        if isinstance(archive, str) and archive and "://" not in archive:
            data["archive"] = str((self.top.directory / archive).resolve())
        return section.build(Ledger, data)

    def _top_block(self, name: str, model: type[Model], secrets: Iterable[str]) -> Model | None:
        section = Section(self.top, (name,), _mapping(self.top, name, "keys"))
        data = section.merged()
        for key in secrets:
            found = section.resolved(key, LONGEST_SECRET, needed=False)
            data |= {name: found[name] for name in (key, f"{key}_file") if name in found}
        return section.build(model, data)

    def _state_dir(self) -> Path:
        written = self.top.data.get("state_dir", str(Config.model_fields["state_dir"].default))
        if not isinstance(written, str) or not written:
            self.top.problem(("state_dir",), "must be text, the path of a directory")
            return Path()
        return (self.top.directory / written).resolve()

    def _source(self, section: Section) -> Source | None:
        return section.build(Source, section.resolved("url", LONGEST_SECRET, needed=True))

    def _sink(self, section: Section) -> Sink | None:
        kind = str(section.own.get("type"))
        if kind not in SINK_TYPES:
            kinds = [f"`{each}`" for each in SINK_TYPES]
            given = f"must be {', '.join(kinds[:-1])} or {kinds[-1]}"
            missing = "is missing: write, for example, `type: stripe`"
            section.problem(("type",), given if "type" in section.own else missing)
            return None
        data = section.merged()
        for key, needed in SINK_SECRETS.get(kind, {}).items():
            found = section.resolved(key, LONGEST_SECRET, needed=needed)
            data |= {name: found[name] for name in (key, f"{key}_file") if name in found}
        if isinstance(data.get("directory"), str):
            data["directory"] = str((section.document.directory / str(data["directory"])).resolve())
        return section.build(SINK_TYPES[kind], data)

    def _customers(self, section: Section) -> CustomerMapping | None:
        data = section.merged()
        if isinstance(data.get("file"), str):
            data["file"] = str((section.document.directory / str(data["file"])).absolute())
        return section.build(CustomerMapping, data)

    def _meter(self, section: Section) -> Meter | None:
        data = section.resolved("query", LONGEST_FILE, needed=True)
        if "name" in data:
            section.problem(("name",), unknown_key("name", keys(Meter)))
        return section.build(Meter, data | {"name": section.name})

    def _check_across(self) -> None:
        if self.files.complete:
            if not self.meters:
                self.top.problem(("meters",), "there is nothing to bill: add a meter")
            for section in self.meters.values():
                self._check_names(section)
            for section in self.customers.values():
                source = section.merged().get("source")
                if isinstance(source, str) and source not in self._names("sources"):
                    text = section.text(("source",))
                    section.problem(("source",), unknown_name("sources", text, self._names("sources")))
        self._check_event_names()
        self._check_event_types()
        self._check_last()
        self._check_moves()
        self._check_former_names()

    def _check_former_names(self) -> None:
        """A meter that is still there was not renamed, and one meter cannot become two."""
        first: dict[str, Section] = {}
        for meter in self.meters.values():
            former = meter.merged().get("renamed_from")
            if not isinstance(former, str):
                continue
            if former in self.meters:
                meter.problem(
                    ("renamed_from",),
                    f"is `{former}`, which is a meter of this configuration: one that was renamed is not there any more, so "
                    "take one of the two away",
                )
            other = first.setdefault(former, meter)
            if other is not meter:
                meter.problem(
                    ("renamed_from",),
                    f"is `{former}`, and so is that of meter `{dotted((other.name,))}` ({other.place}): one meter goes on "
                    "as one, so say it of one of them",
                )

    def _check_names(self, meter: Section) -> None:
        data = meter.merged()
        sources, sinks = self._names("sources"), self._names("sinks")
        if isinstance(data.get("source"), str) and data["source"] not in sources:
            meter.problem(("source",), unknown_name("sources", meter.text(("source",)), sources))
        customers = self._names("customers")
        if isinstance(data.get("customers"), str) and data["customers"] not in customers:
            meter.problem(("customers",), unknown_name("customers", meter.text(("customers",)), customers))
        for within, sink in _sinks_of(data):
            if sink not in sinks:
                meter.problem(within, unknown_name("sinks", meter.text(within), sinks))

    def _names(self, kind: str) -> set[str]:
        """Return every name given under `kind:`, also of blocks that are wrong in themselves."""
        return {name for document in self.files.documents for name in _mapping(document, kind, "names")}

    def _check_event_names(self) -> None:
        """Two meters that send the same event name to the same sink would count each use twice."""
        first: dict[tuple[str, str], Section] = {}
        for meter in self.meters.values():
            data = meter.merged()
            given = _given_event_names(data)
            sinks = self.sinks.keys() & {name for _, name in _sinks_of(data)}
            for sink, (within, event_name) in product(sinks, given or [((), meter.name)]):
                other = first.setdefault((sink, event_name), meter)
                if other is not meter:
                    meter.problem(
                        within,
                        f"sends the same event name as meter `{dotted((other.name,))}` ({other.place}) to the sink "
                        f"`{dotted((sink,))}`, which would add up the two, or let one replace the other: give one of "
                        "them another event name",
                    )

    def _check_last(self) -> None:
        """What only Stripe's meter events can bill by the last number goes nowhere else."""
        for meter in self.meters.values():
            data = meter.merged()
            block = data.get("stripe")
            if not isinstance(block, dict) or block.get("formula") != "last":
                continue
            for within, name in _sinks_of(data):
                kind = self.sinks[name].own.get("type") if name in self.sinks else None
                if kind not in (None, "stripe"):
                    meter.problem(
                        within,
                        f"is a sink of type {kind}, and `stripe.formula: last` needs one of type stripe: elsewhere nothing "
                        "keeps a customer's windows in order, so the last number would not be the newest",
                    )

    def _check_moves(self) -> None:
        """Where an event replaces another, a new customer's higher number cannot wait for an old one's that is held."""
        for meter in self.meters.values():
            data = meter.merged()
            block = data.get("stripe")
            mapping = self.customers.get(str(data.get("customers")))
            if mapping is None or mapping.merged().get("moved") != "all" or not isinstance(block, dict):
                continue
            if block.get("event_time_window") and data.get("decreases", "hold") == "hold":
                meter.problem(
                    ("customers",),
                    f"is `{mapping.name}`, which has `moved: all`: with `stripe.event_time_window`, the higher number of a "
                    "customer's new id could be billed while the lower one of the old id is still held. Use "
                    "`decreases: apply`, by which both are sent, or a mapping with `moved: future`",
                )

    def _check_event_types(self) -> None:
        """Two meters whose events a metric cannot tell apart would be added up."""
        first: dict[object, Section] = {}
        for meter in self.meters.values():
            data = meter.merged()
            block = data.get("metronome")
            given = block if isinstance(block, dict) else {}
            sent = (
                str(given.get("event_type") or meter.name),
                str(given.get("quantity_property") or "quantity"),
            )
            properties = given.get("properties")
            same = frozenset(map(str, properties.items())) if isinstance(properties, dict) else frozenset()
            for sink in sorted(name for _, name in _sinks_of(data)):
                known = self.sinks.get(sink)
                if known is None or known.own.get("type") != "metronome":
                    continue
                other = first.setdefault((sink, *sent, same), meter)
                if other is not meter:
                    meter.problem(
                        ("metronome", "event_type") if given.get("event_type") else (),
                        f"sends events that look like those of meter `{dotted((other.name,))}` ({other.place}) to the sink "
                        f"`{dotted((sink,))}`, which would add up the two: give one of them another event type or property",
                    )


def _mapping(document: Document, key: str, of: str) -> dict[str, object]:
    """Return the mapping under a top-level key; none if there is none, with a problem if it is something else."""
    value = document.data.get(key, {})
    if isinstance(value, dict):
        return value
    document.problem((key,), f"must be a mapping of {of}, indented below it")
    return {}


def _sinks_of(meter: Mapping[str, object]) -> Iterator[tuple[Location, str]]:
    """Yield the names of the sinks of a meter, each with where it stands in there."""
    entries = meter.get("sinks")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, str):
            yield ("sinks", index), entry
        elif isinstance(entry, dict) and isinstance(entry.get("sink"), str):
            yield ("sinks", index, "sink"), entry["sink"]


def _given_event_names(meter: Mapping[str, object]) -> list[tuple[Location, str]]:
    """Return the event names that stand in a meter, each with its place in there."""
    block = meter.get("stripe")
    if not isinstance(block, dict):
        return []
    mapped = block.get("event_names")
    entries = mapped if isinstance(mapped, list) else []
    found: list[tuple[Location, object]] = [(("stripe", "event_name"), block.get("event_name"))]
    found += [
        (("stripe", "event_names", index, "event_name"), each.get("event_name"))
        for index, each in enumerate(entries)
        if isinstance(each, dict)
    ]
    return [(within, name) for within, name in found if isinstance(name, str)]
