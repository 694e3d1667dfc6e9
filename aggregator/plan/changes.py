"""What differs between the configuration that holds and the one that is to hold, in words for whoever reviews it. Pure.

Rules
- A meter that is renamed is compared with what it was under its former name.
- What decides a meter's numbers holds from its first window that is not read yet; everything else holds at once.
- Of a secret nobody learns more than that it is another one.
"""

import datetime as dt
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from aggregator.config.changes import ChangedSetting, Settings, changed_settings
from aggregator.core.shown import shown
from aggregator.plan.meaning import meaning


class Kind(StrEnum):
    """What kind of difference it is."""

    NEW = "new"
    REMOVED = "removed"
    RENAMED = "renamed"
    QUERY = "query"
    DEFINITION = "definition"
    SINKS = "sinks"
    GUARDS = "guards"
    SETTING = "setting"


FROM_A_WINDOW = frozenset({Kind.NEW, Kind.QUERY, Kind.DEFINITION})
"""What holds from a window on; and a new sink, see `Change.from_a_window`."""

METER = "meter"


class Change(NamedTuple):
    """One difference: of what (`meter`, `sink`, `source`, `customers`) and of which name, what it is, in words."""

    what: str
    name: str
    kind: Kind
    text: str
    key: str = ""
    """The setting, as the file calls it: `delay`, `guards.max_change`; empty of what is more than that."""
    old: str | None = None
    new: str | None = None
    from_a_window: bool = False
    holds_from: dt.datetime | None = None
    """The first window for which it would hold if it were applied now; None where nobody was asked, or it holds at once."""
    sink: str = ""
    """Which sink of a meter it is about, if it is about one."""
    means: str = ""
    """What it means for what is billed, of a block that is no meter."""

    @property
    def holds(self) -> str:
        """Say from when on it holds."""
        if not self.from_a_window:
            return "at once"
        if self.holds_from is None:
            return "from the first window that is not read yet"
        return f"from the window {shown(self.holds_from)} UTC on"

    def query_lines(self) -> list[str]:
        """Return in which lines a changed query differs, as `diff -u` shows it; nothing of any other change."""
        if self.kind is not Kind.QUERY or self.old is None or self.new is None:
            return []
        lines = difflib.unified_diff(
            self.old.splitlines(), self.new.splitlines(), "before", "after", n=2, lineterm=""
        )
        return list(lines)


class Known(NamedTuple):
    """What is known of meters beside their settings: nothing but new names, where only files are compared."""

    renamed: Mapping[str, str] = {}
    """By the old name, the new one."""
    begins: Mapping[str, dt.datetime] = {}
    """By meter, the first window of a definition that is new."""
    fed_from: Mapping[tuple[str, str], dt.datetime] = {}
    """By meter and sink, the first window of a feed that is new."""
    marks: Mapping[str, dt.datetime] = {}
    """By meter, up to where it was read, of those that the ledger has, as it calls them."""
    redefined: frozenset[str] = frozenset()
    """Meters whose definition in the ledger is another one, whatever their settings were."""


def meter_changes(old: Mapping[str, Settings], new: Mapping[str, Settings], known: Known) -> list[Change]:
    """Return in what the meters of two configurations differ, meter by meter."""
    before = {known.renamed.get(name, name): settings for name, settings in old.items()}
    former = {after: name for name, after in known.renamed.items()}
    found = [
        Change(
            METER,
            name,
            Kind.RENAMED,
            f"is called {name} now, and was {former[name]}: mark, corrections and identifiers stay",
        )
        for name in sorted(former)
    ]
    for each in changed_settings(before, new):
        found += _of_setting(each, new, known, former)
    named = {each.name for each in found if each.kind in FROM_A_WINDOW}
    found += [
        _from_a_window(name, Kind.DEFINITION, "the ledger has another definition than was configured", known)
        for name in sorted(known.redefined - named)
    ]
    return sorted(found, key=lambda each: (each.name, list(Kind).index(each.kind)))


def block_changes(what: str, changed: Iterable[ChangedSetting]) -> list[Change]:
    """Return in what sinks, sources or mappings differ."""
    return [_of_block(what, each) for each in changed]


def _of_block(what: str, each: ChangedSetting) -> Change:
    if not each.key:
        kind, text = (Kind.NEW, "is new") if each.old is None else (Kind.REMOVED, "is taken away")
        return Change(what, each.meter, kind, text)
    text, means = _value(each), meaning(what, each.key)
    return Change(what, each.meter, Kind.SETTING, text, each.key, each.old, each.new, means=means)


