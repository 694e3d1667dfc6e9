"""`aggregator events`: look at what waits for a person, and decide."""

import datetime as dt
from collections.abc import Callable
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.cancel import cancel
from aggregator.cli.completion import CustomerName
from aggregator.cli.help import Commands
from aggregator.cli.options import (
    config_option,
    deciding_option,
    from_option,
    json_option,
    limit_option,
    load_config,
    some_ids_argument,
    somebody,
    to_option,
)
from aggregator.cli.printing import answer, say, show_rows, write_json
from aggregator.core.shown import counted, duration
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.config import Config
    from aggregator.ledger.review.parked import Choice, ParkedEvents, Waiting

STATES = ("held", "refused", "in_doubt")
DECIDABLE = ("held", "refused")

GUARDS = ("max_per_customer_window", "max_change", "max_total_change", "repair")

MOST_SAID = 20
MOST_AT_ONCE = 10_000
"""As many events as one call decides about. A longer list is decided in several calls."""

EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LATEST = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)

PROOF = dt.timedelta(hours=26)
"""How long a sink may need to count, where it does not say: what Stripe's totals are given."""

COLUMNS = "id#=event meter sink customer window=window_start rev>=revision delta> state reason"

ids_argument = click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
meter_option = click.option("--meter", help="Only events of this meter.")
customer_option = click.option("--customer", type=CustomerName(), help="Only events of this customer.")
decidable_option = click.option(
    "--state", type=click.Choice(DECIDABLE), help="Only events in this state. Without it: both."
)
file_option = click.option("--file", "file", metavar="NAME", help="Only events that were in this file.")
guard_option = click.option(
    "--guard",
    type=click.Choice(GUARDS),
    help="Only events held by this guard (a key of the meter's `guards`), or proposed by a repair.",
)
since_option = from_option("Only windows from this time on.")
until_option = to_option("Only windows before this time.")


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take IDs, or --meter or --file with options that narrow it: what they come to is its `choice`."""

    @wraps(command)
    def chosen(
        config_path: Path,
        *,
        ids: tuple[int, ...],
        meter: str | None,
        state: str | None,
        customer: str | None,
        guard: str | None,
        start: dt.datetime | None,
        end: dt.datetime | None,
        file: str | None,
        **rest: object,
    ) -> None:
        from aggregator.core.model import Span
        from aggregator.ledger.review.parked import Choice

        if ids and (meter or state or customer or guard or start or end or file):
            raise UsageError(
                "Give IDs, or --meter or --file with --state, --customer, --guard, --from and --to; not both."
            )
        if not ids and meter is None and file is None:
            raise UsageError("Name the events: by IDs (see `aggregator events list`), --meter, or --file.")
        span = Span(start or EARLIEST, end or LATEST)
        of_all = Choice(meter=meter, state=state, customer=customer, guard=guard, span=span, file=file)
        command(config_path, choice=Choice(ids=ids, dismissed=True) if ids else of_all, **rest)

    options = (file_option, until_option, since_option, guard_option, customer_option, decidable_option)
    for option in (*options, meter_option, ids_argument):
        chosen = option(chosen)
    return chosen


@click.group(cls=Commands)
def events() -> None:
    """List events that wait for a person, and decide about them."""


events.add_command(cancel)


@events.command("list")
@meter_option
@click.option("--state", type=click.Choice(STATES), help="Only events in this state.")
@customer_option
@file_option
@limit_option("How many to show.", least=1, most=MOST_AT_ONCE)
@click.option("--dismissed", is_flag=True, help="Also list events that were dismissed.")
@config_option
@json_option
def list_events(
    config_path: Path,
    *,
    meter: str | None,
    state: str | None,
    customer: str | None,
    file: str | None,
    limit: int,
    dismissed: bool,
    as_json: bool,
) -> None:
    """List events that are held, refused or in doubt, with the reason and the figures."""
    from aggregator.ledger.review.parked import Choice
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    choice = Choice(meter=meter, state=state, customer=customer, file=file, dismissed=dismissed)
    with open_ledger(config, may_migrate=True, name="aggregator events") as ledger:
        found, moved = ledger.parked.waiting(choice, limit + 1), ledger.parked.moved(limit, meter)
        decided = ledger.decisions.about(each.event for each in found[:limit])
        by_guards = ledger.parked.held_by_guards(limit, meter, customer)
    shown, more = found[:limit], len(found) > limit
    if as_json:
        write_json(
            {
                "events": [
                    {
                        **each._asdict(),
                        "decision": decided[each.event]._asdict() if each.event in decided else None,
                    }
                    for each in shown
                ],
                "more": more,
                "moves": [each._asdict() for each in moved],
                "held_by_guards": [{**each._asdict(), "release": each.release} for each in by_guards],
            }
        )
    elif shown:
        show_rows("events that wait", COLUMNS, ({**each._asdict(), "state": _state(each)} for each in shown))
        if more:
            say(f"There are more than {limit}; see --limit, --meter, --state, --customer and --file.")
        for line in (*(each.describe() for each in moved), *(each.describe() for each in by_guards)):
            say(line)
        for event, decision in decided.items():
            say(f"{event} was {decision.describe()}")
    else:
        say("No event waits for a person.")


@events.command()
@choosing
@deciding_option
@config_option
@json_option
def release(config_path: Path, *, choice: "Choice", reason: str | None, as_json: bool) -> None:
    """Send held or refused events: by ID, or all of a meter or of a file.

    Each event is sent as planned, under the same identifier. If the sink accepted an event and rejected it later, its
    identifier is used up, so the meter's next pass plans it under a new one. If usage moved from one customer to
    another, both sides are sent, in all windows.
    """
    from aggregator.ledger.review.decisions import Decider
    from aggregator.wiring.deciding import why_not_anew
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    decider = Decider(somebody(), reason)
    choice = choice._replace(undecided=choice.file is not None)
    done: set[int] = set()
    replanned: list[int] = []
    with open_ledger(config, may_migrate=True, name="aggregator events") as ledger:
        while True:
            now = ledger.now()
            fitting, others = _fitting(ledger.parked, choice, DECIDABLE)
            stuck = {each.event: why for each in fitting if (why := why_not_anew(config, each, now))}
            part = set(
                ledger.outbox.release(
                    [each.event for each in fitting if each.event not in stuck], now, decider
                )
            )
            replanned += sorted(each.event for each in fitting if each.was_accepted and each.event in part)
            done |= part
            if choice.file is None or not part or len(fitting) < MOST_AT_ONCE:  # a file may hold a million
                break
    released = sorted(done - set(replanned))
    if as_json:
        missing = _missing(choice, done | stuck.keys())
        write_json(
            {"released": released, "planned_anew": replanned, "not_waiting": missing, "not_anew": stuck}
        )
    else:
        if released or not (replanned or stuck):
            then = "; the daemon or `aggregator run --once` sends them" if released else ""
            say(f"{counted(len(released), 'event')} released{then}.")
            _report_move(done, fitting)
        if replanned:
            say(
                f"Planned anew by the next pass: {counted(len(replanned), 'event')}, accepted once and rejected later."
            )
        for event, why in islice(stuck.items(), MOST_SAID):
            say(f"Not released: {event}. {why}", err=True)
    _report_rest(fitting)
    if stuck:
        raise UsageError(f"Not released: {counted(len(stuck), 'event')}, which no pass would plan anew.")
    _refuse_others(choice, done, others, "Not held or refused")


@events.command()
@choosing
@deciding_option
@config_option
@json_option
def dismiss(config_path: Path, *, choice: "Choice", reason: str | None, as_json: bool) -> None:
    """Dismiss held or refused events: they are not billed, and no longer listed.

    If the window changes again, a new event still replaces them. To undo this, `release` them by ID. If usage moved
    from one customer to another, both sides are dismissed, in all windows.
    """
    from aggregator.ledger.review.decisions import Decider
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    with open_ledger(config, may_migrate=True, name="aggregator events") as ledger:
        fitting, others = _fitting(ledger.parked, choice, DECIDABLE)
        decider = Decider(somebody(), reason)
        done = set(ledger.parked.dismiss([each.event for each in fitting], ledger.now(), decider))
    if as_json:
        write_json({"dismissed": sorted(done), "not_waiting": _missing(choice, done)})
    else:
        say(f"{counted(len(done), 'event')} dismissed: still on record, and never billed.")
        _report_move(done, fitting)
    _report_rest(fitting)
    _refuse_others(choice, done, others, "Not held or refused")


@events.command("give-up")
@click.option("--meter", required=True, help="The meter whose events you give up.")
@click.option("--sink", required=True, help="The sink that they were meant for.")
@deciding_option
@config_option
@json_option
def give_up(config_path: Path, *, meter: str, sink: str, reason: str | None, as_json: bool) -> None:
    """Give up waiting events of a meter or sink that is no longer in the configuration; they are not billed.

    The events stay on record as refused and dismissed. An event that may already have been sent is in doubt instead.
    """
    from aggregator.ledger.review.decisions import Decider
    from aggregator.wiring.opening import feeding, open_ledger

    config = load_config(config_path)
    if (meter, sink) in feeding(config):
        raise UsageError(
            f"Meter {meter} feeds sink {sink}: what waits is sent. Take it out of the configuration first."
        )
    with open_ledger(config, may_migrate=True, name="aggregator events") as ledger:
        now = ledger.now()
        waits = ledger.reports.unconfigured(feeding(config))
        feeds = [each.feed for each in waits if (each.meter, each.sink) == (meter, sink)]
        here = {each.feed for each in ledger.reports.unconfigured(feeding(config), now)}
        if not here.issuperset(feeds):
            raise UsageError(
                f"Another process reads meter {meter}, and sends what waits. Take the meter out of its configuration, too; "
                "an hour later (or four windows, if that is longer) its events can be given up."
            )
        refused, in_doubt = (
            ledger.outbox.give_up(feeds, now, Decider(somebody(), reason)) if feeds else (0, 0)
        )
    said = f"{counted(refused, 'event')} of {meter} to {sink} given up, never to be billed."
    doubted = (
        f"In doubt, since it may have left before: {counted(in_doubt, 'event')} (`aggregator events list`)."
    )
    answer({"given_up": refused, "in_doubt": in_doubt}, said, doubted * bool(in_doubt), as_json=as_json)


@events.command("mark-accepted")
@some_ids_argument
@deciding_option
@config_option
@json_option
def mark_accepted(config_path: Path, *, ids: tuple[int, ...], reason: str | None, as_json: bool) -> None:
    """Record that the sink has these events, which are in doubt; they count as accepted, and are never sent again."""
    _settle(config_path, ids, reason, accepted=True, as_json=as_json)


@events.command("mark-missing")
@some_ids_argument
@deciding_option
@config_option
@json_option
def mark_missing(config_path: Path, *, ids: tuple[int, ...], reason: str | None, as_json: bool) -> None:
    """Say that the sink does not have these events in doubt: they are sent again, as they were planned.

    An event that the sink does have, after all, would be billed twice: look at its totals for the event's minute first.
    """
    _settle(config_path, ids, reason, accepted=False, as_json=as_json)


def _settle(
    config_path: Path, ids: tuple[int, ...], reason: str | None, *, accepted: bool, as_json: bool
) -> None:
    """Take a person's word on events in doubt."""
    from aggregator.core.readbacks import Finding
    from aggregator.ledger.review.decisions import Decider
    from aggregator.ledger.review.parked import Choice
    from aggregator.wiring.opening import open_ledger

    config = load_config(config_path)
    choice = Choice(ids=ids)
    with open_ledger(config, may_migrate=True, name="aggregator events") as ledger:
        now = ledger.now()
        fitting, others = _fitting(ledger.parked, choice, ("in_doubt",))
        early = [] if accepted else [each for each in fitting if _countable_at(config, each) > now]
        chosen = [each for each in fitting if each not in early]
        finding = Finding.PRESENT if accepted else Finding.ABSENT
        decider = Decider(somebody(), reason)
        done = set(ledger.parked.settle_by_hand([each.event for each in chosen], finding, now, decider))
    if as_json:
        key = "accepted" if accepted else "missing"
        write_json(
            {
                key: sorted(done),
                "not_in_doubt": _missing(choice, done | {each.event for each in early}),
                "too_early": {each.event: _countable_at(config, each) for each in early},
            }
        )
    else:
        for each in chosen:
            say(f"{each.event}: {each.delta} for {each.customer}, stamped {each.at:%Y-%m-%d %H:%M:%S}Z")
            say(f"   {each.reason}")
        end = "accepted." if accepted else "due again; the daemon or `aggregator run --once` sends them."
        say(f"{counted(len(done), 'event')} {end}")
    if early:
        first = max(_countable_at(config, each) for each in early)
        raise UsageError(
            f"Tried too recently to be called missing: {_listed(early)}. The sink's totals may not show it yet; "
            f"look again after {first:%Y-%m-%d %H:%M}Z ({duration(first - now)})."
        )
    _refuse_others(choice, done, others, "Not in doubt")


