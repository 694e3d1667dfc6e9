"""How `--help` lists commands: under headings, each with a whole sentence, and without importing any of them."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from importlib import import_module

import click


class Commands(click.Group):
    """A group that lists its commands with a whole sentence each, and cuts none."""

    def sections(self) -> Iterable[tuple[str, Mapping[str, str]]]:
        """Yield each heading with the sentences of the commands below it, by name, in the order in which they are listed."""
        yield "Commands", {name: _sentence(each) for name, each in sorted(self.commands.items())}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands down, each with the first sentence of its help."""
        widest = max(len(name) for name in self.commands)
        for heading, sentences in self.sections():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{widest}}", text) for name, text in sentences.items()])


class CommandModules(Commands):
    """A group whose commands are in modules named like them, imported when a command is called and not to list it.

    `listed` gives `sections`; `package` has the modules.
    """

    listed: Mapping[str, Mapping[str, str]]

    def list_from(self, package: str, listed: Mapping[str, Mapping[str, str]]) -> None:
        """Take the commands from a package, each by its name, and list them so."""
        self.listed = listed
        self.commands = _Modules(package, [name for sentences in listed.values() for name in sentences])

    def sections(self) -> Iterable[tuple[str, Mapping[str, str]]]:
        """Yield them as they were given."""
        return self.listed.items()


class _Modules(MutableMapping[str, click.Command]):
    """Commands by name, each from the module of that name."""

    def __init__(self, package: str, names: Iterable[str]) -> None:
        self._package = package
        self._found: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        found = self._found[name]
        if found is None:
            found = getattr(import_module(f"{self._package}.{name}"), name)
            assert isinstance(found, click.Command), name
            self._found[name] = found
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _sentence(each: click.Command) -> str:
    return each.get_short_help_str(limit=1_000)
