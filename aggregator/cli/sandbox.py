"""`aggregator sandbox`: the local stand-in for Stripe's metering endpoints.

The command belongs to the sandbox, which shares no code with the rest; it is passed on unchanged, and imported only when
it is called.
"""

import click


@click.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> None:
    """Run a local server that stands in for Stripe's metering endpoints. For its options:
    `aggregator sandbox --help`."""
    from aggregator.sandbox.__main__ import command

    command.main(list(arguments), prog_name="aggregator sandbox", standalone_mode=False)
