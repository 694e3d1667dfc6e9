"""How `aggregator reconcile` prints what it found: tables for people, CSV for spreadsheets, JSON for programs."""

import csv
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice

from aggregator.cli.printing import json_text, plain_value, say, show_rows, write_raw
from aggregator.core import dimensions as apart_by
from aggregator.core.drift import NAMES, Cause, Difference, next_command
from aggregator.core.planner import plain
from aggregator.core.shown import counted, shown
from aggregator.ledger.review.repairs import Done
from aggregator.reconciliation.drift_finder import CustomerLine, Found, Summary
from aggregator.sinks.files.formats import unformulated
from aggregator.wiring.reconciling import Compared, Question, total_of

AT_ONCE = 500
"""How many differences stand in one table: a longer list goes on in the next one, so that memory stays bounded."""

MOST_COMMANDS = 12
"""How many commands are shown: each of them stands in CSV and JSON."""

MOST_IDS = 3
"""How many events a line of the table names."""

DIFFERENCES = "meter sink customer from cause lacks>=amount source> ledger> billed> in_sink> events"
DIFFERENCES_APART = DIFFERENCES.replace("customer", "customer dimensions")
SUMMARIES = "meter sink customers> days> accepted>=events source> ledger> billed> in_sink> carried> reads> differ>=differing"
CUSTOMERS = "customer source> ledger> billed> in_sink> carried> _=verdict"

ON_ITS_WAY = frozenset({Cause.PENDING, Cause.LATE})
"""What comes right by itself."""

Repaired = Sequence[tuple[Found, Done]]


def show(question: Question, compared: Sequence[Compared], done: Repaired | None, limit: int) -> None:
    """Print each difference with its figures, what to do next, and what was compared."""
    rows = (
        {**_row(found, each), "events": _some(each), "cause": NAMES.get(each.cause, each.cause.value)}
        for found, each in _all(compared)
    )
    listed = 0
    while some := list(islice(rows, min(AT_ONCE, limit - listed) if limit else AT_ONCE)):
        listed += len(some)
        apart = any(row["dimensions"] for row in some)
        show_rows("differences", DIFFERENCES_APART if apart else DIFFERENCES, some)
    count = sum(number for each in compared for number, _ in each.summary.causes.values())
    if count > listed:
        say(f"{count - listed:,} more differ; see --limit, --csv and --json.")
    _show_causes(compared)
    _show_commands(compared)
    if done is not None:
        _show_done(done)
    if question.shows:
        for each in compared:
            show_rows(f"{each.line.meter}, {each.line.sink}", CUSTOMERS, _by_customer(each))
    show_rows(f"compared {question.span}", SUMMARIES, (_summary(each) for each in compared))
    for note in dict.fromkeys(note for each in compared for note in each.notes):
        say(note)
    changed = sum(len(each.summary.changed) for each in compared)
    if changed:
        for each in compared:
            if each.summary.changed:
                much = f"{'+' if each.summary.rose > 0 else ''}{shown(each.summary.rose)}"
                say(
                    f"The source of {each.summary.meter} has changed since it was billed to {each.summary.sink}: "
                    f"{counted(len(each.summary.changed), 'customer')}, {much}."
                )
    _show_not_billed(compared)
    reads = sum(each.summary.reads for each in compared)
    places = sum(each.summary.days for each in compared)
    what = (
        f"{counted(places, 'day of a customer', 'days of customers')} compared with {counted(reads, 'read')}"
    )
    say(f"{what}; {counted(count, 'difference')}." if count else f"Equal: {what}.")
    if places:
        _show_answer(question, compared)


def _show_not_billed(compared: Sequence[Compared]) -> None:
    """Say of what is used and not billed why it is not."""
    for meter, unmapped in {each.line.meter: each.unmapped for each in compared}.items():
        if unmapped is None or not (unmapped.source or unmapped.ledger):
            continue
        now = f"; the source has {shown(unmapped.source)} by now, which the next passes read"
        say(
            f"{shown(unmapped.ledger)} of {meter} has no customer, or no usable number: it is kept and named, and billed to "
            f"nobody (`aggregator status`){now if unmapped.new else ''}."
        )
    if any(each.summary.whole.carried for each in compared):
        say(
            "carried: used, but less than the last decimal that is billed; it counts towards the next window."
        )


