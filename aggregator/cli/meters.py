"""`aggregator meters`: compare what the configuration says of meters with the Stripe accounts, and bring them in line.

Rules
- Nothing at Stripe changes without being shown first, and without a yes: at a terminal, or by --yes.
- What happens is in `accounts`; here it is asked for and told.
"""

import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.accounts import (
    WORDS,
    Elsewhere,
    Line,
    Step,
    admins_of,
    carry_out,
    compare,
    compare_ledger,
    elsewhere,
    finding,
    one_meter,
    outcome_after,
    plain_elsewhere,
    plain_line,
    plain_step,
    unsent,
)
from aggregator.cli.completion import MeterName
from aggregator.cli.exit_codes import ExitCode, gravest
from aggregator.cli.help import Commands
from aggregator.cli.options import config_option, json_option, known_meters, load_config
from aggregator.cli.printing import say, show_rows, write_json, write_raw
from aggregator.core.shown import counted
from aggregator.errors import UsageError
from aggregator.runtime.terminal import printable

if TYPE_CHECKING:
    from aggregator.sinks.stripe import AdminClient

COLUMNS = "meter sink mode event_name _=state finding"

METER_STATES = {
    "equal": "equal",
    "missing": "missing",
    "renamed": "name differs",
    "inactive": "inactive",
    "fixed": "differs",
    "wrong_mode": "wrong mode",
}

MOST_NAMED = 10
"""Of the meters that are left alone, how many are named where a person reads."""

yes_option = click.option("--yes", is_flag=True, help="Do it without asking you first.")
sink_option = click.option(
    "--sink", help="The sink whose Stripe meter you mean. Needed if the meter feeds several Stripe sinks."
)


@click.group(cls=Commands)
def meters() -> None:
    """Compare your meters with those in your Stripe accounts, change them there, or export them for Terraform."""


@meters.command()
@click.argument("names", nargs=-1, metavar="[METER]...")
@click.option(
    "--ledger",
    "with_ledger",
    is_flag=True,
    help=(
        "Also compare with the ledger's record: event names, accounts, meters that are no longer configured."
    ),
)
@config_option
@json_option
def diff(config_path: Path, *, names: tuple[str, ...], with_ledger: bool, as_json: bool) -> None:
    """Show where Stripe's meters differ from the configuration. Changes nothing.

    Without METER, it also names the meters of each account that your configuration does not feed. They belong to
    somebody else, and aggregator leaves them alone.

    \b
    Exit codes:
      0  all are equal
      1  an account, or the ledger, could not be asked
      3  `aggregator meters apply` can fix it
      4  a person is needed, since this part of a Stripe meter cannot be changed
    """
    from aggregator.runtime.clock import utcnow

    config = load_config(config_path)
    with admins_of(config) as admins:
        lines = compare(admins, known_meters(config, names))
        others = [] if names else elsewhere(admins, lines)
        noted = compare_ledger(config, lines, every=not names) if with_ledger else []
    now = utcnow()
    odd = [ExitCode.PERSON_NEEDED for each in noted if each.is_wrong]
    outcome = gravest([*(line.outcome for line in lines), *odd])
    if as_json:
        found = {"meters": [plain_line(line, now) for line in lines], "elsewhere": plain_elsewhere(others)}
        in_ledger = {"ledger": [each._asdict() for each in noted]} if with_ledger else {}
        write_json({"outcome": WORDS[outcome], **found, **in_ledger})
    else:
        _show("meters and Stripe", lines, now)
        if noted:
            show_rows("the ledger", "meter sink finding=text", [each._asdict() for each in noted])
        for each in others:
            say(_left_alone(each))
        say(_summary(lines, len(odd)))
    raise click.exceptions.Exit(outcome)


@meters.command("export")
@click.argument("names", nargs=-1, metavar="[METER]...")
@click.option(
    "--terraform",
    is_flag=True,
    required=True,
    help="Write resources of the provider stripe/stripe, with import blocks, for Terraform 1.5 or later.",
)
@click.option(
    "--sink", help="Which Stripe sink. Needed if there are several, since one file is for one account."
)
@config_option
def export_meters(config_path: Path, *, names: tuple[str, ...], terraform: bool, sink: str | None) -> None:
    """Export the Stripe meters of each METER, or of all, for another tool. Changes nothing.

    A meter that exists in the account is written as it is there, with an import block, so that the tool takes it over
    unchanged. A meter that is missing there is written as configured. Other meters of the account are left out.
    """
    from aggregator.sinks.stripe.terraform import Exported, document

    assert terraform, "there is no other form"
    config = load_config(config_path)
    with admins_of(config) as admins:
        admin = _one_account(admins, sink)
        wanted = [name for name in known_meters(config, names) if name in admin.meters]
        if not wanted:
            raise UsageError(f"None of these meters feeds the Stripe sink {admin.sink}.")
        exported = []
        for each in admin.compare(wanted):
            needed = {meter.event_name: meter for meter in admin.meters[each.meter].needed}
            exported.append(Exported(needed[each.event_name], each))
    write_raw(document(exported))