def kept_blocks_changes(old: Mapping[str, Settings], new: Mapping[str, Settings]) -> list[Change]:
    """Return the same of all blocks as they are kept, each called such as `sink stripe`; none where none were kept."""
    changed = changed_settings(old, new) if old else ()
    named = [(each.meter.partition(" "), each) for each in changed]
    return [
        change
        for (what, _, name), each in named
        for change in block_changes(what, [each._replace(meter=name)])
    ]


def _of_setting(
    each: ChangedSetting, new: Mapping[str, Settings], known: Known, former: Mapping[str, str]
) -> Iterator[Change]:
    name = each.meter
    match each.key:
        case "":
            yield _whole(each, new, known)
        case "renamed_from" if name in former:
            return
        case "query":
            query = _from_a_window(name, Kind.QUERY, "another query", known)
            yield query._replace(key=each.key, old=each.old, new=each.new)
        case "sinks":
            yield from _of_sinks(each, known)
        case "guards" | "stripe" | "metronome" | "deltas" | "changed":
            yield from _of_block_within(each)
        case _ if each.from_a_window:
            definition = _from_a_window(name, Kind.DEFINITION, _value(each), known)
            yield definition._replace(key=each.key, old=each.old, new=each.new)
        case _:
            yield Change(METER, name, Kind.SETTING, _value(each), each.key, each.old, each.new)


def _from_a_window(name: str, kind: Kind, text: str, known: Known) -> Change:
    return Change(METER, name, kind, text, from_a_window=True, holds_from=known.begins.get(name))


def _whole(each: ChangedSetting, new: Mapping[str, Settings], known: Known) -> Change:
    """Say of a meter that comes or goes what it is, or how far it was."""
    name, mark = each.meter, known.marks.get(each.meter)
    if each.new is None:
        read = f"; it was read up to {shown(mark)} UTC" if mark else ""
        return Change(METER, name, Kind.REMOVED, f"is taken away, and nobody reads it again{read}")
    settings = new[name]
    fed = ", ".join(_feeds(settings.get("sinks")))
    if mark is not None:
        text = f"is configured again, and goes on where it was, at {shown(mark)} UTC, for {fed}"
        return Change(METER, name, Kind.NEW, text, from_a_window=True, holds_from=known.begins.get(name))
    text = f"is a new meter: source {settings.get('source')}, windows of {settings.get('window')}, for {fed}"
    begins = dt.datetime.fromisoformat(settings["start_at"]) if "start_at" in settings else None
    return Change(
        METER, name, Kind.NEW, text, from_a_window=True, holds_from=known.begins.get(name) or begins
    )


def _of_sinks(each: ChangedSetting, known: Known) -> Iterator[Change]:
    old, new = _feeds(each.old), _feeds(each.new)
    for sink in sorted({*old, *new}):
        change = Change(METER, each.meter, Kind.SINKS, "", "sinks", old.get(sink), new.get(sink), sink=sink)
        if sink not in old:
            since = known.fed_from.get((each.meter, sink))
            yield change._replace(
                text=f"sink {sink} is added{_on(new[sink])}", from_a_window=True, holds_from=since
            )
        elif sink not in new:
            yield change._replace(text=f"sink {sink} is taken off: what waits for it is not sent any more")
        elif old[sink] != new[sink]:
            yield change._replace(
                text=f"sink {sink} on other terms: {new[sink] or 'none'} (was {old[sink] or 'none'})"
            )


def _on(terms: str) -> str:
    return f" ({terms})" if terms else ""


def _feeds(text: str | None) -> dict[str, str]:
    """Return the terms of each sink that a meter feeds, in words, as its settings have them."""
    return {feed["sink"]: _terms(feed) for feed in json.loads(text or "[]")}


def _terms(feed: Mapping[str, object]) -> str:
    said = [f"{key} {feed[key]}" for key in ("bill_from", "bill_until") if feed.get(key)]
    return ", ".join([*said, *(["shadow"] if feed.get("shadow") else [])])


def _of_block_within(each: ChangedSetting) -> Iterator[Change]:
    """Say of a block of a meter which of its keys differ."""
    kind = Kind.GUARDS if each.key == "guards" else Kind.SETTING
    old, new = json.loads(each.old or "{}"), json.loads(each.new or "{}")
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            named = f"{each.key}.{key}"
            inner = ChangedSetting(each.meter, named, _plain(old.get(key)), _plain(new.get(key)))
            yield Change(METER, each.meter, kind, _value(inner), named, inner.old, inner.new)


def _plain(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _value(each: ChangedSetting) -> str:
    return f"{each.key} {each.new or 'left out'} (was {each.old or 'left out'})"


def names(changes: Sequence[Change]) -> list[tuple[str, str]]:
    """Return what changes, each once, meters first."""
    found = dict.fromkeys((each.what, each.name) for each in changes)
    return sorted(found, key=lambda each: (each[0] != METER, each))