def _show_answer(question: Question, compared: Sequence[Compared]) -> None:
    """Say in a word what all of it comes to."""
    asked = [each for each in compared if each.summary.asked]
    sinks = dict.fromkeys(each.line.sink for each in asked)
    parties = ["source"] * question.sources + ["ledger"] + ([*sinks] if len(sinks) == 1 else ["sinks"])
    if not asked:
        parties.remove("sinks")
    if len(parties) == 1:
        return
    most, least = (how(each.summary.customers for each in compared) for how in (max, min))
    who = f"{'up to ' if most > least else ''}{counted(most, 'customer')}"
    meters = counted(len({each.line.meter for each in compared}), "meter")
    causes = {Cause(cause) for each in compared for cause in each.summary.causes}
    wrong = any(each.unseen for each in compared) or causes - ON_ITS_WAY
    answer = "NO" if wrong else "not yet" if any(each.unfinished for each in compared) else "yes"
    say(f"{' = '.join(parties)} for {who} and {meters}: {answer}")


def _by_customer(each: Compared) -> Iterator[dict[str, object]]:
    """Yield the customers with the most usage, all others in one line, all together, and what has no customer."""
    summary, rest = each.summary, each.summary.whole
    for line in summary.greatest:
        rest = rest.minus(line)
        yield _customer(line.customer, line, each)
    if summary.customers > len(summary.greatest):
        yield _customer(f"{summary.customers - len(summary.greatest):,} more", rest, each)
    yield _customer(f"all {counted(summary.customers, 'customer')}", summary.whole, each)
    unmapped = each.unmapped
    if unmapped is not None and (unmapped.source or unmapped.ledger):
        verdict = "not read yet" if unmapped.new else "unmapped"
        nothing = dict.fromkeys(("billed", "in_sink", "carried"), "-")
        yield {"customer": "(no customer)", **unmapped._asdict(), **nothing, "verdict": verdict}


def _customer(name: str, line: CustomerLine, each: Compared) -> dict[str, object]:
    in_sink = Decimal(plain(line.in_sink)) if each.summary.asked else None
    verdict = "DIFFERS" if line.differing else "equal"
    return {**line._asdict(), "customer": name, "in_sink": in_sink, "verdict": verdict}


def _show_causes(compared: Sequence[Compared]) -> None:
    found = [(cause, *total_of(compared, cause)) for cause in Cause]
    parts = [
        f"{count:,} {NAMES.get(cause, cause.value)} ({'+' if amount > 0 else ''}{shown(amount)})"
        for cause, count, amount in found
        if count
    ]
    if parts:
        say(f"The sinks lack: {', '.join(parts)}.")


def _show_commands(compared: Sequence[Compared]) -> None:
    commands = dict.fromkeys(
        next_command(each, found.meter, found.place.customer, found.place.span)
        for found, each in islice(_all(compared), AT_ONCE)
    )
    for command in islice(commands, MOST_COMMANDS):
        say(f"   {command}")
    if len(commands) > MOST_COMMANDS:
        say(f"   and {len(commands) - MOST_COMMANDS:,} more; see --csv and --json.")


def _show_done(done: Repaired) -> None:
    planned = sum(len(each.planned) for _, each in done)
    held = [str(each.held) for _, each in done if each.held is not None]
    taken = sum(bool(each.taken_over) for _, each in done)
    again = sum(each.read_again for _, each in done)
    say(
        f"Repaired: {counted(planned, 'event')} planned anew, {counted(taken, 'place')} taken over from the sinks; "
        f"{again:,} to be read again by the next pass (the daemon, or `aggregator run --once`)."
    )
    if held:
        lower = "event that would lower what a sink holds is", "events that would lower what a sink holds are"
        say(
            f"{counted(len(held), *lower)} held (`aggregator events list --state held`): "
            f"`aggregator events release {' '.join(held[:MOST_COMMANDS])}`, or `dismiss`."
        )
    for found, each in done:
        if each.left is not None:
            say(f"Not repaired: {found.meter} of {found.place.customer} in {found.place.span}: {each.left}.")


