"""The command line: one file per command, and what they share in `common`.

Rules
- `aggregator --help` answers at once: the module of a command is imported when it is called, and whatever is heavy inside
  the command that needs it.
- A command that has more to tell than that it was done or failed ends with another of `exit_codes`.
- Bad input gets one message that names the thing and the remedy, and no traceback.

It stands on everything; only `__main__` imports it. Begin with the command that you type: `run` is in `run`.
"""

import io
import signal
import sys

import click

from aggregator import __version__
from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.help import CommandModules
from aggregator.errors import AggregatorError, ConfigError, UsageError

COMMANDS = {
    "Begin": {
        "demo": (
            "Show everything at work in under two minutes: a product's database, a sandbox, a backfill, the "
            "daemon and the proof."
        ),
        "init": "Write a starter configuration with comments; a file that exists is never overwritten.",
        "check": "Check the configuration, the ledger, every source and query, and every sink.",
        "test": "Run the query of each METER, or of all, on the rows of its test cases, in the source's own engine.",
        "preview": "Show the events that a range of METER would produce, without writing or sending anything.",
        "plan": "Show what your configuration would change, and what it would have billed for a past range.",
        "apply": "Apply the configuration as PLAN says, if nothing has changed since the plan was made.",
    },
    "Bill": {
        "run": (
            "Run the daemon, which reads every meter on its schedule and sends what is due; with --once, make "
            "one pass and exit."
        ),
        "backfill": (
            "Bill a range of each METER, or of all meters; nothing is billed twice, however often you run it."
        ),
        "restate": (
            "Show what the current query gives for windows of METER that an older query billed; with --yes, "
            "correct them."
        ),
        "export": "Write the events of a range to files that you upload.",
    },
    "Look": {
        "status": "Show how far each meter has been read, what is due, and what waits for a person.",
        "usage": "Show how much was used of METER, or of all meters, and what happened to it at each sink.",
        "runs": "Show what each pass and delivery of METER, or of all meters, did, what failed, and what waits.",
        "notify": "Show the problems that people get messages about; with --test, send a test message to each service.",
        "web": "Serve a web page that shows what is in the ledger, and an API for a customer's own usage.",
        "explain": (
            "Explain what a customer was billed by METER: what the source said and when, what was sent, and "
            "what the sink answered."
        ),
        "statement": "Show what CUSTOMER was billed in a month by all meters, correction by correction.",
        "lateness": "Show how late usage arrives after the end of its window, for each METER or for all.",
        "reconcile": (
            "Compare source, ledger and sink per customer and window, for each METER or for all, and say why they "
            "differ."
        ),
        "parity": (
            "Compare what was planned for two sinks of METER, per customer and day, and show where "
            "they differ."
        ),
    },
    "Decide": {
        "events": "List events that wait for a person, and decide about them.",
        "files": "List the files that were written, and record which ones you have uploaded.",
        "cutover": (
            "Move customers from one sink to another, each at a time of their own, and report what both sinks "
            "billed."
        ),
        "meters": (
            "Compare your meters with those in your Stripe accounts, change them there, or export them for "
            "Terraform."
        ),
        "adopt": (
            "Carry on with a ledger that was restored, failed over, copied or replaced, based on what the "
            "sinks have counted."
        ),
    },
    "Set up and try out": {
        "ledger": "Look at the size of the ledger, and archive months that are closed.",
        "migrate": "Create the ledger's tables, or upgrade them to this version.",
        "grants": (
            "Print the SQL that creates the ledger's roles and grants each what it needs; with --check, "
            "compare a server's roles with it."
        ),
        "schema": (
            "Print the JSON Schema of the configuration file, so that your editor can complete and check it."
        ),
        "sandbox": "Run a local server that stands in for Stripe's metering endpoints.",
        "selftest": (
            "Kill the daemon again and again, and compare what is billed with what was used, to the unit."
        ),
    },
}
"""By what somebody wants to do, in the order in which it is first needed: each with the first sentence of its own help."""


@click.group(
    cls=CommandModules, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="aggregator")
def cli() -> None:
    """Read usage from your databases with SQL, sum it per window, and send each sum to your billing system once."""


cli.list_from(__name__, COMMANDS)


def main() -> None:
    """Run the command line, and end the process with the code that tells how it went."""
    # The daemon has handlers of its own. Any other command gives back what it holds, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        # Without `standalone_mode` an Exit is not raised but returned as its code.
        sys.exit(cli.main(prog_name="aggregator", standalone_mode=False))
    except click.exceptions.Abort:
        from aggregator.cli.printing import say

        say("Stopped.", err=True)
        sys.exit(128 + signal.SIGINT)
    except click.ClickException as error:
        from aggregator.cli.printing import say

        text = io.StringIO()
        error.show(file=text)
        for line in text.getvalue().splitlines():
            say(line, err=True)
        sys.exit(ExitCode.WRONG_CALL)
    except (ConfigError, UsageError) as error:
        _explain(error)
        sys.exit(ExitCode.WRONG_CALL)
    except AggregatorError as error:
        _explain(error)
        sys.exit(ExitCode.FAILED)


def _explain(error: Exception) -> None:
    from aggregator.cli.printing import say_error

    say_error(error)
