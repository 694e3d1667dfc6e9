"""What a configuration says of its meters, in words that can be kept, and in what two of them differ. Pure.

Rules
- A setting is its key and its value as the file would have it, so that a person knows it again. Nothing here is secret.
- What decides a meter's numbers, its query and its windows, holds from a window on; everything else holds at once.
- Of sources, sinks and mappings a secret is compared and never shown or kept, nor is a digest made of it.
"""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple
from urllib.parse import parse_qs

from pydantic import SecretStr

from aggregator.config.block import Block
from aggregator.config.durations import format_duration
from aggregator.config.meter import Meter
from aggregator.config.models import Config, Source
from aggregator.config.query import normalised_query
from aggregator.config.values import iso
from aggregator.runtime.redact import HIDDEN, redacted

Settings = Mapping[str, str]
"""The settings of one meter, by key."""

HOLDS_FROM_A_WINDOW = frozenset({"query", "window", "decimals", "customers", "dimensions"}) | {
    *("resets", "first_value", "sample", "missing")
}
"""What belongs to a meter's definition. The others are how it is worked at."""

LEFT_OUT = frozenset({"name", "query_file", "tests"})


class ChangedSetting(NamedTuple):
    """One setting of a meter that differs; of a meter that was added or removed, that alone (`key` is empty)."""

    meter: str
    key: str
    old: str | None
    new: str | None

    @property
    def from_a_window(self) -> bool:
        """Whether it holds from a window on, and not at once."""
        return self.key in HOLDS_FROM_A_WINDOW

    def __str__(self) -> str:
        if not self.key:
            return f"{self.meter} was {'added' if self.old is None else 'removed'}"
        if self.key == "query":
            return f"{self.meter}: another query"
        return f"{self.meter}: {self.key} {self.new or 'left out'} (was {self.old or 'left out'})"


def settings_of(meters: Mapping[str, Meter]) -> dict[str, dict[str, str]]:
    """Return the settings of every meter, as they can be kept and compared."""
    return {name: _settings(meter) for name, meter in sorted(meters.items())}


def changed_settings(old: Mapping[str, Settings], new: Mapping[str, Settings]) -> Iterator[ChangedSetting]:
    """Yield in what two configurations differ, meter by meter."""
    for meter in sorted({*old, *new}):
        if meter not in old or meter not in new:
            yield ChangedSetting(
                meter, "", None if meter not in old else meter, None if meter not in new else meter
            )
            continue
        before, after = old[meter], new[meter]
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield ChangedSetting(meter, key, before.get(key), after.get(key))


def changed_blocks(old: Mapping[str, Block], new: Mapping[str, Block]) -> Iterator[ChangedSetting]:
    """Yield in what blocks of one kind differ, such as all sinks, block by block; `meter` is what each is called."""
    for name in sorted({*old, *new}):
        if name not in old or name not in new:
            gone = name if name in old else None
            yield ChangedSetting(name, "", gone, None if name not in new else name)
            continue
        before, after = dict(_leaves(old[name])), dict(_leaves(new[name]))
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield ChangedSetting(name, key, _shown(before.get(key)), _shown(after.get(key)))


def blocks_of(config: Config) -> dict[str, dict[str, str]]:
    """Return the settings of all sources, sinks and mappings, such as `sink stripe`, as they can be kept and compared.

    No secret is in them: of a URL they have the kind of database, its host and its name.
    """
    kinds: dict[str, Mapping[str, Block]] = {
        "source": config.sources,
        "sink": config.sinks,
        "mapping": config.customers,
    }
    return {
        f"{kind} {name}": {key: _as_shown(value) for key, value in _leaves(block)}
        for kind, blocks in kinds.items()
        for name, block in sorted(blocks.items())
    }


def changed_configuration(
    old: Mapping[str, Settings],
    new: Mapping[str, Settings],
    old_blocks: Mapping[str, Settings],
    new_blocks: Mapping[str, Settings],
) -> list[ChangedSetting]:
    """Return in what two configurations differ, as they are kept: meters, and blocks where both are known."""
    changed = list(changed_settings(old, new))
    return [*changed, *changed_settings(old_blocks, new_blocks)] if old_blocks else changed


def digests(config: Config) -> dict[str, str]:
    """Return a digest of each block of a configuration that decides what is billed, and where; no secret is in it."""
    meters = {f"meter {name}": settings for name, settings in settings_of(config.meters).items()}
    return {name: _digest(settings) for name, settings in (meters | blocks_of(config)).items()}


def _digest(settings: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _leaves(block: Block, within: str = "") -> Iterator[tuple[str, object]]:
    """Yield each setting of a block that is given, also of the blocks in it, by its key."""
    for name, field in type(block).model_fields.items():
        key, value = within + (field.alias or name), getattr(block, name)
        if isinstance(value, Block):
            yield from _leaves(value, f"{key}.")
        elif value is not None:
            yield key, value
            if isinstance(block, Source) and name == "url":
                yield from _place(block.url_revealed())


URL = re.compile(
    r"(?P<kind>[\w+.-]+)://(?:[^:/@]*(?::[^@]*)?@)?(?P<hosts>[^/?#@]*)(?:/(?P<database>[^?@]*))?(?:\?(?P<more>[^@]*))?"
)
"""A URL with one @ at most: whoever has more of them in it has a password that is not written as one has to."""


def _place(url: str) -> Iterator[tuple[str, str]]:
    """Yield what of a URL says which database it names; nothing of one that might be read otherwise."""
    found = URL.fullmatch(url)
    if found is None:
        return
    database = found["database"] or ""
    if found["kind"].startswith(("sqlite", "duckdb")):  # a path, which each host may have elsewhere
        database = PurePath(database).name
    named = parse_qs(found["more"] or "").get("host", [""])
    for key, said in (
        ("kind", found["kind"]),
        ("host", found["hosts"] or ",".join(named)),
        ("database", database),
    ):
        if said:
            yield f"url.{key}", said


def _shown(value: object) -> str | None:
    return None if value is None else _as_shown(value)


def _as_shown(value: object) -> str:
    return redacted(_said(value), ())


def _settings(meter: Meter) -> dict[str, str]:
    values = {
        field.alias or name: getattr(meter, name)
        for name, field in Meter.model_fields.items()
        if name not in LEFT_OUT
    }
    said = {key: _said(value) for key, value in values.items() if value is not None}
    return {**said, "query": normalised_query(meter.query_text)}


def _said(value: object) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: object) -> object:
    match value:
        case dt.timedelta():
            return format_duration(value)
        case dt.datetime():
            return iso(value)
        case Block():
            given = {name: getattr(value, name) for name in type(value).model_fields}
            return {key: _plain(each) for key, each in given.items() if each is not None}
        case tuple() | list():
            return [_plain(each) for each in value]
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case bool() | int():
            return value
        case Path():
            return value.name
        case SecretStr():
            return HIDDEN
        case _:
            return str(value)