def write_csv(question: Question, compared: Sequence[Compared], done: Repaired | None, limit: int) -> None:  # noqa: ARG001 - all of it, always
    """Print every difference under one heading; no name in it is a formula to a spreadsheet."""
    heading = [
        "meter",
        "sink",
        "customer",
        "dimensions",
        "from",
        "to",
        "cause",
        "amount",
        "source",
        "ledger",
        "billed",
        "in_sink",
        "events",
        "reason",
        "next",
    ]
    write_raw(_line(heading))
    lines = (_line([_cell(_row(found, each)[key]) for key in heading]) for found, each in _all(compared))
    while some := "".join(islice(lines, AT_ONCE)):
        write_raw(some)


def write_json(question: Question, compared: Sequence[Compared], done: Repaired | None, limit: int) -> None:  # noqa: ARG001 - all of it, always
    """Print one object piece by piece, so that a long list never stands in memory."""
    head = {"from": question.span.start, "to": question.span.end, "as_of": question.now}
    write_raw(json_text(head)[:-1] + ', "differences": [')
    for number, (found, each) in enumerate(_all(compared)):
        row = {**_row(found, each), "events": list(each.events), "repair": each.repair.value or None}
        write_raw((",\n" if number else "\n") + json_text(row))
    feeds = [
        {
            **_summary(each),
            "read_until": each.read_until,
            "asked": each.summary.asked,
            "causes": {
                cause: {"count": n, "amount": much} for cause, (n, much) in each.summary.causes.items()
            },
            "changed_since": {"customers": len(each.summary.changed), "amount": each.summary.rose},
            "unmapped": None if each.unmapped is None else each.unmapped._asdict(),
            "by_customer": [_customer(line.customer, line, each) for line in each.summary.greatest],
            "notes": each.notes,
        }
        for each in compared
    ]
    equal = not any(each.summary.differing for each in compared)
    rest: dict[str, object] = {"equal": equal, "feeds": feeds}
    if done is not None:
        rest["repaired"] = [
            {
                "meter": found.meter,
                "sink": found.sink,
                "customer": found.place.customer,
                "from": found.place.span.start,
                "to": found.place.span.end,
                **each._asdict(),
            }
            for found, each in done
        ]
    write_raw("], " + json_text(rest)[1:] + "\n")


def _all(compared: Sequence[Compared]) -> Iterator[tuple[Found, Difference]]:
    for each in compared:
        for found in each.found.all():
            for difference in found.differences:
                yield found, difference


def _row(found: Found, each: Difference) -> dict[str, object]:
    place = found.place
    return {
        "meter": found.meter,
        "sink": found.sink,
        "customer": place.customer,
        "dimensions": apart_by.shown(place.dimensions or ()),
        "from": place.span.start,
        "to": place.span.end,
        "cause": each.cause.value,
        "amount": each.amount,
        "source": place.source,
        "ledger": place.read,
        "billed": place.booked,
        "in_sink": Decimal(plain(place.held_by_sink)),
        "events": " ".join(map(str, each.events)),
        "reason": each.reason,
        "next": next_command(each, found.meter, place.customer, place.span),
    }


def _summary(each: Compared) -> dict[str, object]:
    summary: Summary = each.summary
    return {
        "meter": summary.meter,
        "sink": summary.sink,
        "customers": summary.customers,
        "days": summary.days,
        "events": summary.events,
        "source": summary.whole.source,
        "ledger": summary.whole.ledger,
        "billed": summary.whole.billed,
        "in_sink": Decimal(plain(summary.whole.in_sink)) if summary.asked else None,
        "carried": summary.whole.carried,
        "reads": summary.reads,
        "differing": summary.differing,
    }


def _some(each: Difference) -> str:
    more = len(each.events) - MOST_IDS
    return " ".join(map(str, each.events[:MOST_IDS])) + (f" +{more}" if more > 0 else "")


def _cell(value: object) -> object:
    return unformulated(value) if isinstance(value, str) else plain_value(value)


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
