"""The meters of the configuration beside those of the Stripe accounts: how they stand, and what is done about it.

Rules
- One sink's or meter's trouble does not keep the others from being compared or made; what was done is said in any case.
- Nothing here asks or prints.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import known_meters
from aggregator.errors import SinkError, SinkHalted, UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.core.renaming import KnownLine
    from aggregator.sinks.stripe import AdminClient
    from aggregator.sinks.stripe.differences import Comparison, Known, MeterState


WORDS = {
    ExitCode.DONE: "equal",
    ExitCode.FAILED: "failed",
    ExitCode.WORK_LEFT: "to_apply",
    ExitCode.PERSON_NEEDED: "person_needed",
}
"""What each code means of meters, for programs."""


class Line(NamedTuple):
    """One meter at one sink: how it compares, or why that is not known."""

    admin: "AdminClient"
    meter: str
    comparison: "Comparison | None"
    error: str | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """Name the sink, the meter and the event name: a meter may have several."""
        return self.admin.sink, self.meter, self.comparison.event_name if self.comparison else ""

    @property
    def outcome(self) -> ExitCode:
        """Say what follows from it."""
        return code_of(self.comparison and self.comparison.meter_state)


def code_of(meter_state: "MeterState | None") -> ExitCode:
    """Return what follows from how a meter compares; None if that is not known.

    Work is left where `aggregator meters apply` puts it right. Else only a person can: what differs cannot be changed, or is
    not ours to change.
    """
    if meter_state is None:
        return ExitCode.FAILED
    if meter_state == "equal":
        return ExitCode.DONE
    return ExitCode.WORK_LEFT if meter_state.can_be_applied else ExitCode.PERSON_NEEDED


class Did(StrEnum):
    """What came of what was to be done about a meter at a sink."""

    CREATED = "created"
    RENAMED = "renamed"
    THERE = "there"
    FAILED = "failed"
    NOT_TRIED = "not_tried"


class Step(NamedTuple):
    """What was to be done about a meter at a sink, and what came of it."""

    line: Line
    did: Did
    text: str

    @property
    def failed(self) -> bool:
        """Whether it is still to be done."""
        return self.did in (Did.FAILED, Did.NOT_TRIED)


class Elsewhere(NamedTuple):
    """The active meters of a sink's account that no meter here feeds: they belong to somebody else, and are left alone."""

    sink: str
    meters: "Sequence[Known]"


class InLedger(NamedTuple):
    """What the ledger has on record of a meter at a sink, where that is not what is configured."""

    meter: str
    sink: str
    text: str
    is_wrong: bool = True
    """Whether a person is to look at it; else it is only said."""


@contextmanager
def admins_of(config: "Config") -> "Iterator[dict[str, AdminClient]]":
    """Give an admin client for each sink that keeps meters, and close them at the end."""
    from aggregator.wiring.sinks import build_admin_client

    with ExitStack() as stack:
        made = {name: build_admin_client(config, name) for name in config.sinks}
        yield {name: stack.enter_context(admin) for name, admin in made.items() if admin is not None}


def compare(admins: "Mapping[str, AdminClient]", names: Sequence[str]) -> list[Line]:
    """Compare meters with every account they feed; one that does not answer keeps no other from it."""
    lines: list[Line] = []
    for admin in admins.values():
        wanted = [name for name in names if name in admin.meters]
        try:
            lines += [Line(admin, each.meter, each) for each in admin.compare(wanted)] if wanted else []
        except SinkError as error:
            lines += [Line(admin, name, None, str(error)) for name in wanted]
    if not lines:
        raise UsageError(
            "None of these meters feeds a Stripe sink with one account. Where each customer names an account (`accounts: "
            "by_customer`), make the meters in each: by a configuration that names it as `stripe_account`."
        )
    return sorted(lines, key=lambda line: (line.meter, line.admin.sink))


def elsewhere(admins: "Mapping[str, AdminClient]", lines: Sequence[Line]) -> list[Elsewhere]:
    """Return what the accounts have besides, as far as they answered before. Raises SinkError."""
    silent = {line.admin.sink for line in lines if line.error}
    asked = {line.admin.sink for line in lines} - silent
    return [
        Elsewhere(name, found)
        for name, admin in admins.items()
        if name in asked and (found := admin.others())
    ]


def compare_ledger(config: "Config", lines: Sequence[Line], *, every: bool) -> list[InLedger]:
    """Return where the ledger has something else on record than these lines, or, of `every` meter, something more.

    The ledger notes by what event name and in which account a sink counts a meter, once a process has begun to feed it.
    Raises LedgerError.
    """
    from aggregator.wiring.opening import open_ledger

    with open_ledger(config, may_migrate=False, name="aggregator meters") as ledger:
        known = ledger.meters.memory().lines
    configured = {(line.meter, line.admin.sink) for line in lines}
    places = {(each.meter, each.outlet.sink): each for each in known}
    accounts = {line.admin.sink: line.admin for line in lines if not line.error}
    found = [
        InLedger(meter, sink, text)
        for meter, sink in sorted(configured & places.keys())
        for text in _at_odds(places[meter, sink], accounts.get(sink), meter)
    ]
    if every:
        stripe = {line.admin.sink for line in lines}
        left = sorted(place for place in places.keys() - configured if place[1] in stripe)
        found += [InLedger(*place, _only_in_ledger(places[place]), is_wrong=False) for place in left]
    return found


