"""The command line: one file per command, and what they share in `common`.

Rules
- `aggregator --help` answers at once: whatever is heavy is imported inside the command that needs it.
- A command that has more to tell than that it was done or failed ends with another of `exit_codes`.
- Bad input gets one message that names the thing and the remedy, and no traceback.

It stands on everything; only `__main__` imports it. Begin with the command that you type: `run` is in `run`.
"""

import io
import signal
import sys

import click

from aggregator import __version__
from aggregator.cli import (
    adopt,
    backfill,
    cancel,
    check,
    demo,
    events,
    export,
    files,
    init,
    lateness,
    meters,
    migrate,
    parity,
    preview,
    restate,
    run,
    sandbox,
    schema,
    selftest,
    status,
)
from aggregator.cli.common import say, say_error
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.help import Commands
from aggregator.errors import AggregatorError, ConfigError, UsageError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="aggregator")
def cli() -> None:
    """Read usage from your databases with SQL, sum it per window, and send each sum to your billing system once."""


# By what somebody wants to do, in the order in which it is first needed.
cli.add_sections(
    ("Begin", (demo.demo, init.init, check.check, preview.preview)),
    ("Bill", (run.run, backfill.backfill, restate.restate, export.export)),
    ("Look", (status.status, lateness.lateness, parity.parity)),
    ("Decide", (events.events, files.files, meters.meters, adopt.adopt)),
    ("Set up and try out", (migrate.migrate, schema.schema, sandbox.sandbox, selftest.selftest)),
)
events.events.add_command(cancel.cancel)


def main() -> None:
    """Run the command line, and end the process with the code that tells how it went."""
    # The daemon has handlers of its own. Any other command gives back what it holds, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        # Without `standalone_mode` an Exit is not raised but returned as its code.
        sys.exit(cli.main(prog_name="aggregator", standalone_mode=False))
    except click.exceptions.Abort:
        say("Stopped.", err=True)
        sys.exit(128 + signal.SIGINT)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(file=text)
        for line in text.getvalue().splitlines():
            say(line, err=True)
        sys.exit(ExitCode.WRONG_CALL)
    except (ConfigError, UsageError) as error:
        say_error(error)
        sys.exit(ExitCode.WRONG_CALL)
    except AggregatorError as error:
        say_error(error)
        sys.exit(ExitCode.FAILED)
