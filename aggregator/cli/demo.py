"""`aggregator demo`: the main job, shown."""

import click

from aggregator.cli.exit_codes import ExitCode


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until you press Ctrl-C.")
@click.option(
    "--seconds",
    type=click.IntRange(1, 3600),
    default=35,
    show_default=True,
    help="About how many seconds rows keep arriving; they stop at a full minute.",
)
def demo(*, keep: bool, seconds: int) -> None:
    """Show everything at work in under two minutes: a product's database, a sandbox, a backfill, the daemon and the
    proof.
    """
    from aggregator.demo import run_demo

    raise click.exceptions.Exit(ExitCode(run_demo(keep=keep, seconds=seconds)))
