"""`aggregator selftest`: the promise, put to the proof on your own machine."""

from pathlib import Path

import click

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import json_option


@click.command()
@click.option(
    "--kills",
    type=click.IntRange(1, 100_000),
    default=40,
    show_default=True,
    help="How often to kill the daemon.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Decides which kills, faults and rows there are.",
)
@click.option(
    "--worlds",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="How many ledgers to run at once, each with its own daemons and sandbox. They share the kills.",
)
@click.option(
    "--dir",
    "--keep",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work in this directory and keep it. Without it: a temporary one, kept only if something is wrong.",
)
@click.option(
    "--verbose", is_flag=True, help="Report every kill as it happens, and everything that is wrong."
)
@json_option
def selftest(
    *, kills: int, seed: int, worlds: int, directory: Path | None, verbose: bool, as_json: bool
) -> None:
    """Kill the daemon again and again, and compare what is billed with what was used, to the unit.

    Everything runs on this machine: an embedded Postgres, the sandbox, and the daemon as you run it. It takes about two
    minutes, and with --kills 1000 less than an hour. Exits with 0 if nothing was lost, nothing was billed twice, and
    the sink never held too much; otherwise with 1.
    """
    from aggregator.selftest import run_selftest

    code = run_selftest(
        kills=kills, seed=seed, worlds=worlds, directory=directory, as_json=as_json, verbose=verbose
    )
    raise click.exceptions.Exit(ExitCode(code))