@meters.command()
@click.argument("names", nargs=-1, metavar="[METER]...")
@yes_option
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@config_option
@json_option
def apply(config_path: Path, *, names: tuple[str, ...], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Create the Stripe meters that are missing, and set display names. Changes nothing else.

    You can run it twice, or at the same time as somebody else: Stripe keeps only one meter for an event name.

    \b
    Exit codes:
      0  all are equal now
      1  something failed: run it again
      3  something is still to apply
      4  a person is needed: see `aggregator meters diff`
    """
    from aggregator.runtime.clock import utcnow

    config = load_config(config_path)
    if as_json and not (yes or dry_run):
        raise UsageError("With --json, you cannot be asked: give --yes or --dry-run.")
    with admins_of(config) as admins:
        lines = compare(admins, known_meters(config, names))
        now = utcnow()
        plan = [line for line in lines if line.outcome is ExitCode.WORK_LEFT]
        if not as_json:
            _show("meters and Stripe", [line for line in lines if line.outcome is not ExitCode.DONE], now)
        go = bool(plan) and not dry_run and (yes or _agreed(_question(plan)))
        steps = carry_out(plan, now) if go else []
    after = {step.line.place: step for step in steps}
    outcomes = [outcome_after(line, after.get(line.place)) for line in lines]
    outcome = gravest(outcomes)
    if as_json:
        done = [plain_step(step) for step in steps]
        found = [plain_line(_after(line, after), now) for line in lines]
        write_json({"outcome": WORDS[outcome], "done": done, "meters": found})
    else:
        for step in steps:
            say(f"{step.line.admin.sink}: {step.line.meter}: {step.text}")
        say(_closing(lines, plan, steps, dry_run=dry_run))
    raise click.exceptions.Exit(outcome)


@meters.command()
@click.argument("meter", type=MeterName(), metavar="METER")
@sink_option
@yes_option
@config_option
def deactivate(config_path: Path, *, meter: str, sink: str | None, yes: bool) -> None:
    """Deactivate the Stripe meter of METER, so that it takes no more events.

    From then on, Stripe refuses its events, and you cannot attach a price to it. What it has counted stays. While
    events of the meter are due or being sent, the command refuses, unless you give --yes. If you answer no, it exits
    with 3.
    """
    config = load_config(config_path)
    with admins_of(config) as admins:
        admin, known = one_meter(config, admins, meter, sink)
        if not known.active:
            say(f"The Stripe meter {known.event_name} is inactive already.")
            return
        waiting = unsent(config, meter, admin.sink)
        events = counted(waiting, "event")
        if waiting and not yes:
            raise UsageError(
                f"Stripe would refuse {events} of {meter}, due or being sent to {admin.sink}. Let `aggregator run --once` "
                "send what is due first, or give --yes."
            )
        if waiting:
            say(f"Stripe will refuse {events} of {meter}, due or being sent to {admin.sink}.")
        say(
            f"From then on Stripe takes no event of {known.event_name} (meter {meter}, sink {admin.sink}): events of ours "
            "are refused and wait for a person, the daemon does not start with this meter in its configuration, and no "
            "price can use the Stripe meter. What it has counted stays. `aggregator meters reactivate` takes it back."
        )
        _ask(f"Deactivate the Stripe meter {known.event_name} {_in_mode(admin)}?", yes=yes)
        admin.deactivate(known)
        say(f"The Stripe meter {known.event_name} is inactive.")


@meters.command()
@click.argument("meter", type=MeterName(), metavar="METER")
@sink_option
@yes_option
@config_option
def reactivate(config_path: Path, *, meter: str, sink: str | None, yes: bool) -> None:
    """Make the Stripe meter of METER take events again, so that prices can use it.

    Events that were refused meanwhile still wait: see `aggregator events list`. Exits 3 if you answer no.
    """
    config = load_config(config_path)
    with admins_of(config) as admins:
        admin, known = one_meter(config, admins, meter, sink)
        if known.active:
            say(f"The Stripe meter {known.event_name} is active already.")
            return
        _ask(f"Reactivate the Stripe meter {known.event_name} {_in_mode(admin)}?", yes=yes)
        admin.reactivate(known)
        say(
            f"The Stripe meter {known.event_name} is active. Events that were refused meanwhile wait in "
            "`aggregator events list`."
        )


def _after(line: Line, steps: Mapping[tuple[str, str, str], Step]) -> Line:
    """Return how a meter stands after what was done, where anything was."""
    step = steps.get(line.place)
    return step.line if step else line


def _agreed(question: str) -> bool:
    """Ask at a terminal. Raises UsageError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question} You cannot be asked here: give --yes.")
    return click.confirm(printable(question))


