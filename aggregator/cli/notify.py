"""`aggregator notify`: what people would be told now, and whether it reaches them."""

from pathlib import Path

import click

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import config_option, json_option, load_config
from aggregator.cli.printing import say, show_rows, write_json
from aggregator.errors import UsageError

TITLE = "aggregator: a test"
BODY = "This is a test: `aggregator notify --test` was called, and nothing is wrong."


@click.command()
@config_option
@click.option("--test", is_flag=True, help="Send a test message to every service in `monitoring: notify`.")
@json_option
def notify(config_path: Path, *, test: bool, as_json: bool) -> None:
    """Show the problems that people get messages about; with --test, send a test message to each service.

    \b
    Exit codes:
      0  nothing is wrong; with --test, every service took the message
      1  with --test, a service did not
      4  something is wrong
    """
    config = load_config(config_path)
    if not test:
        from aggregator.daemon.metrics import context_of
        from aggregator.monitoring.metrics import answers_now
        from aggregator.monitoring.readiness import Readiness
        from aggregator.monitoring.troubles import troubles
        from aggregator.wiring.app import build

        with build(config, name="aggregator notify", looks=True) as app:
            context, answers = context_of(app, Readiness()), answers_now(app.ledger, app.config)
            found = troubles(config, context, answers, app.ledger.instant())
        if as_json:
            write_json([{"text": each.text, "command": each.command} for each in found])
        elif found:
            rows = [{"problem": each.text, "command": each.command} for each in found]
            show_rows("problems", "problem run=command", rows)
        else:
            say("Nothing is wrong.")
        raise click.exceptions.Exit(ExitCode.PERSON_NEEDED if found else ExitCode.DONE)
    services = config.monitoring.services_revealed()
    if not services:
        raise UsageError("Nobody gets any messages: set `monitoring: {notify: ...}` in the configuration.")
    from aggregator.monitoring.send import send

    sent = send(services, TITLE, BODY, "info")
    if as_json:
        write_json([each._asdict() for each in sent])
    for each in () if as_json else sent:
        say(f"{each.service}: {each.trouble or 'took the message'}")
    raise click.exceptions.Exit(ExitCode.FAILED if any(each.trouble for each in sent) else ExitCode.DONE)
