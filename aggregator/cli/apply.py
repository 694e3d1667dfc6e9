"""`aggregator apply`: let a configuration hold as it was planned, or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.options import config_option, deciding_option, json_option, load_config, somebody
from aggregator.cli.printing import answer
from aggregator.core.shown import counted
from aggregator.errors import LedgerStopped, PlanOutdated, UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.ledger.applying import LedgerState, Looked
    from aggregator.ledger.ledger import Ledger
    from aggregator.plan.document import Basis, Written


@click.command()
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="PLAN")
@click.option(
    "--recheck",
    is_flag=True,
    help="Read the planned range again, and refuse if the source gives something else than in the plan.",
)
@deciding_option
@config_option
@json_option
def apply(config_path: Path, *, plan: Path, recheck: bool, reason: str | None, as_json: bool) -> None:
    """Apply the configuration as PLAN says, if nothing has changed since the plan was made. Nothing is read or sent.

    It compares the configuration, the ledger, and the definitions, settings and sinks on record there. If any of these
    has changed since, it says which, applies nothing, and exits with 1.
    """
    from aggregator.config.changes import blocks_of, settings_of
    from aggregator.ledger.review.decisions import Decider
    from aggregator.plan.document import in_ledger
    from aggregator.wiring.opening import open_ledger
    from aggregator.wiring.plans import changes_of, in_force, meters_of

    config, written = load_config(config_path), _written(plan)
    planned = written.basis.ledger
    if planned is None:
        raise UsageError(f"{plan} compares two files: plan against the ledger, with `aggregator plan --out`.")
    with open_ledger(config, may_migrate=True, name="aggregator apply") as ledger:
        trouble = ledger.identity.check(ledger.instant())
        if trouble:
            raise LedgerStopped(trouble)
        meters = meters_of(config, dict(ledger.identity.accounts()))
        looked = ledger.applying.look(meters)
        changes = changes_of(config, looked)
        if not _stands(config, ledger, looked, written, anything=bool(changes), recheck=recheck):
            answer({"applied": False, "changes": 0}, _holds_already(looked.state), as_json=as_json)
            return

        def check(state: "LedgerState") -> None:
            refuse(list(in_ledger(planned, in_force(state))), written)

        who = somebody()
        settings, blocks = settings_of(config.meters), blocks_of(config)
        done = ledger.applying.apply(meters, settings, blocks, Decider(who, reason), check)
        changes = changes_of(config, done)
    answer(
        {"applied": True, "changes": len(changes), "by": who, "reason": reason},
        f"{counted(len(changes), 'change')} of the configuration {'holds' if len(changes) == 1 else 'hold'} now:",
        *(f"  {each.what} {each.name}: {each.text}; holds {each.holds}" for each in changes),
        f"On record: {who}{f', {reason}' if reason else ''}.",
        "Start the daemon, or send it SIGHUP, with the same files.",
        as_json=as_json,
    )


def _written(path: Path) -> "Written":
    from aggregator.plan.document import LONGEST_PLAN, UnusablePlan, from_json

    try:
        if path.stat().st_size > LONGEST_PLAN:
            raise UsageError(f"{path} is too long for a plan.")
        return from_json(path.read_text())
    except (UnusablePlan, UnicodeDecodeError) as error:
        why = error if isinstance(error, UnusablePlan) else "is no text"
        raise UsageError(f"{path} {why}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _stands(
    config: "Config", ledger: "Ledger", looked: "Looked", written: "Written", *, anything: bool, recheck: bool
) -> bool:
    """Return whether there is something to apply. Raises PlanOutdated if the plan does not stand any more."""
    from aggregator.plan.document import differences
    from aggregator.wiring.plans import basis_now

    planned = written.basis
    now = basis_now(config, looked.state, {})
    same = planned.configuration == now.configuration and _same_ledger(planned, now)
    if same and not anything:
        return False
    if recheck:
        now = now._replace(read=_read_again(config, ledger, looked, written))
    refuse(list(differences(planned, now)), written)
    return True


def _same_ledger(one: "Basis", other: "Basis") -> bool:
    return bool(one.ledger and other.ledger and one.ledger[:2] == other.ledger[:2])


def _read_again(config: "Config", ledger: "Ledger", looked: "Looked", written: "Written") -> dict[str, str]:
    """Return what the source says now of what was read for the plan; empty where it does not say anything any more."""
    from aggregator.wiring.plans import read, sides

    if written.span is None:
        raise UsageError("This plan was made without reading a source: leave out --recheck, or plan again.")
    pairs = {name: pair for name, pair in sides(config, looked).items() if name in written.basis.read}
    found = read(config, ledger, looked, pairs, written.span, 0)
    return dict.fromkeys(written.basis.read, "") | {
        each.meter: each.comparison.digest for each in found if each.comparison
    }


def refuse(changed: list[str], written: "Written") -> None:
    """Raise PlanOutdated if anything has changed since a plan was made."""
    if changed:
        raise PlanOutdated(
            f"The plan of {written.made_at:%Y-%m-%d %H:%M} UTC is out of date, so nothing was "
            f"applied. Since then, this has changed: {'; '.join(changed)}. Plan again: `aggregator "
            "plan --out`."
        )


def _holds_already(state: "LedgerState") -> str:
    """Say that there is nothing to do, and who has done it."""
    found = state.configuration
    if found is None or found.applied_by is None:
        return "All of it is in force already; nothing was changed."
    return f"All of it holds already, since {found.loaded_at:%Y-%m-%d %H:%M} UTC: {found.describe()}; nothing was changed."