def _ask(question: str, *, yes: bool) -> None:
    """Go on only with a yes."""
    if not yes and not _agreed(question):
        say("Nothing was changed.")
        raise click.exceptions.Exit(ExitCode.WORK_LEFT)


def _in_mode(admin: "AdminClient") -> str:
    """Say where something is about to happen: in words, since the same command may be typed for either."""
    bills = "in LIVE mode, which bills real customers" if admin.mode == "live" else "in test mode"
    account = admin.account()
    return f"{bills} (sink {admin.sink}{f', account {account}' if account else ''})"


def _question(plan: Sequence[Line]) -> str:
    """Say in words what is about to be done, by sink and mode."""
    parts = []
    for admin in {line.admin.sink: line.admin for line in plan}.values():
        mine = [line.comparison for line in plan if line.admin is admin and line.comparison]
        create = sum(each.known is None for each in mine)
        doing = [f"create {counted(create, 'meter')}"] * bool(create)
        doing += [f"rename {counted(len(mine) - create, 'meter')}"] * (len(mine) > create)
        parts.append(f"{' and '.join(doing)} {_in_mode(admin)}")
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}?"


def _one_account(admins: "Mapping[str, AdminClient]", sink: str | None) -> "AdminClient":
    """Return the client of the account that is meant. Raises UsageError."""
    if sink is not None and sink in admins:
        return admins[sink]
    if sink is None and len(admins) == 1:
        return next(iter(admins.values()))
    known = ", ".join(admins) or "none"
    raise UsageError(f"Choose a Stripe sink with --sink; the configuration has: {known}.")


def _left_alone(found: Elsewhere) -> str:
    """Name meters that are somebody else's."""
    names = [each.event_name for each in found.meters]
    more = f" and {len(names) - MOST_NAMED} more (--json has all)" if len(names) > MOST_NAMED else ""
    return f"Left alone at {found.sink}: {', '.join(names[:MOST_NAMED])}{more}, which no meter here feeds."


def _summary(lines: Sequence[Line], odd: int = 0) -> str:
    """Say what is left to do. `odd` is how often the ledger has something else on record."""
    by = [line.outcome for line in lines]
    person = by.count(ExitCode.PERSON_NEEDED) + odd
    parts = [
        f"{by.count(ExitCode.WORK_LEFT)} to apply: `aggregator meters apply`" * (ExitCode.WORK_LEFT in by),
        f"{person} for a person" * (person > 0),
        f"{by.count(ExitCode.FAILED)} could not be asked" * (ExitCode.FAILED in by),
    ]
    return "; ".join(filter(None, parts)) + "." if any(parts) else "All meters are equal."


def _closing(lines: Sequence[Line], plan: Sequence[Line], steps: Sequence[Step], *, dry_run: bool) -> str:
    """Say what became of the whole."""
    if not plan:
        return (
            "Nothing to apply."
            if any(line.outcome is not ExitCode.DONE for line in lines)
            else _summary(lines)
        )
    if not steps:
        return f"{len(plan)} to apply; nothing was changed." if dry_run else "Nothing was changed."
    failed = sum(step.failed for step in steps)
    done = f"{len(steps) - failed} of {len(steps)} done"
    return f"{done}; run it again for the rest: what is done is not done twice." if failed else f"{done}."


def _show(title: str, lines: Sequence[Line], now: dt.datetime) -> None:
    if not lines:
        return
    said: dict[tuple[str, str], str] = {}
    rows = (
        {
            **plain_line(line, now),
            "state": METER_STATES[line.comparison.meter_state] if line.comparison else "not asked",
            "finding": _once(line, now, said) or None,
        }
        for line in lines
    )
    show_rows(title, COLUMNS, rows)


def _once(line: Line, now: dt.datetime, said: dict[tuple[str, str], str]) -> str:
    """Say what was found of a meter; why an account could not be asked is said at the first of its meters."""
    if line.error is None:
        return finding(line, now)
    first = said.setdefault((line.admin.sink, line.error), line.meter)
    return line.error if first == line.meter else f"as {first}"
