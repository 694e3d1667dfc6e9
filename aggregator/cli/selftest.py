"""`aggregator selftest`: the promise, put to the proof on your own machine."""

from pathlib import Path

import click

from aggregator.cli.common import json_option


@click.command()
@click.option(
    "--kills",
    type=click.IntRange(1, 100_000),
    default=40,
    show_default=True,
    help="How often the daemon is killed.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Which kills, faults and rows are drawn.",
)
@click.option(
    "--worlds",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="How many ledgers, daemons and sandboxes share the kills, side by side.",
)
@click.option(
    "--dir",
    "--keep",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work in this directory, and leave it behind. Left out: a temporary one, kept if something is wrong.",
)
@click.option(
    "--verbose", is_flag=True, help="Tell of every kill as it happens, and of everything that is wrong."
)
@json_option
def selftest(
    *, kills: int, seed: int, worlds: int, directory: Path | None, verbose: bool, as_json: bool
) -> None:
    """Kill the daemon again and again, and compare what is billed with what was used, to the unit.

    Runs on this machine only: an embedded Postgres, the sandbox, and the daemon as you run it. Takes about two minutes, and
    --kills 1000 less than an hour. Exit codes: 0 nothing is lost, doubled, or ever too much; 1 something is.
    """
    from aggregator.selftest import run_selftest

    code = run_selftest(
        kills=kills, seed=seed, worlds=worlds, directory=directory, as_json=as_json, verbose=verbose
    )
    raise click.exceptions.Exit(code)
