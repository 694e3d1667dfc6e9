"""`aggregator events cancel`: have a sink take events back."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.cli.exit_codes import ExitCode
from aggregator.cli.options import (
    config_option,
    deciding_option,
    json_option,
    load_config,
    some_ids_argument,
    somebody,
)
from aggregator.cli.printing import answer, say, show_rows, write_json
from aggregator.core.shown import counted
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from aggregator.ledger.review.cancellations import Candidate
    from aggregator.reconciliation.canceller import Canceller, Round
    from aggregator.wiring.app import App

COLUMNS = "id#=event meter customer window=window_start delta> received=received_at reason=state"

MOST = 1_000
"""As many events as one call cancels: each costs a call or two at the sink."""


@click.command()
@some_ids_argument
@click.option("--sink", required=True, help="The sink that accepted them.")
@click.option("--yes", is_flag=True, help="Do it without asking you first.")
@click.option(
    "--gone",
    "word",
    flag_value="gone",
    help="State that the sink has taken them back, if aggregator cannot find out.",
)
@click.option(
    "--still-there",
    "word",
    flag_value="still-there",
    help="State that the sink still has them, if aggregator cannot find out.",
)
@deciding_option
@config_option
@json_option
def cancel(
    config_path: Path,
    *,
    ids: tuple[int, ...],
    sink: str,
    yes: bool,
    word: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Ask a sink to take back events that it accepted less than a day ago.

    Correct the source first. Once it is known that the sink has taken an event back, the event is refused, and its
    usage counts as not billed. If its window has changed, the new quantity is planned. To plan the same quantity again,
    run `events release ID`. Until then nothing of that window is planned. So the sink may hold too little for a while,
    but never too much.
    """
    from aggregator.ledger.review.decisions import Decider
    from aggregator.wiring.app import build

    if len(ids) > MOST:
        raise UsageError(f"One command cancels {MOST} events at most.")
    config = load_config(config_path)
    if sink not in config.sinks:
        raise UsageError(f"There is no sink {sink}; there are {', '.join(sorted(config.sinks))}.")
    with build(config, name="aggregator events", verify=True, looks=True) as app:
        if sink not in app.notification_clients or sink not in app.sink_ids:
            raise UsageError(f"Sink {sink} takes nothing back, or no meter feeds it.")
        if word is not None:
            _take_word(app, sink, ids, gone=word == "gone", as_json=as_json)
            return
        chosen = _chosen(app, sink, ids)
        if not as_json:
            show_rows(f"to be cancelled at {sink}", COLUMNS, (each._asdict() for each in chosen))
            say(
                "The sink is asked to take these back. Each is then refused, and its usage counts "
                "as not billed."
            )
        if not yes:
            if as_json:
                raise UsageError("With --json, you cannot be asked: give --yes.")
            click.confirm("Cancel them?", abort=True)
        events = [each.event for each in chosen]
        decider = Decider(somebody(), reason)
        asked = app.ledger.cancellations.ask(app.sink_ids[sink], events, app.ledger.now(), decider)
        _show(app, sink, asked, _work(app.cancelling(sink), asked, app.ledger.now()), as_json=as_json)


def _work(cancelling: "Canceller", asked: list[int], now: dt.datetime) -> "Round":
    """Do what can be done now; the daemon, or `run --once`, goes on with the rest."""
    from aggregator.reconciliation.canceller import Round

    whole = Round()
    for event in asked:
        part = cancelling.run_once(now, [event])
        whole.add_counts(part)
        whole.troubles += part.troubles
    return whole


def _show(app: "App", sink: str, asked: list[int], result: "Round", *, as_json: bool) -> None:
    left = app.ledger.cancellations.wanted(app.sink_ids[sink], events=asked, limit=MOST)
    if as_json:
        going_on = {each.event: each.answer for each in left}
        write_json({"asked": asked, **result.figures(), "going_on": going_on, "troubles": result.troubles})
    else:
        say(f"{counted(result.done, 'event')} cancelled; their usage counts as not billed.")
        for each in left:
            say(f"{each.event}: not known to be done yet ({each.answer}); `aggregator run` goes on with it.")
        for trouble in result.troubles:
            say(trouble, err=True)
    if result.refused:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _chosen(app: "App", sink: str, ids: tuple[int, ...]) -> "list[Candidate]":
    """Return the events that are meant. Raises UsageError, and does nothing, if one of them cannot be cancelled."""
    from aggregator.reconciliation.canceller import why_not_cancellable

    now, notification_client = app.ledger.now(), app.notification_clients[sink]
    found = {each.event: each for each in app.ledger.cancellations.candidates(app.sink_ids[sink], ids)}
    wrong = [f"{each}: no such event of sink {sink}" for each in sorted(set(ids) - found.keys())]
    wrong += [
        f"{event}: {reason}"
        for event, candidate in found.items()
        if (reason := why_not_cancellable(candidate, notification_client, now)) is not None
    ]
    if wrong:
        raise UsageError("Nothing was cancelled.\n" + "\n".join(wrong))
    return list(found.values())


def _take_word(app: "App", sink: str, ids: tuple[int, ...], *, gone: bool, as_json: bool) -> None:
    """Settle cancellations of which nobody can tell whether they are done, on a person's word."""
    from aggregator.core.states import CancellationState

    now, ledger = app.ledger.now(), app.ledger.cancellations
    open_ones = ledger.undecided(app.sink_ids[sink], ids, limit=MOST)
    done = []
    for each in open_ones:
        reason = f"{'gone' if gone else 'still there'} on a person's word; {each.answer}"
        settled = (
            ledger.settle(each, reason, now)
            if gone
            else ledger.answered(each, CancellationState.REFUSED, reason, now, now, unsure=False)
        )
        done += [int(each.event)] * settled
    left = sorted(set(ids) - set(done))
    said = f"{counted(len(done), 'event')} {'cancelled' if gone else 'left as before'}."
    answer({"gone" if gone else "still_there": done, "not_open": left}, said, as_json=as_json)
    if left:
        raise UsageError(f"Not waiting for a decision: {', '.join(map(str, left))}; see `aggregator status`.")