def _at_odds(known: "KnownLine", admin: "AdminClient | None", meter: str) -> Iterator[str]:
    """Say in what the ledger's record differs from the configuration and the account."""
    if admin is None:
        return
    ours = admin.meters[meter].event_name
    if known.outlet.kind != ours:
        yield (
            f"The ledger has fed it as event name {known.outlet.kind} so far, not as {ours}: corrections of what was billed "
            "go where the configuration points."
        )
    account, noted = admin.account(), known.outlet.account
    if account is not None and noted is not None and noted.split()[0] != account:
        yield f"The ledger has fed account {noted.split()[0]}, and the key is of {account}."


def _only_in_ledger(known: "KnownLine") -> str:
    has = "has sent" if known.has_sent else "has sent nothing yet"
    return f"Only in the ledger, as event name {known.outlet.kind}: it is no longer configured, and {has}."


def carry_out(plan: Sequence[Line], now: dt.datetime) -> list[Step]:
    """Do one thing after the other. A sink that is refused as a whole is not tried again; all others are."""
    steps: list[Step] = []
    halted: set[str] = set()
    for line in plan:
        if line.admin.sink in halted:
            steps.append(Step(line, Did.NOT_TRIED, "not tried, for the same reason"))
            continue
        try:
            steps.append(_apply(line, now))
        except SinkError as error:
            steps.append(Step(line, Did.FAILED, str(error)))
            if isinstance(error, SinkHalted):
                halted.add(line.admin.sink)
    return steps


def _apply(line: Line, now: dt.datetime) -> Step:
    """Create or rename one meter. Raises SinkError."""
    planned = line.comparison
    assert planned is not None, "only what was compared is planned"
    if planned.known is None:
        made = line.admin.create(line.meter, now, planned.event_name)
        after = Line(line.admin, line.meter, made.comparison)
        did = Did.CREATED if made.by_us else Did.THERE
        text = f"created {planned.event_name}" if made.by_us else f"{planned.event_name} is there by now"
        if after.outcome is not ExitCode.DONE:
            text += "; " + finding(after, now)
        return Step(after, did, text)
    after = Line(line.admin, line.meter, line.admin.rename(line.meter, planned.known))
    title = line.admin.meters[line.meter].display_name
    return Step(after, Did.RENAMED, f"{planned.event_name} is displayed as {title!r} now")


def outcome_after(line: Line, step: Step | None) -> ExitCode:
    """Say how a meter stands after what was done about it."""
    if step is None:
        return line.outcome
    if step.failed:
        return ExitCode.FAILED
    return step.line.outcome


def one_meter(
    config: "Config", admins: "Mapping[str, AdminClient]", meter: str, sink: str | None
) -> "tuple[AdminClient, Known]":
    """Return the admin client and the Stripe meter that are meant. Raises UsageError, or SinkError if there is none."""
    [name] = known_meters(config, [meter])
    fed = {each: admin for each, admin in admins.items() if name in admin.meters}
    if sink is not None and sink not in fed:
        raise UsageError(f"Meter {name} feeds no Stripe sink {sink}; it feeds: {', '.join(fed) or 'none'}.")
    if sink is None and len(fed) != 1:
        raise UsageError(
            f"Choose a sink with --sink: {', '.join(fed)}." if fed else f"Meter {name} feeds no Stripe sink."
        )
    admin = fed[sink or next(iter(fed))]
    found, *others = admin.compare([name])
    if others:
        listed = ", ".join(each.event_name for each in (found, *others))
        raise UsageError(
            f"Meter {name} has several Stripe meters ({listed}): do that in the Dashboard, to the one you mean."
        )
    if found.known is None or found.meter_state == "wrong_mode":
        raise SinkError(found.misfits[0])
    return admin, found.known


def unsent(config: "Config", meter: str, sink: str) -> int:
    """Return how many events of a meter are on their way to a sink, or about to be."""
    from aggregator.wiring.opening import open_ledger

    with open_ledger(config, may_migrate=True, name="aggregator meters") as ledger:
        feeds = [each for each in ledger.reports.status() if (each.meter, each.sink) == (meter, sink)]
    return sum(each.due + each.sending for each in feeds)


def finding(line: Line, now: dt.datetime) -> str:
    """Say in one text what was found of a meter, and what to do."""
    if line.comparison is None:
        return line.error or ""
    texts = [each.text for each in line.comparison.differences]
    advice = line.comparison.advice(now)
    return " ".join([*(f"It {text}" for text in texts), *([advice] if advice else [])])


def plain_line(line: Line, now: dt.datetime) -> dict[str, object]:
    """Return a line for programs."""
    found = line.comparison
    return {
        "meter": line.meter,
        "sink": line.admin.sink,
        "mode": line.admin.mode,
        "event_name": found.event_name if found else line.admin.meters[line.meter].event_name,
        "meter_state": found.meter_state.value if found else None,
        "outcome": WORDS[line.outcome],
        "stripe_id": found.known.id if found and found.known else None,
        "differences": [each._asdict() for each in found.differences] if found else [],
        "advice": found.advice(now) if found else None,
        "error": line.error,
    }


def plain_elsewhere(found: Sequence[Elsewhere]) -> list[dict[str, object]]:
    """Return meters that are left alone, for programs."""
    return [
        {
            "sink": each.sink,
            "event_name": known.event_name,
            "display_name": known.display_name,
            "stripe_id": known.id,
        }
        for each in found
        for known in each.meters
    ]


def plain_step(step: Step) -> dict[str, object]:
    """Return a step for programs."""
    return {
        "meter": step.line.meter,
        "sink": step.line.admin.sink,
        "did": step.did,
        "text": step.text,
    }
