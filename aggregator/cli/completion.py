"""What a shell completes besides commands and options: meters, from the configuration, and customers, from the ledger.

Rules
- It answers in the time of a key press and never complains: where the files cannot be read, or the ledger does not answer at
  once, there is nothing to offer.
- Of a configuration that is typed, only the keys below `meters:` are looked at. Whether the rest is right is for `aggregator
  check`; who asks for customers needs it to be right.
- Nothing is started or written for it. A name that a shell would have to quote is not offered.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

DEFAULT = "aggregator.yaml"
MOST_FILES = 100
"""Files that are looked into for meters, so that files which include each other come to an end."""

MOST_CUSTOMERS = 50
"""More than these nobody reads; who types another letter sees fewer."""


class _Completed(click.ParamType[str]):
    """A name that is completed. The command itself says so where there is none of that name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return it as it is."""
        return str(value)

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click names it
        incomplete: str,
    ) -> list[CompletionItem]:
        """Return the names that begin so, by the configuration that the command line names."""
        path = Path(ctx.params.get("config_path") or os.environ.get("AGGREGATOR_CONFIG") or DEFAULT)
        return [CompletionItem(name) for name in self.beginning(path, incomplete)]

    def beginning(self, path: Path, prefix: str) -> list[str]:
        """Return the names that begin so, by the configuration at a path."""
        raise NotImplementedError


class MeterName(_Completed):
    """The name of a configured meter."""

    name = "meter"

    def beginning(self, path: Path, prefix: str) -> list[str]:
        """Return those that the files name."""
        return [name for name in sorted(set(meters_in(path))) if name.startswith(prefix)]


class CustomerName(_Completed):
    """The id of a customer, as a sink knows it."""

    name = "customer"

    def beginning(self, path: Path, prefix: str) -> list[str]:
        """Return those that had usage lately."""
        return customers_in(path, os.environ, prefix)


def customers_in(path: Path, environ: Mapping[str, str], prefix: str) -> list[str]:
    """Return customers of the ledger of a configuration; none if it cannot be read, or does not answer at once."""
    from aggregator.config import load
    from aggregator.errors import AggregatorError
    from aggregator.ledger.customer_names import of_new_windows
    from aggregator.runtime.embedded_postgres import url_beside

    try:
        config = load(path, environ)
        url = config.ledger.url_revealed() or url_beside(config.state_dir / "postgres")
        found = of_new_windows(url, prefix, MOST_CUSTOMERS)
    except (AggregatorError, OSError, ValueError):
        return []
    return [name for name in found if shlex.quote(name) == name]


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
