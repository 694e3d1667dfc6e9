"""How `--help` lists commands: under headings, and each with a whole sentence."""

import click


class Commands(click.Group):
    """A group that lists its commands in sections if it has some, and cuts no sentence."""

    sections: tuple[tuple[str, tuple[click.Command, ...]], ...] = ()

    def add_sections(self, *sections: tuple[str, tuple[click.Command, ...]]) -> None:
        """Add the commands of each heading, in the order in which they are listed."""
        self.sections = sections
        for _, commands in sections:
            for command in commands:
                self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands down, each with the first sentence of its help."""
        sections = self.sections or (("Commands", tuple(each for _, each in sorted(self.commands.items()))),)
        widest = max(len(name) for name in self.commands)
        for heading, commands in sections:
            with formatter.section(heading):
                formatter.write_dl([(f"{each.name or '':<{widest}}", _sentence(each)) for each in commands])


def _sentence(command: click.Command) -> str:
    return command.get_short_help_str(limit=1_000)