def _countable_at(config: "Config", event: "Waiting") -> dt.datetime:
    """Return from when the sink's totals surely show the event, if it arrived."""
    from aggregator.wiring.sinks import build_sink

    known = (
        build_sink(config, event.sink).limits_for(event.meter).proof if event.sink in config.sinks else None
    )
    return (event.attempted_at or event.since) + (known or PROOF)


def _fitting(
    parked: "ParkedEvents", choice: "Choice", states: tuple[str, ...]
) -> tuple[list["Waiting"], list["Waiting"]]:
    """Return the waiting events that are meant, and those of them that are in another state."""
    if choice.ids is not None:
        choice = choice._replace(dismissed=True)
    found = parked.waiting(choice, MOST_AT_ONCE)
    fitting = [each for each in found if each.state in states]
    return fitting, [each for each in found if each.state not in states and choice.ids is not None]


def _missing(choice: "Choice", done: set[int]) -> list[int]:
    return sorted(set(choice.ids or ()) - done)


def _refuse_others(choice: "Choice", done: set[int], others: list["Waiting"], what: str) -> None:
    """Say which of the events named did not fit, and what to do about them. Raises UsageError if any."""
    missing = _missing(choice, done)
    if not missing:
        return
    remedies = {
        "in_doubt": "in doubt: use `aggregator events mark-accepted` or `mark-missing`, after looking at the sink",
        "held": "held: use `aggregator events release` or `dismiss`",
        "refused": "refused: use `aggregator events release` or `dismiss`",
    }
    refused = [f"{each.event} is {remedies[each.state]}" for each in others]
    unknown = sorted(set(missing) - {each.event for each in others})
    if unknown:
        refused.append(f"{', '.join(map(str, unknown))}: see `aggregator events list`")
    raise UsageError(f"{what}: {'; '.join(refused)}.")


def _report_move(done: set[int], fitting: list["Waiting"]) -> None:
    """Say how many events went along, because they are of the same move from one customer to another."""
    along = len(done - {each.event for each in fitting})
    if along:
        say(f"{along} of them were not named: they are of the same move from one customer to another.")


def _report_rest(fitting: list["Waiting"]) -> None:
    if len(fitting) == MOST_AT_ONCE:
        say(f"One command decides about {MOST_AT_ONCE} events at most: run it again for the rest.", err=True)


def _listed(found: list["Waiting"]) -> str:
    return ", ".join(str(each.event) for each in found)


def _state(each: "Waiting") -> str:
    state = each.state.replace("_", " ")
    if each.replan:
        return f"{state}, planned anew"
    return state if each.dismissed_at is None else f"{state}, dismissed"
