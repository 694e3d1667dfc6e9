"""What a shell completes besides commands and options: the names of meters, from the configuration that is being typed.

Rules
- It answers in the time of a key press and never complains: where the files cannot be read, there is nothing to offer.
- Only the keys below `meters:` are looked at. Whether the rest is right is for `aggregator check`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

DEFAULT = "aggregator.yaml"
MOST_FILES = 100
"""Files that are looked into for meters, so that files which include each other come to an end."""


class MeterName(click.ParamType[str]):
    """The name of a configured meter. The command itself says so where there is none of that name."""

    name = "meter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return it as it is."""
        return str(value)

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click names it
        incomplete: str,
    ) -> list[CompletionItem]:
        """Return the names that begin so."""
        path = ctx.params.get("config_path") or os.environ.get("AGGREGATOR_CONFIG") or DEFAULT
        return [
            CompletionItem(name) for name in sorted(set(meters_in(Path(path)))) if name.startswith(incomplete)
        ]


def meters_in(path: Path) -> Iterator[str]:
    """Yield the names of the meters of a configuration and of the files it includes, as far as they can be read."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    waiting = [path]
    for number, file in enumerate(waiting):
        if number >= MOST_FILES:
            return
        try:
            found = YAML(typ="safe").load(file)
        except (OSError, YAMLError, ValueError, RecursionError):
            continue
        if not isinstance(found, dict):
            continue
        meters, includes = found.get("meters"), found.get("include")
        if isinstance(meters, dict):
            yield from map(str, meters)
        for pattern in includes if isinstance(includes, list) else []:
            if not Path(str(pattern)).is_absolute():
                waiting.extend(sorted(file.parent.glob(str(pattern))))
